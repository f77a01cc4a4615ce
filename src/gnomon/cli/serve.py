"""gnomon serve: models over HTTP."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from gnomon.cli.serve_options.build import build_options
from gnomon.cli.serve_options.checks import require_server
from gnomon.cli.serve_options.collect import Settings, collect_settings
from gnomon.cli.serve_options.infinity import INFINITY
from gnomon.cli.serve_options.listing import format_rows
from gnomon.cli.serve_options.parameters import click_options
from gnomon.cli.serve_options.readers import parse_switch
from gnomon.cli.serve_options.rows import Row
from gnomon.cli.serve_options.tei import TEI
from gnomon.cli.shared import note
from gnomon.terminal import terminal_width

WORDS = ("v2", "v1")
"""First words of infinity's command line."""
TEI_ENV = "GNOMON_TEI_ENV"
HERE = "here"
"""The value of --probe without an address."""


def serve(models: tuple[str, ...], probe: str | None, tei_env: bool, **typed: Any) -> None:
    """Serve models over HTTP, to clients of OpenAI, TEI, infinity, Cohere, Jina and Ollama.

    The command lines of infinity (after the word v2, or without it) and of TEI are understood, too: --help-infinity
    and --help-tei list them.
    """
    word = models[0] if models and models[0] in WORDS else None
    if word == "v1":
        note("v1 is infinity's old command line. It is read as v2.")
    tei_env = tei_env or parse_switch(os.environ.get(TEI_ENV) or "false", TEI_ENV)
    settings = collect_settings(typed, models[1:] if word else models, os.environ, tei_env=tei_env)
    if probe is not None:
        click.get_current_context().exit(_probe(probe, settings))
    options = build_options(settings, as_infinity=word is not None)
    require_server(options.server)
    from gnomon.serve.run import run_server

    click.get_current_context().exit(run_server(options))


def _probe(url: str, settings: Settings) -> int:
    """Print whether a server is ready; 0 if it is."""
    from gnomon.cli.serve_options.probe import local_url, probe_server, probe_socket
    from gnomon.serve.options import DEFAULT_PORT

    values = {name: settings[name].values[-1] for name in ("host", "port", "uds", "tls_cert") if name in settings}
    if url == HERE and values.get("uds"):
        is_ready, line = probe_socket(values["uds"])
    else:
        host, port = values.get("host", "127.0.0.1"), values.get("port", DEFAULT_PORT)
        is_ready, line = probe_server(url if url != HERE else local_url(host, port, has_tls="tls_cert" in values))
    click.echo(line)
    return 0 if is_ready else 1


def _listing_option(flag: str, rows: Sequence[Row], what: str) -> click.Option:
    """A flag that prints a table and ends."""

    def show(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            click.echo("\n".join(format_rows(rows, terminal_width())))
            ctx.exit()

    return click.Option([flag], is_flag=True, is_eager=True, expose_value=False, callback=show, help=what)


command = click.Command(
    "serve",
    callback=serve,
    help=serve.__doc__,
    short_help="Serve models over HTTP.",
    epilog="Each option has an environment variable: GNOMON_PORT for --port. Those with several values have a "
    "semicolon between them. GNOMON_MODEL names the models. INFINITY_ variables are read, too.",
    params=[
        click.Argument(["models"], nargs=-1, metavar="[v2] [MODEL]..."),
        *click_options(),
        click.Option(["--tei-env"], is_flag=True, help="Read TEI's environment variables, such as MODEL_ID and PORT."),
        click.Option(
            ["--probe"],
            is_flag=False,
            flag_value=HERE,
            metavar="[URL]",
            help="Ask a running server whether it is ready, and end: status 0 if it is, else 1.",
        ),
        _listing_option("--help-infinity", INFINITY, "List infinity's options and what they do here."),
        _listing_option("--help-tei", TEI, "List TEI's options and what they do here."),
    ],
)

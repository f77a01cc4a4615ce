"""gnomon serve: models over HTTP."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import click

from gnomon import interrupts
from gnomon.cli.serve_options.build import build_options
from gnomon.cli.serve_options.checks import require_server
from gnomon.cli.serve_options.collect import TEI_ENV, Settings, collect_settings, note_unknown
from gnomon.cli.serve_options.infinity import INFINITY
from gnomon.cli.serve_options.listing import format_rows
from gnomon.cli.serve_options.parameters import click_options
from gnomon.cli.serve_options.readers import parse_switch
from gnomon.cli.serve_options.rows import Row
from gnomon.cli.serve_options.tei import TEI
from gnomon.cli.shared import EXIT_FAILED, note
from gnomon.terminal import format_error, terminal_width

WORDS = ("v2", "v1")
"""First words of infinity's command line."""
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
    note_unknown(os.environ, as_infinity=word is not None)
    try:
        options = build_options(settings, as_infinity=word is not None)
        require_server(options.server)
        from gnomon.serve.run import run_server

        status = run_server(options)
    except Exception as error:
        if interrupts.was_interrupted() or not _log_as_json(error, settings):
            raise
        status = EXIT_FAILED
    click.get_current_context().exit(status)


def _log_as_json(error: Exception, settings: Settings) -> bool:
    """Write an error as a record of the log, where the log is JSON; whether it was written."""
    context = click.get_current_context()
    if "log_format" not in settings or settings["log_format"].values[-1] != "json":
        return False
    if context.find_root().params.get("traceback"):
        return False
    try:
        from gnomon.serve.logs import log, set_up_logs
    except ImportError:  # the extra is not installed
        return False
    set_up_logs("json", "error")
    options = [param for param in context.command.params if isinstance(param, click.Option)]
    names = {option.name: option.opts[0] for option in options if option.name}
    log(logging.ERROR, format_error(error, names), status=EXIT_FAILED)
    return True


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
            help="Ask a running server whether it is ready, and end: status 0 if it is, else 1. A URL with TLS "
            "begins with https://.",
        ),
        _listing_option("--help-infinity", INFINITY, "List infinity's options and what they do here."),
        _listing_option("--help-tei", TEI, "List TEI's options and what they do here."),
    ],
)

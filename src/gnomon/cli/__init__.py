"""The command line: each command is a module beside, and is added here; no other module imports it.

Each command imports its heavy modules inside, so that --help is quick. Results go to stdout; notes, errors and progress
go to stderr.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import Any

import click

from gnomon import interrupts
from gnomon.cli import cache, compare, encode, evaluate, inspect, report, save, search, serve, similarity, train, verify
from gnomon.cli.shared import EXIT_FAILED, echo_stderr, redirect_to_devnull
from gnomon.errors import GnomonError, Notice
from gnomon.terminal import format_error, prepare_streams, terminal_width, wrap_text

EXIT_BROKEN_PIPE = 141
"""As shells report SIGPIPE."""


class CommandGroup(click.Group):
    """The group of commands. It turns warnings and errors into lines on stderr."""

    def main(self, *args: Any, **more: Any) -> Any:
        prepare_streams()
        try:
            return super().main(*args, **more)
        except OSError as error:  # --help or --version could not be written
            echo_stderr(f"error: {format_error(error, {})}")
            redirect_to_devnull(sys.stdout)
            sys.exit(EXIT_FAILED)

    def invoke(self, ctx: click.Context) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always", Notice)
            warnings.showwarning = _show_warning
            try:
                super().invoke(ctx)
                if sys.stdout:
                    sys.stdout.flush()  # here, where a failure can still be reported
                status = 0
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except KeyboardInterrupt:
                echo_stderr("\ninterrupted")
                status = interrupts.EXIT_STATUS
            except BrokenPipeError:
                redirect_to_devnull(sys.stdout)
                status = EXIT_BROKEN_PIPE
            except Exception as error:  # the last handler: no traceback, unless --traceback
                if ctx.params.get("traceback"):
                    traceback.print_exc()
                interrupted = interrupts.was_interrupted() and not isinstance(error, GnomonError)
                if interrupted:
                    echo_stderr("\ninterrupted")
                else:
                    _echo_wrapped(f"error: {format_error(error, self._option_names(ctx))}", indent=7)
                if isinstance(error, OSError):
                    redirect_to_devnull(sys.stdout)
                status = interrupts.EXIT_STATUS if interrupted else EXIT_FAILED
        _leave_server(status)
        ctx.exit(status)

    def _option_names(self, ctx: click.Context) -> dict[str, str]:
        """Parameter of the library -> option of the command that runs. Both have the same name here."""
        command = self.commands.get(ctx.invoked_subcommand or "")
        options = [param for param in command.params if isinstance(param, click.Option)] if command else []
        return {option.name: option.opts[0] for option in options if option.name}


def _leave_server(status: int) -> None:
    """End the process where it has run a server."""
    run = sys.modules.get("gnomon.serve.run")
    if run is not None and getattr(run, "has_served", False):  # a test may have put another module there
        sys.stderr.flush()
        os._exit(status)


def _show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Write a warning of gnomon as one line, wrapped in a terminal. Warnings for developers are not shown."""
    if not issubclass(category, Notice) and category is not UserWarning:
        return
    _echo_wrapped(f"note: {' '.join(str(message).split())}", indent=6)


def _echo_wrapped(text: str, *, indent: int) -> None:
    """Write one line to stderr, wrapped where that is a terminal."""
    in_terminal = sys.stderr is not None and sys.stderr.isatty()  # pyright: ignore[reportUnnecessaryComparison]
    echo_stderr("\n".join(wrap_text(text, terminal_width(), 99, indent=indent) if in_terminal else [text]))


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="MODEL is a model's folder, a hub id (intfloat/multilingual-e5-small) or package:NAME, a model in an "
    "installed package.",
)
@click.version_option(package_name="gnomon", message="gnomon %(version)s")
@click.option("--traceback", is_flag=True, help="Show the Python traceback of an error.")
def main(traceback: bool) -> None:
    """Text embeddings: encode, search, evaluate, train."""


for _command in (
    encode.encode,
    similarity.similarity,
    search.search,
    cache.cache,
    inspect.inspect,
    verify.verify,
    save.save,
    evaluate.evaluate,
    compare.compare,
    report.report,
    train.train,
    serve.command,
):
    main.add_command(_command)

"""Writes docs/reference/cli.md from the commands themselves: python scripts/cli_page.py

Texts, options, choices and defaults are those of `gnomon COMMAND --help`. A test compares the page with what this
program writes.
"""

import inspect
import re
from pathlib import Path

import click

from gnomon.cli import main

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "cli.md"
HEAD = """\
# Command line

<!-- Written by scripts/cli_page.py from the commands. Change their help texts, and run it again. -->

`gnomon COMMAND --help` says the same. `MODEL` is a model's folder, a hub id such as `intfloat/multilingual-e5-small`,
or `package:NAME`, a model in an installed Python package.

Results go to standard output. Progress, warnings and errors go to standard error. The exit status is 0 when the work is
done, 1 when `verify` or `train --check-gradients` did not pass, 2 for an error, and 130 after Ctrl-C.
"""


def render_page() -> str:
    context = click.Context(main, info_name="gnomon")
    rows = ["| command | what it does |", "|---|---|"]
    parts: list[str] = []
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        rows.append(f"| [`gnomon {name}`](#gnomon-{name}) | {escape(command.get_short_help_str(limit=200))} |")
        parts.append(render_command(command, click.Context(command, info_name=name, parent=context)))
    options = f"Options of `gnomon` itself, before the command:\n\n{render_options(main, context)}"
    return "\n".join([HEAD, "\n".join(rows) + "\n", options, *parts])


def render_command(command: click.Command, context: click.Context) -> str:
    """A section: the usage, the help text, a table of options, and what follows them."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"## {context.command_path}", f"```text\n{usage}\n```"]
    parts += [render_text(command.help or ""), render_options(command, context), render_text(command.epilog or "")]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def render_text(text: str) -> str:
    """A help text as Markdown. A paragraph after click's \\b keeps its lines."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        f"```text\n{paragraph.removeprefix(chr(8)).strip()}\n```"
        if paragraph.startswith("\b")
        else escape(" ".join(paragraph.split()))
        for paragraph in paragraphs
    )


def render_options(command: click.Command, context: click.Context) -> str:
    rows = ["| option | value | meaning |", "|---|---|---|"]
    for option in command.get_params(context):
        record = option.get_help_record(context) if isinstance(option, click.Option) else None
        if record and "--help" not in option.opts:
            rows.append(f"| {render_names(option)} | {render_values(option, context)} | {render_help(record[1])} |")
    return "\n".join(rows) + "\n"


def render_names(option: click.Parameter) -> str:
    return ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])


def render_help(text: str) -> str:
    """An option's help text; what click adds in brackets becomes a sentence."""
    text, _, extra = text.rpartition("  [") if text.endswith("]") else (text, "", "")
    default = re.match(r"default: ([^];]+)", extra)
    default_text = f"Default: `{default[1]}`." if default else ""
    sentences = [escape(text.strip()), default_text, "Required." if "required" in extra else ""]
    return " ".join(filter(None, sentences))


def render_values(option: click.Parameter, context: click.Context) -> str:
    if isinstance(option, click.Option) and (option.is_flag or option.count):
        return ""
    if isinstance(option.type, click.Choice):
        return ", ".join(f"`{choice}`" for choice in option.type.choices)
    metavar = option.make_metavar(context)
    return {"INTEGER": "N", "INTEGER RANGE": "N", "FLOAT": "NUMBER", "FLOAT RANGE": "NUMBER"}.get(metavar, metavar)


def escape(text: str) -> str:
    """Plain text as Markdown: options and file endings as code, the rest with its special characters escaped."""
    parts = re.split(r"((?<![\w.-])--[a-z][\w-]*|(?<![\w.])\.[a-z0-9]{2,7}\b)", text)
    special = r"([\\*<>|\[\]`]|\b_|_\b)"
    return "".join(f"`{part}`" if number % 2 else re.sub(special, r"\\\1", part) for number, part in enumerate(parts))


if __name__ == "__main__":
    PAGE.write_text(render_page(), "utf-8")
    print(f"wrote {PAGE.relative_to(Path.cwd())}")

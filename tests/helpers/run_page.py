"""Runs the blocks of a page one after another, in the current folder: python run_page.py STEPS.json

A step is Python code, a command of gnomon, or text that the step before must have printed. Python blocks of a page
share their names, as in a notebook. A comment after `print(...)` is what it prints.
"""

import ast
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner

NUMBER = re.compile(r"-?\d+\.\d+")
TOLERANCE = 0.011
"""Of numbers with a point: another processor may round the last digit that a page shows in another way."""


class Printer:
    """Takes the place of `print` in a block, and compares what is printed with the comment on that line."""

    def __init__(self, source: str, first_line: int) -> None:
        self.comments = {
            number: line.rpartition("  # ")[2].strip()
            for number, line in enumerate(source.splitlines(), first_line)
            if line.startswith("print(") and "  # " in line
        }
        self.text = ""

    def __call__(self, *values: object, **options: Any) -> None:
        line = sys._getframe(1).f_lineno
        text = " ".join(map(str, values))
        self.text += text + "\n"
        if line in self.comments:
            check_equal(text, self.comments.pop(line), f"line {line}")


def check_equal(printed: str, shown: str, where: str) -> None:
    """Words and whole numbers are equal, numbers with a point nearly so; blanks at the ends of lines do not count."""
    ours, theirs = ([line.rstrip() for line in text.strip().splitlines()] for text in (printed, shown))
    numbers, expected = (list(map(float, NUMBER.findall("\n".join(lines)))) for lines in (ours, theirs))
    same_words = [NUMBER.sub("0", line) for line in ours] == [NUMBER.sub("0", line) for line in theirs]
    if not same_words or not all(map(lambda a, b: math.isclose(a, b, abs_tol=TOLERANCE), numbers, expected)):
        sys.exit(f"{where} printed:\n{printed}\nand the page shows:\n{shown}")


def run_python(source: str, line: int, names: dict[str, Any], page: str) -> str:
    """Run a block whose first line of code is this line of the page. Returns what it printed."""
    names["print"] = printer = Printer(source, line)
    tree = ast.increment_lineno(ast.parse(source, f"{page}:{line}"), line - 1)
    exec(compile(tree, page, "exec"), names)
    if printer.comments:
        sys.exit(f"{page}: these lines printed nothing: {printer.comments}")
    return printer.text


def run_command(args: list[str], where: str) -> str:
    from gnomon.cli import main

    result = CliRunner(env={"COLUMNS": "80"}).invoke(main, args)
    if result.exit_code:
        sys.exit(f"{where}: gnomon {' '.join(args)} ended with {result.exit_code}:\n{result.output}")
    return result.stdout


def main(steps: list[dict[str, Any]]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for step in steps:
        where = f"{step['page']}:{step['line']}"
        if step["kind"] == "python":
            printed = run_python(step["text"], step["line"] + 1, names, step["page"])
        elif step["kind"] == "command":
            printed = run_command(step["args"], where)
        else:
            check_equal(printed, step["text"], where)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text("utf-8")))

"""Runs the blocks of a page one after another, in the current folder: python run_page.py STEPS.json

A step is Python code, a command of gnomon or curl, or text that the step before must have printed. Python blocks of a
page share their names, as in a notebook. A comment after `print(...)` is what it prints.
"""

import ast
import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner

NUMBER = re.compile(r"-?\d+\.\d+")
PORT = "7997"
"""Of a server, on the page."""
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


class Server:
    """The server of a page, on a free port."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, args: list[str], where: str) -> None:
        """Start it in place of the one before, and wait until it is ready."""
        self.stop()
        # what it waits for while it drains are load balancers
        environment = {**os.environ, "GNOMON_PORT": self.port, "GNOMON_DRAIN_DELAY": "0"}
        self._process = subprocess.Popen([sys.executable, "-m", "gnomon", *args], env=environment)
        probe = [sys.executable, "-m", "gnomon", "serve", "--probe"]
        while subprocess.run(probe, env=environment, capture_output=True).returncode:
            if self._process.poll() is not None:
                sys.exit(f"{where}: gnomon {' '.join(args)} ended with {self._process.returncode}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            if status := self._process.wait():
                sys.exit(f"the server ended with {status}")
        self._process = None

    def ask(self, args: list[str], where: str) -> str:
        """What curl prints; an error of the server ends the page."""
        args = [arg.replace(f":{PORT}/", f":{self.port}/") for arg in args]
        done = subprocess.run(["curl", "--silent", "--fail-with-body", *args], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{where}: curl ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout


def run_command(words: list[str], where: str, server: Server) -> str:
    from gnomon.cli import main

    name, *args = words
    if name == "curl":
        return server.ask(args, where)
    if args[0] == "serve" and "--probe" not in args:
        server.start(args, where)
        return ""
    os.environ["GNOMON_PORT"] = server.port
    result = CliRunner(env={"COLUMNS": "80"}).invoke(main, args)
    if result.exit_code:
        sys.exit(f"{where}: gnomon {' '.join(args)} ended with {result.exit_code}:\n{result.output}")
    return result.stdout


def main(steps: list[dict[str, Any]]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    server = Server()
    for step in steps:
        where = f"{step['page']}:{step['line']}"
        if step["kind"] == "python":
            printed = run_python(step["text"], step["line"] + 1, names, step["page"])
        elif step["kind"] == "command":
            printed = run_command(step["words"], where, server)
        else:
            check_equal(printed, step["text"], where)
    server.stop()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text("utf-8")))

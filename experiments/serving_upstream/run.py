"""Runs infinity's own tests of its HTTP API against our server.

usage: python -m experiments.serving_upstream.run CHECKOUT --infinity PYTHON --tests FOLDER --model FOLDER
                                                  [--server "WORDS"]

CHECKOUT is a copy of infinity's repository at fcb951c. Prints one line per test, and writes results.json.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.json")
EXPLANATIONS = Path(__file__).with_name("explanations.json")
FILES = (
    "test_api_with_dummymodel.py",
    "test_authentication.py",
    "test_openapi_client_compat.py",
    "test_sentence_transformers.py",
    "test_optimum_embedding.py",
    "test_torch_reranker.py",
    "test_torch_classify.py",
    "test_torch_vision.py",
    "test_torch_audio.py",
    "test_sentence_transformers_colbert.py",
)
"""All of its tests over HTTP but those of ctranslate2, which need that package."""

TEXT_FILES = ("test_api_with_dummymodel", "test_authentication", "test_sentence_transformers", "test_optimum_embedding")
NOT_TEXT = ("test_openapi_same_as_docs_file", "test_load_model")
"""Of these files: the page of the API, and the test of a model without a server."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--infinity", type=Path, required=True, help="the interpreter of infinity's environment")
    parser.add_argument("--tests", type=Path, required=True, help="the folder in which tests.txt is installed")
    parser.add_argument("--model", type=Path, required=True, help="the folder that both sides read")
    parser.add_argument("--server", default=f"{sys.executable} -m gnomon serve", help="the words that start the server")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        run_tests(arguments, report, Path(place))
        results = read_report(report)
    explanations = json.loads(EXPLANATIONS.read_text()) if EXPLANATIONS.exists() else {}
    for name, row in results.items():
        if row["outcome"] != "passed":
            row["why"] = explanations.get(name, "not explained")
        print(f"{row['outcome']:8}{name}  {row.get('why', '')}")
    counts = {
        "all": Counter(row["outcome"] for row in results.values()),
        "text embeddings over HTTP": Counter(row["outcome"] for name, row in results.items() if is_about_text(name)),
    }
    for what, found in counts.items():
        print(f"{found['passed']} of {found.total()} pass: {what}")
    arguments.output.write_text(json.dumps({"counts": counts, "tests": results}, indent=1) + "\n")


def is_about_text(name: str) -> bool:
    """Whether a test is about text embeddings over HTTP."""
    file, _, test = name.partition("::")
    return test.endswith("_text_only") or (file in TEXT_FILES and test not in NOT_TEXT)


def run_tests(arguments: argparse.Namespace, report: Path, place: Path) -> None:
    """pytest's exit status is not looked at: the report says what failed."""
    package = arguments.checkout.resolve() / "libs" / "infinity_emb"
    texts = place / "texts.txt"
    texts.write_text("\n".join(sentences(600)), "utf-8")
    variables = {
        **os.environ,
        "PYTHONPATH": f"{arguments.tests.resolve()}:{ROOT}",
        "UPSTREAM_SERVER": json.dumps(server_words(arguments.server)),
        "UPSTREAM_MODEL": str(arguments.model.resolve()),
        "UPSTREAM_TEXTS": str(texts),
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    }
    words = [str(arguments.infinity), "-m", "pytest", "-p", "experiments.serving_upstream.plugin", "-q"]
    words += ["-p", "no:cacheprovider", "-c", str(package / "pyproject.toml"), f"--junitxml={report}"]
    words += [str(package / "tests" / "end_to_end" / name) for name in FILES]
    # in another folder: the checkout's modules must not be taken in place of the installed ones
    subprocess.run(words, cwd=place, env=variables, stdout=sys.stderr)


def server_words(command: str) -> list[str]:
    """The server must not see the modules of infinity's environment: its own path is set."""
    return ["env", f"PYTHONPATH={ROOT / 'src'}", *shlex.split(command)]


def sentences(count: int) -> list[str]:
    """Different ones, of the guides: no test depends on which."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    lines = (line.strip() for page in pages for line in page.read_text("utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if len(line.split()) > 5 and "\t" not in line))[:count]


def read_report(report: Path) -> dict[str, dict[str, str]]:
    """Per test: passed, failed, error or skipped, and the first line of what was said."""
    results: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        ending = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        if ending is None:
            results[name] = {"outcome": "passed"}
        else:
            outcome = {"failure": "failed"}.get(ending.tag, ending.tag)
            results[name] = {"outcome": outcome, "message": (ending.get("message") or "").split("\n")[0][:300]}
    return results


if __name__ == "__main__":
    main()

"""The training files without the rows that are held out, in the forms that the recipes read."""

import gzip
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

from experiments.learning.question_templates import FORMS

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FILES = ("docs", "strings", "bible")
APART = 1000
"""Rows of each file that are held out."""
FOUR = "strings-de-es-fr-it"
"""Rows of strings in the four languages that the task is evaluated on. Most others are in scripts that the tokenizer of
these models hardly knows.
"""


def keep_apart(folder: Path) -> None:
    """Training files without their last rows, and these by themselves."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (folder / f"{name}.dev.jsonl").exists():
            continue
        with gzip.open(DATA / "train_pairs" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            lines = file.readlines()
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(lines[:-APART])
        (folder / f"{name}.dev.jsonl").write_text("".join(lines[-APART:]), encoding="utf-8")
    with gzip.open(folder / "strings.jsonl.gz", "rt", encoding="utf-8") as file:
        write(folder / f"{FOUR}.jsonl.gz", in_four(file))
    with (folder / "strings.dev.jsonl").open(encoding="utf-8") as file:
        write(folder / f"{FOUR}.dev.jsonl.gz", in_four(file))
    with gzip.open(folder / "docs.jsonl.gz", "rt", encoding="utf-8") as file:
        manuals = {line: json.loads(line)["source"].replace(":", "-") for line in file}
    for manual in {*manuals.values()}:
        lines = [line for line in manuals if manuals[line] == manual]
        write(folder / f"{manual}.jsonl.gz", lines)
        rows = [json.loads(line) for line in lines]
        for form, made in FORMS.items():
            write(folder / f"{manual}-{form}.jsonl.gz", (pair(*each) for each in made(rows)))
    english = [json.loads(line)["positive"] for line in manuals]
    for name in (FOUR, "bible"):
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            write(folder / f"english-{name}.jsonl.gz", english_first(map(json.loads, file), english))


def in_four(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in lines if json.loads(line)["lang"].removeprefix("en-") in ("de", "es", "fr", "it"))


def english_first(rows: Iterable[dict[str, str]], english: Sequence[str]) -> Iterator[str]:
    """Lines in which `query` is English and `positive` its translation; the files have them in either order.

    The English side is the one whose groups of three letters are the more usual in English texts.
    """
    seen = Counter(group for text in english for group in groups_of_three(text))
    every = seen.total()

    def usual(text: str) -> float:
        return fmean(math.log((seen[group] + 0.05) / every) for group in groups_of_three(text))

    for row in rows:
        query, positive = row["anchor"], row["positive"]
        if row["lang"] != "en-en" and usual(positive) > usual(query):
            query, positive = positive, query
        yield pair(query, positive)


def pair(query: str, positive: str) -> str:
    return json.dumps({"query": query, "positive": positive}, ensure_ascii=False) + "\n"


def groups_of_three(text: str) -> Iterator[str]:
    return map("".join, zip(*(f"  {text.lower()} "[start:] for start in range(3)), strict=False))


def write(path: Path, lines: Iterable[str]) -> None:
    """Once: an index is made anew where a file is. Lines are made only where they are written."""
    if not path.exists():
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(lines)

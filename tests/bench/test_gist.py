"""The experiment with GIST: planted copies, and how many of them are masked."""

import gzip
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.gist import run as gist
from experiments.gist import tables

WORDS = st.lists(st.text("abcXYZ", min_size=1, max_size=8), min_size=1, max_size=5).map(" ".join)


@given(front=WORDS, back=WORDS)
def test_swapped_twice_is_the_query(front: str, back: str) -> None:
    assert gist.swapped(gist.swapped(f"{front}: {back}")) == f"{front}: {back}"


@given(front=WORDS, back=WORDS, body=st.lists(WORDS, min_size=1, max_size=6))
def test_copies_of_a_row_are_all_different(front: str, back: str, body: list[str]) -> None:
    row = {"anchor": f"{front}: {back}", "positive": " ".join(f"{text}." for text in body)}
    if not gist.can_be_copied(row):
        return
    rows = gist.plant([row], 1)
    assert [each["same_as"] for each in rows] == ["0"] * 4
    assert [bool(each["query_rule"]) for each in rows] == [False, True, True, True]
    for key in ("anchor", "positive", "query_rule", "positive_rule"):
        assert len({each[key] for each in rows}) == 4, key


def test_a_share_of_the_rows_is_copies(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl.gz"
    with gzip.open(file, "wt") as lines:
        lines.writelines(
            json.dumps({"anchor": f"Part {at}: Section", "positive": f"One {at}. Two {at}. Three {at}."}) + "\n"
            for at in range(50)
        )
    rows = gist.planted_rows(file, 40, 0.3)
    assert len(rows) == 40 and sum(bool(row["query_rule"]) for row in rows) == 12
    assert rows == gist.planted_rows(file, 40, 0.3)
    assert len({row["anchor"] for row in rows}) == 40


def test_masked_candidates_are_counted_by_block() -> None:
    """Two rows that say the same and one that does not; the guide finds the first document nearer to both queries."""
    queries_BD = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    positives_BD = torch.tensor([[1.0, 0.1], [1.0, 0.5], [0.0, 1.0]])
    rows = [
        {"same_as": "0", "query_rule": "", "positive_rule": ""},
        {"same_as": "0", "query_rule": "lower case", "positive_rule": "first sentence last"},
        {"same_as": "2", "query_rule": "", "positive_rule": ""},
    ]
    batch: Any = type("Batch", (), {"rows_B": np.arange(3)})
    guided = gist.Guided(rows=[batch], vectors=[(queries_BD, positives_BD, None)])
    documents, queries, positives = gist.masked(guided, rows, 0.0)
    assert (documents.planted, documents.planted_masked, documents.others, documents.others_masked) == (2, 1, 4, 0)
    assert (queries.planted, queries.planted_masked, queries.others_masked) == (2, 2, 0)
    assert (positives.planted, positives.planted_masked) == (2, 1)
    assert documents.by_rule["lower case"] == documents.by_rule["first sentence last"] == (2, 1)
    assert documents.by_rule["as a question"] == (0, 0)
    assert gist.masked(guided, rows, 0.2)[0].planted_masked == 2
    json.dumps([asdict(each) for each in (documents, queries, positives)])


def test_reciprocal_ranks() -> None:
    queries_BD = np.eye(3)
    documents_BD = np.array([[2.0, 0.0, 0.0], [0.0, 0.1, 3.0], [0.0, 0.0, 1.0]])
    assert gist.reciprocal_ranks(queries_BD, documents_BD).tolist() == [1.0, 1.0, 1.0]
    assert gist.reciprocal_ranks(queries_BD[[0, 2, 2]], documents_BD).tolist() == [1.0, 0.5, 1.0]
    far = np.ones((12, 1)) * [[0.0, 1.0]] + np.eye(12, 2)[::-1]
    assert gist.reciprocal_ranks(np.tile([1.0, 0.0], (12, 1)), far)[0] == 0.0, "behind the tenth"


def test_forwards_of_the_guide_are_counted_where_its_engine_runs_them() -> None:
    encoder = goldens.load(goldens.GIST)
    guided = gist.Guided(forwards=[0])
    whole = encoder.engine.pool_batches
    gist.count_forwards(encoder.engine, guided)
    try:
        encoder.encode(["one", "two", "one", "three"])
    finally:
        del encoder.engine.pool_batches
    assert encoder.engine.pool_batches == whole
    assert guided.forwards == [3], "equal texts are encoded once"


def test_the_published_page_holds_the_tables_of_the_published_results(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_all(json.loads(Path(tables.__file__).with_name("results.json").read_text()))
    printed = {line for line in capsys.readouterr().out.splitlines() if " to " in line and line.startswith("| ")}
    page = (gist.ROOT / "docs" / "records" / "gist-results.md").read_text()
    assert len(printed) == 6 and all(line.partition(" | ")[2] in page for line in printed)

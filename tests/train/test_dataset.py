"""Data sets: any text at once, hashes, locations, fingerprints of the content; complete or not a data set."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from gnomon.errors import InputError
from gnomon.train.data import dataset_writer
from gnomon.train.data.dataset import Dataset, fold, hash_text
from gnomon.train.data.dataset_writer import CheckedRows, DatasetWriter, count_distinct

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def write(folder: Path, blocks: list[CheckedRows], name: str = "pairs") -> Dataset:
    folder.mkdir(parents=True)
    writing = DatasetWriter(folder)
    for block in blocks:
        writing.add(block)
    writing.finish(name, [("a.jsonl", "line"), ("b.parquet", "row")])
    writing.close()
    return Dataset.open(folder)


def rows(
    texts: list[tuple[str, str]],
    negatives: list[list[str]] | None = None,
    *,
    scores: list | None = None,
    file: int = 0,
    start: int = 1,
) -> CheckedRows:
    columns = {
        "query": [query.encode() for query, _ in texts],
        "positive": [positive.encode() for _, positive in texts],
    }
    if negatives is not None:
        columns["negative"] = [text.encode() for row in negatives for text in row]
    counts = None if negatives is None else [len(row) for row in negatives]
    lists = scores if scores and isinstance(scores[0], list) else None
    grades = None if scores is None or lists else np.array(scores, np.float64)
    return CheckedRows(file, range(start, start + len(texts)), columns, counts, grades, lists)


PAIRS = [("was?", "南瓜の家常"), ("e\u0301 \U0001f383", "ein\nText"), ("was?", "x")]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=12), st.data())
def test_texts_come_back_in_the_order_asked(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(pairs)), max_size=3)))
    blocks = [pairs[start:end] for start, end in zip([0, *cuts], [*cuts, len(pairs)], strict=True)]
    index = write(tmp_path_factory.mktemp("index") / "x", [rows(block) for block in blocks])
    order = np.array(data.draw(st.lists(st.integers(0, len(pairs) - 1), max_size=20)), np.int64)
    for at, column in enumerate(("query", "positive")):
        assert index.texts(column, order) == [pairs[row][at] for row in order]
        assert index.hashes(column).tolist() == [hash_text(pair[at]) for pair in pairs]
        assert index.sizes(column).tolist() == [len(pair[at].encode()) for pair in pairs]
        assert index.distinct[column] == len({fold(pair[at].encode()) for pair in pairs})
    assert (index.rows, index.negatives, index.columns) == (len(pairs), 0, ("query", "positive"))
    assert index.negative_bounds is None and index.score_kind is None


def test_negatives_and_scores_belong_to_their_rows(tmp_path: Path) -> None:
    first = rows(PAIRS[:2], [["a", "b"], ["c", "ä"]], scores=[[1, 2, 3], [4, 5, 6.5]])
    second = rows(PAIRS[2:], [["d", "e"]], scores=[[7, 8, 9]], file=1, start=7)
    index = write(tmp_path / "x", [first, second])
    bounds = index.negative_bounds
    assert bounds is not None and bounds.tolist() == [0, 2, 4, 6]
    assert index.texts("negative", np.arange(bounds[1], bounds[2])) == ["c", "ä"]
    entries_BK = np.array([[5], [0], [3]])
    assert index.score_lists(np.array([2, 0, 1]), entries_BK).tolist() == [[7, 9], [1, 2], [4, 6.5]]
    assert index.score_lists(np.arange(3), np.arange(6).reshape(3, 2)).tolist() == [[1, 2, 3], [4, 5, 6.5], [7, 8, 9]]
    assert index.score_kind == "lists" and index.labels is None
    assert (index.negatives, index.columns) == (2, ("query", "positive", "negative"))
    assert [index.location(row) for row in (1, 2)] == ["a.jsonl, line 2", "b.parquet, row 7"]


def test_where_rows_differ_the_least_number_of_negatives_counts(tmp_path: Path) -> None:
    index = write(tmp_path / "x", [rows(PAIRS, [["a", "b"], ["c"], ["d", "e", "f"]])])
    assert index.negatives == 1
    assert index.negative_bounds is not None and index.negative_bounds.tolist() == [0, 2, 3, 6]


def test_grades_are_one_a_row(tmp_path: Path) -> None:
    index = write(tmp_path / "x", [rows(PAIRS, scores=[0.5, 1, 0])])
    assert index.labels is not None and index.labels.tolist() == [0.5, 1, 0]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Paris", "PARIS", True),
        ("Paris", " paris\t\n", True),
        ("Pärîs", "paris", True),
        ("Pa\u0308ris", "Päris", True),
        ("PARIS\u200b", "Paris\x00", True),
        ("Ｐａｒｉｓ", "paris", True),
        ("南瓜", "南瓜 ", True),
        ("Straße", "STRASSE", True),
        ("\u00a8", "\x1f \u0308", True),
        ("Paris", "Pariser", False),
        ("南瓜", "南爪", False),
        ("a,b", "ab", False),
        ("?", "!", False),
        (" ", "\n", False),
        ("\u0301", "\u0300", False),
    ],
)
def test_c14_texts_fold_alike_but_for_case_accents_and_white_space(one: str, other: str, same: bool) -> None:
    assert (hash_text(one) == hash_text(other)) == same


LETTERS = st.text(
    st.characters(max_codepoint=0x52F, exclude_categories=["Cn"]) | st.sampled_from("南瓜の家常ﾀﾞダＡ１ｶ"),
    min_size=1,
    max_size=20,
)
"""Of scripts whose categories are the same in every version of Unicode."""


@settings(max_examples=100, deadline=None)
@given(LETTERS)
def test_c14_what_an_uncased_tokenizer_reads_alike_folds_alike(text: str) -> None:
    """After BERT's own normaliser, or the NFKC of sentencepiece, a text folds as it did before."""
    bert = normalizers.BertNormalizer(lowercase=True)
    for read in (bert.normalize_str(text), normalizers.NFKC().normalize_str(text)):
        assert fold(read.encode()) == fold(text.encode()) or not fold(read.encode()).strip()


def test_c14_negatives_that_are_their_own_rows_texts_are_noted(tmp_path: Path) -> None:
    pairs = [("Paris", "France"), ("Rome", "Italy"), ("Oslo", "Norway")]
    negatives = [["PARIS", "x", "france "], ["Paris", "y"], ["z", "norway", "Rome"]]
    index = write(tmp_path / "x", [rows(pairs[:1], negatives[:1]), rows(pairs[1:], negatives[1:])])
    assert index.false_negatives == 3
    assert index.false_negative_entries.tolist() == [0, 2, 6]
    assert index.rows_of_negatives(index.false_negative_entries).tolist() == [0, 0, 2]
    other = write(tmp_path / "y", [rows(pairs, [["a"], ["b"], ["c"]])])
    assert (other.false_negatives, other.false_negative_entries.tolist()) == (0, [])


def test_c14_a_negative_that_is_another_positive_of_its_row_is_noted(tmp_path: Path) -> None:
    """Lines of a file with two positives and one: rows of one line have the same negatives."""
    pairs = [("Paris", "France"), ("Paris", "Seine"), ("Rome", "Italy"), ("Oslo", "Norway"), ("Oslo", "Fjord")]
    negatives = [["SEINE", "Italy"], ["SEINE", "Italy"], ["Norway", "france"], ["fjord ", "Paris"], ["fjord ", "Paris"]]
    block = replace(rows(pairs, negatives), line_numbers=[1, 1, 2, 3, 3], source_lines=3)
    index = write(tmp_path / "x", [block, block])
    assert index.false_negative_entries.tolist() == [0, 2, 6, 8, 10, 12, 16, 18]


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    whole = write(tmp_path / "a", [rows(PAIRS)])
    in_parts = write(tmp_path / "b", [rows(PAIRS[:1], file=1, start=9), rows(PAIRS[1:])], "other")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    same = {index.fingerprint for index in (whole, in_parts, Dataset.open(tmp_path / "copy"))}
    others = {
        write(tmp_path / "c", [rows(PAIRS[::-1])]).fingerprint,
        write(tmp_path / "d", [rows([("was?南", "瓜の家常"), *PAIRS[1:]])]).fingerprint,
        write(tmp_path / "e", [rows(PAIRS, scores=[0, 0, 1])]).fingerprint,
        write(tmp_path / "f", [rows(PAIRS, scores=[[0], [0], [1]])]).fingerprint,
        write(tmp_path / "g", [rows(PAIRS, [["a"], ["b"], ["c"]])]).fingerprint,
        write(tmp_path / "h", [rows(PAIRS, [["a"], ["bc"], ["d"]])]).fingerprint,
        write(tmp_path / "i", [rows(PAIRS, [["a", "b"], ["c"], ["d"]])]).fingerprint,
    }
    assert len(same) == 1 and len(others - same) == 7


def test_different_texts_are_counted_in_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(-(2**63), 2**63 - 1, 3000)[random.integers(0, 3000, 10_000)]
    (tmp_path / "hashes").write_bytes(hashes.tobytes())
    counts = {len(set(hashes.tolist())), count_distinct(tmp_path / "hashes")}
    monkeypatch.setattr(dataset_writer, "HASHES_PER_PASS", 700)
    monkeypatch.setattr(dataset_writer, "HASHES_PER_READ", 999)
    assert {count_distinct(tmp_path / "hashes")} == counts


def test_what_is_not_whole_is_no_index(tmp_path: Path) -> None:
    index = write(tmp_path / "x", [rows(PAIRS)])
    with pytest.raises(InputError, match=rf"{re.escape(str(tmp_path))} is not a data set"):
        Dataset.open(tmp_path)
    facts = json.loads((tmp_path / "x" / "index.json").read_text())
    for wrong in ("", "[]", "{}", json.dumps(facts | {"name": None, "else": 1})):
        (tmp_path / "x" / "index.json").write_text(wrong)
        with pytest.raises(InputError, match=r"x is not a data set.*Delete it"):
            Dataset.open(tmp_path / "x")
    (tmp_path / "x" / "index.json").write_text(json.dumps(facts | {"version": 0}))
    with pytest.raises(InputError, match="another version"):
        Dataset.open(tmp_path / "x")
    (tmp_path / "x" / "index.json").write_text(json.dumps(facts))
    assert Dataset.open(tmp_path / "x") == index
    with (tmp_path / "x" / "query.texts").open("ab") as file:
        file.truncate(3)
    with pytest.raises(InputError, match=r"x is not complete.*Delete it"):
        Dataset.open(tmp_path / "x")

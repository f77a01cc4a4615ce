"""Sources read into indexes: every format alike, what cannot be used by its line, and one build however it is asked."""

import csv
import errno
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.errors import ExtraError, InputError, Notice, SourceError
from gnomon.train.data import build, sources
from gnomon.train.data.build import default_name, open_dataset
from gnomon.train.data.dataset import Dataset
from gnomon.train.recipe.schema import DataSource

Rows = list[dict[str, Any]]

PAIRS: Rows = [
    {"query": "was?", "positive": "南瓜の家常"},
    {"query": 'e\u0301 "\U0001f383"', "positive": " ein, Text "},
    {"query": "was?", "positive": "x"},
]
TRIPLETS: Rows = [row | {"neg": f"n{number}", "grade": number / 4} for number, row in enumerate(PAIRS)]


def write(path: Path, rows: Rows) -> Path:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if name.endswith(".csv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith(".tsv"):
        lines = [list(rows[0]), *(row.values() for row in rows)]
        path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines), "utf-8")
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), "utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def source(*paths: Path, **roles: Any) -> DataSource:
    return DataSource(tuple(map(str, paths)), **roles)


def rows_in(index: Dataset) -> Rows:
    """Rows of an index, as they would be asked for."""
    found: Rows = []
    bounds = index.negative_bounds
    for row in range(index.rows):
        entry = np.array([row])
        texts: dict[str, Any] = {column: index.texts(column, entry)[0] for column in ("query", "positive")}
        if bounds is not None:
            texts["negative"] = index.texts("negative", np.arange(bounds[row], bounds[row + 1]))
        if index.labels is not None:
            texts["score"] = index.labels[row].tolist()
        if index.score_kind == "lists" and bounds is not None:
            entries_BK = np.arange(bounds[row], bounds[row + 1])[None]
            texts["score"] = index.score_lists(entry, entries_BK)[0].tolist()
        found.append(texts)
    return found


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Rows]:
    """Rows of a source made of these, in the format that `name` has."""

    def rows_of(rows: Rows, name: str = "in.jsonl", **roles: Any) -> Rows:
        return rows_in(open_dataset(source(write(tmp_path / name, rows), **roles), tmp_path / "cache"))

    return rows_of


# ---- formats


FIRST = {"jsonl": "line 1", "csv": "line 2", "tsv": "line 2", "parquet": "row 1", "json": "row 1"}


NAMES = ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz", "a.tsv", "A.TSV.GZ", "a.parquet", "a.json"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name.lower(), TRIPLETS).rename(tmp_path / name)
    index = open_dataset(source(path, negatives=("neg",), score="grade"), tmp_path / "cache")
    expected = open_dataset(
        source(write(tmp_path / "b.jsonl", TRIPLETS), negatives=("neg",), score="grade"), tmp_path / "cache"
    )
    assert rows_in(index) == rows_in(expected)
    assert rows_in(index)[1] == {**PAIRS[1], "negative": ["n1"], "score": 0.25}
    assert index.fingerprint == expected.fingerprint
    assert index.location(0) == f"{path}, {FIRST[name.lower().split('.')[1]]}"


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=10)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_formats_agree_about_wild_texts(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, list[str]]]
) -> None:
    """That is, about which of them are blank too."""
    place = tmp_path_factory.mktemp("wild")
    made = [{"query": query, "positive": positive, "neg": negatives} for query, positive, negatives in rows]
    blank = any(not text.strip() for query, positive, negatives in rows for text in (query, positive, *negatives))
    for name in ("a.jsonl", "a.parquet", "a.json"):
        one = source(write(place / name, made), negatives=("neg",), num_negatives=1)
        if blank:
            with pytest.raises(InputError, match=r"is (empty|white space alone)"):
                open_dataset(one, place)
        else:
            expected = [{"query": query, "positive": positive, "negative": kept} for query, positive, kept in rows]
            assert rows_in(open_dataset(one, place)) == expected


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK", 3)
    rows = [{"query": f"q{row}", "positive": f"p{row}"} for row in range(10)]
    for name in ("a.jsonl", "a.parquet", "a.json"):
        monkeypatch.setattr(sources, "CHUNK", 7)
        index = open_dataset(source(write(tmp_path / name, rows)), tmp_path / "cache")
        assert rows_in(index) == rows
        assert index.location(9).endswith(" 10")


def test_files_follow_each_other_and_patterns_are_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b", "a", "sub/c"):
        write(tmp_path / f"{name}.jsonl", [{"query": name, "positive": "p"}])
    write(tmp_path / "first.csv", [{"query": "first", "positive": "p"}])
    monkeypatch.chdir(tmp_path)
    index = open_dataset(DataSource(("first.csv", "*.jsonl", "**/c.jsonl")), tmp_path / "cache")
    assert [row["query"] for row in rows_in(index)] == ["first", "a", "b", "sub/c"]
    assert [index.location(row) for row in (0, 3)] == ["first.csv, line 2", "sub/c.jsonl, line 1"]
    assert index.name == "first"


def test_a_name_may_hold_the_signs_of_a_pattern(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1].jsonl", PAIRS)
    assert open_dataset(source(path), tmp_path / "cache").rows == 3


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/nq.jsonl.gz", "nq"),
        ("nq.v2.parquet", "nq.v2"),
        ("hf:owner/all-nli", "all-nli"),
        ("hf:owner/all-nli:triplet", "all-nli-triplet"),
        ("nowhere/part-*.csv", "part-*"),
    ],
)
def test_names_by_default(path: str, name: str) -> None:
    assert default_name(DataSource((path, "other.jsonl"))) == name


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("gone.jsonl",), "gone.jsonl does not exist.*current folder, "),
        (("*.parquet",), r"No file matches '\*.parquet'"),
        ((".",), r"\. is a folder.*\*\.parquet"),
        (("in.txt",), r"in.txt has.* .jsonl, .csv, .tsv and MEDI"),
        (("in.parquet.gz",), r"in.parquet.gz has .*parquet"),
        ((), "no path.*hf:NAME"),
    ],
)
def test_paths_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in.txt", "in.parquet.gz"):
        Path(name).touch()
    with pytest.raises(InputError, match=message):
        open_dataset(DataSource(paths), tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"query": "a", "positive": "b"}\n{"query": \n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b'["a", "b"]\n', "a.jsonl, line 1: a JSON list; every line must be an object"),
        ("a.jsonl", b'{"query": "\xff", "positive": "b"}\n', r"a.jsonl, line 1: not UTF-8 \(byte 0xff\)"),
        ("a.jsonl", b'{"query": "\\ud800", "positive": "b"}\n', "a.jsonl, line 1: field 'query' has half a surrogate"),
        ("a.csv", b"query,positive\na\n", "a.csv, line 2: 1 field, and the header has 2"),
        ("a.csv.gz", b"query,positive\n", "a.csv.gz is not .* gzip file"),
        ("a.parquet", b"nothing", "a.parquet is not a readable Parquet file"),
        ("a.json", b'{"query": "a"}', "a.json is not a JSON list of rows.* .jsonl"),
        ("a.json", b"", "a.json is not a JSON list of rows"),
        ("a.json", b'[{"query": "a", "positive": "b"},\n{"query"', "a.json, row 2: not JSON"),
        ("a.json", b'[{"query": "a", "positive": "b"}', "a.json, row 2: not JSON"),
        ("a.json", b'[{"query": "a", "positive": "b"}, 1]', "a.json, row 2: a JSON int"),
        ("a.json", b'[{"query": "\xff", "positive": "b"}]', "a.json, row 1: not UTF-8"),
        ("a.json", b"[]", r"a \(.*a.json\) has no rows"),
        (
            "a.json",
            b'[{"query": "a", "positive": "b"}] [{"query"',
            r"list of 1 rows .*'\[\{.query",
        ),
        ("a.json", b'[{"query": "a", "positive": "b"}] x', "a.json: after the list of 1 rows .*'x'"),
        ("a.json", b'[{"query": "a", "positive": "b"} {}]', "a.json, row 2: not JSON .*comma"),
        ("a.json", b'[{"query": "a", "positive": "b"},,{}]', "a.json, row 2: not JSON"),
        ("a.jsonl", b"\n", r"a \(.*a.jsonl\) has no rows"),
        ("a.csv", b"query,positive\n", r"a \(.*a.csv\) has no rows"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_dataset(source(tmp_path / name), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_parquet_columns_that_are_no_text(tmp_path: Path) -> None:
    column = pa.array([b"a", b"\xff"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"query": ["a", "b"], "positive": column, "bytes": [b"a", b"b"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a.parquet, row 2: column 'positive' is not UTF-8 text"):
        open_dataset(source(tmp_path / "a.parquet"), tmp_path / "cache")
    with pytest.raises(InputError, match=r"a.parquet, row 1: column 'bytes' is b'a', not a string"):
        open_dataset(source(tmp_path / "a.parquet", positive="bytes"), tmp_path / "cache")


def test_of_a_parquet_file_other_columns_are_not_read(tmp_path: Path) -> None:
    table = pa.table(
        {"query": ["a"], "positive": ["b"], "other": [b"\xff"], "dictionary": pa.array(["c"]).dictionary_encode()}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    index = open_dataset(source(tmp_path / "a.parquet", positive="dictionary"), tmp_path / "cache")
    assert rows_in(index) == [{"query": "a", "positive": "c"}]


# ---- roles


def test_a_json_list_may_be_packed_and_may_begin_with_a_mark(tmp_path: Path) -> None:
    content = '[\n{"query": "a", "positive": "b"} ,\n {"query": "c", "positive": "d"}\n]\n'
    for name, packed in {
        "packed.json": gzip.compress(content.encode()),
        "packed.json.gz": gzip.compress(content.encode()),
        "marked.json": content.encode("utf-16"),
    }.items():
        (tmp_path / name).write_bytes(packed)
        assert open_dataset(DataSource((str(tmp_path / name),)), tmp_path / "cache").rows == 2
    (tmp_path / "medi.json.gz").write_bytes(gzip.compress(json.dumps(MEDI).encode()))
    found = open_dataset(DataSource((str(tmp_path / "medi.json.gz"),)), tmp_path / "cache")
    assert found.columns == ("query", "positive", "negative")  # by MEDI's own names


def test_b1_each_run_is_told_what_the_readers_had_to_say(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('query,positive\na,"b\nc,d"\ne,f\n')
    for _ in range(2):  # the second finds the index
        with pytest.warns(Notice, match="in.csv: stray quotes .* lines 2 to 3"):
            open_dataset(DataSource((str(path),)), tmp_path / "cache")
    path.write_text('query,positive\na,"b\nc,d"\ne\n')
    with pytest.warns(Notice, match="lines 2 to 3"), pytest.raises(InputError, match="line 4: 1 field, and"):
        open_dataset(DataSource((str(path),)), tmp_path / "cache")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.json"])
def test_a_missing_column_is_named_with_the_nearest(read: Callable[..., Rows], name: str) -> None:
    with pytest.raises(InputError, match=r"no column 'positve'.* 'query', 'positive'.* Did you mean 'positive'\?"):
        read(PAIRS, name, positive="positve")


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv.gz", "in.tsv", "in.json", "in.parquet"])
@pytest.mark.parametrize(
    ("row", "roles", "expected"),
    [
        ({"anchor": "a", "positive": "b"}, {}, ("a", "b")),
        ({"answer": "b", "question": "a"}, {}, ("a", "b")),
        ({"sentence1": "a", "sentence2": "b"}, {}, ("a", "b")),
        ({"sentence1": "x", "anchor": "a", "positive": "b"}, {}, ("a", "b")),  # the first of the table
        ({"anchor": "x", "query": "a", "positive": "b"}, {}, ("a", "b")),
        ({"anchor": "x", "mine": "a", "positive": "b"}, {"query": "mine"}, ("a", "b")),  # the recipe comes first
        ({"question": "b", "anchor": "a"}, {"positive": "question"}, ("a", "b")),
        ({"anchor": "b", "question": "a"}, {"positive": "anchor"}, ("a", "b")),  # a column has one use
    ],
)
def test_columns_have_other_names_too(
    read: Callable[..., Rows], name: str, row: dict[str, str], roles: dict[str, str], expected: tuple[str, str]
) -> None:
    (found,) = read([row], name, **roles)
    assert (found["query"], found["positive"]) == expected


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet"])
def test_columns_without_a_known_name_are_listed(read: Callable[..., Rows], name: str) -> None:
    with pytest.raises(InputError, match=r"no column 'query'. The columns are 'q', 'anchor2', 'positive'"):
        read([{"q": "a", "anchor2": "b", "positive": "c"}], name)


def test_a_column_that_a_later_row_lacks(read: Callable[..., Rows]) -> None:
    with pytest.raises(InputError, match=r"in.jsonl, line 2: no column 'positive'.* 'query'"):
        read([PAIRS[0], {"query": "b"}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": ""}, "column 'query' is empty"),
        ({"positive": " \n\u3000"}, "column 'positive' is white space alone"),
        ({"positive": None}, "column 'positive' is null, not a string"),
        ({"query": 3}, "column 'query' is 3, not a string"),
        ({"query": ["a"]}, r"column 'query' is a list of 1, and must be \[instruction, text\]"),
        ({"positive": []}, "column 'positive' is a list of 0, and must be one text"),
        ({"positive": ["a", ["b", "c"]]}, "column 'positive' is a list of 2, and must be one text"),
        ({"positive": ["a", ""]}, "column 'positive' is empty"),
        ({"neg": None}, "no negatives in 'neg'"),
        ({"neg": []}, "no negatives in 'neg'"),
        ({"neg": ["a", ""]}, "column 'neg' is empty"),
        ({"neg": ["a", None]}, "column 'neg' is null, not a string"),
        (
            {"neg": ["a"]},
            "1 negative, and the first row has 2.*num_negatives",
        ),
        ({"score": "0.5"}, "column 'score' has '0.5'.*finite"),
        ({"score": None}, "column 'score' has null.*finite"),
        ({"score": True}, "column 'score' has True"),
        ({"score": [1, 2, float("nan")]}, "not JSON .NaN"),
        ({"score": [1, 2, 10**400]}, "column 'score' has 1000"),
        (
            {"score": [1, 2]},
            "column 'score' is a list of 2 scores.* 1 positive and 2 negatives",
        ),
        ({"score": 1}, "column 'score' is 1, and the first row has a list of scores"),
        ({"lead": 3}, "column 'lead' is 3, not a string"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_by_its_line(
    read: Callable[..., Rows], row: dict[str, Any], message: str
) -> None:
    sound = {"query": "q", "positive": "p", "neg": ["a", "b"], "score": [1, 2, 3], "lead": None}
    with pytest.raises(InputError, match=f"in.jsonl, line 2: {message}"):
        read([sound, sound | row], negatives=("neg",), score="score", instruction="lead")


def test_negatives_of_several_columns_are_put_together(read: Callable[..., Rows]) -> None:
    rows = [row | {"one": f"a{number}", "more": [f"b{number}", "c"]} for number, row in enumerate(PAIRS)]
    assert [row["negative"] for row in read(rows, negatives=("more", "one"))] == [
        ["b0", "c", "a0"],
        ["b1", "c", "a1"],
        ["b2", "c", "a2"],
    ]


def test_rows_may_differ_in_negatives_where_a_step_draws_them(tmp_path: Path) -> None:
    rows = [PAIRS[0] | {"n1": "a", "n2": None}, PAIRS[1] | {"n1": "b", "n2": "c"}]
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        path = write(tmp_path / name, rows)
        index = open_dataset(source(path, negatives=("n1", "n2"), num_negatives=1), tmp_path / "cache")
        assert [row["negative"] for row in rows_in(index)] == [["a"], ["b", "c"]]
        assert index.negatives == 1
        with pytest.raises(InputError, match=r"(line|row) \d: 1 negative, .*num_negatives=2"):
            open_dataset(source(path, negatives=("n1", "n2"), num_negatives=2), tmp_path / "cache")
    with pytest.raises(InputError, match="a: num_negatives is 2, and negatives names no columns"):
        open_dataset(source(path, num_negatives=2), tmp_path / "cache")


def test_scores_are_grades_or_lists(read: Callable[..., Rows]) -> None:
    rows = [row | {"score": [number, 0.5]} for number, row in enumerate(TRIPLETS)]
    assert [row["score"] for row in read(rows, negatives=("neg",), score="score")] == [[0, 0.5], [1, 0.5], [2, 0.5]]
    cells = [row | {"score": json.dumps(row["score"])} for row in rows]
    assert [row["score"] for row in read(cells, "in.csv", negatives=("neg",), score="score")][1] == [1, 0.5]
    with pytest.raises(InputError, match=r"in.csv, line 2: column 'score' is 'good', not a number"):
        read([row | {"score": "good"} for row in rows], "in.csv", score="score")


# ---- several positives, and lists in cells

FLAG: Rows = [
    {"query": "a", "pos": ["b", "c"], "neg": ["d", "e", "f"], "score": [5, 4, 3, 2, 1]},
    {"query": "g", "pos": ["h"], "neg": ["i", "j"], "score": [9, 8, 7]},
]
"""As FlagEmbedding has them."""


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet", "in.json", "in.csv"])
def test_c12_a_row_with_several_positives_makes_a_row_of_each(tmp_path: Path, name: str) -> None:
    written = (
        FLAG if not name.endswith(".csv") else [{key: json.dumps(each) for key, each in row.items()} for row in FLAG]
    )
    written = [row | {"query": plain["query"]} for row, plain in zip(written, FLAG, strict=True)]
    path = write(tmp_path / name, written)
    index = open_dataset(
        source(path, positive="pos", negatives=("neg",), num_negatives=2, score="score"), tmp_path / "cache"
    )
    assert rows_in(index) == [
        {"query": "a", "positive": "b", "negative": ["d", "e", "f"], "score": [5, 3, 2, 1]},
        {"query": "a", "positive": "c", "negative": ["d", "e", "f"], "score": [4, 3, 2, 1]},
        {"query": "g", "positive": "h", "negative": ["i", "j"], "score": [9, 8, 7]},
    ]
    assert (index.rows, index.lines, index.negatives) == (3, 2, 2)
    assert index.location(0) == index.location(1) != index.location(2)


def test_c12_scores_of_ragged_negatives_go_with_those_that_a_step_takes(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", [*FLAG, {"query": "k", "pos": "l", "neg": ["m", "n"], "score": [0, 0.5, 0.25]}])
    index = open_dataset(
        source(path, positive="pos", negatives=("neg",), num_negatives=1, score="score"), tmp_path / "cache"
    )
    entries = {text: at for at, text in enumerate(index.texts("negative", np.arange(10)))}
    assert [*entries] == ["d", "e", "f", "i", "j", "m", "n"]  # the second row's negatives are its own, entries 3 to 5
    some = np.array([[9], [2], [7], [3]])
    assert index.score_lists(np.array([3, 0, 2, 1]), some).tolist() == [[0, 0.25], [5, 1], [9, 7], [4, 3]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"score": [5, 4, 3, 2]}, "list of 4 scores.* 2 positives and 3 negatives"),
        ({"pos": ["b"]}, "list of 5 scores.* 1 positive and 3 negatives"),
        ({"neg": ["d"], "score": [5, 4, 3]}, "1 negative, .*num_negatives=2"),
    ],
)
def test_c12_scores_that_do_not_fit_are_named(read: Callable[..., Rows], row: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"line 1: .*{message}"):
        read([FLAG[0] | row], positive="pos", negatives=("neg",), num_negatives=2, score="score")


def test_c12_a_grade_is_that_of_each_positive(read: Callable[..., Rows]) -> None:
    rows = read(
        [{"query": "a", "positive": ["b", "c"], "score": 0.5}, {"query": "d", "positive": "e", "score": 1}],
        score="score",
    )
    assert [(row["positive"], row["score"]) for row in rows] == [("b", 0.5), ("c", 0.5), ("e", 1)]


def test_c12_several_positives_with_instructions(read: Callable[..., Rows]) -> None:
    rows = [MEDI[0] | {"pos": [["As well;", "b"], ["Too; ", "h"]]}, MEDI[1]]
    found = read(rows, "in.json", instructions="prepend")
    assert [row["positive"] for row in found] == ["As well; b", "Too; h", "e"]
    assert [row["query"] for row in found] == ["Represent; a", "Represent; a", "d"]


LISTS = [["n1", "n 2"], ['a "b", c', "it's"], ["d\\n", "e\n\u00e9"], ["[f]", "g"]]


@pytest.mark.parametrize("write_list", [json.dumps, repr], ids=["json", "python"])
@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz"])
def test_c13_a_cell_may_hold_a_list(read: Callable[..., Rows], name: str, write_list: Callable[..., str]) -> None:
    rows = [{"query": f"q{at}", "positive": f"p{at}", "neg": write_list(own)} for at, own in enumerate(LISTS)]
    assert [row["negative"] for row in read(rows, name, negatives=("neg",))] == LISTS
    several = [{"query": f"q{at}", "positive": write_list(own)} for at, own in enumerate(LISTS)]
    assert [row["positive"] for row in read(several, name)] == [text for own in LISTS for text in own]


def test_c13_a_list_of_texts_as_pandas_writes_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"query": ["q", "r"], "positive": ["p", "s"], "neg": [["n1", "n2"], ["it's", "b"]]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    index = open_dataset(source(tmp_path / "a.csv", negatives=("neg",)), tmp_path / "cache")
    assert [row["negative"] for row in rows_in(index)] == [["n1", "n2"], ["it's", "b"]]


@pytest.mark.parametrize("cell", [' ["n1", "n2"]', '["n1", "n2"] ', "\t['n1', 'n2']\n", '\xa0[ "n1" ,"n2" ]'])
def test_c13_space_around_a_list_is_no_part_of_it(read: Callable[..., Rows], cell: str) -> None:
    rows = [{"query": "q", "positive": "p", "neg": cell}]
    assert read(rows, "in.csv", negatives=("neg",)) == [{"query": "q", "positive": "p", "negative": ["n1", "n2"]}]


@pytest.mark.parametrize("write_list", [json.dumps, repr], ids=["json", "python"])
def test_c13_a_cell_may_hold_texts_with_instructions(read: Callable[..., Rows], write_list: Callable[..., str]) -> None:
    """MEDI's rows, written as CSV."""
    values = {"query": ["i:", "q"], "pos": ["j:", "p"], "neg": [["j:", "n1"], ["k:", "n2"]]}
    rows = [{name: write_list(value) for name, value in values.items()}]
    roles = {"positive": "pos", "negatives": ("neg",)}
    assert read(rows, "in.csv", **roles) == read([values], "in.jsonl", **roles)
    assert read(rows, "in.csv", **roles) == [{"query": "q", "positive": "p", "negative": ["n1", "n2"]}]
    lead = read(rows, "in.csv", instructions="prepend", **roles)
    assert lead == [{"query": "i: q", "positive": "j: p", "negative": ["j: n1", "k: n2"]}]


@pytest.mark.parametrize(
    "cell",
    [
        "['n1' 'n2']",
        '["n1" "n2"]',
        "['n1'\n 'n2']",
        '["n1", n2, "n3"]',
        "['n1', nan]",
        "[nan, 'n1']",
        "['n1', <NA>]",
        '["n1", "n2",]',
        '["n1", "n2"',
        '["n1", "n2',
        '["n1",',
        "['n1'",
        "('n1', 'n2')",
        "('n1',)",
        "[“n1”, “n2”]",
        "[‘n1’, ‘n2’]",
        "[['i' 'n1']\n ['i' 'n2']]",
        '[["i", "n1"], ["i", "n2"',
    ],
)
def test_c13_a_cell_that_only_looks_like_a_list_is_refused(read: Callable[..., Rows], cell: str) -> None:
    rows = [{"query": "q", "positive": "p", "neg": cell}]
    with pytest.raises(InputError, match=r"in.csv, line 2: column 'neg' is .*n1.*JSON"):
        read(rows, "in.csv", negatives=("neg",))
    assert read(rows, "in.jsonl", negatives=("neg",))[0]["negative"] == [cell]


@pytest.mark.parametrize(
    "cell",
    [
        "[1] See the garden. [2]",
        "[laughs]",
        "[1, 2]",
        "[0.5]",
        "[a]",
        "['\\d+', see above",
        '[sic] he said "no"',
        '(see "x")',
        '("no", he said)',
        '("no")',
        '["no", he said',
        "['Twas the night",
        "['Twas the night', she began.",
        '["Yes"] and ["No"] are answers',
        "[“Yes” or “no”] is asked",
        "(nan)",
        "[nan]",
        "(",
        "[",
        "[]]",
    ],
)
def test_c13_other_cells_stay_texts(read: Callable[..., Rows], cell: str) -> None:
    found = read([{"query": cell, "positive": cell, "neg": cell}], "in.csv", negatives=("neg",))
    assert found == [{"query": cell, "positive": cell, "negative": [cell]}]


def test_c13_a_query_in_a_cell_may_have_its_instruction(read: Callable[..., Rows]) -> None:
    rows = [{"query": '["Represent;", "a"]', "positive": '["As well;", "b"]'}]
    assert read(rows, "in.csv") == [{"query": "a", "positive": "b"}]
    assert read(rows, "in.csv", instructions="prepend") == [{"query": "Represent; a", "positive": "As well; b"}]
    with pytest.raises(InputError, match=r"line 2: column 'query' is a list of 1, and must be \[instruction, text\]"):
        read([{"query": '["q"]', "positive": "p"}], "in.csv")


def test_c13_an_empty_list_in_a_cell_is_no_negatives(read: Callable[..., Rows]) -> None:
    rows = [{"query": "q", "positive": "p", "neg": "[]"}]
    with pytest.raises(InputError, match="line 2: no negatives in 'neg'"):
        read(rows, "in.csv", negatives=("neg",))
    with pytest.raises(InputError, match="line 2: column 'neg' is null, not a string"):
        read([rows[0] | {"neg": '["a", null]'}], "in.csv", negatives=("neg",))


def test_an_instruction_is_put_in_front_of_the_query(read: Callable[..., Rows]) -> None:
    leads = ["Find:", "Find: ", None]
    rows = [row | {"lead": lead} for row, lead in zip(PAIRS, leads, strict=True)]
    found = [row["query"] for row in read(rows, instruction="lead")]
    assert found == ["Find: was?", f"Find: {PAIRS[1]['query']}", "was?"]


MEDI: Rows = [
    {"query": ["Represent; ", "a"], "pos": ["As well; ", "b"], "neg": ["That;", "c"], "task_type": "nq"},
    {"query": ["", "d"], "pos": ["", "e"], "neg": ["", "f"], "task_type": "fever"},
]


@pytest.mark.parametrize("name", ["medi.json", "medi.jsonl", "medi.parquet"])
def test_instructions_of_medi_are_dropped_or_prepended(read: Callable[..., Rows], name: str) -> None:
    roles: dict[str, Any] = {} if name.endswith(".json") else {"positive": "pos", "negatives": ("neg",)}
    second = {"query": "d", "positive": "e", "negative": ["f"]}
    assert read(MEDI, name, **roles) == [{"query": "a", "positive": "b", "negative": ["c"]}, second]
    first = {"query": "Represent; a", "positive": "As well; b", "negative": ["That; c"]}
    assert read(MEDI, name, **roles, instructions="prepend") == [first, second]


def test_a_list_of_negatives_with_instructions(read: Callable[..., Rows]) -> None:
    row = MEDI[0] | {"neg": [["That;", "c"], ["This;", "g"]]}
    assert read([row], "in.json")[0]["negative"] == ["c", "g"]
    with pytest.raises(InputError, match=r"row 1: column 'neg' is a list of 3, and must be \[instruction, text\]"):
        read([MEDI[0] | {"neg": ["c", "g", "h"]}], "in.json")


def test_task_types_select_rows(tmp_path: Path, read: Callable[..., Rows], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK", 1)  # one block is left without rows
    assert [row["query"] for row in read(MEDI, "in.json", task_types=("fever",))] == ["d"]
    scored = [row | {"score": [1, 2]} for row in MEDI]
    assert read(scored, "in.json", task_types=("fever",), score="score")[0]["score"] == [1, 2]
    index = open_dataset(source(tmp_path / "in.json", task_types=("fever",)), tmp_path / "cache")
    assert index.location(0).endswith("row 2")
    with pytest.raises(InputError, match=r"task_type 'fevr'.* nq, fever\. Did you mean 'fever'"):
        read(MEDI, "in.json", task_types=("nq", "fevr"))
    with pytest.raises(InputError, match=r"no column 'task_type'.* 'query', 'positive'"):
        read(PAIRS, "in.jsonl", task_types=("nq",))


def test_so_many_lines_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK", 2)
    paths = [write(tmp_path / name, PAIRS) for name in ("a.jsonl", "b.parquet")]
    for lines, rows in ((1, 1), (3, 3), (4, 4), (9, 6), (None, 6)):
        assert open_dataset(source(*paths), tmp_path / "cache", max_lines=lines).rows == rows


# ---- built once


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that were read, not only opened."""
    found: list[str] = []
    blocks = sources.LocalFile.read_blocks

    def noted(self: sources.LocalFile, columns: list[str]) -> Any:
        found.append(self.path.name)
        return blocks(self, columns)

    monkeypatch.setattr(sources.LocalFile, "read_blocks", noted)
    return found


def test_a_source_is_read_once(tmp_path: Path, reads: list[str]) -> None:
    path = write(tmp_path / "a.jsonl", TRIPLETS)
    first = open_dataset(source(path), tmp_path / "cache")
    again = open_dataset(source(path, name="other", weight=3.0, query_prompt="q: "), tmp_path / "cache")
    assert (again.folder, again.name, first.name, len(reads)) == (first.folder, "other", "a", 1)
    open_dataset(source(path, negatives=("neg",)), tmp_path / "cache")
    open_dataset(source(path), tmp_path / "cache", max_lines=2)
    assert len(reads) == 3
    os.utime(path, ns=(1, 1))
    assert open_dataset(source(path), tmp_path / "cache").fingerprint == first.fingerprint
    write(path, PAIRS[:2])
    assert open_dataset(source(path), tmp_path / "cache").rows == 2
    assert len(reads) == 5


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv.gz", "a.parquet"])
def test_c15_other_content_of_the_same_size_and_time_is_found_out(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, PAIRS)
    before, first = path.stat(), open_dataset(source(path), tmp_path / "cache")
    content = path.read_bytes()
    write(path, [PAIRS[0] | {"query": "wie?"}, *PAIRS[1:]])
    path.write_bytes(path.read_bytes()[: len(content)].ljust(len(content), b"\n")) if name == "a.jsonl" else None
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert rows_in(open_dataset(source(path), tmp_path / "cache"))[0]["query"] == "wie?"
    assert rows_in(first)[0]["query"] == "was?"


@pytest.mark.parametrize(("size", "times"), [(1000, True), (3_000_000, True), (1000, False), (3_000_000, False)])
def test_c15_what_tells_files_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, times: bool) -> None:
    """Where times are as they were, as on a disk that keeps none of changes: a small file by its content, a large one
    by samples of it.
    """
    path = tmp_path / "a.jsonl"
    content = bytearray(b"x" * size)
    path.write_bytes(content)
    status = os.stat_result

    class Frozen:
        def __init__(self, real: status) -> None:
            self.st_size, self.st_mtime_ns, self.st_ctime_ns = real.st_size, 1, 1

    if not times:
        fstat = os.fstat
        monkeypatch.setattr(sources.os, "fstat", lambda handle: Frozen(fstat(handle)))
    one = sources._local_file(path)
    before = one.identity()
    assert one.identity() == before
    found = []
    for place in (0, size // 3 + size // 200, size - 1):
        changed = bytearray(content)
        changed[place] = ord("y")
        path.write_bytes(changed)
        os.utime(path, ns=(before[2], before[2]))
        found.append(one.identity() != before)
    assert found == ([True] * 3 if times or size == 1000 else [True, False, True])


def test_a_damaged_index_is_made_anew(tmp_path: Path, reads: list[str]) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS)
    index = open_dataset(source(path), tmp_path / "cache")
    (index.folder / "query.bounds").unlink()
    assert rows_in(open_dataset(source(path), tmp_path / "cache")) == PAIRS
    assert len(reads) == 2


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS)
    finished = build.ColumnMapping.map_block

    def meddled(*arguments: Any) -> Any:
        write(path, PAIRS[:1])
        return finished(*arguments)

    monkeypatch.setattr(build.ColumnMapping, "map_block", meddled)
    with pytest.raises(InputError, match="a changed while it was read"):
        open_dataset(source(path), tmp_path / "cache")


KILLED = """
import os, signal, sys
from pathlib import Path
from gnomon.train.data import build, dataset_writer
from gnomon.train.recipe.schema import DataSource
where = sys.argv[3]
if where == "rows":
    build.DatasetWriter.finish = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
if where == "facts":
    dataset_writer.os.fsync = lambda handle: Path(f"/proc/self/fd/{handle}").readlink().name == "index.json" and (
        os.kill(os.getpid(), signal.SIGKILL)
    )
build.open_dataset(DataSource((sys.argv[1],)), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["rows", "facts"])
def test_a_killed_build_leaves_no_index(tmp_path: Path, where: str) -> None:
    path, cache = write(tmp_path / "a.jsonl", PAIRS), tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", KILLED, path, cache, where], stderr=subprocess.PIPE)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [folder.suffix for folder in cache.iterdir() if folder.is_dir()] == [".draft"]
    open_dataset(source(write(tmp_path / "b.jsonl", PAIRS)), cache)  # another source's build removes it
    assert [folder.suffix for folder in cache.iterdir() if folder.is_dir()] == [""]
    assert rows_in(open_dataset(source(path), cache)) == PAIRS


def test_a_build_beside_is_not_disturbed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "beside.draft").mkdir(parents=True)
    with build.FileLock(cache / "beside.lock"):
        open_dataset(source(write(tmp_path / "a.jsonl", PAIRS)), cache)
        assert (cache / "beside.draft").is_dir()


@pytest.mark.slow
def test_processes_that_ask_at_once_get_one_index(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"query": f"q{row}", "positive": "p"} for row in range(5000)])
    code = KILLED + "print(len(list(Path(sys.argv[2]).glob('*/index.json'))))"
    command = [sys.executable, "-c", code, path, tmp_path / "cache", "nowhere"]
    beside = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate() for process in beside] == [("1\n", "")] * 3


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build.DatasetWriter, "finish", full)
    with pytest.raises(OSError, match=r"data set of a .*cache.*: the disk is full\. .*cache_dir"):
        open_dataset(source(write(tmp_path / "a.jsonl", PAIRS)), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_the_cache_by_default_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    index = open_dataset(source(write(tmp_path / "a.jsonl", PAIRS)), None)
    assert index.folder.parent == tmp_path / ".cache" / "gnomon" / "train"

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match=r"no home folder.*cache_dir"):
        open_dataset(source(tmp_path / "a.jsonl"), None)


def test_a_bar_counts_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write(tmp_path / f"{name}.parquet", PAIRS) for name in "ab"]
    open_dataset(source(*paths), tmp_path / "cache", max_lines=5, progress=True)
    assert "reading a: 100%" in (shown := capsys.readouterr().err) and " 5/5 " in shown
    open_dataset(source(*paths), tmp_path / "cache")
    open_dataset(source(*paths), tmp_path / "cache2", progress=False)
    assert capsys.readouterr().err == ""


# ---- data sets of the `datasets` library


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that the library opens like a data set of the hub."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(sources, "BLOCK", 2)
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", [row | {"neg": [row["neg"]]} for row in TRIPLETS])
    write(tmp_path / "set" / "test.jsonl", [TRIPLETS[0] | {"neg": ["n"]}])
    return f"hf:{tmp_path / 'set'}"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_of_the_library(tmp_path: Path, hub: str, streaming: bool) -> None:
    one = DataSource((hub,), streaming=streaming, negatives=("neg",), score="grade")
    index = open_dataset(one, tmp_path / "cache")
    local = source(tmp_path / "set" / "train.jsonl", negatives=("neg",), score="grade")
    assert index.fingerprint == open_dataset(local, tmp_path / "cache").fingerprint
    assert index.location(2) == f"{hub} (train), row 3"
    assert open_dataset(one, tmp_path / "cache") == index
    assert open_dataset(DataSource((hub,), split="test", streaming=streaming), tmp_path / "cache").rows == 1
    write(tmp_path / "set" / "train.jsonl", [row | {"neg": [row["neg"]]} for row in TRIPLETS[:2]])
    assert open_dataset(DataSource((hub,), streaming=streaming), tmp_path / "cache").rows == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_that_cannot_be_read(tmp_path: Path, hub: str, streaming: bool) -> None:
    def of(path: str, **options: Any) -> Dataset:
        return open_dataset(DataSource((path,), streaming=streaming, **options), tmp_path / "cache")

    with pytest.raises(InputError, match=r"\(trian\) cannot be read: .*trian.*\['train', 'test'\]"):
        of(hub, split="trian")
    with pytest.raises(InputError, match=r"\(train\) cannot be read: .*'other' not found"):
        of(hub + ":other")
    with pytest.raises(SourceError, match=r"nowhere \(train\) cannot be read: "):
        of(f"hf:{tmp_path}/nowhere")
    with pytest.raises(InputError, match=r"set \(train\): no column 'anchor'.* 'query', 'positive'"):
        of(hub, query="anchor")


def test_a_data_set_without_the_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ExtraError, match=r"hf:a/b needs the package datasets, .* pip install .*\[train\]"):
        open_dataset(DataSource(("hf:a/b",)), tmp_path)


@pytest.mark.slow
def test_neither_torch_nor_pyarrow_is_imported_for_plain_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS)
    code = KILLED + "print([name for name in ('torch', 'pyarrow', 'datasets') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "cache", "nowhere"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_columns_that_were_chosen_by_their_names_leave_no_score_unsaid(tmp_path: Path) -> None:
    path = tmp_path / "sts.jsonl"
    path.write_text('{"sentence1": "a", "sentence2": "b", "score": 0.0, "negative": "c"}\n' * 3)
    with pytest.warns(Notice, match="'sentence1' and 'sentence2'. Not used: 'score', 'negative'"):
        open_dataset(source(path), tmp_path / "cache")

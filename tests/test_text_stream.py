"""Texts in groups: the same texts as in one, boundaries that depend on the file alone, and bounded groups."""

import gzip
import io
import json
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnomon.errors import InputError, Notice
from gnomon.read_ahead import read_ahead
from gnomon.text_files import GroupLimits, TextStream, parquet, read_texts

FORMS = ("txt", "jsonl", "csv", "tsv", "parquet", "txt.gz")


def write(folder: Path, form: str, texts: list[str]) -> Path:
    path = folder / f"in.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"text": texts, "n": [*range(len(texts))]}), path, row_group_size=3)
    elif form.startswith("txt"):
        content = "".join(f"{text}\n" for text in texts).encode()
        path.write_bytes(gzip.compress(content) if form == "txt.gz" else content)
    elif form == "jsonl":
        path.write_text("".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(texts)))
    else:
        delimiter = {"csv": ",", "tsv": "\t"}[form]
        rows = [f"text{delimiter}n", *(f'"{text}"{delimiter}{n}' for n, text in enumerate(texts))]
        path.write_text("".join(f"{row}\n" for row in rows))
    return path


def group_sizes(sizes: list[int], limits: GroupLimits) -> list[int]:
    """The reference implementation of the rule."""
    groups: list[list[int]] = [[]]
    for size in sizes:
        full = len(groups[-1]) == limits.max_texts or sum(groups[-1]) + size > limits.max_chars
        if groups[-1] and full:
            groups.append([])
        groups[-1].append(size)
    return [*map(len, groups)]


@pytest.mark.parametrize("form", FORMS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.sampled_from("ab é日"), max_size=9), min_size=1, max_size=20),
    max_texts=st.integers(1, 6),
    max_chars=st.integers(1, 30),
    batch_rows=st.integers(1, 5),
)
def test_groups_are_the_texts_of_the_file_cut_by_one_rule(
    tmp_path: Path,
    form: str,
    texts: list[str],
    max_texts: int,
    max_chars: int,
    batch_rows: int,
) -> None:
    path, limits = write(tmp_path, form, texts), GroupLimits(max_texts, max_chars)
    whole = read_texts(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "BATCH_ROWS", batch_rows)
        groups = [*TextStream(path, limits=limits).read_groups()]
    assert [text for group in groups for text in group.texts] == whole.texts == texts
    assert [line for group in groups for line in group.lines] == whole.lines
    rows = [group.row(index) for group in groups for index in range(len(group.texts))]
    assert rows == [whole.row(index) for index in range(len(texts))]
    empty = [line for group in groups for line in group.empty_texts.values()]
    assert empty == [*whole.empty_texts.values()]
    chars = {
        "jsonl": lambda n: len(json.dumps({"text": texts[n], "n": n})),
        "csv": lambda n: len(texts[n]) + len(str(n)),
        "tsv": lambda n: len(texts[n]) + len(str(n)),
    }.get(form, lambda n: len(texts[n]))
    assert [len(group.texts) for group in groups] == group_sizes([*map(chars, range(len(texts)))], limits)


def test_bad_lines_are_counted_over_all_groups_and_reported_once(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('x\n{"text": "a"}\n{"text": ""}\n{"text": "b"}\n{"text": "c"}\ny\n')
    stream = TextStream(path, skip_bad=True, limits=GroupLimits(1, 100))
    with pytest.warns(Notice, match="3 lines left out, 3 texts kept") as found:
        groups = [*stream.read_groups()]
    assert len(found) == 1
    assert [(group.texts, group.lines, group.skipped) for group in groups] == [
        (["a"], [2], 2),
        (["b"], [4], 2),
        (["c"], [5], 3),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len([*stream.read_groups(quiet=True)]) == 3


@pytest.mark.parametrize("form", ["txt", "csv"])
def test_quiet_reading_gives_none_of_the_remarks(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"in.{form}"
    path.write_bytes({"txt": b"c\na\rb\n", "csv": b"name\na\n"}[form])
    stream = TextStream(path)
    with pytest.warns(Notice):
        list(stream.read_groups())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(stream.read_groups(quiet=True))


def test_an_error_comes_after_the_groups_before_it(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"a\nb\nc\n\xff\n")
    groups = TextStream(path, limits=GroupLimits(2, 100)).read_groups()
    assert next(groups).texts == ["a", "b"]
    with pytest.raises(InputError, match=r"in\.txt, line 4: not UTF-8"):
        next(groups)


def test_wrong_arguments_are_errors_before_anything_is_read(tmp_path: Path) -> None:
    for how, message in (
        ({"form": "xml"}, "in.txt: format 'xml'"),
        ({"field": "a"}, "plain text and has no field 'a'"),
        ({"delimiter": ";"}, "delimiter"),
    ):
        with pytest.raises(InputError, match=message):
            TextStream(tmp_path / "in.txt", **how)  # which is not there


def test_a_table_without_rows_holds_no_texts(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="holds no texts"):
        list(TextStream(tmp_path / "in.parquet").read_groups())
    with pytest.raises(InputError, match="no field 'body'"):
        list(TextStream(tmp_path / "in.parquet", field="body").read_groups())


def test_only_a_file_can_be_read_twice(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    assert TextStream(tmp_path / "in.txt").is_rereadable
    assert not TextStream("-").is_rereadable
    assert not TextStream("/dev/stdin", form="txt").is_rereadable


def test_standard_input_is_read_without_its_buffer_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.txt"
    path.write_text("a\nb\n")
    with path.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=SimpleNamespace(fileno=file.fileno), closed=False))
        (group,) = TextStream("-").read_groups(in_thread=True)
    assert group.texts == ["a", "b"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"c\n")))  # without a file beneath
    (group,) = TextStream("-").read_groups(in_thread=True)
    assert group.texts == ["c"]


# ---- read_ahead


def test_one_item_is_made_ahead_and_no_more() -> None:
    made: list[int] = []
    arrived = [threading.Event() for _ in range(5)]

    def items() -> object:
        for number in range(5):
            made.append(number)
            arrived[number].set()
            yield number

    seen: list[tuple[int, int]] = []
    for number in read_ahead(items(), "reader"):  # pyright: ignore
        if number < 4:
            assert arrived[number + 1].wait(60)
        seen.append((number, max(made)))
    assert seen == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 4)]


def test_an_error_is_raised_in_its_turn() -> None:
    def items() -> object:
        yield 1
        yield 2
        raise KeyError("three")

    found: list[int] = []
    with pytest.raises(KeyError, match="three"):
        found.extend(read_ahead(items(), "reader"))  # pyright: ignore
    assert found == [1, 2]


def test_an_iteration_that_is_given_up_ends_its_thread() -> None:
    ahead = read_ahead(iter(range(10)), "given-up")
    assert next(ahead) == 0
    ahead.close()
    assert "given-up" not in {thread.name for thread in threading.enumerate()}

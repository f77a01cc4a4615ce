"""Encoding into files: stopped at every write and resumed, refused where something differs, and the same in every form.

A kill is an exception at one of the writes, without the cleaning up that an exception would cause.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from goldens import GIST, GOLDEN, STELLA, require
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnomon import Encoder, quantize, vector_drafts, vector_output
from gnomon.encode_call import EncodeCall
from gnomon.encode_file import EncodeReport, encode_file, survey_texts
from gnomon.encode_options import EncodeOptions
from gnomon.errors import InputError, NumericError, TruncationError
from gnomon.text_files import GroupLimits, TextFile, TextStream
from gnomon.vector_drafts import Draft, JsonlDraft, NpyDraft, ParquetDraft
from gnomon.vector_files import read_vectors, write_vectors
from gnomon.vector_output import VectorOutput, open_output

require(whole_module=True)
LIMITS = GroupLimits(3, 1000)
TEXTS = [f"{word} {number}" for number in range(4) for word in ("red lamp", "a", "blue chair")][:10]
SILENT = EncodeOptions(prompt="", on_truncate="silent")
DRAFTS = {"npy": NpyDraft, "jsonl": JsonlDraft, "parquet": ParquetDraft}


class Kill(BaseException):
    """Stands for SIGKILL."""


@cache
def encoder() -> Encoder:
    return Encoder.load(GOLDEN / GIST)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "in.jsonl", TEXTS)


def write_source(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"n": n, "text": text}) + "\n" for n, text in enumerate(texts)))
    return path


def encode(
    source: Path | str,
    out: Path,
    *,
    precision: Any = "float32",
    ranges_2D: Any = None,
    overwrite: bool = False,
    resume: bool = False,
    options: EncodeOptions = SILENT,
    model: Encoder | None = None,
    limits: GroupLimits = LIMITS,
    **how: Any,
) -> EncodeReport:
    stream = TextStream(source, limits=limits, **how)
    with open_output(out, overwrite=overwrite, resume=resume) as output:
        survey = survey_texts(stream, output.form)
        return encode_file(
            model or encoder(), stream, output, options, precision=precision, ranges_2D=ranges_2D, survey=survey
        )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("out.") and path.is_file()
    }


# ---- kills


class Killer:
    """Counts the writes of `encode_file`, and kills at the one with the number `at`."""

    def __init__(self, patch: pytest.MonkeyPatch, form: str, at: int | None) -> None:
        self.at, self.count = at, 0
        self.begun: list[int] = []
        draft: Any = DRAFTS[form]
        self._wrap(patch, draft, "append", before=True)
        self._wrap(patch, draft, "sync")
        self._wrap(patch, draft, "finish")
        self._wrap(patch, VectorOutput, "save", before=True)
        self._wrap(patch, vector_output, "write_text_atomically", before=True)
        self._wrap(patch, vector_output, "write_npy", before=True)
        self._wrap(patch, vector_output, "fsync_folder")
        self._wrap(patch, vector_output.shutil, "rmtree", before=True)  # so what is killed cleans nothing up
        add_vectors = EncodeCall.add_vectors

        def count_groups(call: EncodeCall, *args: Any) -> None:
            if call._num_missing == len(call.token_counts_R):
                self.begun.append(call._first_position)
            add_vectors(call, *args)

        patch.setattr(EncodeCall, "add_vectors", count_groups)

    def _wrap(self, patch: pytest.MonkeyPatch, owner: Any, name: str, *, before: bool = False) -> None:
        function = getattr(owner, name)

        def wrapped(*args: Any, **how: Any) -> Any:
            if before:
                self._reach(args[0] if name == "append" else None)
            result = function(*args, **how)
            self._reach()
            return result

        patch.setattr(owner, name, wrapped)

    def _reach(self, draft: Any = None) -> None:
        if self.count == self.at:
            if isinstance(draft, NpyDraft | JsonlDraft):
                draft.file.write(b"half of some vectors")
                draft.file.flush()
            raise Kill
        self.count += 1


def run_killed(form: str, at: int | None, work: Callable[[], object]) -> Killer:
    with pytest.MonkeyPatch.context() as patch:
        killer = Killer(patch, form, at)
        if at is None:
            work()
        else:
            with pytest.raises(Kill):
                work()
    return killer


def is_done(out: Path) -> bool:
    """Whether nothing is left to do but to remove what was kept."""
    return out.exists() and not Path(f"{out}.partial/state.json").exists()


@pytest.mark.parametrize("form", DRAFTS)
@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_killed_at_any_write_and_resumed_the_files_are_the_same(
    tmp_path: Path, source: Path, form: str, precision: Any
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    out = whole / f"out.{form}"
    killer = run_killed(form, None, lambda: encode(source, out, precision=precision))
    expected = contents(whole)
    assert set(expected) == {out.name, f"{out.name}.json"} | (
        {f"{out.name}.ranges.npy"} if precision == "int8" else set()
    )
    assert killer.begun == [0, 3, 6, 9]
    assert killer.count > 20
    for at in range(killer.count):
        folder = tmp_path / str(at)
        folder.mkdir()
        target = folder / out.name
        killed = run_killed(form, at, lambda: encode(source, target, precision=precision))  # noqa: B023
        if is_done(target):
            assert contents(folder) == expected
            continue
        resumed = run_killed(form, None, lambda: encode(source, target, precision=precision, resume=True))  # noqa: B023
        assert contents(folder) == expected, at
        begun = [*killed.begun, *resumed.begun]
        assert len(begun) - len(set(begun)) <= 1, at


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kills=st.lists(st.integers(0, 25), max_size=5),
    num_texts=st.integers(1, 12),
    max_texts=st.integers(1, 5),
    form=st.sampled_from([*DRAFTS]),
)
def test_killed_again_and_again(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], num_texts: int, max_texts: int, form: str
) -> None:
    folder = tmp_path_factory.mktemp("kills")
    source = write_source(folder / "in.jsonl", [f"text {number % 5}" for number in range(num_texts)])
    limits, out = GroupLimits(max_texts, 1000), folder / f"out.{form}"
    num_twice, num_begun = 0, set[int]()
    for at in kills:
        try:
            killer = run_killed(form, at, lambda: encode(source, out, resume=True, limits=limits))
        except pytest.fail.Exception:  # it was done before that write
            break
        if is_done(out):
            break
        num_twice += len(num_begun.intersection(killer.begun))
        num_begun.update(killer.begun)
    if is_done(out):
        with pytest.raises(InputError, match=r"there already|is complete"):
            encode(source, out, resume=True, limits=limits)
    else:
        encode(source, out, resume=True, limits=limits)
    assert num_twice <= len(kills)
    encode(source, folder / f"whole.{form}", limits=limits)
    assert out.read_bytes() == (folder / f"whole.{form}").read_bytes()
    assert not Path(f"{out}.partial").exists()


# ---- what is written


@pytest.mark.parametrize("form", DRAFTS)
@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "uint8", "binary", "ubinary"])
def test_vectors_are_those_of_one_call(tmp_path: Path, source: Path, form: str, precision: Any) -> None:
    """The reference is `Encoder.encode` and `quantize` of all texts."""
    out = tmp_path / f"out.{form}"
    report = encode(source, out, precision=precision)
    vectors = encoder().encode(TEXTS, prompt="")
    expected, ranges = (vectors, None) if precision == "float32" else quantize(vectors, precision)
    stored = read_vectors(out, encoder().space(SILENT))
    assert stored.vectors_BD.dtype == expected.dtype
    if precision in ("float32", "float16"):
        np.testing.assert_allclose(stored.vectors_BD, expected, atol=1e-6 if precision == "float32" else 1e-3)
    else:
        assert np.mean(stored.vectors_BD == expected) > 0.98  # a group of other texts may move the last bit
    if ranges is None:
        assert stored.ranges_2D is None
    else:
        np.testing.assert_allclose(stored.ranges_2D, ranges, atol=1e-6)
    assert (report.survey.num_texts, report.dim, report.num_new, report.num_truncated) == (10, 64, 10, 0)
    assert stored.manifest["count"] == 10


def test_npy_has_the_bytes_of_numpys_own(tmp_path: Path, source: Path) -> None:
    encode(source, tmp_path / "out.npy")
    np.save(tmp_path / "theirs.npy", np.load(tmp_path / "out.npy"))
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


@pytest.mark.parametrize("form", ["npy", "jsonl"])
def test_one_group_has_the_bytes_of_write_vectors(tmp_path: Path, source: Path, form: str) -> None:
    encode(source, tmp_path / f"out.{form}", limits=GroupLimits(100, 10000))
    sources = source.read_text().splitlines()
    texts, values = TextFile("in", TEXTS, json_rows=sources), encoder().encode(TEXTS, prompt="")
    write_vectors(tmp_path / f"other.{form}", texts, values, None, {})
    assert (tmp_path / f"out.{form}").read_bytes() == (tmp_path / f"other.{form}").read_bytes()


def test_ranges_that_are_given_are_used_in_every_group(tmp_path: Path, source: Path) -> None:
    ranges = np.stack([np.full(64, -0.5), np.full(64, 0.5)]).astype(np.float32)
    encode(source, tmp_path / "out.npy", precision="int8", ranges_2D=ranges)
    encode(source, tmp_path / "float.npy")
    expected = quantize(np.load(tmp_path / "float.npy"), "int8", ranges).values
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy.ranges.npy"), ranges)


def test_positions_and_counts_are_those_of_the_whole_input(tmp_path: Path) -> None:
    long = "word " * 100
    source = write_source(tmp_path / "in.jsonl", [*TEXTS[:4], long, "", "b", long])
    report = encode(source, tmp_path / "out.npy")
    assert report.num_truncated == 2
    assert report.survey.describe_empty() == f"1 of 8 texts of {source} is empty (line 6)"
    assert json.loads((tmp_path / "out.npy.json").read_text())["cut"] == 2
    error = replace(SILENT, on_truncate="error")
    with pytest.raises(TruncationError, match=r"2 of 8 texts .* 64 tokens; the longest, on line 5 of .*in\.jsonl"):
        encode(source, tmp_path / "other.npy", options=error)
    assert not list(tmp_path.glob("other*"))


def test_a_vector_that_is_not_finite_names_its_position_and_keeps_the_groups_before(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    add = Encoder._add_pooled

    def damage(self: Encoder, call: EncodeCall, rows: Any, pooled: Any, post: Any) -> None:
        if "blue chair 2" in call.request.texts:
            pooled = np.full_like(pooled, np.nan)
        texts.extend(call.request.texts)
        add(self, call, rows, pooled, post)

    monkeypatch.setattr(Encoder, "_add_pooled", damage)
    with pytest.raises(NumericError, match=r"text [678] gives NaN"):
        encode(source, tmp_path / "out.npy")
    assert json.loads((tmp_path / "out.npy.partial/state.json").read_text())["num_texts"] == 6


# ---- Parquet: fields of several groups


def parquet_of(tmp_path: Path, rows: list[dict[str, Any]]) -> pa.Table:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    encode(path, tmp_path / "out.parquet", limits=GroupLimits(2, 1000), field="text")
    return pq.read_table(tmp_path / "out.parquet")


def test_types_of_fields_are_unified_over_groups(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "n": 1, "x": None},
        {"text": "b", "n": 2, "x": None},
        {"text": "c", "n": 1.5, "x": "s", "new": [1]},
        {"text": "d"},
        {"text": "e", "new": []},
    ]
    table = parquet_of(tmp_path, rows)
    names = ["text", "n", "x", "new"]
    assert table.column_names == [*names, "embedding"]
    expected = [{name: row.get(name) for name in names} for row in rows]
    assert table.drop_columns(["embedding"]).to_pylist() == expected
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 3


@pytest.mark.parametrize(("values", "message"), [((1, "s"), "'n' is int64 and later string"), ((2**60 + 1, 1.5), "n")])
def test_types_that_do_not_fit_are_an_error(tmp_path: Path, values: tuple[Any, Any], message: str) -> None:
    rows = [{"text": "a", "n": values[0]}] * 2 + [{"text": "b", "n": values[1]}]
    with pytest.raises(InputError, match=message):
        parquet_of(tmp_path, rows)


def test_a_table_keeps_its_types_and_metadata(tmp_path: Path) -> None:
    table = pa.table(
        {
            "n": pa.array(range(5), pa.int16()),
            "kind": pa.array(["x", "y", "x", None, "y"]).dictionary_encode(),
            "text": pa.array(list("abcde"), pa.large_string()),
        }
    ).replace_schema_metadata({"origin": "here"})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    encode(tmp_path / "in.parquet", tmp_path / "out.parquet", limits=GroupLimits(2, 1000), field="text")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.drop_columns(["embedding"]).schema.equals(table.schema, check_metadata=True)
    assert found.drop_columns(["embedding"]).to_pylist() == table.to_pylist()


# ---- refusals


def stop_after(monkeypatch: pytest.MonkeyPatch, num_groups: int, work: Callable[[], object]) -> None:
    """Stop as by Ctrl-C, after so many groups."""
    with monkeypatch.context() as patch:
        append, count = NpyDraft.append, iter(range(100))

        def stop(draft: Any, *args: Any) -> None:
            if next(count) == num_groups:
                raise KeyboardInterrupt
            append(draft, *args)

        patch.setattr(NpyDraft, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            work()


@pytest.mark.parametrize("name", ["out.npy", "out.npy.json", "out.npy.ranges.npy"])
def test_an_output_that_exists_is_refused(tmp_path: Path, source: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match=rf"{name} is there already.*--overwrite"):
        encode(source, tmp_path / "out.npy")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path != source} == {name: b"precious"}
    encode(source, tmp_path / "out.npy", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.npy", "out.npy.json"]


def test_an_older_output_stays_until_the_new_one_is_complete(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.npy"
    encode(source, out)
    before = contents(tmp_path)
    write_source(source, [*TEXTS, "one more"])
    stop_after(monkeypatch, 2, lambda: encode(source, out, overwrite=True))
    assert {name: content for name, content in contents(tmp_path).items() if name in before} == before
    encode(source, out, resume=True)  # what was allowed once is allowed when it goes on
    assert len(np.load(out)) == 11


def test_a_part_of_the_output_is_refused_without_a_word_what_to_do(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.npy"
    stop_after(monkeypatch, 2, lambda: encode(source, out))
    with pytest.raises(InputError, match=r"out\.npy\.partial holds .* 6 texts.*--resume.*--overwrite"):
        encode(source, out)
    with pytest.raises(InputError, match=r"--resume.*--overwrite"):
        encode(source, out, resume=True, overwrite=True)
    assert encode(source, out, resume=True).num_new == 4
    assert len(np.load(out)) == 10


def test_an_output_that_appeared_since_then_is_not_replaced(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.npy"
    stop_after(monkeypatch, 2, lambda: encode(source, out))
    out.write_text("precious")
    with pytest.raises(InputError, match="there already"):
        encode(source, out, resume=True)
    assert out.read_text() == "precious"


def test_what_stops_before_the_first_group_leaves_nothing(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 0, lambda: encode(source, tmp_path / "out.npy"))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    assert encode(source, tmp_path / "out.npy", resume=True).num_new == 10


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"precision": "float16"}, 'precision is "float16" and was "float32"|precision is \'float16\' and was'),
        ({"options": EncodeOptions(prompt="Find: ")}, "prompt is 'Find: ' and was ''"),
        ({"options": EncodeOptions(prompt="", truncate_dim=8)}, "dim is 8 and was 64; cut_from is 64 and was null"),
        ({"options": EncodeOptions(prompt="", on_truncate="mean")}, "on_truncate is 'mean' and was 'cut'"),
        ({"field": "text"}, r'field is \["text"\] and was null'),
        ({"skip_bad": True}, "skip_bad is true and was false"),
        ({"limits": GroupLimits(4, 1000)}, "texts per group is 4 and was 3"),
    ],
)
def test_other_settings_are_named_with_both_values(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any], message: str
) -> None:
    out = tmp_path / "out.npy"
    stop_after(monkeypatch, 2, lambda: encode(source, out))
    before = (tmp_path / "out.npy.partial/state.json").read_bytes()
    with pytest.raises(InputError, match=message):
        encode(source, out, resume=True, **how)
    assert (tmp_path / "out.npy.partial/state.json").read_bytes() == before


def test_another_model_is_named(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.npy"
    stop_after(monkeypatch, 2, lambda: encode(source, out))
    other = Encoder.load(GOLDEN / STELLA)
    with pytest.raises(InputError, match=rf"model is '{STELLA}.* and was '{GIST}"):
        encode(source, out, resume=True, model=other)
    shorter = encoder().with_max_seq_length(32)
    with pytest.raises(InputError, match="max_seq_length is 32 and was 64"):
        encode(source, out, resume=True, model=shorter)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["other", *TEXTS[1:]], "its first 6 texts are others"),
        ([*TEXTS[:5], "other"], "its first 6 texts are others"),
        (TEXTS[:3], "it has 3 texts only"),
        (TEXTS[1:], "its first 6 texts are others"),
    ],
)
def test_another_input_is_an_error(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, texts: list[str], message: str
) -> None:
    out = tmp_path / "out.npy"
    stop_after(monkeypatch, 2, lambda: encode(source, out))
    write_source(source, texts)
    with pytest.raises(InputError, match=rf"in\.jsonl is not the input .*: {message}.*--overwrite"):
        encode(source, out, resume=True)
    write_source(source, TEXTS)
    encode(source, out, resume=True)
    assert len(np.load(out)) == 10


def test_a_text_that_is_corrected_after_what_is_done_is_the_same_input(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.npy"
    stop_after(monkeypatch, 2, lambda: encode(source, out))
    changed = [*TEXTS[:6], "corrected", *TEXTS[7:], "added"]
    write_source(source, changed)
    assert encode(source, out, resume=True).num_new == 5
    np.testing.assert_allclose(np.load(out), encoder().encode(changed, prompt=""), atol=1e-6)


def test_a_changed_row_counts_where_rows_are_written(tmp_path: Path, source: Path) -> None:
    for form, is_refused in (("npy", False), ("jsonl", True)):
        out = tmp_path / f"out.{form}"
        write_source(source, TEXTS)
        run_killed(form, 12, lambda: encode(source, out))  # noqa: B023
        source.write_text(source.read_text().replace('"n": 0', '"n": 7'))
        if is_refused:
            with pytest.raises(InputError, match="are others"):
                encode(source, out, resume=True)
        else:
            encode(source, out, resume=True)


def test_one_process_at_a_time_writes_an_output(tmp_path: Path, source: Path) -> None:
    with (
        open_output(tmp_path / "out.npy"),
        pytest.raises(InputError, match=rf"held by another run, process {os.getpid()}"),
    ):
        encode(source, tmp_path / "out.npy")
    encode(source, tmp_path / "out.npy")


@pytest.mark.parametrize("content", ["{", "[]", '{"unknown": 1}'])
def test_a_damaged_state_is_named(tmp_path: Path, source: Path, content: str) -> None:
    folder = tmp_path / "out.npy.partial"
    folder.mkdir()
    (folder / "state.json").write_text(content)
    with pytest.raises(InputError, match=r"state\.json is damaged"):
        encode(source, tmp_path / "out.npy", resume=True)


def test_a_draft_that_is_shorter_than_its_state_is_named(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 2, lambda: encode(source, tmp_path / "out.npy"))
    draft = tmp_path / "out.npy.partial/vectors.npy"
    draft.write_bytes(draft.read_bytes()[:-900])
    with pytest.raises(InputError, match=r"vectors\.npy is shorter .*--overwrite"):
        encode(source, tmp_path / "out.npy", resume=True)
    encode(source, tmp_path / "out.npy", overwrite=True)


def test_a_link_is_written_through(tmp_path: Path, source: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere/real.npy", tmp_path / "out.npy"
    link.symlink_to(target)
    encode(source, link, overwrite=True)
    assert link.is_symlink()
    assert len(np.load(target)) == 10
    assert len(read_vectors(link).vectors_BD) == 10


def test_8_bits_of_one_text_need_ranges(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in.jsonl", ["alone"])
    with pytest.raises(InputError, match="single vector needs ranges"):
        encode(source, tmp_path / "out.npy", precision="int8")
    assert not list(tmp_path.glob("out*"))


# ---- pipes


@pytest.mark.parametrize(
    ("form", "precision"), [("npy", "float32"), ("parquet", "float32"), ("jsonl", "int8"), ("jsonl", "float32")]
)
def test_a_pipe_gets_the_bytes_of_the_file(tmp_path: Path, source: Path, form: str, precision: Any) -> None:
    out, fifo = tmp_path / f"out.{form}", tmp_path / f"fifo.{form}"
    encode(source, out, precision=precision)
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        encode(source, fifo, precision=precision)
        assert os.read(reader, 1 << 20) == out.read_bytes()
    finally:
        os.close(reader)
    assert not list(tmp_path.glob("fifo.*.*"))
    with pytest.raises(InputError, match=r"not a file.*--resume"):
        encode(source, fifo, resume=True)


# ---- Encoder.encode_stream


def test_a_stream_gives_the_vectors_of_one_call() -> None:
    long = "word " * 100
    texts = [*TEXTS, long, "", TEXTS[0], long]
    options = EncodeOptions(prompt="Find: ", normalize_embeddings=True, truncate_dim=16, on_truncate="silent")
    expected = encoder().encode_with_counts(texts, options)
    progress: list[float] = []
    for size in (1, 3, 50):
        groups = [texts[start : start + size] for start in range(0, len(texts), size)]
        progress.clear()
        found = [*encoder().encode_stream(groups, options, on_progress=progress.append)]
        np.testing.assert_allclose(np.concatenate([each.vectors for each in found]), expected.vectors, atol=1e-6)
        assert np.concatenate([each.token_counts_B for each in found]).tolist() == expected.token_counts_B.tolist()
        assert [position for each in found for position in each.truncated] == expected.truncated == [10, 13]
        assert sum(progress) == pytest.approx(len(texts))


def test_a_group_has_the_same_vectors_in_any_company() -> None:
    groups = [TEXTS[:3], TEXTS[3:6], TEXTS[6:]]
    together = [each.vectors for each in encoder().encode_stream(groups, SILENT)]
    for group, vectors in zip(groups, together, strict=True):
        (alone,) = encoder().encode_stream([group], SILENT)
        assert alone.vectors.tobytes() == vectors.tobytes()


def test_groups_without_texts_have_no_vectors() -> None:
    found = encoder().encode_stream([[], ["a"], [], [], ["b", "b"], []], SILENT)
    assert [each.vectors.shape for each in found] == [(0, 64), (1, 64), (0, 64), (0, 64), (2, 64), (0, 64)]


def test_an_error_of_the_groups_comes_after_the_vectors_before_it() -> None:
    def groups() -> Iterator[list[str]]:
        yield ["a"]
        yield ["b", "c"]
        raise KeyError("no more")

    found: list[int] = []
    with pytest.raises(KeyError, match="no more"):
        found.extend(len(each.vectors) for each in encoder().encode_stream(groups(), SILENT))
    assert found == [1, 2]


def test_errors_name_positions_in_the_stream() -> None:
    error = replace(SILENT, on_truncate="error")
    with pytest.raises(TruncationError, match="the longest, text 4"):
        list(encoder().encode_stream([["a", "b", "c"], ["d", "word " * 100]], error))
    with pytest.raises(InputError, match="text 1 is int 3"):
        list(encoder().encode_stream([["a"], ["b", 3]], SILENT))  # pyright: ignore
    with closing(encoder().encode_stream([["a"], ["b"]], SILENT)) as stream:
        next(stream)


def test_a_failed_batch_names_its_texts_after_the_groups_before(monkeypatch: pytest.MonkeyPatch) -> None:
    from gnomon.engines.onnx.engine import OnnxEngine
    from gnomon.engines.protocol import Failure
    from gnomon.errors import WorkerError

    pool, numbers = OnnxEngine.pool, iter(range(100))
    failing = lambda self, batches: (  # noqa: E731
        Failure("on cpu: it burnt") if next(numbers) == 1 else pool(self, packed) for packed in batches
    )
    monkeypatch.setattr(OnnxEngine, "pool_batches", failing)
    stream = encoder().encode_stream([["a"], ["b", "c", "b"]], SILENT)
    assert next(stream).vectors.shape == (1, 64)
    with pytest.raises(WorkerError, match=r"3 of 3 texts .*it burnt \(texts 1, 2, 3\)"):
        next(stream)


def test_drafts_are_the_ones_of_the_module() -> None:
    """The kills of this file reach every draft that is kept."""
    kept = {name for name, value in vars(vector_drafts).items() if name.endswith("Draft") and value is not Draft}
    assert kept == {"NpyDraft", "JsonlDraft", "ParquetDraft", "StreamDraft"}


def test_a_folder_that_is_not_of_gnomon_stays(tmp_path: Path, source: Path) -> None:
    precious = tmp_path / "out.npy.partial" / "notes.txt"
    precious.parent.mkdir()
    precious.write_text("precious")
    for arguments in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match=r"notes\.txt is not of gnomon"):
            encode(source, tmp_path / "out.npy", **arguments)
    assert precious.read_text() == "precious" and not (tmp_path / "out.npy").exists()


def test_an_output_that_appears_during_the_work_is_not_replaced(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out.npy"
    with pytest.raises(InputError, match="appeared during the work"), open_output(out) as output:
        out.write_text("precious")
        encode_file(encoder(), TextStream(source, limits=LIMITS), output, SILENT)
    assert out.read_text() == "precious"
    out.unlink()
    encode(source, out, resume=True)
    assert len(read_vectors(out).vectors_BD) == 10


def test_a_link_leaves_no_old_manifest(tmp_path: Path, source: Path) -> None:
    out, link = tmp_path / "real.npy", tmp_path / "link.npy"
    encode(source, out)
    before = Path(f"{out}.json").read_text()
    link.symlink_to(out)
    encode(source, link, overwrite=True)
    assert not Path(f"{link}.json").exists()
    assert Path(f"{out}.json").read_text() == before
    assert len(read_vectors(link).vectors_BD) == len(read_vectors(out).vectors_BD) == 10


def test_a_damaged_part_is_an_error_that_says_so(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out.parquet"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ParquetDraft, "finish", stop)
        encode(source, out)
    (tmp_path / "out.parquet.partial" / "part-000000.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=r"part-000000\.parquet is damaged"):
        encode(source, out, resume=True)

"""The token budget: measured once, kept in a file that nothing depends on, smaller where memory is."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_model import assert_same, model

from gnomon.engines.torch import budget as budgets
from gnomon.engines.torch.budget import BUDGET_CHOICES, BudgetChoices, cache_file, load_or_measure, measure
from gnomon.engines.torch.engine import TorchEngine
from gnomon.packed import Packed, pack
from gnomon.spec import PoolingSpec

MADE = "one layer"
SMALL, LARGE = 999, 1000
"""Tokens of work: not worth the measuring, and just worth it."""


def never() -> int:
    raise AssertionError("measured, where the answer was known")


# ---- measuring


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({8: 1.0, 16: 2.0, 32: 4.0}, 32),
        ({8: 4.0, 16: 2.0, 32: 1.0}, 8),
        ({8: 1.0, 16: 1.0, 32: 1.0}, 8),
        ({8: 0.96, 16: 0.98, 32: 1.0}, 16),
        ({8: 0.975, 16: 0.98, 32: 1.0}, 8),
        ({8: 0.5, 16: 1.0, 32: 0.98}, 16),
        ({8: 0.1, 16: None, 32: 9.0}, 8),
        ({8: 1.0, 16: 1.5, 32: None}, 16),
        ({8: None, 16: 1.0, 32: 1.0}, 7),
        ({}, 7),
    ],
)
def test_the_smallest_that_is_nearly_the_best(rates: dict[int, float | None], expected: int) -> None:
    asked: list[int] = []

    def seconds(tokens: int) -> float | None:
        asked.append(tokens)
        rate = rates[tokens]
        return None if rate is None else tokens / rate

    assert measure(seconds, tuple(rates), 7) == expected
    lost = [tokens for tokens, rate in rates.items() if rate is None]
    assert asked == [tokens for tokens in rates if not lost or tokens <= lost[0]], "goes on behind what does not fit"


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.one_of(st.none(), st.floats(1e-6, 1e3))), unique_by=lambda row: row[0])
)
def test_the_choice_against_its_definition(rows: list[tuple[int, float | None]]) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    fits = [row for at, row in enumerate(rows) if all(took is not None for _, took in rows[: at + 1])]
    rates = [tokens / took for tokens, took in fits if took]
    good = [tokens for (tokens, _), rate in zip(fits, rates, strict=True) if rate >= 0.97 * max(rates)]
    assert measure(dict(rows).__getitem__, [tokens for tokens, _ in rows], -1) == min(good, default=-1)


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_sizes_are_tried_from_the_smallest(kind: str) -> None:
    sizes = BUDGET_CHOICES[kind]
    assert list(sizes.candidates) == sorted(sizes.candidates)
    assert sizes.default in sizes.candidates
    assert sizes.min_work_to_measure > max(sizes.candidates)


# ---- keeping


def test_a_budget_is_measured_once_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "budgets.json"
    assert load_or_measure("a", lambda: 512, file) == 512
    assert load_or_measure("a", never, file) == 512
    assert load_or_measure("b", lambda: 64, file) == 64
    assert (load_or_measure("a", never, file), load_or_measure("b", never, file)) == (512, 64)
    assert json.loads(file.read_text()) == {"a": 512, "b": 64}
    assert [path.name for path in file.parent.iterdir()] == ["budgets.json"]


def test_what_others_kept_meanwhile_stays(tmp_path: Path) -> None:
    file = tmp_path / "budgets.json"
    load_or_measure("before", lambda: 1, file)

    def slowly() -> int:
        load_or_measure("meanwhile", lambda: 2, file)
        return 3

    assert load_or_measure("mine", slowly, file) == 3
    assert json.loads(file.read_text()) == {"before": 1, "meanwhile": 2, "mine": 3}


def check_replaced(file: Path, others: dict[str, int]) -> None:
    assert load_or_measure("mine", lambda: 5, file) == 5
    assert json.loads(file.read_text()) == others | {"mine": 5}
    assert load_or_measure("mine", never, file) == 5


@pytest.mark.parametrize(
    ("content", "others"),
    [
        (b"", {}),
        (b"{", {}),
        (b'{"mine": 5', {}),
        (b"\xff\xfe\x00", {}),
        (b"null", {}),
        (b"[1, 2]", {}),
        (b'"mine"', {}),
        (b'{"mine": "5", "other": 7}', {"other": 7}),
        (b'{"mine": 0, "other": -7}', {}),
        (b'{"mine": true, "a": 2.5, "b": null, "c": [3], "d": {"e": 1}, "other": 7}', {"other": 7}),
        (b'{"mine": NaN}', {}),
        (b'{"mine": ' + b"9" * 5000 + b"}", {}),
    ],
)
def test_a_file_that_is_not_ours_is_no_error_and_is_replaced(
    content: bytes, others: dict[str, int], tmp_path: Path
) -> None:
    file = tmp_path / "budgets.json"
    file.write_bytes(content)
    check_replaced(file, others)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=3)),
    max_leaves=6,
)


@given(st.one_of(st.binary(max_size=40), json_values.map(lambda value: json.dumps(value).encode())))
def test_any_file_is_no_error_and_is_replaced(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("cache") / "budgets.json"
    file.write_bytes(content)
    try:
        found = json.loads(content)
    except ValueError:
        found = {}
    found = found if isinstance(found, dict) else {}
    check_replaced(file, {key: value for key, value in found.items() if type(value) is int and value > 0})


def test_a_file_of_brackets_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "budgets.json"
    file.write_bytes(b"[" * 100_000)
    check_replaced(file, {})


def test_what_cannot_be_kept_is_measured_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for file in (None, tmp_path / "file" / "below.json", tmp_path / "folder"):
        answers = iter([5, 6])
        assert [load_or_measure("mine", lambda: next(answers), file) for _ in range(2)] == [5, 6]  # noqa: B023
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert load_or_measure("mine", lambda: 5, tmp_path / "budgets.json") == 5
    finally:
        tmp_path.chmod(0o700)


def test_what_cannot_be_kept_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "budgets.json").mkdir()
    load_or_measure("mine", lambda: 5, tmp_path / "budgets.json")
    assert [path.name for path in tmp_path.iterdir()] == ["budgets.json"]


def test_the_file_is_in_the_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    found = cache_file()
    assert found is not None
    assert found.parent == tmp_path / ".cache" / "gnomon"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_file() is None


# ---- the engine's budget


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A mark for each measuring, which finds 256; the file lies in the test's folder."""
    marks: list[str] = []

    def found(seconds: Callable[[int], float | None], tried: Any, default: int) -> int:
        assert (tried, default) == ((64, 128, 256), 128)
        assert seconds(64), "a layer takes some time"
        marks.append("measured")
        return 256

    monkeypatch.setitem(budgets.BUDGET_CHOICES, "cpu", BudgetChoices(128, (64, 128, 256), LARGE))
    monkeypatch.setattr(budgets, "measure", found)
    monkeypatch.setattr(budgets, "cache_file", lambda: tmp_path / "cache" / "budgets.json")
    return marks


def engine(**how: Any) -> TorchEngine:
    trunk, arrays = model(MADE)
    return TorchEngine(trunk, PoolingSpec(), arrays, threads=1, **how)


def test_small_work_takes_the_default_and_large_work_measures_once(measured: list[str], tmp_path: Path) -> None:
    first = engine()
    assert [first.budget(tokens) for tokens in (0, 1, SMALL)] == [128] * 3
    assert (measured, list(tmp_path.iterdir())) == ([], [])
    assert [first.budget(tokens) for tokens in (LARGE, 10**9, 1)] == [256] * 3
    assert measured == ["measured"]


def test_a_second_engine_of_the_same_key_reads_the_file(measured: list[str], tmp_path: Path) -> None:
    first, second = engine(), engine()
    assert (first.budget(LARGE), second.budget(SMALL), second.budget(LARGE)) == (256, 128, 256)
    assert measured == ["measured"]
    assert json.loads((tmp_path / "cache" / "budgets.json").read_text()) == {first._budget_key(): 256}


def test_another_key_is_measured_anew(measured: list[str]) -> None:
    engine().budget(LARGE)
    trunk, arrays = model("roberta")
    others = [engine(dtype="float64"), TorchEngine(trunk, PoolingSpec(), arrays, threads=2)]
    for count, other in enumerate(others, 2):
        other.budget(LARGE)
        assert len(measured) == count


def test_without_a_file_an_engine_measures_once_all_the_same(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "cache_file", lambda: None)
    first = engine()
    assert [first.budget(LARGE) for _ in range(3)] == [256] * 3
    assert measured == ["measured"]


def limited(runner: TorchEngine, tokens: int, patch: pytest.MonkeyPatch) -> list[int]:
    """Let the device's memory take batches of so many tokens; the tokens of the batches that were tried."""
    tried: list[int] = []
    forward = runner.trunk.forward

    def run(batch: Any, *rest: Any) -> torch.Tensor:
        tried.append(len(batch.ids_T))
        if len(batch.ids_T) > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(batch, *rest)

    patch.setattr(runner.trunk, "forward", run)
    return tried


def batch_of(texts: int, length: int = 10) -> Packed:
    return pack([np.arange(length) + at % 7 for at in range(texts)])


@pytest.mark.parametrize("call", ["pool", "pool_batches", "states"])
@pytest.mark.parametrize("large_before", [True, False])
def test_too_little_memory_makes_later_batches_smaller(
    call: str, large_before: bool, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, packed = engine(), batch_of(12)
    whole = getattr(runner, "states" if call == "states" else "pool")(packed)
    before = runner.budget(LARGE if large_before else SMALL)
    limited(runner, 70, monkeypatch)
    found = list(runner.pool_batches([packed]))[0] if call == "pool_batches" else getattr(runner, call)(packed)  # noqa: RUF015
    assert_same(found, whole)
    after = runner.budget(SMALL)
    assert 0 < after <= 70 < before
    assert runner.budget(LARGE) == after, "what was learnt is not measured away"
    assert len(measured) == int(large_before)
    assert engine().budget(SMALL) == 128, "another engine has its own"


def test_many_batches_that_do_not_fit_are_one_lesson(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a window are cut before the first of them is tried: halves of each fit, and so do later batches."""
    runner = engine()
    limited(runner, 70, monkeypatch)
    assert sum(len(pooled_BD) for pooled_BD in runner.pool_batches(batch_of(12) for _ in range(8))) == 96
    assert runner.budget(SMALL) >= 30


def test_one_batch_that_does_not_fit_halves_the_budget_once(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = engine()
    limited(runner, 70, monkeypatch)
    assert_same(np.concatenate([*runner.pool_batches([batch_of(12)])]), engine().pool(batch_of(12)))
    assert runner.budget(SMALL) == 60

"""The static table against loops."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.engines import static
from gnomon.engines.static import StaticEngine
from gnomon.errors import InputError
from gnomon.packed import pack
from gnomon.spec import StaticSpec

ROWS, WIDTH, UNK = 7, 5, 3
TABLE = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)

ids = st.lists(st.integers(0, ROWS - 1), max_size=9).map(lambda ids_T: np.array(ids_T, np.int64))


def runner(unk_id: int | None, table: np.ndarray = TABLE) -> StaticEngine:
    return StaticEngine(StaticSpec(ROWS, WIDTH, unk_id is not None, unk_id), {"embed.tokens": table})


@pytest.mark.parametrize("unk_id", [None, UNK, 0])
@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(ids, min_size=1, max_size=5),
    cells=st.sampled_from([1, 2 * WIDTH, 7 * WIDTH, static.VALUES_PER_BLOCK]),
)
def test_the_mean_of_the_counted_tokens(unk_id: int | None, texts: list[np.ndarray], cells: int) -> None:
    """However many rows are looked up at once, so also of a text in parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static, "VALUES_PER_BLOCK", cells)
        found = runner(unk_id).pool(pack(texts))
    assert found.dtype == np.float32
    assert found.shape == (len(texts), WIDTH)
    for vector_D, ids_T in zip(found, texts, strict=True):
        rows = [TABLE[token].astype(np.float64) for token in ids_T if token != unk_id]
        np.testing.assert_allclose(vector_D, np.mean(rows, 0) if rows else np.zeros(WIDTH), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "texts", [[[]], [[], []], [[UNK]], [[UNK, UNK], [1]]], ids=["empty", "two empty", "unknown", "unknown and known"]
)
def test_a_text_without_counted_tokens_is_zero(texts: list[list[int]]) -> None:
    found = runner(UNK).pool(pack([np.array(ids_T, np.int64) for ids_T in texts]))
    assert not found[0].any()


def test_neighbours_change_no_bit() -> None:
    texts = [np.arange(length) % ROWS for length in (1, 6, 0, 40)]
    alone = np.concatenate([runner(UNK).pool(pack([ids_T])) for ids_T in texts])
    assert np.array_equal(runner(UNK).pool(pack(texts)), alone)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_states_are_the_rows_in_float32(dtype: type) -> None:
    table = TABLE.astype(dtype)
    states = runner(None, table).states(pack([np.array([1, 2]), np.array([0])]))
    assert states.dtype == np.float32
    assert np.array_equal(states, table[[1, 2, 0]].astype(np.float32))


def test_a_long_text_is_summed_in_float64() -> None:
    table = np.full((ROWS, WIDTH), 0.1, np.float32)
    vector_D = runner(None, table).pool(pack([np.zeros(1_000_000, np.int64)]))[0]
    np.testing.assert_allclose(vector_D, table[0], rtol=1e-7)


def test_a_batch_takes_no_more_than_its_vectors_and_a_few_megabytes() -> None:
    """It was a gigabyte: every row of the batch in float64, twice."""
    table = np.ones((100, 1024), np.float32)
    batch = pack([np.arange(64) % 100] * 1024)
    assert len(batch.ids_T) == StaticEngine.token_budget
    engine = StaticEngine(StaticSpec(100, 1024, True, 3), {"embed.tokens": table})
    tracemalloc.start()
    try:
        vectors_BD = engine.pool(batch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * vectors_BD.nbytes + 8 * batch.ids_T.nbytes + 16 * static.VALUES_PER_BLOCK


def test_it_runs_on_the_cpu_in_float32_whatever_else_is_there() -> None:
    assert (runner(None).device, runner(None).dtype) == ("cpu", "float32")


def test_a_closed_table_computes_nothing() -> None:
    engine = runner(None)
    engine.close()
    engine.close()
    for call in (engine.pool, engine.states):
        with pytest.raises(InputError, match=r"was closed\. Load it again"):
            call(pack([np.array([1])]))

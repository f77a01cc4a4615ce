"""Position ids, rotary tables and token types: one function serves every engine."""

import numpy as np
import pytest
import torch
from reference_model import assert_same, model, reference_pool, reference_states, texts

from gnomon.engines.onnx.engine import OnnxEngine
from gnomon.engines.positions import check_token_types, position_ids, rotary_tables
from gnomon.engines.protocol import Engine
from gnomon.engines.torch.batch import DeviceBatch
from gnomon.engines.torch.engine import TorchEngine
from gnomon.engines.torch.layers import Rotary
from gnomon.errors import InputError
from gnomon.packed import Packed, pack
from gnomon.spec import PoolingSpec, RopeSpec, TrunkSpec

ROPE = RopeSpec(10000.0, 2.0)
ENGINES = ["onnxruntime", "openvino", "torch"]


def engine_of(name: str, pooling: PoolingSpec, runtime: str) -> Engine:
    trunk, arrays = model(name)
    if runtime == "torch":
        return TorchEngine(trunk, pooling, arrays)
    pytest.importorskip(runtime)
    return OnnxEngine(trunk, pooling, arrays, threads=1, runtime=runtime)


def trunk(**changes: int) -> TrunkSpec:
    return TrunkSpec(
        vocab_size=9, hidden_size=4, num_layers=1, num_heads=1, intermediate_size=4, max_positions=20, **changes
    )


def test_position_ids_count_from_the_offset() -> None:
    packed = pack([np.array([5, 2, 7]), np.array([2, 2])])
    assert position_ids(trunk(), packed).tolist() == [0, 1, 2, 0, 1]
    assert position_ids(trunk(position_offset=2), packed).tolist() == [2, 3, 4, 2, 3]
    assert position_ids(trunk(position_offset=3, pad_id=2), packed).tolist() == [3, 2, 4, 2, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 64, 65])
def test_rotary_tables_hold_the_formula_and_are_cached(length: int, dtype: type[np.floating]) -> None:
    angles = np.arange(length)[:, None] * ROPE.frequencies(8)
    for table, function in zip(rotary_tables(ROPE, 8, length, dtype), (np.cos, np.sin), strict=True):
        assert table.dtype == dtype
        assert len(table) >= length
        assert np.array_equal(table[:length], function(angles).astype(dtype))
        assert not table.flags.writeable
    assert rotary_tables(ROPE, 8, length, dtype) is rotary_tables(ROPE, 8, length, dtype)
    assert rotary_tables(RopeSpec(10000.0), 8, length, dtype) is not rotary_tables(ROPE, 8, length, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_torch_rotates_by_the_same_tables(dtype: torch.dtype) -> None:
    packed = pack([np.arange(5), np.arange(2)])
    angles = Rotary(ROPE, 8).cos_sin(DeviceBatch.from_packed(packed, trunk()), dtype)
    tables = rotary_tables(ROPE, 8, 5, np.float64 if dtype == torch.float64 else np.float32)
    for values, table in zip(angles, tables, strict=True):
        assert np.array_equal(values[:, 0].numpy(), table[packed.positions_T])


@pytest.mark.parametrize("name", ["wide, ntk, gated", "GIST-Embedding-v0"])
@pytest.mark.parametrize("runtime", ENGINES)
def test_token_types_choose_the_row_of_their_table(name: str, runtime: str) -> None:
    """A text of mixed types equals the reference; types of 0 equal no types; the engine still takes both."""
    ids, pooling = texts(name), PoolingSpec()
    types = [np.arange(len(ids_T)) % 2 for ids_T in ids]
    engine = engine_of(name, pooling, runtime)
    wanted = [
        reference_pool(pooling, reference_states(*model(name), ids_T, types_T), 0)
        for ids_T, types_T in zip(ids, types, strict=True)
    ]
    found = engine.pool(pack(ids, types_per_text=types))
    assert_same(found, np.stack(wanted))
    plain = engine.pool(pack(ids))
    assert_same(engine.pool(pack(ids, types_per_text=[ids_T * 0 for ids_T in ids])), plain)
    assert np.abs(found - plain).max() > 1e-3
    alone = [engine.pool(pack([ids_T], types_per_text=[types_T]))[0] for ids_T, types_T in zip(ids, types, strict=True)]
    assert_same(found, np.stack(alone))


@pytest.mark.parametrize("runtime", ENGINES)
def test_a_type_without_a_row_is_refused(runtime: str) -> None:
    ids = [np.arange(3), np.arange(2)]
    for name, types, value in (
        ("roberta", [0, 1, 0, 0, 0], "1"),
        ("wide, ntk, gated", [0, 0, 0, 2, 0], "2"),
        ("wide, ntk, gated", [0, -1, 0, 0, 0], "-1"),
        ("no types, relu", [0, 0, 0, 0, 1], "1"),
    ):
        engine = engine_of(name, PoolingSpec(), runtime)
        packed = pack(ids, types_per_text=np.split(np.array(types), [3]))
        for call in (engine.pool, engine.states):
            with pytest.raises(InputError, match=rf"token type {value} .*types_T"):
                call(packed)


@pytest.mark.parametrize("runtime", ENGINES)
def test_types_of_a_model_without_a_table_add_nothing(runtime: str) -> None:
    ids = texts("no types, relu")
    engine = engine_of("no types, relu", PoolingSpec(), runtime)
    found = engine.pool(pack(ids, types_per_text=[ids_T * 0 for ids_T in ids]))
    assert np.array_equal(found, engine.pool(pack(ids)))


def test_no_types_need_no_check() -> None:
    check_token_types(trunk(), pack([np.arange(3)]))
    check_token_types(trunk(), Packed(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(1, np.int64), None, None))
    check_token_types(trunk(num_token_types=2), pack([np.arange(2)], types_per_text=[np.array([0, 1])]))


@pytest.mark.parametrize("runtime", ENGINES)
@pytest.mark.parametrize("modes", [("cls",), ("mean",), ("max", "weightedmean")])
def test_texts_with_different_prompts_share_a_batch(modes: tuple[str, ...], runtime: str) -> None:
    """Queries and documents, each with the number of tokens that its own prompt has."""
    name, pooling = "GIST-Embedding-v0", PoolingSpec(modes, include_prompt=False)  # pyright: ignore
    ids, skip_B = texts(name), [3, 0, 5, 7, 2, 8]
    engine = engine_of(name, pooling, runtime)
    wanted = [
        reference_pool(pooling, reference_states(*model(name), ids_T), skip)
        for ids_T, skip in zip(ids, skip_B, strict=True)
    ]
    assert_same(engine.pool(pack(ids, skip_B=skip_B)), np.stack(wanted))
    (batch,) = engine.pool_batches([pack(ids, skip_B=skip_B)])
    assert_same(np.asarray(batch), np.stack(wanted))

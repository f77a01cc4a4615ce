"""The ONNX lowering against its reference implementation.

T: tokens of a text; H: hidden; N: heads; d: head size; B: texts.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from goldens import DISTILBERT, GOLDEN, NAMES
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np
from reference_model import (
    MADE,
    POOLINGS,
    assert_same,
    model,
    reference_pool,
    reference_states,
    skips,
    texts,
    with_pooling,
)

from gnomon.engines.onnx.engine import OnnxEngine, write_graph
from gnomon.engines.onnx.graph import build_onnx_graph, quantize_weight
from gnomon.engines.pooling import first_pooled_token
from gnomon.engines.positions import position_ids
from gnomon.packed import pack, split_per_text
from gnomon.spec import POOLING_MODES, PoolingSpec


@cache
def engine(name: str, pooling: PoolingSpec, runtime: str = "onnxruntime", precision: Any = "float32") -> OnnxEngine:
    return OnnxEngine(*with_pooling(name, pooling), threads=1, runtime=runtime, precision=precision)


@pytest.mark.parametrize("name", [*NAMES, *MADE])
def test_states_of_a_mixed_batch_equal_the_reference(name: str) -> None:
    trunk, arrays = model(name)
    ids, found = texts(name), engine(name, PoolingSpec()).states(pack(texts(name)))
    for text_TH, ids_T in zip(split_per_text(found, pack(ids)), ids, strict=True):
        assert_same(text_TH.ravel(), reference_states(trunk, arrays, ids_T).ravel())


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
@pytest.mark.parametrize("name", ["stella_en_400M_v5", "GIST-Embedding-v0"])
def test_every_pooling_equals_the_reference(name: str, pooling: PoolingSpec) -> None:
    trunk, arrays = model(name)
    wanted = [reference_pool(pooling, reference_states(trunk, arrays, ids_T), 3) for ids_T in texts(name)]
    assert_same(engine(name, pooling).pool(pack(texts(name), skip_B=skips(pooling, 6, 3))), np.stack(wanted))


@pytest.mark.parametrize("name", [*NAMES, *MADE])
@pytest.mark.parametrize("mode", ["cls", "mean", "lasttoken"])
def test_vectors_equal_the_reference(name: str, mode: Any) -> None:
    trunk, arrays = model(name)
    wanted = [reference_pool(PoolingSpec((mode,)), reference_states(trunk, arrays, ids_T), 0) for ids_T in texts(name)]
    assert_same(engine(name, PoolingSpec((mode,))).pool(pack(texts(name))), np.stack(wanted))


@pytest.mark.parametrize("name", [*NAMES, *MADE])
@pytest.mark.parametrize(("mode", "place"), [("cls", 0), ("lasttoken", -1)])
def test_pruning_the_last_layer_changes_nothing(name: str, mode: Any, place: int) -> None:
    runner = engine(name, PoolingSpec((mode,)))
    packed = pack(texts(name))
    rows = [text_TH[place] for text_TH in split_per_text(runner.states(packed), packed)]
    assert_same(runner.pool(packed), np.stack(rows))


@pytest.mark.parametrize("name", [*NAMES[:3], "roberta"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_one_by_one_equals_batched(name: str, data: st.DataObject) -> None:
    """Whatever the lengths, the ids and the order: padding, batch size and neighbours leave no trace."""
    trunk, _ = model(name)
    one_text = st_np.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, trunk.vocab_size - 1))
    ids = data.draw(st.lists(one_text, min_size=1, max_size=6))
    pooling = data.draw(st.sampled_from([PoolingSpec(("mean",)), PoolingSpec(("cls",)), PoolingSpec(("max",))]))
    runner = engine(name, pooling)
    assert_same(runner.pool(pack(ids)), np.concatenate([runner.pool(pack([ids_T])) for ids_T in ids]))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, *MADE])
@pytest.mark.parametrize("modes", [("cls",), ("lasttoken",), POOLING_MODES])
def test_openvino_equals_onnxruntime(name: str, modes: Any) -> None:
    pytest.importorskip("openvino")
    packed, pooling = pack(texts(name), skip_B=[2] * 6), PoolingSpec(modes, include_prompt=False)
    theirs = engine(name, pooling, "openvino")
    assert_same(theirs.pool(packed), engine(name, pooling).pool(packed))
    if len(modes) > 1:
        assert_same(theirs.states(packed), engine(name, pooling).states(packed))


@pytest.mark.slow
def test_a_signal_after_several_openvino_engines_is_handled() -> None:
    """Each of OpenVINO's cores took the stack for signals along when it was freed: here the first, then the second."""
    pytest.importorskip("openvino")
    code = """
import faulthandler, gc, signal, sys
faulthandler.enable()
from gnomon import Encoder
first, second = (Encoder.load(sys.argv[1], engine="openvino") for _ in range(2))
first.close(); del first; gc.collect()
second.close(); del second; gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""
    ended = subprocess.run([sys.executable, "-c", code, GOLDEN / DISTILBERT], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "handled\n", "")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_eight_bits_stay_near_float32(name: str, precision: str) -> None:
    exact, rough = (
        engine(name, PoolingSpec(), precision=kind).pool(pack(texts(name))) for kind in ("float32", precision)
    )
    cosines = (exact * rough).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(rough, axis=-1)
    assert cosines.min() > 0.99
    assert not np.array_equal(exact, rough)


weights = st_np.arrays(
    np.float32, st_np.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-1e4, 1e4, width=32)
)


@pytest.mark.parametrize("signed", [True, False])
@settings(max_examples=50, deadline=None)
@given(weight_OI=weights)
def test_quantised_weights_are_half_a_step_off_at_most(signed: bool, weight_OI: np.ndarray) -> None:
    values_IO, scale_O, zero_O = quantize_weight(weight_OI, signed=signed)
    assert values_IO.dtype == zero_O.dtype == (np.int8 if signed else np.uint8)
    assert values_IO.shape == weight_OI.T.shape
    assert values_IO.flags.c_contiguous
    steps_IO = values_IO.astype(np.float64) - zero_O
    assert np.abs(steps_IO).max() <= 127
    assert (np.abs(steps_IO * scale_O - weight_OI.T) <= scale_O * 0.5001 + 1e-30).all()


def proto_bytes(name: str, precision: Any = "float32") -> tuple[int, int]:
    graph = build_onnx_graph(*with_pooling(name, PoolingSpec()), precision=precision)
    return graph.model.ByteSize(), sum(array.nbytes for array in graph.arrays.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_weights_stay_outside_the_protobuf(name: str, precision: str) -> None:
    graph, outside = proto_bytes(name, precision)
    assert graph < 60_000
    assert outside > graph * 4


@pytest.mark.parametrize("name", NAMES[:4])
def test_linear_weights_are_views_of_the_mapped_file(name: str) -> None:
    """.bin included: the arrays of the graph are those of the checkpoint, and these are those of the file."""
    arrays = model(name)[1]
    graph = build_onnx_graph(*with_pooling(name, PoolingSpec()))
    fused = [node.input[1] for node in graph.model.graph.node if node.op_type == "FusedMatMul"]
    assert fused
    assert "embed.tokens" in graph.arrays
    for key in [*fused, "embed.tokens"]:
        assert np.shares_memory(graph.arrays[key], arrays[key])
        assert not graph.arrays[key].flags.writeable


@pytest.mark.parametrize("name", [*NAMES, "wide, ntk, gated"])
@pytest.mark.parametrize("output", ["pooled", "states"])
def test_a_written_graph_runs_by_itself(name: str, output: Any, tmp_path: Path) -> None:
    runner, packed = engine(name, PoolingSpec()), pack(texts(name))
    path = write_graph(runner.build_graph(output), tmp_path)
    onnx.checker.check_model(path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run([output], runner._build_feed(runner._get_session(output), packed))
    assert_same(found, runner.pool(packed) if output == "pooled" else runner.states(packed))


@pytest.mark.parametrize("name", ["GIST-Embedding-v0", "stella_en_400M_v5", "wide, ntk, gated"])
@pytest.mark.parametrize("change", ["float16", "float64", "columns first", "strided"])
def test_arrays_of_other_types_and_layouts_run(name: str, change: str) -> None:
    """float16 checkpoints, and .bin tensors whose strides are not those of C."""
    trunk, arrays = model(name)
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "float16": lambda array: array.astype(np.float16),
        "float64": lambda array: array.astype(np.float64),
        "columns first": np.asfortranarray,
        "strided": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    }
    changed = {key: changes[change](array) for key, array in arrays.items()}
    found = OnnxEngine(trunk, PoolingSpec(), changed, threads=1).pool(pack(texts(name)))
    wanted = OnnxEngine(trunk, PoolingSpec(), {k: np.array(v, np.float32, order="C") for k, v in changed.items()})
    assert_same(found, wanted.pool(pack(texts(name))))


def test_where_the_prompt_is_the_whole_text_it_is_pooled() -> None:
    ids = [np.arange(2), np.arange(3), np.arange(9), np.arange(4)]
    assert first_pooled_token(pack(ids, skip_B=[3, 3, 3, 2])).tolist() == [0, 0, 3, 2]
    assert first_pooled_token(pack(ids)).tolist() == [0, 0, 0, 0]


def test_positions_of_roberta_leave_out_padding_inside_a_text() -> None:
    packed = pack([np.array([5, 2, 7]), np.array([2, 2])])
    assert position_ids(model("roberta")[0], packed).tolist() == [3, 2, 4, 2, 2]


@pytest.mark.parametrize("modes", [("mean",), ("cls",), ("max", "lasttoken")])
@pytest.mark.parametrize("name", ["GIST-Embedding-v0", "stella_en_400M_v5"])
def test_a_token_that_is_not_a_number_stays_in_its_text(name: str, modes: Any) -> None:
    trunk, arrays = model(name)
    damaged = {**arrays, "embed.tokens": np.array(arrays["embed.tokens"], np.float32)}
    damaged["embed.tokens"][7] = np.nan
    for lengths in ((4, 9, 2), (4, 4, 4)):
        ids = [np.full(length, 5) for length in lengths]
        for place in range(3):
            bad = [np.full(len(ids_T), 7) if text == place else ids_T for text, ids_T in enumerate(ids)]
            found = np.isfinite(OnnxEngine(trunk, PoolingSpec(modes=modes), damaged, threads=1).pool(pack(bad)))
            assert [row.all() for row in found] == [text != place for text in range(3)]


def test_the_longest_text_of_a_table_runs() -> None:
    for name in [n for n in (*NAMES, *MADE) if model(n)[0].max_tokens]:
        trunk, _ = model(name)
        longest = [np.full(trunk.max_tokens, 4), np.full(1, 4)]
        assert_same(
            engine(name, PoolingSpec()).states(pack(longest)),
            np.concatenate([reference_states(*model(name), ids_T) for ids_T in longest]),
        )


def test_one_engine_serves_texts_of_equal_and_mixed_lengths() -> None:
    """The two branches of the masked attention."""
    name = "stella_en_400M_v5"
    ids = texts(name, (9, 9, 9))
    alone = engine(name, PoolingSpec()).pool(pack(ids))
    mixed = engine(name, PoolingSpec()).pool(pack([*ids, *texts(name, (30, 2))]))[:3]
    assert_same(mixed, alone)


@pytest.mark.slow
def test_the_runtime_sends_no_statistics(tmp_path: Path) -> None:
    """ONNX Runtime 1.31 writes an id of the machine where it does."""
    folder = GOLDEN / "GIST-Embedding-v0"
    code = f"from gnomon import Encoder; Encoder.load({str(folder)!r}).encode('a')"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

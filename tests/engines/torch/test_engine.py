"""The torch engine: batches that do not fit, overflow, threads, half precision, and batches in a row.

B: texts; T: tokens of a text.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from goldens import NAMES
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_model import assert_same, model, reference_pool, reference_states, texts

from gnomon.engines.torch import budget as budgets
from gnomon.engines.torch import inference
from gnomon.engines.torch.engine import TorchEngine
from gnomon.engines.torch.inference import PackedLinear, can_pack_weights, merge_linears
from gnomon.engines.torch.layers import ACTIVATIONS, Linear
from gnomon.engines.torch.tensors import as_tensor
from gnomon.errors import DeviceMemoryError
from gnomon.packed import Packed, pack
from gnomon.spec import PoolingSpec, TrunkSpec, trunk_shapes

NAME = "GIST-Embedding-v0"
CPU = torch.device("cpu")


def engine(name: str = NAME, mode: Any = "mean", **options: Any) -> TorchEngine:
    trunk, arrays = model(name)
    return TorchEngine(trunk, PoolingSpec((mode,)), arrays, **options)


def wanted(name: str, lengths: tuple[int, ...], mode: Any = "mean") -> np.ndarray:
    trunk, arrays = model(name)
    return np.stack(
        [reference_pool(PoolingSpec((mode,)), reference_states(trunk, arrays, t), 0) for t in texts(name, lengths)]
    )


class Small:
    """A device whose memory takes batches of so many tokens."""

    def __init__(self, engine: TorchEngine, tokens: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []
        forward = engine.trunk.forward

        def limited(batch: Any, *rest: Any) -> torch.Tensor:
            self.asked.append(len(batch.ids_T))
            if len(batch.ids_T) > tokens:
                raise error
            return forward(batch, *rest)

        monkeypatch.setattr(engine.trunk, "forward", limited)


OUT = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    RuntimeError("MPS backend out of memory"),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
)


@pytest.mark.parametrize("error", OUT)
@pytest.mark.parametrize("mode", ["cls", "mean"])
def test_a_batch_that_does_not_fit_is_cut_until_it_does(
    mode: Any, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = (3, 17, 1, 20, 17, 8)
    small = engine(mode=mode)
    memory = Small(small, 21, error, monkeypatch)
    found = small.pool(pack(texts(NAME, lengths)))
    assert_same(found, wanted(NAME, lengths, mode))
    assert memory.asked[0] == sum(lengths)
    assert sum(count for count in memory.asked if count <= 21) == sum(lengths)  # each text is computed once
    assert small.budget(10) == 64  # later batches are smaller, down to a floor


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=5), min_size=1, max_size=4))
def test_batches_in_a_row_keep_their_order_whatever_fits(lengths: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        small = engine()
        Small(small, 12, OUT[0], patch)
        found = list(small.pool_batches(pack(texts(NAME, tuple(batch))) for batch in lengths))
    for vectors_BD, batch in zip(found, lengths, strict=True):
        assert_same(vectors_BD, wanted(NAME, tuple(batch)))


def test_a_moment_of_too_little_memory_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's batch on the same GPU: ours fits when it is tried again."""
    ours = engine()
    forward = ours.trunk.forward
    errors = [OUT[0]]

    def sometimes(*arguments: Any) -> torch.Tensor:
        if errors:
            raise errors.pop()
        return forward(*arguments)

    monkeypatch.setattr(ours.trunk, "forward", sometimes)
    before = ours.budget(10)
    assert_same(np.concatenate([*ours.pool_batches([pack(texts(NAME, (5, 3)))])]), wanted(NAME, (5, 3)))
    assert ours.budget(10) == before


def test_states_are_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(texts(NAME, (5, 9, 2)))
    small = engine()
    expected = small.states(packed)
    Small(small, 9, OUT[0], monkeypatch)
    np.testing.assert_allclose(small.states(packed), expected, rtol=1e-4, atol=1e-5)


def test_one_text_that_does_not_fit_names_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    small = engine()
    Small(small, 30, OUT[0], monkeypatch)
    with pytest.raises(DeviceMemoryError, match=r"a text of 40 tokens does not fit into the memory of cpu .*bfloat16"):
        small.pool(pack(texts(NAME, (3, 40, 7))))


def test_another_error_is_not_taken_for_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = engine()
    memory = Small(broken, 0, RuntimeError("a kernel failed"), monkeypatch)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        broken.pool(pack(texts(NAME, (3, 4))))
    assert len(memory.asked) == 1


def test_batches_are_taken_one_at_a_time_on_a_processor() -> None:
    taken: list[int] = []

    def batches() -> Iterator[Packed]:
        for number in range(3):
            taken.append(number)
            yield pack(texts(NAME, (2, number + 1)))

    seen = [len(taken) for _ in engine().pool_batches(batches())]
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("name", [*NAMES])
def test_bfloat16_stays_near_float32(name: str) -> None:
    lengths = (3, 17, 1, 40, 17, 8)
    found = engine(name, dtype="bfloat16").pool(pack(texts(name, lengths)))
    exact = wanted(name, lengths)
    cosines = (found * exact).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
    assert found.dtype == np.float32
    assert cosines.min() > 0.999
    assert cosines.min() < 0.9999999  # it is bfloat16


def huge(layer: str, dtype: str) -> TorchEngine:
    """A model one of whose products is too large for float16."""
    trunk, arrays = model(NAME)
    big = dict(arrays) | {f"{layer}.weight": arrays[f"{layer}.weight"] * 40000}
    return TorchEngine(trunk, PoolingSpec(), big, dtype=dtype)


@pytest.mark.parametrize("layer", ["layers.1.down", "layers.0.up", "layers.2.out"])
def test_overflow_of_float16_names_the_layer(layer: str) -> None:
    packed = pack(texts(NAME, (4, 9)))
    broken = huge(layer, "float16")
    assert not np.isfinite(broken.pool(packed)).all()
    assert broken.explain_nonfinite(packed) == (
        f"{layer} goes beyond float16, whose largest number is 65,504; use dtype='bfloat16'"
    )
    for dtype in ("bfloat16", "float32"):
        assert np.isfinite(huge(layer, dtype).pool(packed)).all()
    hooks = [module for module in broken.trunk.modules() if module._forward_hooks]
    assert not hooks  # the looking is over


def test_damaged_weights_name_the_layer() -> None:
    trunk, arrays = model(NAME)
    spoilt = dict(arrays) | {"layers.1.mlp_norm.weight": np.full_like(arrays["layers.1.mlp_norm.weight"], np.nan)}
    why = TorchEngine(trunk, PoolingSpec(), spoilt).explain_nonfinite(pack(texts(NAME, (3,))))
    assert why == "layers.1.mlp_norm is the first layer whose result is not finite in float32; are its weights damaged?"


def test_the_threads_of_torch_are_set_while_a_batch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    other = before + 1
    seen: list[int] = []
    ours = engine(threads=other)
    forward = ours.trunk.forward
    monkeypatch.setattr(ours.trunk, "forward", lambda *a: (seen.append(torch.get_num_threads()), forward(*a))[1])
    ours.pool(pack(texts(NAME, (3, 4))))
    assert seen == [other]
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_a_fork_runs_on() -> None:
    """OpenMP's threads do not survive a fork; a child that waited for them would hang."""
    code = """
import os, sys, warnings
sys.path[:0] = sys.argv[1:]
import numpy as np
from test_engine import engine, pack, texts, NAME
one = engine(threads=2)
packed = pack(texts(NAME, (30,) * 40))
before = one.pool(packed)
child = os.fork()
if not child:
    os._exit(0 if np.allclose(one.pool(packed), before, rtol=1e-5, atol=1e-6) else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    from pathlib import Path

    here = Path(__file__).resolve().parent
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(here), str(here.parents[1] / "helpers")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 70),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    bias=st.booleans(),
    adds=st.booleans(),
)
def test_a_packed_product_equals_the_plain_one(
    rows: int, inputs: int, outputs: int, activation: Any, bias: bool, adds: bool
) -> None:
    if not can_pack_weights(CPU, torch.float32):
        pytest.skip("this torch has no oneDNN")
    draw = torch.Generator().manual_seed(rows)
    linear = Linear(inputs, outputs, bias=bias, activation=activation).requires_grad_(False)
    for parameter in linear.parameters():
        parameter.normal_(generator=draw)
    x = torch.randn(rows, inputs, generator=draw)
    residual = torch.randn(rows, outputs, generator=draw) if adds else None
    torch.testing.assert_close(PackedLinear(linear)(x, residual), linear(x, residual), rtol=1e-4, atol=1e-4)


def test_without_packed_kernels_the_vectors_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "can_pack_weights", lambda device, dtype: False)
    plain = engine()
    assert not any(isinstance(module, PackedLinear) for module in plain.trunk.modules())
    assert_same(plain.pool(pack(texts(NAME, (3, 9)))), wanted(NAME, (3, 9)))


def test_which_dtypes_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_pack_weights(CPU, torch.float64)
    assert not can_pack_weights(torch.device("cuda"), torch.float32)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack_weights(CPU, torch.float32)


def test_joined_products_are_their_parts_end_to_end() -> None:
    parts = [Linear(3, size).requires_grad_(False) for size in (2, 4)]
    for part in parts:
        for parameter in part.parameters():
            parameter.normal_()
    x = torch.randn(5, 3)
    torch.testing.assert_close(merge_linears(parts)(x), torch.cat([part(x) for part in parts], dim=1))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, "bfloat16"])
def test_a_tensor_over_an_array_that_may_not_be_written(kind: Any) -> None:
    import ml_dtypes

    array = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    array.flags.writeable = False
    tensor = as_tensor(array)
    assert tensor.data_ptr() == array.ctypes.data
    assert tensor.float().tolist() == [[0, 1, 2], [3, 4, 5]]
    address = tensor.data_ptr()
    del array
    assert tensor.data_ptr() == address
    assert tensor.float().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert as_tensor(np.zeros((0, 3), np.float32)).shape == (0, 3)
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert as_tensor(turned).tolist() == turned.tolist()


def test_embeddings_of_half_precision_are_added_in_float32() -> None:
    """Rows of a float16 table: what they add up to is not rounded to it."""
    spec = TrunkSpec(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8, max_positions=16)
    draw = np.random.default_rng(0)
    halves = {name: draw.normal(size=shape).astype(np.float16) for name, shape in trunk_shapes(spec).items()}
    packed = pack([np.array([1, 2, 3]), np.array([4])])
    exact = TorchEngine(spec, PoolingSpec(), {k: v.astype(np.float64) for k, v in halves.items()}, dtype="float64")
    assert_same(TorchEngine(spec, PoolingSpec(), halves).pool(packed), exact.pool(packed))


def test_the_measuring_of_a_budget_runs_and_ends_at_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = engine()
    monkeypatch.setitem(budgets.BUDGET_CHOICES, "cpu", budgets.BudgetChoices(256, (128, 256, 512), 1000))
    assert ours._measure_budget() in (128, 256, 512)
    layer = ours.trunk.layers[0]
    forward = layer.forward

    def limited(x_TH: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(x_TH) > 128:
            raise OUT[0]
        return forward(x_TH, *rest)

    monkeypatch.setattr(layer, "forward", limited)
    assert ours._measure_budget() == 128
    monkeypatch.setattr(layer, "forward", lambda *a: (_ for _ in ()).throw(OUT[0]))
    assert ours._measure_budget() == 256


def test_the_key_of_a_budget_tells_what_it_depends_on() -> None:
    keys = {engine(dtype=d, threads=t)._budget_key() for d in ("float32", "bfloat16") for t in (1, 2)}
    keys |= {engine("stella_en_400M_v5")._budget_key()}
    assert len(keys) == 5
    assert all(f"torch {torch.__version__}" in key for key in keys)

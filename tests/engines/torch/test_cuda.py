"""The trunk on a GPU against the reference in numpy. These tests need a GPU; bench/gpu.sh runs them on a machine that
has one, with more checks beside them.
"""

from functools import cache

import numpy as np
import pytest
import torch
from reference_model import MADE, MIXED, model, reference_pool, reference_states, texts

from gnomon.engines.torch.engine import TorchEngine
from gnomon.packed import pack, split_per_text
from gnomon.spec import PoolingSpec

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

LIMITS = {"float32": 1e-5, "bfloat16": 6e-2, "float16": 1e-2}


@cache
def engine(name: str, dtype: str, pooling: PoolingSpec = PoolingSpec()) -> TorchEngine:  # noqa: B008
    trunk, arrays = model(name)
    return TorchEngine(trunk, pooling, arrays, device="cuda", dtype=dtype)


def assert_near(found: np.ndarray, wanted: np.ndarray, dtype: str) -> None:
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) <= LIMITS[dtype] * np.linalg.norm(wanted)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("name", MADE)
def test_states_equal_the_reference(name: str, dtype: str) -> None:
    trunk, arrays = model(name)
    packed = pack(texts(name))
    for found_TH, ids_T in zip(split_per_text(engine(name, dtype).states(packed), packed), texts(name), strict=True):
        assert_near(found_TH, reference_states(trunk, arrays, ids_T), dtype)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("mode", ["cls", "mean", "lasttoken"])
def test_pooled_vectors_equal_the_reference(mode: str, dtype: str) -> None:
    """The first and the last token alone are computed in the last layer: queries of their own for the kernel."""
    name, pooling = "roberta", PoolingSpec((mode,))  # type: ignore[arg-type]
    trunk, arrays = model(name)
    wanted = [reference_pool(pooling, reference_states(trunk, arrays, ids_T), 0) for ids_T in texts(name)]
    assert_near(engine(name, dtype, pooling).pool(pack(texts(name))), np.stack(wanted), dtype)


@pytest.mark.parametrize("dtype", LIMITS)
def test_batches_in_flight_equal_each_waited_for(dtype: str) -> None:
    batches = [pack(texts("roberta", tuple(length + turn % 5 for length in MIXED))) for turn in range(20)]
    together = [*engine("roberta", dtype).pool_batches(batches)]
    for found, batch in zip(together, batches, strict=True):
        assert_near(found, engine("roberta", dtype).pool(batch), dtype)

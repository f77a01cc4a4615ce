"""What follows pooling, against torch and against loops."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from gnomon import Encoder, modules
from gnomon.errors import InputError, Notice
from gnomon.spec import DenseSpec, ModelSpec, ModuleSpec, NormalizeSpec, PoolingSpec, TokenizerSpec, TrunkSpec

TRUNK = TrunkSpec(vocab_size=9, hidden_size=6, num_layers=1, num_heads=2, intermediate_size=4, max_positions=8)
WIDE = (DenseSpec("2_Dense_4", 6, 4), DenseSpec("2_Dense_12", 6, 12), DenseSpec("2_Dense_24", 6, 24))
RNG = np.random.default_rng(2)
X_BD = RNG.normal(size=(5, 6)).astype(np.float32)
rows = st_np.arrays(np.float32, (3, 4), elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False))


def model(chain: tuple[ModuleSpec, ...] = (), **options: Any) -> ModelSpec:
    return ModelSpec(TRUNK, PoolingSpec(), chain, TokenizerSpec(8), **options)


def arrays_of(head: DenseSpec) -> dict[str, np.ndarray]:
    shapes = {"weight": (head.out_features, head.in_features), "bias": (head.out_features,)}
    result = {f"{head.name}.{part}": RNG.normal(size=shape).astype(np.float32) for part, shape in shapes.items()}
    return result | {f"{head.name}.residual": RNG.normal(size=shapes["weight"]).astype(np.float32)}


TORCH: dict[str, Callable[[Any], Callable[[Any], Any]]] = {
    "identity": lambda torch: torch.nn.Identity(),
    "tanh": lambda torch: torch.tanh,
    "relu": lambda torch: torch.relu,
    "gelu": lambda torch: torch.nn.functional.gelu,
    "gelu_tanh": lambda torch: lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": lambda torch: torch.nn.functional.silu,
    "sigmoid": lambda torch: torch.sigmoid,
}


@pytest.mark.parametrize("name", list(modules.ACTIVATIONS))
def test_activations_equal_torch(name: Any) -> None:
    torch = pytest.importorskip("torch")
    x = np.concatenate([np.linspace(-12, 12, 481), [0, -0.0, 1e-8, -90, 90, 1e4, -1e4]]).astype(np.float32)[None]
    result = modules.ACTIVATIONS[name](x)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, TORCH[name](torch)(torch.from_numpy(x)).numpy(), rtol=2e-5, atol=1e-6)


def test_every_activation_is_compared() -> None:
    assert set(modules.ACTIVATIONS) == set(TORCH)


@given(rows)
def test_normalize_gives_unit_length_and_leaves_zero(vectors_BD: np.ndarray) -> None:
    result = modules.normalize(vectors_BD)
    norms = np.linalg.norm(vectors_BD.astype(np.float64), axis=-1)
    assert result.dtype == np.float32
    for row_D, unit_D, norm in zip(vectors_BD, result, norms, strict=True):
        np.testing.assert_allclose(unit_D, row_D / max(norm, 1e-12), rtol=1e-5, atol=1e-7)
    assert np.array_equal(modules.normalize(np.zeros((2, 3), np.float32)), np.zeros((2, 3)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("residual", "out"), [(False, 4), (True, 4), (True, 6)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_dense_equals_the_formula(bias: bool, residual: bool, out: int, dtype: type) -> None:
    head = DenseSpec("2_Dense", 6, out, bias, "tanh", residual)
    arrays = {name: array.astype(dtype) for name, array in arrays_of(head).items()}
    w, b, r = (arrays[f"2_Dense.{part}"].astype(np.float64) for part in ("weight", "bias", "residual"))
    expected = np.tanh(np.stack([w @ x + b * bias for x in X_BD]))
    if residual:
        expected = expected + (X_BD if out == 6 else X_BD @ r.T)
    result = modules.apply_modules((head, NormalizeSpec()), arrays, X_BD)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-4, atol=1e-6)


def test_no_heads_change_nothing() -> None:
    assert modules.apply_modules((), {}, X_BD) is X_BD


@pytest.mark.parametrize(
    ("spec", "dim", "chain", "prefix"),
    [
        (model(), None, (), None),
        (model((NormalizeSpec(),), matryoshka_dims=(2, 4)), 4, (NormalizeSpec(),), 4),
        (model((NormalizeSpec(),), matryoshka_dims=(2, 4)), None, (NormalizeSpec(),), None),
        (model((NormalizeSpec(),), truncate_dim=3), None, (NormalizeSpec(),), 3),
        (model((NormalizeSpec(),), truncate_dim=3), 6, (NormalizeSpec(),), None),
        (model((WIDE[1],), dim_modules=WIDE), None, (WIDE[1],), None),
        (model((WIDE[1],), dim_modules=WIDE), 12, (WIDE[1],), None),
        (model((WIDE[1], NormalizeSpec()), dim_modules=WIDE), 4, (WIDE[0], NormalizeSpec()), None),
        (model((WIDE[1], NormalizeSpec()), dim_modules=WIDE), 24, (WIDE[2], NormalizeSpec()), None),
        (model((WIDE[1],), dim_modules=WIDE, truncate_dim=5), None, (WIDE[1],), 5),
        (model((WIDE[1],), dim_modules=WIDE, truncate_dim=5), 12, (WIDE[1],), None),
        (model((WIDE[1],), dim_modules=WIDE, truncate_dim=5), 24, (WIDE[2],), None),
        (model((WIDE[1],), dim_modules=WIDE, matryoshka_dims=(8,)), 8, (WIDE[1],), 8),
    ],
)
def test_the_modules_for_a_dimension(
    spec: ModelSpec, dim: int | None, chain: tuple[ModuleSpec, ...], prefix: int | None
) -> None:
    """Its own head where the model has one, else a prefix."""
    assert dim is None or dim in spec.dims
    assert modules.modules_for_dim(spec, dim) == (chain, prefix)


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "cosine": lambda a, b: a @ b / max(np.linalg.norm(a), 1e-12) / max(np.linalg.norm(b), 1e-12),
    "dot": lambda a, b: a @ b,
    "euclidean": lambda a, b: -np.sqrt(((a - b) ** 2).sum()),
    "manhattan": lambda a, b: -np.abs(a - b).sum(),
}


@pytest.mark.parametrize("name", SCORES)
@settings(deadline=None)
@given(a_BD=rows, b_CD=rows)
def test_similarity_equals_loops(name: Any, a_BD: np.ndarray, b_CD: np.ndarray) -> None:
    result = modules.similarity(name, a_BD, b_CD)
    expected = [[SCORES[name](a, b) for b in b_CD.astype(np.float64)] for a in a_BD.astype(np.float64)]
    scale = np.abs(a_BD).max() * np.abs(b_CD).max() if name == "dot" else max(1, np.abs(expected).max())
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5 * scale + 1e-6)


@pytest.mark.parametrize("name", SCORES)
@settings(deadline=None)
@given(a_BD=rows, b_BD=rows)
def test_similarity_of_pairs_is_the_diagonal(name: Any, a_BD: np.ndarray, b_BD: np.ndarray) -> None:
    result = modules.similarity_pairwise(name, a_BD, b_BD)
    assert result.dtype == np.float32
    assert result.shape == (3,)
    expected = np.diag(modules.similarity(name, a_BD, b_BD))
    scale = np.abs(a_BD).max() * np.abs(b_BD).max() if name == "dot" else 1
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6 * scale + 1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_similarity_of_no_pairs_is_empty_and_of_zeros_finite(name: Any) -> None:
    zeros = np.zeros((2, 6), np.float32)
    assert modules.similarity_pairwise(name, zeros[:0], zeros[:0]).shape == (0,)
    assert modules.similarity_pairwise(name, zeros, zeros).tolist() == [0, 0]


@pytest.mark.parametrize("name", SCORES)
def test_similarity_of_nothing_is_empty(name: Any) -> None:
    none, some = np.zeros((0, 6), np.float32), X_BD
    assert modules.similarity(name, none, some).shape == (0, 5)
    assert modules.similarity(name, some, none).shape == (5, 0)
    assert modules.similarity(name, none, none).shape == (0, 0)


@pytest.mark.parametrize("name", SCORES)
def test_an_encoder_scores_by_its_own_function(
    name: Any, golden_copy: Callable[..., Path], edit_json: Callable[..., Any]
) -> None:
    folder = golden_copy("GIST-Embedding-v0")
    edit_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": name})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        encoder = Encoder.load(folder, threads=1)
    with_zero = np.concatenate([X_BD, np.zeros((1, 6), np.float32)])
    assert np.array_equal(encoder.similarity(with_zero.tolist(), X_BD), modules.similarity(name, with_zero, X_BD))
    assert encoder.similarity(X_BD[0], X_BD[1]).shape == (1, 1)
    assert np.isfinite(encoder.similarity(with_zero, with_zero)).all()
    for bad in (X_BD[:, :5], X_BD[None], np.float32(1)):
        with pytest.raises(InputError, match=r"cannot be compared; give \[B, D\]"):
            encoder.similarity(X_BD, bad)


def test_similarity_orders_as_sentence_transformers() -> None:
    util = pytest.importorskip("sentence_transformers.util")
    theirs = {
        "cosine": util.cos_sim,
        "dot": util.dot_score,
        "euclidean": util.euclidean_sim,
        "manhattan": util.manhattan_sim,
    }
    for name, function in theirs.items():
        result = modules.similarity(name, X_BD, X_BD[::-1].copy())  # pyright: ignore[reportArgumentType]
        np.testing.assert_allclose(result, function(X_BD, X_BD[::-1].copy()).numpy(), rtol=1e-4, atol=2e-3)

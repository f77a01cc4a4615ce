"""Pooling and heads as modules against their numpy forms, and the MLM head against transformers.

B: texts; D: width of a vector; T: tokens; H: hidden.
"""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_model import POOLINGS, reference_pool, skips

from gnomon import Encoder
from gnomon import modules as numpy_heads
from gnomon.checkpoint.families import export_trunk_weights
from gnomon.checkpoint.folder import Checkpoint, read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.engines.torch.batch import DeviceBatch
from gnomon.engines.torch.modules import MaskedLM, OutputModules, Pooling, segment_sum
from gnomon.engines.torch.tensors import to_arrays
from gnomon.engines.torch.trunk import Trunk
from gnomon.packed import pack
from gnomon.spec import (
    Activation,
    DenseSpec,
    ModelSpec,
    NormalizeSpec,
    PoolingSpec,
    TokenizerSpec,
    TrunkSpec,
    model_shapes,
)

TRUNK = TrunkSpec(vocab_size=9, hidden_size=6, num_layers=1, num_heads=2, intermediate_size=8, max_positions=16)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    pooling=st.sampled_from(POOLINGS),
    prompt=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_pooling_is_that_of_the_reference_and_so_is_its_gradient(
    lengths: list[int], pooling: PoolingSpec, prompt: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    skip_B = skips(pooling, len(lengths), prompt)
    packed = pack([draw.integers(0, 9, length) for length in lengths], skip_B=skip_B)
    # no two are nearer than 1e-3, so that a small step leaves the highest the highest
    values = draw.permutation(6 * sum(lengths)) / 256 - 1
    states = torch.from_numpy(values.reshape(-1, 6)).requires_grad_()
    found = Pooling(pooling)(states, packed)
    texts = np.split(states.detach().numpy(), packed.bounds[1:-1])
    wanted = np.stack([reference_pool(pooling, text_TH, prompt) for text_TH in texts])
    # the weights of a sum are computed in float32
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=3e-7, atol=3e-7)
    upstream = torch.from_numpy(draw.normal(size=found.shape))
    found.backward(upstream)
    assert states.grad is not None
    step = draw.normal(size=states.shape) * 1e-6
    moved = np.split(states.detach().numpy() + step, packed.bounds[1:-1])
    change = np.stack([reference_pool(pooling, text_TH, prompt) for text_TH in moved]) - wanted
    assert float((states.grad.numpy() * step).sum()) == pytest.approx(
        float((upstream.numpy() * change).sum()), rel=1e-3, abs=1e-10
    )


def test_pooling_of_half_precision_adds_in_float32() -> None:
    """4,096 tokens of 1.0 and one of 4,096: bfloat16 would lose the small ones."""
    states = torch.ones(4097, 2, dtype=torch.bfloat16)
    states[0] = 4096
    packed = pack([np.zeros(4097, np.int64)])
    found = Pooling(PoolingSpec(("mean",)))(states, packed)
    assert found.dtype == torch.float32
    assert found[0].tolist() == pytest.approx([8192 / 4097] * 2, rel=4e-6)


def test_a_segmented_sum_of_texts_without_tokens_is_zero() -> None:
    values = torch.arange(6.0).view(3, 2)
    bounds = np.array([0, 0, 3, 3])
    assert segment_sum(values, torch.tensor([1.0, 2.0, 3.0]), bounds).tolist() == [[0, 0], [16, 22], [0, 0]]


@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=5))
def test_a_segmented_sum_in_blocks_is_the_sum(lengths: list[int]) -> None:
    bounds = np.cumsum([0, *lengths])
    draw = np.random.default_rng(len(lengths))
    values, weights = draw.normal(size=(bounds[-1], 3)), draw.normal(size=bounds[-1])
    found = segment_sum(torch.from_numpy(values), torch.from_numpy(weights), bounds)
    wanted = [values[a:b].T @ weights[a:b] for a, b in pairwise(bounds)]
    np.testing.assert_allclose(found.numpy(), np.stack(wanted), rtol=1e-9, atol=1e-9)


CHAIN = (
    DenseSpec("2_Dense", 6, 5, activation="tanh"),
    DenseSpec("3_Dense.v1", 5, 5, bias=False, activation="gelu", residual=True),
    DenseSpec("4_Dense", 5, 4, residual=True),
    NormalizeSpec(),
)


def whole(**options: Any) -> ModelSpec:
    return ModelSpec(TRUNK, PoolingSpec(), CHAIN, TokenizerSpec(16), **options)


def drawn(spec: ModelSpec) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(2)
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in model_shapes(spec).items()}


@pytest.mark.parametrize("dim", [None, 4, 2, 3])
def test_heads_equal_their_numpy_form(dim: int | None) -> None:
    spec = whole(dim_modules=(DenseSpec("4_Dense_3", 5, 3),), matryoshka_dims=(2,))
    arrays = drawn(spec)
    pooled = np.random.default_rng(3).normal(size=(5, 6)).astype(np.float32)
    chain, prefix = numpy_heads.modules_for_dim(spec, dim)
    wanted = numpy_heads.apply_modules(chain, arrays, pooled)
    wanted = numpy_heads.normalize(wanted[:, :prefix]) if prefix else wanted
    found = OutputModules.from_arrays(spec, arrays)(torch.from_numpy(pooled), dim)
    assert found.shape == (5, dim or 4)
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_every_width_from_one_pooled_vector_with_gradients() -> None:
    spec = whole(dim_modules=(DenseSpec("4_Dense_3", 5, 3),), matryoshka_dims=(2,))
    heads = OutputModules.from_arrays(spec, drawn(spec))
    pooled = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    widths = heads.vectors_by_dim(pooled)
    assert {dim: tuple(vectors.shape) for dim, vectors in widths.items()} == {2: (4, 2), 3: (4, 3), 4: (4, 4)}
    sum(vectors.cos().sum() for vectors in widths.values()).backward()  # type: ignore[union-attr]
    assert pooled.grad is not None
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert heads.vectors_by_dim(pooled, (2,)).keys() == {2}


def test_the_widths_of_stella_are_those_of_the_encoder(golden_folder: Callable[[str], Path]) -> None:
    folder = golden_folder("stella_en_400M_v5")
    texts = json.loads((folder / "texts.json").read_text("utf-8"))["texts"][:6]
    encoder = Encoder.load(folder)
    spec, arrays = encoder.spec, encoder.checkpoint.arrays
    assert isinstance(spec.trunk, TrunkSpec)
    packed = pack(encoder.tokenize(texts).ids)
    with torch.no_grad():
        pooled_BD = Pooling(spec.pooling)(
            Trunk.from_arrays(spec.trunk, arrays)(DeviceBatch.from_packed(packed, spec.trunk)), packed
        )
        widths = OutputModules.from_arrays(spec, arrays).vectors_by_dim(pooled_BD)
    wanted = encoder.encode_dims(texts, prompt="", on_truncate="silent")
    assert widths.keys() == wanted.keys()
    for dim, vectors_BD in wanted.items():
        np.testing.assert_allclose(widths[dim].numpy(), vectors_BD, rtol=2e-4, atol=2e-5)


def saved(kind: str, tie: bool, folder: Path, tokenizer_from: Path) -> tuple[Checkpoint, Any]:
    """A tiny model with its MLM head, written by transformers, read by us."""
    import transformers

    options: dict[str, Any] = {
        "bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24},
        "roberta": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24},
        "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    }
    names = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert"}
    config = getattr(transformers, f"{names[kind]}Config")(
        vocab_size=2200, max_position_embeddings=40, tie_word_embeddings=tie, **options[kind]
    )
    torch.manual_seed(1)
    model = getattr(transformers, f"{names[kind]}ForMaskedLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((tokenizer_from / "tokenizer.json").read_bytes())
    return read_folder(resolve_source(folder)), model


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_mlm_logits_and_names_are_those_of_transformers(
    kind: str, tie: bool, tmp_path: Path, golden_folder: Callable[[str], Path]
) -> None:
    checkpoint, theirs = saved(kind, tie, tmp_path / "model", golden_folder("GIST-Embedding-v0"))
    spec, mlm = checkpoint.spec.trunk, checkpoint.mlm
    assert isinstance(spec, TrunkSpec)
    assert mlm is not None
    assert mlm.tied == tie
    trunk = Trunk.from_arrays(spec, checkpoint.arrays).eval()
    head = MaskedLM.from_arrays(mlm, checkpoint.mlm_arrays, trunk)
    packed = pack([np.array([2, 7, 9, 30]), np.array([2, 5, 3])])
    logits_TV = head(trunk(DeviceBatch.from_packed(packed, spec)))
    for start, stop in pairwise(packed.bounds):
        wanted = theirs(torch.from_numpy(packed.ids_T[start:stop])[None]).logits[0]
        torch.testing.assert_close(logits_TV[start:stop], wanted, rtol=1e-4, atol=1e-4)
    logits_TV.sum().backward()
    assert trunk.embed.tokens.grad is not None
    if tie:
        assert head.decoder.weight is trunk.embed.tokens
        assert trunk.embed.tokens.grad[31:].abs().max() > 0  # rows that no text has: through the decoder alone
    else:
        assert trunk.embed.tokens.grad[31:].abs().max() == 0
    # and our parameters under their names load into their model
    ours = to_arrays(trunk.state_dict())
    named = {
        name: torch.from_numpy(array) for name, array in export_trunk_weights(ours, spec, checkpoint.config).items()
    }
    fresh = type(theirs)(theirs.config).eval()
    missing, unexpected = fresh.base_model.load_state_dict(named, strict=False)
    assert not unexpected
    assert not missing
    states = fresh.base_model(torch.from_numpy(packed.ids_T[:4])[None]).last_hidden_state[0]
    torch.testing.assert_close(trunk(DeviceBatch.from_packed(packed, spec))[:4], states, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid", "identity"])
def test_the_mlm_head_by_hand(activation: Activation) -> None:
    draw = torch.Generator().manual_seed(0)
    head = MaskedLM(4, 7, activation=activation, norm_eps=1e-12, token_table=None).double()
    for parameter in head.parameters():
        parameter.data.normal_(generator=draw)
    x = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    inner = numpy_heads.ACTIVATIONS[activation]((x @ head.dense.weight.T + head.dense.bias).detach().numpy())
    centred = inner - inner.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    wanted = (unit * head.norm.weight.detach().numpy() + head.norm.bias.detach().numpy()) @ (
        head.decoder.weight.detach().numpy().T
    ) + head.decoder.bias.detach().numpy()  # type: ignore[union-attr]
    np.testing.assert_allclose(head(x).detach().numpy(), wanted, rtol=1e-5, atol=1e-5)

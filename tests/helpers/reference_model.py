"""The reference implementation of every engine: one text at a time, in float64, in numpy, written from the formulae
alone; and the models that engines are compared on.

T: tokens of a text; H: hidden; N: heads; d: head size; B: texts.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from goldens import GOLDEN, require

from gnomon.checkpoint.folder import Checkpoint, read_folder
from gnomon.checkpoint.hub import resolve_source
from gnomon.spec import POOLING_MODES, PoolingSpec, RopeSpec, TrunkSpec, trunk_shapes

Arrays = dict[str, np.ndarray]
Model = tuple[TrunkSpec, Arrays]
MIXED = (3, 17, 1, 40, 17, 8)
SAME = 1e-5

BASE = {"vocab_size": 60, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
MADE = {
    "roberta": TrunkSpec(**BASE, max_positions=64, position_offset=3, pad_id=2, num_token_types=1),
    "no types, relu": TrunkSpec(**BASE, max_positions=48, activation="relu", norm_eps=1e-5),
    "tanh form of gelu": TrunkSpec(**BASE, max_positions=48, activation="gelu_tanh"),
    "rope, not gated, silu": TrunkSpec(**BASE, max_positions=0, activation="silu", rope=RopeSpec(10000.0)),
    "gated, table, tanh": TrunkSpec(**BASE, max_positions=48, gated=True, activation="tanh"),
    "one layer": TrunkSpec(**{**BASE, "num_layers": 1}, max_positions=48, activation="sigmoid"),
    "wide, ntk, gated": TrunkSpec(
        **{**BASE, "hidden_size": 288, "num_heads": 3},
        max_positions=0,
        rope=RopeSpec(5e5, 2.0),
        gated=True,
        num_token_types=2,
    ),
}


@cache
def checkpoint(name: str) -> Checkpoint:
    require()
    return read_folder(resolve_source(GOLDEN / name))


@cache
def model(name: str) -> Model:
    """A golden trunk, or one of MADE with random arrays."""
    if name not in MADE:
        return checkpoint(name).spec.trunk, checkpoint(name).arrays
    rng = np.random.default_rng(5)
    shapes = trunk_shapes(MADE[name])
    return MADE[name], {key: rng.normal(0, 0.3, shape).astype(np.float32) for key, shape in shapes.items()}


def with_pooling(name: str, pooling: PoolingSpec) -> tuple[TrunkSpec, PoolingSpec, Arrays]:
    trunk, arrays = model(name)
    return trunk, pooling, arrays


def texts(name: str, lengths: tuple[int, ...] = MIXED) -> list[np.ndarray]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(0, model(name)[0].vocab_size, length) for length in lengths]


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.where(x > 0, x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def reference_states(trunk: TrunkSpec, arrays: Arrays, ids_T: np.ndarray, types_T: np.ndarray | int = 0) -> np.ndarray:
    """Token states [T, H] of one text."""
    act = ACTIVATIONS[trunk.activation]

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        bias = arrays[f"{name}.bias"] if f"{name}.bias" in arrays else np.zeros(1)
        return x @ arrays[f"{name}.weight"].astype(np.float64).T + bias

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + trunk.norm_eps)
        return unit * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    def rotated(x_TNd: np.ndarray) -> np.ndarray:
        if trunk.rope is None:
            return x_TNd
        d, factor = trunk.head_size, trunk.rope.ntk_factor
        power = -2 * np.arange(d // 2) / d
        freq = trunk.rope.theta**power if factor is None else (trunk.rope.theta * factor) ** power / factor ** (2 / d)
        cos, sin = (f(np.arange(len(x_TNd))[:, None, None] * freq) for f in (np.cos, np.sin))
        a, b = x_TNd[..., : d // 2], x_TNd[..., d // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    x = arrays["embed.tokens"][ids_T].astype(np.float64)
    if trunk.max_positions:
        rows = np.arange(len(ids_T)) + trunk.position_offset
        if trunk.pad_id is not None:
            real = ids_T != trunk.pad_id
            rows = np.array([real[: i + 1].sum() if real[i] else 0 for i in range(len(ids_T))]) + trunk.pad_id
        x = x + arrays["embed.positions"][rows]
    if trunk.num_token_types:
        x = x + arrays["embed.types"][types_T]
    x = norm("embed.norm", x)
    for layer in (f"layers.{index}" for index in range(trunk.num_layers)):
        shape = (len(ids_T), trunk.num_heads, trunk.head_size)
        q, k, v = (linear(f"{layer}.{part}", x).reshape(shape) for part in ("query", "key", "value"))
        scores = np.einsum("tnd,snd->nts", rotated(q), rotated(k)) / math.sqrt(trunk.head_size)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("nts,snd->tnd", shares / shares.sum(-1, keepdims=True), v).reshape(len(ids_T), -1)
        x = norm(f"{layer}.attn_norm", x + linear(f"{layer}.out", mixed))
        up = linear(f"{layer}.up", x)
        inner = up * act(linear(f"{layer}.gate", x)) if trunk.gated else act(up)
        x = norm(f"{layer}.mlp_norm", x + linear(f"{layer}.down", inner))
    return x


def reference_pool(pooling: PoolingSpec, states_TH: np.ndarray, prompt_tokens: int) -> np.ndarray:
    skip = 0 if pooling.include_prompt or prompt_tokens >= len(states_TH) else prompt_tokens
    x, places = states_TH[skip:], np.arange(skip + 1, len(states_TH) + 1)[:, None]
    found = {
        "cls": x[0],
        "max": x.max(0),
        "mean": x.mean(0),
        "mean_sqrt_len_tokens": x.sum(0) / math.sqrt(len(x)),
        "weightedmean": (x * places).sum(0) / places.sum(),
        "lasttoken": x[-1],
    }
    return np.concatenate([found[mode] for mode in pooling.modes])


def skips(pooling: PoolingSpec, texts: int, prompt_tokens: int) -> list[int]:
    """The tokens that pooling leaves out of each text."""
    return [0 if pooling.include_prompt else prompt_tokens] * texts


def assert_same(found: np.ndarray, wanted: np.ndarray, limit: float = SAME) -> None:
    assert found.dtype == np.float32
    assert found.shape == wanted.shape
    errors = np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
    assert errors.max(initial=0) <= limit, errors


POOLINGS = (
    *(PoolingSpec((mode,), include_prompt) for mode in POOLING_MODES for include_prompt in (True, False)),
    PoolingSpec(("cls", "mean")),
    PoolingSpec(("lasttoken", "max", "weightedmean"), include_prompt=False),
    PoolingSpec(POOLING_MODES, include_prompt=False),
)

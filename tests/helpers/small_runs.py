"""What tests of training are made of: a model small enough to train in a test, rows to train it on, and a run's files.

Q: queries; W: words.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gnomon.checkpoint.folder import Checkpoint
from gnomon.checkpoint.hub import Source
from gnomon.checkpoint.save import save_folder
from gnomon.spec import (
    DenseSpec,
    ModelSpec,
    NormalizeSpec,
    PoolingSpec,
    StaticSpec,
    TokenizerSpec,
    TrunkSpec,
    model_shapes,
)
from gnomon.train.recipe.schema import DataSource, Recipe

WORDS = (
    "sundial gnomon shadow noon hour light wall garden bronze plate angle north south latitude star moon river bridge "
    "stone tower bell clock spring wheel lever engine smoke iron coal harbour sail rope anchor tide wave shore sand "
    "shell where which what tells turns casts holds stands points moves near under above behind old new long short red "
    "green"
).split()
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WIDTH = 16
BERT = TrunkSpec(
    vocab_size=len(SPECIAL) + len(WORDS),
    hidden_size=WIDTH,
    num_layers=2,
    num_heads=4,
    intermediate_size=24,
    max_positions=24,
    num_token_types=2,
)
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": BERT.vocab_size,
    "hidden_size": WIDTH,
    "num_hidden_layers": BERT.num_layers,
    "num_attention_heads": BERT.num_heads,
    "intermediate_size": BERT.intermediate_size,
    "max_position_embeddings": BERT.max_positions,
    "type_vocab_size": BERT.num_token_types,
    "hidden_act": "gelu",
    "layer_norm_eps": BERT.norm_eps,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}


def tokenizer(*, framed: bool = True) -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate((*SPECIAL, *WORDS))}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if framed:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return made


def checkpoint(spec: ModelSpec, *, seed: int = 0, scale: float = 0.3) -> Checkpoint:
    """A model with random weights."""
    rng = np.random.default_rng(seed)
    arrays = {
        name: (rng.normal(scale=scale, size=shape) + name.endswith("norm.weight")).astype(np.float32)
        for name, shape in model_shapes(spec).items()
    }
    static = isinstance(spec.trunk, StaticSpec)
    config = {"model_type": "model2vec"} if static else CONFIG
    return Checkpoint(spec, arrays, tokenizer(framed=not static), config, {}, (), Source(Path(), "tiny", None))


MEAN = PoolingSpec()


def bert(
    *, pooling: PoolingSpec = MEAN, normalizes: bool = True, wide: tuple[int, ...] = (), **asked: Any
) -> ModelSpec:
    """A tiny BERT. `wide`: widths of its own heads, the first one that of the chain; `asked`: fields of ModelSpec."""
    width = WIDTH * len(pooling.modes)
    dense = tuple(DenseSpec(f"2_Dense_{out}", width, out) for out in wide)
    last = (NormalizeSpec(),) if normalizes else ()
    return ModelSpec(BERT, pooling, (*dense[:1], *last), TokenizerSpec(20), dim_modules=dense, **asked)


def static(*, model2vec: bool = False) -> ModelSpec:
    trunk = StaticSpec(BERT.vocab_size, WIDTH, model2vec, SPECIAL.index("[UNK]") if model2vec else None)
    return ModelSpec(trunk, PoolingSpec(), (NormalizeSpec(),), TokenizerSpec(20, special_tokens=False))


def saved(spec: ModelSpec, folder: Path, *, seed: int = 0) -> Path:
    return save_folder(checkpoint(spec, seed=seed), folder)


# ---- rows


def rows(count: int, *, negatives: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Queries that share three words with their own document, and no two alike."""
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        words_W = rng.permutation(WORDS)[: rng.integers(5, 12)].tolist()
        row: dict[str, Any] = {"query": " ".join(words_W[:3]), "positive": " ".join([*words_W[3:], *words_W[:3][::-1]])}
        row["negatives"] = [" ".join(rng.permutation(WORDS)[: rng.integers(2, 9)]) for _ in range(negatives)]
        found.setdefault(row["query"], row if negatives else {key: row[key] for key in ("query", "positive")})
    return [*found.values()]


def translated(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Documents that have, for each word of their query, another word: which one, a model must learn."""
    rng = np.random.default_rng(seed)
    half = len(WORDS) // 2
    picks = sorted({tuple(rng.permutation(half)[:3].tolist()) for _ in range(2 * count)})
    found = []
    for at in rng.permutation(len(picks))[:count]:
        theirs = [WORDS[half + word] for word in reversed(picks[at])]
        found.append({"query": " ".join(WORDS[word] for word in picks[at]), "positive": " ".join(theirs)})
    return found


def graded(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    scores = np.random.default_rng(seed).uniform(size=count)
    return [row | {"score": float(score)} for row, score in zip(rows(count, seed=seed), scores, strict=True)]


def taught(count: int, *, negatives: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    scores = np.random.default_rng(seed).normal(size=(count, 1 + negatives))
    some = rows(count, negatives=negatives, seed=seed)
    return [row | {"score": list_} for row, list_ in zip(some, scores.tolist(), strict=True)]


def write(path: Path, lines: list[dict[str, Any]]) -> DataSource:
    """A file of rows, and the source that reads it."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    roles = {"negatives": ("negatives",)} if "negatives" in lines[0] else {}
    return DataSource((str(path),), **roles, **({"score": "score"} if "score" in lines[0] else {}))


# ---- runs


def recipe_of(model: Path, output: Path, *sources: DataSource, **changes: Any) -> Recipe:
    """Ten steps of eight rows on one thread, with every step logged."""
    settings: dict[str, Any] = {
        "batch_size": 8,
        "max_steps": 10,
        "learning_rate": 1e-3,
        "threads": 1,
        "device": "cpu",
        "logging_steps": 1,
        "cache_dir": str(output.parent / "cache"),
    }
    return Recipe(str(model), str(output), sources, **{**settings, **changes})


def weights(folder: Path) -> dict[str, np.ndarray]:
    """Every array of a written model."""
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        place = path.parent.relative_to(folder).as_posix().removeprefix(".")
        found |= {f"{place}/{name}".lstrip("/"): array for name, array in load_file(path).items()}
    return found


def log_of(output: Path) -> list[dict[str, Any]]:
    """The records of steps, without that of the validation before them."""
    records = [json.loads(line) for line in (output / "log.jsonl").read_text("utf-8").splitlines()]
    return [record for record in records if record["step"]]


@cache
def texts() -> tuple[str, ...]:
    return tuple(row[key] for row in rows(6, seed=99) for key in ("query", "positive"))

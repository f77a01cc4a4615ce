"""The models of bench/gpu.sh, in one folder: random weights in the shapes of published models; and token ids."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

from bench.random_models import RandomModel
from gnomon.packed import Ids

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
FULL = {
    "MiniLM": RandomModel("bert", 384, 6, 12, 512),
    "GIST": RandomModel("bert", 768, 12, 12, 512, "cls"),
    "gte": RandomModel("new", 1024, 24, 16, 8192, "cls", scale=0.02),
    "gte-4-layers": RandomModel("new", 1024, 4, 16, 8192, "cls", scale=0.02),
}
TINY = {
    "MiniLM": RandomModel("bert", 64, 2, 2, 128, vocabulary=500, scale=0.1),
    "GIST": RandomModel("bert", 128, 2, 2, 128, "cls", vocabulary=500, scale=0.1),
    "gte": RandomModel("new", 128, 2, 2, 256, "cls", vocabulary=500, scale=0.1),
    "gte-4-layers": RandomModel("new", 128, 2, 2, 256, "cls", vocabulary=500, scale=0.1),
}
ENCODED, TRAINED = ("MiniLM", "GIST", "gte"), ("MiniLM", "GIST", "gte-4-layers")
MIXES = ("short", "long-tail", "full")


def write(name: str, models: Path, *, tiny: bool) -> tuple[RandomModel, Path]:
    """The model and its folder, which is written if it is not there. Its name tells of its sizes."""
    model = (TINY if tiny else FULL)[name]
    sizes = f"{model.form}-{model.layers}x{model.hidden}-{model.scale}"
    target = models / f"{name}-{sizes}"
    if not (target / "modules.json").exists():
        shutil.rmtree(target, ignore_errors=True)
        models.mkdir(parents=True, exist_ok=True)
        model.save(tokenizer(model.vocabulary), target)
    return model, target


@cache
def tokenizer(vocabulary: int) -> Tokenizer:
    """One token for each of the words w4, w5, ..."""
    words = [*SPECIAL, *(f"w{number}" for number in range(len(SPECIAL), vocabulary))]
    built = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return built


def draw_lengths(mix: str, texts: int, limit: int, seed: int = 0) -> np.ndarray:
    """Tokens of each text: short queries; a long-tailed mix; or all as long as a page (512) or the model's limit."""
    random = np.random.default_rng(seed)
    if mix == "full":
        return np.full(texts, min(limit, 512))
    mean, spread = {"short": (2.6, 0.3), "long-tail": (3.6, 1.0)}[mix]
    return np.exp(random.normal(mean, spread, texts)).astype(np.int64).clip(3, min(limit, 512))


def draw_ids(lengths: np.ndarray, vocabulary: int, seed: int = 0) -> list[Ids]:
    """Random tokens between [CLS] and [SEP], as many as the lengths say."""
    random = np.random.default_rng(seed)
    inside = [random.integers(len(SPECIAL), vocabulary, length - 2) for length in lengths]
    return [np.concatenate([[2], ids, [3]]) for ids in inside]


def to_text(ids: Ids) -> str:
    """The text that the tokenizer turns into these ids."""
    return " ".join(f"w{number}" for number in ids[1:-1])

"""Real models, real texts: the vectors of sentence-transformers, and folders that go both ways.

`make test` builds the models from Python packages into .models; nothing is fetched here.
"""

import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnomon import Encoder
from gnomon.batching import NO_PADDING, build_batches
from gnomon.engines.torch.engine import TorchEngine
from gnomon.errors import Notice
from gnomon.packed import pack
from gnomon.spec import TrunkSpec

SentenceTransformer = pytest.importorskip("sentence_transformers").SentenceTransformer

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
NAMES = ("all-MiniLM-L6-v2", "minilm-as-distilbert", "paraphrase-MiniLM-L3-v2", "multilingual-e5-small")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::gnomon.errors.Notice"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def _rows(name: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _documents(name: str) -> list[str]:
    """Every fourth as it is, the others up to their 300th character, which saves minutes."""
    return [row["text"] if at % 4 == 0 else row["text"][:300] for at, row in enumerate(_rows(name))]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """1,000 real texts: 13 languages, from nothing to several thousand words. Of four documents one is whole."""
    if not DATA.is_dir():
        message = f"{DATA} is not here: it is in the shared folder of the project, not in the repository"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    found = ["", " ", "\n\t", "🙂", "a", "[SEP]", "<s> </s>", "x" * 3000, "word " * 2000, "é" * 50]
    found += [row["text"] for row in _rows("retrieval_longdocs/corpus")[:6]]
    pools = [[row["text"] for row in _rows("retrieval_faq/queries")]]
    pools += [_documents(name) for name in ("retrieval_faq/corpus", "retrieval_defs/corpus")]
    pools += [
        [row["sentence2"] for row in _rows(f"bitext_wesnoth/en-{xx}")]
        for xx in ("de", "es", "fr", "it", "ja", "ru", "tr", "zh")
    ]
    pools += [_documents(f"retrieval_help/mono_{xx}/corpus") for xx in ("cs", "ko", "pl", "pt")]
    draw = random.Random(0)
    share, rest = divmod(1000 - len(found), len(pools))
    for at, pool in enumerate(pools):
        found += draw.sample(pool, share + (at < rest))
    assert len(found) == 1000
    return found


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest) -> Path:
    place = ROOT / ".models" / request.param
    if not (place / "model.safetensors").is_file():
        message = f"{place} is not there; `make test` builds it"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return place


SOME = [*range(16), *range(16, 1000, 4)]
"""The 16 odd and long texts, and a quarter of the others."""


@pytest.fixture(scope="module")
def torch_vectors(folder: Path, texts: list[str]) -> np.ndarray:
    """Vectors of the torch engine, in float32."""
    return Encoder.load(folder, engine="torch").encode(texts, on_truncate="silent")


Near = Callable[..., None]


def test_a_thousand_texts_have_the_tokens_of_sentence_transformers(folder: Path, texts: list[str]) -> None:
    model, report = SentenceTransformer(str(folder), device="cpu"), Encoder.load(folder).tokenize(texts)
    for text, ids_T in zip(texts, report.ids, strict=True):
        assert ids_T.tolist() == model.preprocess([text])["input_ids"][0].tolist(), text
    assert len(report.truncated) > 20  # over-long texts are among them
    assert min(report.counts) == 2


def test_a_thousand_texts_have_the_vectors_of_sentence_transformers(
    folder: Path, texts: list[str], torch_vectors: np.ndarray, assert_near: Near
) -> None:
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts, batch_size=16, show_progress_bar=False)
    assert_near(Encoder.load(folder).encode(texts, on_truncate="silent"), theirs)
    assert_near(torch_vectors, theirs)


def test_folders_go_both_ways(folder: Path, texts: list[str], tmp_path: Path, assert_near: Near) -> None:
    few = texts[:10] + texts[16::33]
    encoder, theirs = Encoder.load(folder), SentenceTransformer(str(folder), device="cpu")
    ours_BD = encoder.encode(few, on_truncate="silent")
    encoder.save(tmp_path / "ours")
    assert_near(SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(few), ours_BD)
    theirs.save(str(tmp_path / "theirs"), create_model_card=False)
    assert_near(Encoder.load(tmp_path / "theirs").encode(few, on_truncate="silent"), ours_BD)


def test_e5_finds_its_prompts_and_the_evident_answer() -> None:
    place = ROOT / ".models" / "multilingual-e5-small"
    if not place.is_dir():
        pytest.skip(f"{place} is not there; `make test` builds it")
    from gnomon.verify import verify

    with pytest.warns(Notice, match=r"those of multilingual-e5-small .* query = 'query: ', document = 'passage: '"):
        encoder = Encoder.load(place)
    assert verify(encoder).passed


def test_eight_bits_stay_near(folder: Path, texts: list[str]) -> None:
    few = [text for text in texts[10:200] if len(text) > 20]
    exact, rough = (
        Encoder.load(folder, dtype=dtype).encode(few, on_truncate="silent", normalize_embeddings=True)
        for dtype in ("float32", "int8")
    )
    cosines = np.sum(exact * rough, axis=1)
    assert 0.95 < cosines.min() < 0.99999


def test_bfloat16_keeps_the_direction_of_every_vector(
    folder: Path, texts: list[str], torch_vectors: np.ndarray
) -> None:
    """By the engine itself, since some processors have no arithmetic for it and Encoder.load says so."""
    encoder = Encoder.load(folder)
    spec, arrays = encoder.spec, encoder.checkpoint.arrays
    assert isinstance(spec.trunk, TrunkSpec)
    ids = encoder.tokenize([texts[index] for index in SOME]).ids
    order = [index for batch in build_batches([len(ids_T) for ids_T in ids], 2048, NO_PADDING) for index in batch]
    packs = [pack([ids[index] for index in order[start : start + 40]]) for start in range(0, len(order), 40)]
    engine = TorchEngine(spec.trunk, spec.pooling, arrays, dtype="bfloat16")
    exact, rough = torch_vectors[SOME][order], np.concatenate([*engine.pool_batches(packs)])
    cosines = np.sum(exact * rough, axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert len(cosines) == len(SOME)
    assert 0.999 < cosines.min() < 0.999999

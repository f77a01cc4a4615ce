"""The application, through its own test client: models, keys, probes, dialects side by side, errors, metrics, logs."""

import asyncio
import base64
import gzip
import io
import json
import logging
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import goldens
import numpy as np
import pytest
from starlette.testclient import TestClient

from gnomon import Encoder
from gnomon.engines.protocol import Engine
from gnomon.errors import InputError, ModelError, Notice
from gnomon.packed import Packed, Vectors
from gnomon.serve.app import App
from gnomon.serve.call import Call
from gnomon.serve.models import load_encoder
from gnomon.serve.options import ModelOptions, ServeOptions
from gnomon.serve.requests import EmbedRequest, RequestError, SimilarityRequest, TokenizeRequest
from gnomon.serve.service import Service
from gnomon.serve.states import compute_states
from gnomon.serve.tokens import tokenize

goldens.require(whole_module=True)
pytestmark = pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")

E5 = str(goldens.GOLDEN / "multilingual-e5-small")
STELLA = str(goldens.GOLDEN / "stella_en_400M_v5")
KEY = "sk-secret"
TEXTS = ["a cat sat on the mat", "stock prices fell today", "the kitten slept"]


@contextmanager
def serve(
    *models: ModelOptions, load: Callable[[ModelOptions], Encoder] = load_encoder, **options: Any
) -> Iterator[TestClient]:
    """A client of a server that is ready."""
    options = {"warm_up": False, **options}
    before = set(threading.enumerate())
    app = App(ServeOptions(models=models or (ModelOptions(source=E5),), **options), load=load)
    with TestClient(app, raise_server_exceptions=True) as client:
        wait_until(lambda: app.state == "ready" or app.ended.done())  # pyright: ignore
        client.app_ = app  # pyright: ignore
        yield client
    wait_until(lambda: not {thread.name for thread in set(threading.enumerate()) - before if "engine" in thread.name})


def load_quietly(source: str = E5) -> Encoder:
    """A golden model; its folder lacks prompts, of which a warning says whose are used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        return Encoder.load(source, threads=1)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        threading.Event().wait(0.002)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return goldens.load("multilingual-e5-small")


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serve() as client:
        yield client


@pytest.fixture(scope="module")
def stella() -> Iterator[TestClient]:
    with serve(ModelOptions(source=STELLA, names=("stella", "text-embedding-3-large"))) as client:
        yield client


def embed(client: TestClient, **body: Any) -> Vectors:
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return np.array([item["embedding"] for item in data], np.float32)


def assert_near(vectors: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(vectors, np.float32), wanted, atol=2e-6)


# ---- vectors


def test_every_route_gives_the_encoders_vectors(client: TestClient, encoder: Encoder) -> None:
    wanted = encoder.encode(TEXTS, prompt="")
    for path in ("/v1/embeddings", "/embeddings", "//v1//embeddings/"):
        body = {"input": TEXTS, "model": "any name"}
        assert_near([item["embedding"] for item in client.post(path, json=body).json()["data"]], wanted)
    for path in (
        "/embed",
        "/",
        "/invocations",
        "/pipeline/feature-extraction",
        "/models/a/b/pipeline/feature-extraction",
    ):
        assert_near(client.post(path, json={"inputs": TEXTS}).json(), wanted)
    assert_near(client.post("/api/embed", json={"model": "x", "input": TEXTS}).json()["embeddings"], wanted)
    body = {"model": "x", "input_type": "classification", "texts": TEXTS, "embedding_types": ["float"]}
    assert_near(client.post("/v2/embed", json=body).json()["embeddings"]["float"], wanted)
    body = {"texts": TEXTS, "model": "x", "input_type": "classification"}
    assert_near(client.post("/v1/embed", json=body).json()["embeddings"], wanted)
    answer = client.post("/openai/deployments/any/embeddings?api-version=2024", json={"input": TEXTS})
    assert_near([item["embedding"] for item in answer.json()["data"]], wanted)


def test_base64_has_the_bits_of_floats(client: TestClient) -> None:
    floats = embed(client, input=TEXTS)
    answer = client.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "base64"}).json()
    bits = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer["data"]]
    np.testing.assert_array_equal(bits, floats)


def test_raw_bytes(client: TestClient) -> None:
    floats = embed(client, input=TEXTS)
    answer = client.post("/v1/embeddings", json={"input": TEXTS}, headers={"accept": "application/x-npy"})
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), floats)
    answer = client.post("/embed", json={"inputs": TEXTS}, headers={"accept": "application/octet-stream"})
    assert answer.headers["x-gnomon-shape"] == f"3,{floats.shape[1]}"
    np.testing.assert_array_equal(np.frombuffer(answer.content, "<f4").reshape(floats.shape), floats)


def test_prompts_are_chosen_per_request(client: TestClient, encoder: Encoder) -> None:
    queries, documents = encoder.encode_query(TEXTS), encoder.encode_document(TEXTS)
    assert not np.allclose(queries, documents)
    assert_near(embed(client, input=TEXTS, input_type="query"), queries)
    assert_near(embed(client, input=TEXTS, prompt_name="query"), queries)
    assert_near(embed(client, input=TEXTS, prompt="query: "), queries)
    assert_near(embed(client, input=TEXTS, prefix="query: "), queries)
    assert_near(embed(client, input=TEXTS, model="anything:query"), queries)
    assert_near(embed(client, input=TEXTS, model="multilingual-e5-small:document"), documents)
    assert_near(client.post("/embed", json={"inputs": TEXTS, "prompt_name": "query"}).json(), queries)
    body = {"model": "x", "input_type": "search_query", "texts": TEXTS, "embedding_types": ["float"]}
    assert_near(client.post("/v2/embed", json=body).json()["embeddings"]["float"], queries)
    assert_near(embed(client, input=TEXTS, task="retrieval.query"), queries)


def test_a_default_prompt_of_the_operator(encoder: Encoder) -> None:
    with serve(ModelOptions(source=E5, default_prompt_name="query")) as client:
        assert_near(embed(client, input=TEXTS), encoder.encode_query(TEXTS))
        assert_near(embed(client, input=TEXTS, input_type="document"), encoder.encode_document(TEXTS))
        assert_near(embed(client, input=TEXTS, prompt=""), encoder.encode(TEXTS, prompt=""))


def test_dimensions_choose_a_head(stella: TestClient) -> None:
    with load_quietly(STELLA) as encoder:
        for dim in encoder.dims:
            vectors = embed(stella, input=TEXTS, dimensions=dim)
            assert_near(vectors, encoder.encode(TEXTS, prompt="", dim=dim, normalize_embeddings=True))
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert_near(embed(stella, input=TEXTS, normalize=False), encoder.encode(TEXTS, prompt=""))
    answer = stella.post("/v1/embeddings", json={"input": "a", "dimensions": 7})
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert all(str(value) in message for value in (7, 256, 512, 1024))
    assert stella.post("/embed", json={"inputs": "a", "dimensions": 7}).status_code == 422


def test_a_dim_of_the_operator_that_the_model_lacks_ends_the_start() -> None:
    with serve(ModelOptions(source=STELLA, dim=300)) as client, pytest.raises(InputError) as caught:
        raise client.app_.ended.result()  # pyright: ignore
    assert "dim 300" in str(caught.value)
    assert "256, 512, 1024" in str(caught.value)
    assert "truncate_dim" not in str(caught.value)  # Python's


def test_a_model_without_prompts_says_so(encoder: Encoder) -> None:
    spec = replace(encoder.spec, prompts={})

    def load(options: ModelOptions) -> Encoder:
        return Encoder(replace(encoder.checkpoint, spec=spec), engine=load_quietly().engine)

    with serve(load=load) as client:
        for path, body, status in (("/v1/embeddings", {"input": "a"}, 400), ("/tokenize", {"inputs": "a"}, 422)):
            answer = client.post(path, json={**body, "prompt_name": "query"})
            assert answer.status_code == status
            assert "'query'" in answer.text
            assert "It has no prompts." in answer.text


def test_vectors_before_the_models_own_normalisation(client: TestClient, encoder: Encoder) -> None:
    raw = np.array(client.post("/embed", json={"inputs": TEXTS, "normalize": False}).json(), np.float32)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert not np.allclose(lengths, 1)
    assert_near(raw / lengths, encoder.encode(TEXTS, prompt=""))


def test_states_and_similarity(client: TestClient, encoder: Encoder) -> None:
    states = client.post("/embed_all", json={"inputs": TEXTS}).json()
    for found, wanted in zip(states, encoder.encode_tokens(TEXTS, prompt=""), strict=True):
        np.testing.assert_allclose(np.array(found), wanted, atol=1e-4)
    body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}}
    vectors = encoder.encode(TEXTS, prompt="")
    for path in ("/similarity", "/", "/embed"):
        assert_near(client.post(path, json=body).json(), vectors[1:] @ vectors[0])


def test_states_are_checked_and_counted_as_vectors_are(encoder: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    def load(options: ModelOptions) -> Encoder:
        loaded = load_quietly()
        spec = replace(loaded.spec, prompts={"classification": "query: "})
        return Encoder(replace(loaded.checkpoint, spec=spec), engine=loaded.engine)

    body = {"inputs": TEXTS, "input_type": "classification", "unknown": 1}
    with serve(load=load) as client, caplog.at_level(logging.INFO):
        logging.getLogger("gnomon.serve").propagate = True
        answer = client.post("/embed_all", json=body)
        metrics = read_metrics(client)
        fingerprint = answer.headers["x-gnomon-fingerprint"]
        assert client.post("/embed_all", json={**body, "require_fingerprint": fingerprint}).status_code == 200
        assert client.post("/embed_all", json={**body, "require_fingerprint": "0" * 64}).status_code == 409
    for found, wanted in zip(answer.json(), encoder.encode_tokens(TEXTS, prompt="query: "), strict=True):
        np.testing.assert_allclose(np.array(found), wanted, atol=1e-4)
    tokens = sum(encoder.tokenize(["query: " + text for text in TEXTS]).counts)
    assert metrics['gnomon_tokens_total{model="golden/multilingual-e5-small"}'] == tokens
    assert metrics["gnomon_unknown_fields_total"] == 1
    assert metrics['te_request_success{method="batch"}'] == 1
    assert [record.getMessage() for record in caplog.records].count("POST /embed_all") == 3


def test_states_that_hang_hold_no_request_longer_than_it_may_take() -> None:
    gate, began = threading.Event(), threading.Event()
    with serve_failing() as (client, engine):
        compute = engine.inner.states

        def hang(packed: Packed) -> Vectors:
            began.set()
            assert gate.wait(30)
            return compute(packed)

        engine.inner.states = hang  # pyright: ignore[reportAttributeAccessIssue]
        for _ in range(3):  # the second waits for the first
            answer = client.post("/embed_all", json={"inputs": "a"}, headers={"x-request-timeout": "0.05"})
            assert answer.status_code == 504
        assert began.is_set()
        assert client.post("/embed", json={"inputs": "a"}).status_code == 200
        gate.set()
        assert client.post("/embed_all", json={"inputs": "a"}).status_code == 200


def test_similarity_has_the_prompt_that_the_models_name_chooses(encoder: Encoder) -> None:
    inputs = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}
    with serve(ModelOptions(source=E5, names=("e5",), vector_type="binary")) as client:
        for body, vectors in (
            ({"model": "e5:query"}, encoder.encode_query(TEXTS)),
            ({"model": "e5:document"}, encoder.encode_document(TEXTS)),
            ({"model": "e5:query", "prompt_name": "query"}, encoder.encode_query(TEXTS)),
            ({"model": "e5"}, encoder.encode(TEXTS, prompt="")),
        ):
            assert_near(client.post("/similarity", json={"inputs": inputs, **body}).json(), vectors[1:] @ vectors[0])


def test_tokens(client: TestClient, encoder: Encoder) -> None:
    report = encoder.tokenize(TEXTS)
    tokens = client.post("/tokenize", json={"inputs": TEXTS}).json()
    assert [[token["id"] for token in row] for row in tokens] == [ids.tolist() for ids in report.ids]
    plain = [token for token in tokens[0] if not token["special"]]
    assert all(token["text"] == TEXTS[0][token["start"] : token["stop"]] for token in plain)
    with_prompt = client.post("/tokenize", json={"inputs": TEXTS[:1], "prompt_name": "query"}).json()[0]
    assert len(with_prompt) > len(tokens[0])
    bare = client.post("/tokenize", json={"inputs": TEXTS[:1], "add_special_tokens": False}).json()[0]
    assert [token["id"] for token in bare] == [token["id"] for token in plain]
    texts = client.post("/decode", json={"ids": [ids.tolist() for ids in report.ids]}).json()
    assert texts == TEXTS
    assert client.post("/v1/tokenize", json={"prompt": TEXTS[0]}).json()["count"] == len(tokens[0])
    assert client.post("/decode", json={"ids": [10**8]}).status_code == 422


def test_quantised_vectors_need_ranges(tmp_path: Path, encoder: Encoder) -> None:
    vectors = encoder.encode([*TEXTS, *map(str, range(50))], prompt="")
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    np.save(tmp_path / "ranges.npy", ranges)
    from gnomon import quantize

    kinds = ["int8", "uint8", "binary", "ubinary"]
    body = {"model": "x", "input_type": "classification", "texts": TEXTS, "embedding_types": kinds}
    with serve(ModelOptions(source=E5, ranges=tmp_path / "ranges.npy")) as client:
        answer = client.post("/v2/embed", json=body).json()["embeddings"]
        for kind in kinds:
            wanted = quantize(vectors[:3], kind, ranges if "int" in kind else None).values
            off = np.abs(np.array(answer[kind], int) - wanted.astype(int))
            assert off.max() <= (1 if "int" in kind else 0)  # a value at the edge of a step
    with serve() as client:
        answer = client.post("/v2/embed", json=body)
        assert answer.status_code == 400
        assert "--ranges" in answer.json()["message"]
        assert client.post("/v2/embed", json={**body, "embedding_types": ["ubinary"]}).status_code == 200


def test_the_operators_type_is_for_requests_that_name_none(client: TestClient) -> None:
    floats = embed(client, input=TEXTS)
    bits = np.packbits(floats > 0, axis=1).astype(int)
    with serve(ModelOptions(source=E5, vector_type="ubinary")) as packing:
        np.testing.assert_array_equal(embed(packing, input=TEXTS), bits)
        np.testing.assert_array_equal(packing.post("/embed", json={"inputs": TEXTS}).json(), bits)
        assert_near(embed(packing, input=TEXTS, encoding_format="float"), floats)
        assert_near(embed(packing, input=TEXTS, embedding_types="float"), floats)
        answer = packing.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "base64"}).json()
        assert_near([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer["data"]], floats)
        answer = packing.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "bytes"})
        assert_near(np.frombuffer(answer.content, "<f4").reshape(floats.shape), floats)
        answer = packing.post("/embed", json={"inputs": TEXTS}, headers={"accept": "application/octet-stream"})
        assert answer.headers["x-gnomon-dtype"] == "uint8"


def test_an_answer_names_the_fields_that_were_ignored(client: TestClient) -> None:
    unknown = {"dimension": 3, "input_typ": "query"}
    for path, body in {
        "/v1/embeddings": {"input": "a"},
        "/embeddings": {"input": "a", "modality": "text"},
        "/embed": {"inputs": "a"},
        "/embed_all": {"inputs": "a"},
        "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
        "/tokenize": {"inputs": "a"},
        "/v1/tokenize": {"prompt": "a"},
        "/decode": {"ids": [5]},
        "/detokenize": {"tokens": [5]},
        "/v1/embed": {"texts": ["a"]},
        "/v2/embed": {"texts": ["a"]},
        "/api/embed": {"input": "a"},
        "/api/embeddings": {"prompt": "a"},
    }.items():
        answer = client.post(path, json=body)
        assert (path, answer.status_code, "x-gnomon-warning" in answer.headers) == (path, 200, False)
        warning = client.post(path, json={**body, **unknown}).headers["x-gnomon-warning"]
        assert "'dimension', 'input_typ'" in warning
        strict = client.post(path, json={**body, **unknown, "strict": True})
        assert strict.status_code in (400, 422)
        assert "'dimension', 'input_typ'" in strict.text
    answer = client.post("/v1/embeddings", json={"input": "a", **unknown}, headers={"accept": "application/x-npy"})
    assert "'input_typ'" in answer.headers["x-gnomon-warning"]
    body = {"texts": ["a"], "input_type": "classification", **unknown}
    warnings = client.post("/v2/embed", json=body).json()["meta"]["warnings"]
    assert [word for word in ("'dimension'", "'classification'") if word not in " ".join(warnings)] == []


# ---- long texts, token ids, usage

LONG = "one two three four five six seven eight nine ten " * 60


def test_truncation_is_reported_and_chosen(client: TestClient, encoder: Encoder) -> None:
    body = {"input": [TEXTS[0], LONG], "report": True}
    answer = client.post("/v1/embeddings", json=body)
    assert answer.headers["x-gnomon-truncated"] == "1"
    report, wanted = answer.json()["report"], encoder.tokenize([TEXTS[0], LONG])
    assert [item["full_tokens"] for item in report] == wanted.counts
    assert [item["tokens"] for item in report] == [len(ids) for ids in wanted.ids]
    assert [item["truncated_at"] for item in report] == wanted.truncated_at
    assert answer.json()["usage"]["prompt_tokens"] == sum(len(ids) for ids in wanted.ids)
    right = encoder.encode(LONG, prompt="", on_truncate="silent")
    assert_near(embed(client, input=LONG)[0], right)
    assert_near(embed(client, input=LONG, truncate="mean")[0], encoder.encode(LONG, prompt="", on_truncate="mean"))
    assert_near(embed(client, input=LONG, on_truncate="mean")[0], encoder.encode(LONG, prompt="", on_truncate="mean"))
    assert not np.allclose(embed(client, input=LONG, truncate="left")[0], right, atol=1e-3)
    refused = client.post("/v1/embeddings", json={"input": [TEXTS[0], LONG], "truncate": False})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "input[1]"
    assert f"{wanted.counts[1]:,}" in error["message"]
    assert str(encoder.max_seq_length) in error["message"]
    assert client.post("/embed", json={"inputs": LONG, "truncate": False}).status_code == 422
    five = embed(client, input=LONG, truncate_prompt_tokens=5)[0]
    assert_near(five, encoder.with_max_seq_length(5).encode(LONG, prompt="", on_truncate="silent"))


def test_a_model_that_truncates_on_the_left_does_so_here() -> None:
    other = load_quietly()
    spec = replace(other.spec, tokenizer=replace(other.spec.tokenizer, truncation_side="left"))
    checkpoint = replace(other.checkpoint, spec=spec)
    with serve(load=lambda options: Encoder(checkpoint, engine=other.engine)) as client:
        for fields, encoder in (({}, Encoder(checkpoint, engine=other.engine)), ({"truncate": "right"}, other)):
            found = client.post("/v1/embeddings", json={"input": LONG, **fields}).json()["data"][0]["embedding"]
            np.testing.assert_allclose(found, encoder.encode(LONG, prompt="", on_truncate="silent"), atol=1e-5)


def test_a_side_alone_does_not_switch_truncation_on(client: TestClient) -> None:
    scores = {"inputs": {"source_sentence": "a", "sentences": [LONG]}}
    for side in ("left", "right"):
        body = {"inputs": LONG, "truncation_direction": side}
        vectors = client.post("/embed", json=body).json()
        assert_near(vectors, client.post("/embed", json={"inputs": LONG, "truncate": side}).json())
        score = client.post("/similarity", json={**scores, "truncation_direction": side}).json()
        assert_near(score, client.post("/similarity", json={**scores, "truncate": side}).json())
    with serve(truncate="error") as strict:
        for path, body in (("/embed", {"inputs": LONG}), ("/embed_all", {"inputs": LONG}), ("/similarity", scores)):
            for side in ("left", "right"):
                assert strict.post(path, json={**body, "truncation_direction": side}).status_code == 422
        assert strict.post("/embed", json={"inputs": LONG, "truncate": True}).status_code == 200
    with serve(truncate="mean") as whole:
        mean = whole.post("/embed", json={"inputs": LONG}).json()
        assert_near(whole.post("/embed", json={"inputs": LONG, "truncation_direction": "left"}).json(), mean)


def test_token_ids(encoder: Encoder) -> None:
    ids = encoder.tokenize(TEXTS).ids
    whole, bare = [each.tolist() for each in ids], [each[1:-1].tolist() for each in ids]
    wanted = encoder.encode(TEXTS, prompt="")
    with serve() as client:
        answer = client.post("/v1/embeddings", json={"input": whole})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "token_ids_not_text"
        assert "check_embedding_ctx_length" in answer.json()["error"]["message"]
        assert_near(client.post("/embed", json={"inputs": whole}).json(), wanted)
    with serve(token_ids="model") as client:
        assert_near(embed(client, input=whole), wanted)
        assert_near(embed(client, input=bare), wanted)
        answer = client.post("/v1/embeddings", json={"input": [*whole, [5] * 1000], "report": True}).json()
        rows = [{"tokens": len(each), "full_tokens": len(each), "truncated": False} for each in whole]
        rows.append({"tokens": encoder.max_seq_length, "full_tokens": 1002, "truncated": True})
        assert answer["report"] == rows
        answer = client.post("/v1/embeddings", json={"input": [[1, 10**7]]})
        assert answer.status_code == 400
        assert "10000000" in answer.json()["error"]["message"]


def test_usage_counts_every_token(client: TestClient, encoder: Encoder) -> None:
    texts = [f"text number {number} " * (number % 9 + 1) for number in range(200)]
    answer = client.post("/v1/embeddings", json={"input": texts, "input_type": "query"})
    wanted = sum(len(ids) for ids in encoder.tokenize(["query: " + text for text in texts]).ids)
    assert answer.json()["usage"] == {"prompt_tokens": wanted, "total_tokens": wanted}
    assert answer.headers["x-gnomon-tokens"] == str(wanted)


# ---- several models, fingerprints, reload


def test_several_models_and_aliases() -> None:
    models = ModelOptions(source=E5, names=("e5", "small")), ModelOptions(source=STELLA)
    with serve(*models) as client:
        assert embed(client, input="a", model="small").shape == embed(client, input="a", model="e5:query").shape
        assert embed(client, input="a", model="golden/stella_en_400M_v5", dimensions=256).shape == (1, 256)
        assert client.post("/v1/embeddings", json={"input": "a"}).json()["model"] == "e5"  # the first
        answer = client.post("/v1/embeddings", json={"input": "a", "model": "gpt"})
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"
        parts = ("'gpt'", "e5, small", "golden/stella_en_400M_v5", ":query", ":document")
        assert [part for part in parts if part not in answer.json()["error"]["message"]] == []
        names = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert names == ["e5", "small", "golden/stella_en_400M_v5"]
        shown = client.get("/v1/models/golden/stella_en_400M_v5").json()
        assert shown["dimensions"] == [256, 512, 1024]
        assert client.get("/v1/models/none").status_code == 404


def test_a_wrong_end_of_a_served_name_is_an_error_also_with_one_model(encoder: Encoder) -> None:
    with serve(ModelOptions(source=E5, names=("e5", "org/e5:1"))) as client:
        assert_near(embed(client, input=TEXTS, model="e5:passage"), encoder.encode_document(TEXTS))
        assert_near(embed(client, input=TEXTS, model="org/e5:1:query"), encoder.encode_query(TEXTS))
        assert_near(embed(client, input=TEXTS, model="text-embedding-3-small"), encoder.encode(TEXTS, prompt=""))
        for name, near in (
            ("e5:qury", "e5:query"),
            ("e5:QUERY", "e5:query"),
            ("org/e5:1:documnt", "org/e5:1:document"),
        ):
            answer = client.post("/v1/embeddings", json={"input": "a", "model": name})
            assert answer.status_code == 404
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("model_not_found", "model")
            parts = (repr(name), ":query", ":document", ":passage", f"Did you mean {near!r}?")
            assert [part for part in parts if part not in error["message"]] == []
        statuses = {
            "/openai/deployments/e5:qury/embeddings": ({"input": "a"}, 404),
            "/embeddings": ({"input": "a", "model": "e5:qury", "modality": "text"}, 400),  # infinity's
            "/models/e5:qury/pipeline/feature-extraction": ({"inputs": "a"}, 404),
            "/v2/embed": ({"texts": ["a"], "model": "e5:qury", "input_type": "classification"}, 404),
            "/api/embed": ({"input": "a", "model": "e5:qury"}, 404),
            "/similarity": ({"inputs": {"source_sentence": "a", "sentences": ["b"]}, "model": "e5:qury"}, 404),
            "/tokenize": ({"inputs": "a", "model": "e5:qury"}, 404),
        }
        for path, (body, status) in statuses.items():
            answer = client.post(path, json=body)
            assert (path, answer.status_code) == (path, status)
            assert "e5:query" in answer.text
        assert client.get("/v1/models/e5:qury").status_code == 404
        assert client.post("/api/embed", json={"input": "a", "model": "e5:query:latest"}).status_code == 200


def test_the_models_own_prompts_may_follow_its_name() -> None:
    with load_quietly(STELLA) as encoder:
        spec = replace(encoder.spec, prompts={"s2s_query": "Instruct: ", "query": "q: "})

        def load(options: ModelOptions) -> Encoder:
            return Encoder(replace(encoder.checkpoint, spec=spec), engine=load_quietly(STELLA).engine)

        with serve(ModelOptions(source=STELLA, names=("stella",)), load=load) as client:
            wanted = embed(client, input=TEXTS, prompt_name="s2s_query")
            assert not np.allclose(wanted, embed(client, input=TEXTS))
            assert_near(embed(client, input=TEXTS, model="stella:s2s_query"), wanted)
            assert_near(embed(client, input=TEXTS, model="other:s2s_query"), wanted)
            answer = client.post("/v1/embeddings", json={"input": "a", "model": "stella:s2s_qery"})
            assert "Did you mean 'stella:s2s_query'?" in answer.json()["error"]["message"]


def test_the_end_of_a_name_and_a_field_may_not_choose_different_prompts(encoder: Encoder) -> None:
    queries = encoder.encode_query(TEXTS)
    with serve(ModelOptions(source=E5, names=("e5",))) as client:
        for model in ("e5", "unknown"):
            for field, same, other in (
                ("input_type", "search_query", "document"),
                ("task", "retrieval.query", "classification"),  # of which E5 has no prompt
                ("prompt_name", "query", "document"),
                ("prompt", "query: ", ""),
            ):
                assert_near(embed(client, input=TEXTS, model=f"{model}:query", **{field: same}), queries)
                body = {"input": TEXTS, "model": f"{model}:query", field: other}
                answer = client.post("/v1/embeddings", json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value"), body
                assert repr(f"{model}:query") in answer.json()["error"]["message"]
                assert answer.json()["error"]["param"] == field.replace("task", "input_type")
        for path, body in (
            ("/embed", {"inputs": "a", "prompt_name": "document"}),
            ("/embed_all", {"inputs": "a", "input_type": "passage"}),
            ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "prompt_name": "document"}),
        ):
            assert client.post(path, json={**body, "model": "e5:query"}).status_code == 422
        body = {"input": "a", "prompt_name": "document"}
        assert client.post("/openai/deployments/e5:query/embeddings", json=body).status_code == 400
        body = {"input": "a", "model": "e5:query", "prompt_name": "nothing"}
        assert client.post("/v1/embeddings", json=body).json()["error"]["code"] == "prompt_not_found"


def test_an_answer_has_the_name_that_the_request_used() -> None:
    with serve(ModelOptions(source=E5, names=("text-embedding-3-small", "e5"))) as client:
        for sent, answered in (
            ("e5", "e5"),
            ("e5:query", "e5"),
            ("text-embedding-3-small", "text-embedding-3-small"),
            ("ada", "text-embedding-3-small"),
            ("ada:query", "text-embedding-3-small"),
            (E5, E5),  # the source is a name, too
            ("", "text-embedding-3-small"),
            (None, "text-embedding-3-small"),
        ):
            answer = client.post("/v1/embeddings", json={"input": "a", "model": sent})
            assert (answer.json()["model"], answer.headers["openai-model"]) == (answered, answered)
            assert client.post("/api/embed", json={"input": "a", "model": sent}).json()["model"] == answered
            answer = client.post("/v1/embeddings", json={"input": "a", "model": sent, "encoding_format": "bytes"})
            assert answer.headers["x-gnomon-model"] == answered
        answer = client.post("/openai/deployments/e5:query/embeddings", json={"input": "a"})
        assert answer.json()["model"] == "e5"


def test_a_path_names_the_model_where_the_body_does_not(encoder: Encoder) -> None:
    models = ModelOptions(source=STELLA, names=("a",)), ModelOptions(source=E5, names=("e5", "org/e5"))
    scores = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}}
    with serve(*models) as client:
        for name, vectors in {
            "e5": encoder.encode(TEXTS, prompt=""),
            "org/e5": encoder.encode(TEXTS, prompt=""),
            "e5:query": encoder.encode_query(TEXTS),
        }.items():
            path = f"/models/{name}/pipeline/feature-extraction"
            assert_near(client.post(path, json={"inputs": TEXTS}).json(), vectors)
            assert_near(client.post(path, json=scores).json(), vectors[1:] @ vectors[0])
            answer = client.post(f"/openai/deployments/{name}/embeddings", json={"input": TEXTS}).json()
            assert_near([item["embedding"] for item in answer["data"]], vectors)
        path = "/models/a/pipeline/feature-extraction"
        assert_near(client.post(path, json={"inputs": TEXTS, "model": "e5"}).json(), encoder.encode(TEXTS, prompt=""))
        for body in ({"inputs": "a"}, scores):
            answer = client.post("/models/none/pipeline/feature-extraction", json=body)
            assert answer.status_code == 404
            assert "'none'" in answer.json()["error"]


def test_two_models_with_one_name_are_refused() -> None:
    models = ModelOptions(source=E5, names=("x",)), ModelOptions(source=STELLA, names=("x",))
    with serve(*models) as client, pytest.raises(InputError, match="'x'"):
        raise client.app_.ended.result()  # pyright: ignore


def test_a_fingerprint_may_be_required(client: TestClient, encoder: Encoder) -> None:
    answer = client.post("/v1/embeddings", json={"input": "a", "require_fingerprint": encoder.fingerprint})
    assert answer.headers["x-gnomon-fingerprint"] == encoder.fingerprint
    answer = client.post("/v1/embeddings", json={"input": "a", "require_fingerprint": "0" * 64})
    assert answer.status_code == 409
    assert encoder.fingerprint in answer.json()["error"]["message"]


def test_reload_under_load_loses_no_request() -> None:
    sources = iter([E5, STELLA, STELLA])

    def load(options: ModelOptions) -> Encoder:
        return load_quietly(next(sources))

    with serve(ModelOptions(source="x"), load=load, admin_key="admin") as client:
        assert client.post("/admin/reload").status_code == 403
        statuses, fingerprints = list[int](), list[str]()
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                answer = client.post("/v1/embeddings", json={"input": [TEXTS[0]] * 3})
                statuses.append(answer.status_code)
                fingerprints.append(answer.headers["x-gnomon-fingerprint"])

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: len(statuses) > 5)
        answer = client.post("/admin/reload", headers={"authorization": "Bearer admin"})
        assert answer.status_code == 200, answer.text
        now = len(statuses)
        wait_until(lambda: len(statuses) > now + 5)
        over.set()
        thread.join()
        assert set(statuses) == {200}
        flips = sum(a != b for a, b in pairwise(fingerprints))
        assert flips == 1
        assert list(answer.json()["models"].values()) == [fingerprints[-1]]


def test_a_reload_that_fails_leaves_the_model_as_it_is() -> None:
    sources = iter([E5, "/nowhere"])
    with serve(ModelOptions(source="x"), load=lambda options: load_quietly(next(sources)), admin_key="k") as client:
        answer = client.post("/admin/reload", headers={"authorization": "Bearer k"})
        assert answer.status_code == 500
        assert "goes on" in answer.json()["error"]["message"]
        assert embed(client, input="a").shape[0] == 1


def test_a_model_whose_files_are_the_same_need_not_be_loaded_again(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(E5, folder)
    with serve(ModelOptions(source=str(folder))) as client:
        (model,) = client.app_.service.models  # pyright: ignore
        assert not model.has_changed()
        (folder / "README.md").write_text("# another")
        assert model.has_changed()


# ---- keys, probes, methods, limits


def test_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# team a\nfile-key\n")
    with serve(api_keys=(KEY,), api_key_file=file, admin_key="admin") as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": ""}, {"authorization": "Bearer None"}):
            for path in ("/v1/embeddings", "/embed", "/v2/embed", "/api/embed", "/"):
                answer = client.post(path, json={"input": "a", "inputs": "a"}, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert KEY not in answer.text
            assert client.get("/v1/models", headers=headers).status_code == 401
            assert client.get("/info", headers=headers).status_code == 401
        good = ({"authorization": f"Bearer {KEY}"}, {"authorization": KEY}, {"api-key": KEY}, {"x-api-key": "file-key"})
        for headers in (*good, {"authorization": "bearer file-key"}):
            assert client.post("/embed", json={"inputs": "a"}, headers=headers).status_code == 200
        for path in ("/health", "/ready", "/startup", "/metrics", "/ping", "/livez", "/"):
            assert client.get(path).status_code == 200
        file.write_text("another\n")
        client.post("/admin/reload", headers={"authorization": "Bearer admin"})
        assert client.post("/embed", json={"inputs": "a"}, headers={"x-api-key": "file-key"}).status_code == 401
        assert client.post("/embed", json={"inputs": "a"}, headers={"x-api-key": "another"}).status_code == 200


def test_keys_that_clients_send_without_need_do_no_harm(client: TestClient) -> None:
    for value in ("", "Bearer None", "Bearer x", "nonsense"):
        assert client.post("/embed", json={"inputs": "a"}, headers={"authorization": value}).status_code == 200


def test_probes_while_it_loads_and_while_it_drains() -> None:
    gate = threading.Event()

    def load(options: ModelOptions) -> Encoder:
        assert gate.wait(30)
        return load_quietly()

    app = App(ServeOptions(models=(ModelOptions(source=E5),), warm_up=False), load=load)
    with TestClient(app) as client:
        for path in ("/startup", "/ready", "/health", "/readyz"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
        assert client.get("/livez").status_code == 200
        answer = client.post("/v1/embeddings", json={"input": "a"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert answer.headers["x-should-retry"] == "true"
        assert client.get("/").status_code == 503
        assert client.get("/", headers={"accept": "text/html"}).headers["content-type"].startswith("text/html")
        gate.set()
        wait_until(lambda: app.state == "ready")
        for path in ("/startup", "/ready", "/health", "/livez"):
            assert client.get(path).json()["status"] == "ok"
        app.state = "draining"
        codes = {path: client.get(path).status_code for path in ("/startup", "/ready", "/health", "/livez")}
        assert codes == {"/startup": 200, "/ready": 503, "/health": 200, "/livez": 200}
        answer = client.post("/embed", json={"inputs": "a"})
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"


def test_methods_and_unknown_paths(client: TestClient) -> None:
    answer = client.get("/embed")
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
    assert answer.json()["error_type"] == "Validation"
    assert client.options("/v1/embeddings").status_code == 204
    assert client.head("/").status_code == client.head("/health").status_code == 200
    answer = client.post("/v2/nothing", json={})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_other_kinds_of_models_are_refused_in_each_dialect(client: TestClient) -> None:
    documents = {"query": "a", "documents": ["b"], "model": "x"}
    assert client.post("/rerank", json={"query": "a", "texts": ["b"]}).status_code == 424
    assert client.post("/predict", json={"inputs": "a"}).json()["error_type"] == "Backend"
    assert client.post("/embed_sparse", json={"inputs": "a"}).status_code == 424
    assert "reranker" in client.post("/rerank", json=documents).json()["error"]["message"]
    assert "reranker" in client.post("/v1/rerank", json=documents).json()["detail"]
    assert "reranker" in client.post("/v2/rerank", json=documents).json()["message"]
    assert client.post("/classify", json={"input": ["a"]}).status_code == 400


def test_bodies_have_a_limit() -> None:
    with serve(max_body_bytes=1000, max_inputs=3) as client:
        answer = client.post("/v1/embeddings", content=b"x" * 1001)
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
        assert client.post("/v1/embeddings", content=(b"x" * 300 for _ in range(4))).status_code == 413
        answer = client.post("/v1/embeddings", json={"input": ["a"] * 4})
        assert answer.status_code == 400
        assert client.post("/embed", json={"inputs": ["a"] * 4}).status_code == 422
        assert embed(client, input=["a"] * 3).shape[0] == 3


class Upload:
    """A request whose body comes part by part, in the loop of the application.

    Args:
        parts: of the body; the last one comes once `release` was called.
    """

    def __init__(self, client: TestClient, *parts: bytes, path: str = "/embed", headers: dict[str, str] | None = None):
        self.client, self.parts, self.path = client, [*parts], path
        self.headers = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self.messages = list[Any]()
        self.future: Any = client.portal.start_task_soon(self._run)  # pyright: ignore

    async def _run(self) -> None:
        self.gate = asyncio.Event()
        scope = {"type": "http", "method": "POST", "path": self.path, "headers": self.headers, "client": ("::1", 1)}
        await self.client.app_(scope, self._receive, self._send)  # pyright: ignore

    async def _receive(self) -> dict[str, Any]:
        if not self.parts:
            await asyncio.Event().wait()  # the client stays
        if len(self.parts) == 1:
            await self.gate.wait()
        return {"type": "http.request", "body": self.parts.pop(0), "more_body": bool(self.parts)}

    async def _send(self, message: Any) -> None:
        self.messages.append(message)

    def release(self) -> None:
        self.client.portal.call(self.gate.set)  # pyright: ignore

    @property
    def status(self) -> int:
        """Once it is answered."""
        self.future.result(30)
        return self.messages[0]["status"]


def test_answers_of_bulk_requests_leave_room_for_queries(monkeypatch: pytest.MonkeyPatch, encoder: Encoder) -> None:
    monkeypatch.setattr("gnomon.serve.memory.MAX_ANSWER_BYTES", 8 * encoder.dim * 17)  # of eight texts
    gate = threading.Event()
    with serve_failing() as (client, engine), ThreadPoolExecutor(2) as threads:

        def hold(packed: Packed, pooled: Vectors) -> Vectors:
            assert gate.wait(30)
            return pooled

        engine.act = hold
        service = client.app_.service  # pyright: ignore
        bulk = threads.submit(client.post, "/v1/embeddings", json={"input": list("abcde"), "priority": 1})
        wait_until(lambda: service.memory.answer_bytes > 0)
        answer = client.post("/v1/embeddings", json={"input": ["f", "g"], "priority": 1})
        assert answer.status_code == 429
        assert "bulk" in answer.json()["error"]["message"]
        query = threads.submit(client.post, "/v1/embeddings", json={"input": ["f", "g"]})
        wait_until(lambda: service.memory.answer_bytes == 7 * encoder.dim * 17)
        assert client.post("/v1/embeddings", json={"input": ["f", "g"]}).status_code == 429
        gate.set()
        assert bulk.result(30).status_code == query.result(30).status_code == 200
        assert service.memory.answer_bytes == 0


def test_bodies_under_way_have_a_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnomon.serve.memory.MAX_BODIES_BYTES", 300_000)
    with serve() as client:
        service = client.app_.service  # pyright: ignore
        body = json.dumps({"inputs": "a " * 100_000}).encode()
        first = Upload(client, body[:150_000], body[150_000:])
        wait_until(lambda: service.memory.body_bytes == 150_000)
        second = Upload(client, body[:160_000], body[160_000:])
        wait_until(lambda: len(second.parts) == 1)
        second.release()  # its rest is read, and dropped
        assert second.status == 429
        answer = client.post("/v1/embeddings", content=body)
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
        assert client.post("/embed", json={"inputs": "a " * 30_000}).status_code == 200  # a small one
        first.release()
        assert first.status == 200
        assert service.memory.body_bytes == 0
        assert client.post("/embed", content=body).status_code == 200
        monkeypatch.setattr("gnomon.serve.memory.MAX_BODIES_BYTES", 100_000)
        assert client.post("/embed", content=body).status_code == 200  # one alone may have more


def test_a_body_counts_as_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnomon.serve.memory.MAX_BODIES_BYTES", 300_000)
    body = json.dumps({"inputs": "a " * 100_000}).encode()
    with serve() as client:
        first = Upload(client, body[:150_000], body[150_000:])
        wait_until(lambda: client.app_.service.memory.body_bytes == 150_000)  # pyright: ignore
        answer = client.post("/embed", content=gzip.compress(body), headers={"content-encoding": "gzip"})
        assert answer.status_code == 429
        first.release()
        assert first.status == 200


LARGE = json.dumps({"inputs": ["a " * 150_000]}).encode()


@pytest.mark.parametrize(
    ("body", "encoding", "thread"),
    [
        (b'{"inputs": "a"}', "identity", ""),
        (LARGE, "identity", "gnomon-tokenizing"),
        (gzip.compress(LARGE, mtime=0), "gzip", "gnomon-tokenizing"),
        (gzip.compress(b'{"inputs": "a"}', mtime=0), "gzip", "gnomon-tokenizing"),
    ],
)
def test_what_is_large_is_read_beside_the_event_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, body: bytes, encoding: str, thread: str
) -> None:
    threads = dict[str, str]()

    def watch(module: str, name: str) -> None:
        function = getattr(import_module(module), name)

        def watched(*args: Any) -> Any:
            threads[name] = threading.current_thread().name
            return function(*args)

        monkeypatch.setattr(f"{module}.{name}", watched)

    loop: str = client.portal.call(lambda: threading.current_thread().name)  # pyright: ignore
    watch("gnomon.serve.visit", "decompress")
    watch("gnomon.serve.visit", "parse_body")
    watch("gnomon.serve.wire.tei", "parse_embed")
    assert client.post("/embed", content=body, headers={"content-encoding": encoding}).status_code == 200
    assert {name.rpartition("_")[0] for name in threads.values()} == {thread or loop.rpartition("_")[0]}
    assert threads.keys() == {"decompress", "parse_body", "parse_embed"}


def test_many_ids_are_read_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = list[str]()

    def decode(ids: Any) -> str:
        threads.append(threading.current_thread().name)
        return "a cat"

    with serve() as client:
        service = client.app_.service  # pyright: ignore
        service.options = replace(service.options, token_ids="cl100k")
        service.decode_cl100k = decode
        cat = embed(client, input=["a cat"])
        assert_near(embed(client, input=[[1], [2]]), [cat[0]] * 2)
        assert not any("gnomon" in name for name in threads)
        assert_near(embed(client, input=[[1] * 10_000]), cat)
        assert threads[-1].startswith("gnomon-tokenizing")


def test_a_body_takes_no_longer_than_the_server_gives_any_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnomon.serve.exchange.REST_SECONDS", 0.05)
    with serve(request_timeout=0.05) as client:
        upload = Upload(client, b'{"inputs": ', b'"a"}', headers={"x-request-timeout": "600"})
        assert upload.status == 504


def test_empty_texts() -> None:
    with serve() as client:
        answer = client.post("/v1/embeddings", json={"input": ["a", "", "c"]})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "input[1]"
        assert client.post("/embed", json={"inputs": []}).status_code == 400
    with serve(empty="embed") as client:
        assert embed(client, input=["a", ""]).shape[0] == 2


@pytest.mark.parametrize(
    "body", [b"{", b"", b"[]", b'{"input": "\\ud800"}', b'{"input": 5}', b'{"input": [1.5]}', b"\xff"]
)
def test_a_broken_body_is_the_clients_mistake_and_the_connection_goes_on(client: TestClient, body: bytes) -> None:
    for path in ("/v1/embeddings", "/embed", "/v1/embed", "/v2/embed", "/api/embed", "/", "/similarity", "/tokenize"):
        answer = client.post(path, content=body)
        assert 400 <= answer.status_code < 500, (path, answer.text)
        assert answer.headers["content-type"] == "application/json"
    assert client.post("/embed", json={"inputs": "a"}).status_code == 200


def test_cors_is_off_unless_chosen(client: TestClient) -> None:
    headers = {"origin": "https://x.org", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in client.post("/embed", json={"inputs": "a"}, headers=headers).headers
    with serve(cors_origins=("https://x.org",)) as open_client:
        answer = open_client.options("/embed", headers=headers | {"access-control-request-headers": "authorization"})
        assert answer.headers["access-control-allow-origin"] == "https://x.org"
        assert "authorization" in answer.headers["access-control-allow-headers"]


def test_a_prefix_of_urls(encoder: Encoder) -> None:
    with serve(url_prefix="/v9") as client:
        assert client.post("/v9/embed", json={"inputs": "a"}).status_code == 200
        assert client.post("/v9/v1/embeddings", json={"input": "a"}).status_code == 200
        assert client.get("/health").status_code == 200


# ---- failures


class FailingEngine(Engine):
    """Another engine, until it fails in a way that a test chooses."""

    name = identity = "failing"

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        self.padding, self.dtype = inner.padding, inner.dtype
        self.act: Callable[[Packed, Vectors], Vectors] = lambda packed, pooled: pooled

    def budget(self, total_tokens: int) -> int:
        return self.inner.budget(total_tokens)

    def pool(self, packed: Packed) -> Vectors:
        return self.act(packed, self.inner.pool(packed))

    def states(self, packed: Packed) -> Vectors:
        return self.inner.states(packed)


@contextmanager
def serve_failing(**options: Any) -> Iterator[tuple[TestClient, FailingEngine]]:
    engines = list[FailingEngine]()

    def load(model: ModelOptions) -> Encoder:
        encoder = load_quietly()
        engines.append(FailingEngine(encoder.engine))
        return Encoder(encoder.checkpoint, engine=engines[0])

    with serve(load=load, cache_bytes=0, **options) as client:
        yield client, engines[0]


def test_nan_is_an_error_that_names_its_input() -> None:
    with serve_failing() as (client, engine):

        def poison(packed: Packed, pooled: Vectors) -> Vectors:
            pooled = pooled.copy()
            pooled[packed.lengths_B > 20] = np.nan
            return pooled

        engine.act = poison
        bad = {"input": [TEXTS[0], "word " * 40, TEXTS[1]]}
        answer = client.post("/v1/embeddings", json=bad)
        assert answer.status_code == 500
        assert answer.json()["error"]["param"] == "input[1]"
        assert answer.headers["x-should-retry"] == "false"
        assert client.post("/embed", json={"inputs": "word " * 40}).status_code == 424
        assert embed(client, input=TEXTS).shape[0] == 3
        assert client.get("/ready").status_code == 200


def test_an_engine_that_died_shows_and_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    reopen = Encoder.reopen

    def reopen_later(encoder: Encoder) -> Encoder:
        assert gate.wait(30)
        return reopen(encoder)

    monkeypatch.setattr(Encoder, "reopen", reopen_later)
    with serve_failing() as (client, engine):

        def die(packed: Packed, pooled: Vectors) -> Vectors:
            raise RuntimeError("device lost")

        engine.act = die
        for _ in range(3):
            assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 500
        wait_until(lambda: client.get("/ready").status_code == 503)
        assert client.get("/health").status_code == 503
        assert client.get("/livez").status_code == 200
        answer = client.post("/v1/embeddings", json={"input": "a"})
        assert answer.status_code == 503
        assert "device lost" in answer.json()["error"]["message"]
        gate.set()
        wait_until(lambda: client.get("/ready").status_code == 200)
        assert embed(client, input=TEXTS).shape[0] == 3
        assert 'gnomon_engine_restarts_total{model="golden/multilingual-e5-small"} 1.0' in client.get("/metrics").text


def test_a_failed_engine_refuses_the_requests_for_its_own_model(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def reopen_later(encoder: Encoder) -> Encoder:
        assert gate.wait(30)
        return encoder

    def load(options: ModelOptions) -> Encoder:
        encoder = load_quietly()
        engine = FailingEngine(encoder.engine)
        return Encoder(encoder.checkpoint, engine=engine)

    def die(packed: Packed, pooled: Vectors) -> Vectors:
        raise RuntimeError("device lost")

    monkeypatch.setattr(Encoder, "reopen", reopen_later)
    models = ModelOptions(source=E5, names=("a",)), ModelOptions(source=E5, names=("b",))
    with serve(*models, load=load, cache_bytes=0) as client:
        service: Service = client.app_.service  # pyright: ignore
        broken = service.models.find_known("a")
        broken.encoder.engine.act = die  # pyright: ignore

        def ask(operation: str, model: str) -> Any:
            request: Any = EmbedRequest(inputs=["x"], model=model)
            if operation == "similarity":
                request = SimilarityRequest(source="x", texts=["y"], model=model)
            call = partial(compute_states, service) if operation == "states" else getattr(service, operation)
            return client.portal.call(call, request, Call())  # pyright: ignore[reportOptionalMemberAccess]

        for _ in range(3):
            with pytest.raises(RequestError, match="device lost"):
                ask("embed", "a")
        wait_until(lambda: not broken.batcher.is_ok)
        for operation in ("embed", "similarity", "states"):
            with pytest.raises(RequestError, match=r"engine of a is failed: .*device lost") as caught:
                ask(operation, "a")
            assert (caught.value.kind, caught.value.retry_after) == ("unavailable", 5)
            assert ask(operation, "b")
        request = TokenizeRequest(texts=["x"], model="a")
        assert client.portal.call(tokenize, service, request, Call())  # pyright: ignore[reportOptionalMemberAccess]
        gate.set()


def test_a_request_that_takes_too_long() -> None:
    with serve_failing() as (client, engine):
        gate = threading.Event()

        def hold(packed: Packed, pooled: Vectors) -> Vectors:
            assert gate.wait(30)
            return pooled

        engine.act = hold
        for name in ("x-request-timeout", "x-stainless-read-timeout"):
            answer = client.post("/v1/embeddings", json={"input": "a"}, headers={name: "0.05"})
            assert answer.status_code == 504
            assert answer.headers["x-should-retry"] == "true"
        gate.set()
        assert embed(client, input="a").shape[0] == 1


def test_a_self_test_that_fails_ends_the_server() -> None:
    def load(model: ModelOptions) -> Encoder:
        encoder = load_quietly()
        engine = FailingEngine(encoder.engine)
        engine.act = lambda packed, pooled: pooled * np.nan
        return Encoder(encoder.checkpoint, engine=engine)

    with serve(load=load) as client, pytest.raises(ArithmeticError, match="self-test"):
        raise client.app_.ended.result()  # pyright: ignore


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dim": 7}, InputError),
        ({"default_prompt_name": "none"}, InputError),
        ({"source": "/nowhere"}, ModelError),
        ({"pooling": "median"}, InputError),
    ],
)
def test_a_model_that_cannot_be_served_ends_the_server(options: dict[str, Any], error: type[Exception]) -> None:
    with serve(ModelOptions(**{"source": E5, **options})) as client, pytest.raises(error):
        raise client.app_.ended.result()  # pyright: ignore


def test_a_fault_of_ours_is_no_traceback(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    service = client.app_.service  # pyright: ignore

    async def fail(*args: Any) -> None:
        raise ZeroDivisionError("a secret text")

    monkeypatch.setattr(service, "embed", fail)
    answer = client.post("/v1/embeddings", json={"input": "a"})
    assert answer.status_code == 500
    assert "ZeroDivisionError" in answer.json()["error"]["message"]
    assert "a secret text" not in answer.text


# ---- metrics and logs


def read_metrics(client: TestClient) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_metrics_are_the_clients_own_counts(encoder: Encoder) -> None:
    with serve() as client:
        for number in range(5):
            embed(client, input=TEXTS[: number % 3 + 1])
        client.post("/v1/embeddings", json={"input": "", "unknown": 1})
        client.post("/v1/embeddings", json={"input": "a", "unknown": 1})
        client.post("/v1/embeddings", content=b"{")
        metrics = read_metrics(client)
        name = "golden/multilingual-e5-small"
        assert metrics[f'gnomon_inputs_total{{model="{name}"}}'] == 1 + 2 + 3 + 1 + 2 + 1
        counts = [len(ids) for ids in encoder.tokenize([*TEXTS, "a"]).ids]
        tokens = 5 * counts[0] + 3 * counts[1] + counts[2] + counts[3]
        assert metrics[f'gnomon_tokens_total{{model="{name}"}}'] == tokens
        assert metrics[f'gnomon_requests_total{{code="200",model="{name}",route="/v1/embeddings"}}'] == 6
        assert metrics['te_request_success{method="batch"}'] == 3
        assert metrics['te_request_success{method="single"}'] == 3
        assert metrics['gnomon_rejected_total{reason="empty"}'] == 1
        assert metrics['te_request_failure{err="validation"}'] == 2
        assert metrics["gnomon_unknown_fields_total"] == 2
        assert metrics['http_requests_total{handler="/v1/embeddings",method="POST",status="4xx"}'] == 2
        assert metrics["te_request_duration_count"] == 6
        assert metrics[f'gnomon_model_loaded{{fingerprint="{encoder.fingerprint}",model="{name}"}}'] == 1
        assert metrics["gnomon_cache_hits_total"] == 9 - 3  # the first text four times, the second twice
        assert metrics['gnomon_request_seconds_count{lane="interactive"}'] == 6
        assert metrics["process_resident_memory_bytes"] > 10**6


def test_logs_name_the_request_and_hold_no_text_and_no_key(caplog: pytest.LogCaptureFixture) -> None:
    secret = "a text that nobody may read"
    with serve(api_keys=(KEY,)) as client, caplog.at_level(logging.DEBUG):
        logging.getLogger("gnomon.serve").propagate = True
        headers = {"authorization": f"Bearer {KEY}", "x-request-id": "my-request"}
        answer = client.post("/v1/embeddings", json={"input": secret}, headers=headers)
        assert answer.headers["x-request-id"] == "my-request"
        client.post("/v1/embeddings", json={"input": [secret, ""]}, headers=headers)
        client.post("/v1/embeddings", json={"input": secret}, headers={"authorization": f"Bearer {KEY}x"})
        lines = [str(record.__dict__) for record in caplog.records]
    assert any("my-request" in line for line in lines)
    assert not any(secret in line or KEY in line for line in lines)


def test_a_request_id_is_made_where_the_clients_own_is_none(client: TestClient) -> None:
    for value in ("x" * 500, "a\tb"):
        answer = client.post("/embed", json={"inputs": "a"}, headers={"x-request-id": value})
        assert answer.headers["x-request-id"] != value
        assert len(answer.headers["x-request-id"]) == 32


def test_no_store_passes_the_cache_by() -> None:
    with serve() as client:
        for _ in range(2):
            answer = client.post("/embed", json={"inputs": "a"}, headers={"cache-control": "no-store"})
            assert answer.status_code == 200
        assert read_metrics(client)["gnomon_cache_hits_total"] == 0
        assert not len(client.app_.service.cache)  # pyright: ignore


def test_the_models_prompts_and_dimensions_are_listed(client: TestClient, encoder: Encoder) -> None:
    info = client.get("/info").json()
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert info["max_input_length"] == encoder.max_seq_length
    assert info["fingerprint"] == encoder.fingerprint
    assert info["prompts"] == dict(encoder.prompts)
    assert json.loads(client.get("/api/tags").text)["models"][0]["name"].startswith("golden/multilingual-e5-small")


def test_overload_is_429_with_the_time_to_wait(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise RequestError("busy", "overloaded", retry_after=0.3)

    (model,) = client.app_.service.models  # pyright: ignore
    monkeypatch.setattr(model.batcher, "check_room", refuse)
    answer = client.post("/v1/embeddings", json={"input": "a"})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["retry-after-ms"] == "300"
    assert client.post("/embed", json={"inputs": "a"}).json()["error_type"] == "Overloaded"

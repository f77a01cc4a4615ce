"""What the classes of all frameworks have in common; no framework is needed."""

import importlib
import inspect
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gnomon import Encoder
from gnomon.errors import ExtraError, InputError, SpaceError
from gnomon.install import advise_install
from gnomon.integrations.embedder import Embedder, LoadArguments, check_fingerprint, describe_origin, load_encoder

TEXTS = ["how to boil an egg", "Put it into hot water.", ""]
E5, STELLA = "multilingual-e5-small", "stella_en_400M_v5"


@pytest.fixture
def encoder(golden_folder: Callable[[str], Path]) -> Encoder:
    return Encoder.load(golden_folder(E5), device="cpu")


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("chroma", "chromadb", "chroma"),
    ],
)
def test_a_missing_framework_names_its_extra(
    module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"gnomon.integrations.{module}", raising=False)
    with pytest.raises(ExtraError) as caught:
        importlib.import_module(f"gnomon.integrations.{module}")
    assert advise_install(extra) in str(caught.value)


def test_load_arguments_are_those_of_load() -> None:
    parameters = [name for name, p in inspect.signature(Encoder.load).parameters.items() if p.kind == p.KEYWORD_ONLY]
    assert [*LoadArguments.__annotations__] == parameters


def test_queries_and_documents_get_their_prompts(encoder: Encoder) -> None:
    embedder = Embedder(encoder)
    np.testing.assert_array_equal(embedder.embed_queries(TEXTS), encoder.encode_query(TEXTS))
    np.testing.assert_array_equal(embedder.embed_documents(TEXTS), encoder.encode_document(TEXTS))
    assert not np.allclose(embedder.embed_queries(TEXTS), embedder.embed_documents(TEXTS))
    swapped = Embedder(encoder, query_prompt_name="document", document_prompt_name="query")
    np.testing.assert_array_equal(swapped.embed_queries(TEXTS), encoder.encode_document(TEXTS))
    np.testing.assert_array_equal(swapped.embed_documents(TEXTS), encoder.encode_query(TEXTS))


def test_dim_chooses_a_head(golden_folder: Callable[[str], Path]) -> None:
    encoder = Encoder.load(golden_folder(STELLA), device="cpu")
    for dim in encoder.dims:
        vectors_BD = Embedder(encoder, dim=dim).embed_documents(TEXTS)
        np.testing.assert_array_equal(vectors_BD, encoder.encode_document(TEXTS, dim=dim))


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"dim": 7}, "7"),
        ({"query_prompt_name": "qurey"}, "qurey"),
        ({"document_prompt_name": "passage"}, "passage"),
        ({"on_truncate": "ignore"}, "ignore"),
    ],
)
def test_what_the_model_does_not_have_is_refused_at_once(encoder: Encoder, arguments: dict, value: str) -> None:
    with pytest.raises(InputError, match=value):
        Embedder(encoder, **arguments)


@pytest.mark.parametrize(
    ("texts", "message"), [("one text", "one text"), (["a", None], "text 1"), (["a", 3], "text 1")]
)
def test_wrong_texts(encoder: Encoder, texts: object, message: str) -> None:
    for embed in (Embedder(encoder).embed_queries, Embedder(encoder).embed_documents):
        with pytest.raises(InputError, match=message):
            embed(texts)  # pyright: ignore


def test_no_texts(encoder: Encoder) -> None:
    assert Embedder(encoder).embed_documents([]).shape == (0, encoder.dim)


def test_an_encoder_takes_no_arguments(encoder: Encoder) -> None:
    assert load_encoder(encoder) is encoder
    with pytest.raises(InputError, match="threads"):
        load_encoder(encoder, threads=1)
    with pytest.raises(TypeError, match="treads"):
        load_encoder(str(encoder.checkpoint.source.folder), treads=1)  # pyright: ignore


def test_an_origin_opens_the_model_again(golden_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """From another folder; as JSON; without the token."""
    folder = golden_folder(E5)
    monkeypatch.chdir(folder.parent)
    arguments: LoadArguments = {"device": "cpu", "threads": 1, "max_seq_length": 64, "token": "hf_secret"}
    encoder = load_encoder(E5, **arguments)
    for source, given in ((E5, arguments), (encoder, {})):
        origin = json.loads(json.dumps(describe_origin(source, encoder, given)))
        assert "hf_secret" not in str(origin)
        fingerprint = origin.pop("fingerprint")
        monkeypatch.chdir("/")
        again = load_encoder(**origin)
        monkeypatch.chdir(folder.parent)
        check_fingerprint(again, fingerprint, "the store")
        assert again.max_seq_length == 64
        np.testing.assert_array_equal(again.encode(TEXTS, prompt=""), encoder.encode(TEXTS, prompt=""))


@pytest.mark.parametrize(
    "arguments", [{"pooling": "cls"}, {"max_seq_length": 16, "pooling": "lasttoken"}, {"card": "e5-small-v2"}]
)
def test_an_encoder_keeps_the_arguments_that_change_its_vectors(
    arguments: LoadArguments, golden_folder: Callable[[str], Path]
) -> None:
    """Its origin opens the same model again, in a process that has no more than the origin."""
    encoder = Encoder.load(golden_folder(E5), device="cpu", threads=1, **arguments)
    changed = encoder.with_max_seq_length(12)
    for each in (encoder, changed, pickle.loads(pickle.dumps(encoder))):
        origin = json.loads(json.dumps(describe_origin(each, each, {})))
        assert origin.items() >= (arguments if each is not changed else arguments | {"max_seq_length": 12}).items()
        fingerprint = origin.pop("fingerprint")
        again = load_encoder(**origin)
        check_fingerprint(again, fingerprint, "the store")
        np.testing.assert_allclose(again.encode(TEXTS, prompt=""), each.encode(TEXTS, prompt=""), atol=1e-6)


def test_an_encoder_keeps_the_keys_that_were_ignored(tmp_path: Path, golden_folder: Callable[[str], Path]) -> None:
    folder = tmp_path / E5
    shutil.copytree(golden_folder(E5), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"own_key": 1}))
    encoder = Encoder.load(folder, device="cpu", ignore_config_keys=["own_key"])
    origin = json.loads(json.dumps(describe_origin(encoder, encoder, {})))
    fingerprint = origin.pop("fingerprint")
    check_fingerprint(load_encoder(**origin), fingerprint, "the store")


def test_another_model_is_refused(encoder: Encoder) -> None:
    with pytest.raises(SpaceError) as caught:
        check_fingerprint(encoder, "0123456789abcdef", "the collection")
    assert all(part in str(caught.value) for part in ("the collection", "0123456789ab", encoder.fingerprint[:12]))


def test_a_pickle_has_the_same_vectors(encoder: Encoder) -> None:
    embedder = Embedder(encoder, query_prompt_name="document")
    again = pickle.loads(pickle.dumps(embedder))
    np.testing.assert_array_equal(again.embed_queries(TEXTS), embedder.embed_queries(TEXTS))

"""What cannot be honoured is an error that names the value and what to do; without torch, arrays stand for tensors."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import GIST, GOLDEN, STELLA, require

from gnomon import Encoder, compat
from gnomon.compat import SentenceTransformer, util
from gnomon.compat.arguments import read_load_options
from gnomon.errors import ExtraError, InputError, ModelError, UnavailableError

require(whole_module=True)
NOTHING: dict[str, Any] = dict.fromkeys(["device", "backend", "model_kwargs", "processor_kwargs", "config_kwargs"])


@pytest.fixture(scope="module")
def model() -> SentenceTransformer:
    return SentenceTransformer(str(GOLDEN / GIST), device="cpu")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"modules": []}, ["modules", "folder"]),
        ({"model_card_data": object()}, ["model_card_data"]),
        ({"backend": "tensorrt"}, ["backend", "'tensorrt'", "onnx"]),
        ({"model_kwargs": {"file_name": "onnx/model_O3.onnx"}}, ["file_name", "model_O3", "int8"]),
        ({"model_kwargs": {"provider": "CUDAExecutionProvider"}}, ["provider", "device"]),
        ({"model_kwargs": {"quantization_config": 4}}, ["quantization_config", "int8"]),
        ({"model_kwargs": {"num_labels": 4}}, ["num_labels", "4"]),
        ({"model_kwargs": {"device_map": {"a": 0, "b": 1}}}, ["device_map", "0 and 1"]),
        ({"model_kwargs": {"dtype": "int4"}}, ["int4", "float16"]),
        ({"processor_kwargs": {"truncation_side": "left"}}, ["processor_kwargs", "truncation_side"]),
        ({"tokenizer_kwargs": {}, "processor_kwargs": {}}, ["tokenizer_kwargs", "processor_kwargs"]),
        ({"config_kwargs": {"num_hidden_layers": 2}}, ["config_kwargs", "num_hidden_layers=2"]),
        ({"prompts": {"query": 3}}, ["prompts", "'query'", "3"]),
        ({"default_prompt_name": "nope"}, ["'nope'", "'query'"]),
        ({"similarity_fn_name": "maxsim"}, ["similarity_fn_name", "'maxsim'", "cosine"]),
        ({"device": "tpu"}, ["'tpu'", "cuda"]),
        ({"token": "a", "use_auth_token": "b"}, ["token", "use_auth_token"]),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_argument_of_the_constructor_that_cannot_be_honoured(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        SentenceTransformer(str(GOLDEN / GIST), **arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_arguments_that_change_no_vector_are_accepted() -> None:
    options = read_load_options(
        device=torch.device("cuda", 1),
        backend="torch",
        model_kwargs={"attn_implementation": "eager", "torch_dtype": torch.float16, "low_cpu_mem_usage": True},
        processor_kwargs={"padding_side": "left", "model_max_length": 99},
        config_kwargs={"use_memory_efficient_attention": False, "unpad_inputs": False},
    )
    assert options == {"device": "cuda:1", "engine": "torch", "dtype": "float16", "max_seq_length": 99}
    assert read_load_options(**NOTHING)["device"] == "auto"
    for given, device in (({"": "cpu"}, "cpu"), ({"": 1}, "cuda:1"), ("auto", "auto"), ("cuda", "cuda")):
        assert read_load_options(**NOTHING | {"model_kwargs": {"device_map": given}})["device"] == device
    for dtype, name in (("auto", "auto"), ("bfloat16", "bfloat16"), (torch.half, "float16"), (np.float32, "float32")):
        assert read_load_options(**NOTHING | {"model_kwargs": {"dtype": dtype}})["dtype"] == name


def test_stella_takes_the_arguments_of_its_card() -> None:
    loaded = SentenceTransformer(
        str(GOLDEN / STELLA),
        trust_remote_code=True,
        device="cpu",
        config_kwargs={"use_memory_efficient_attention": False, "unpad_inputs": False},
    )
    assert {"s2p_query", "s2s_query"} <= loaded.prompts.keys()
    encoder = Encoder.load(GOLDEN / STELLA, device="cpu")
    np.testing.assert_array_equal(
        loaded.encode(["a"], prompt_name="s2p_query"), encoder.encode(["a"], prompt_name="s2p_query")
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"inputs": [("a", "b")]}, ["input 0", "pairs"]),
        ({"inputs": ["a", {"text": "b"}]}, ["input 1", "'text'"]),
        ({"inputs": {"text": "b"}}, ["inputs", "'text'"]),
        ({"inputs": ["a", None]}, ["input 1", "None"]),
        ({"inputs": b"a"}, ["inputs", "b'a'"]),
        ({}, ["inputs"]),
        ({"inputs": "a", "sentences": "b"}, ["sentences", "inputs"]),
        ({"inputs": "a", "batch_size": 0}, ["batch_size", "0"]),
        ({"inputs": "a", "output_value": "tokens"}, ["'tokens'", "token_embeddings"]),
        ({"inputs": "a", "precision": "int4"}, ["'int4'", "int8"]),
        ({"inputs": "a", "precision": "int8"}, ["int8", "ranges"]),
        ({"inputs": ["a"], "precision": "uint8"}, ["uint8", "ranges"]),
        ({"inputs": "a", "normalize": True}, ["normalize"]),
        ({"inputs": "a", "prompt_name": "nope"}, ["'nope'", "'query'"]),
        ({"inputs": "a", "processing_kwargs": {"text": {"padding_side": "left"}}}, ["padding_side", "max_length"]),
        ({"inputs": "a", "device": "tpu"}, ["'tpu'"]),
    ],
)
def test_an_argument_of_encode_that_cannot_be_honoured(
    model: SentenceTransformer, arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        model.encode(**arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_members_of_a_torch_module_say_what_to_do(model: SentenceTransformer) -> None:
    for name, word in (("parameters", "sentence_transformers"), ("fit", "train"), ("push_to_hub", "upload_folder")):
        with pytest.raises(AttributeError, match=name) as error:
            getattr(model, name)
        assert word in str(error.value)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        model.nonsense  # noqa: B018
    with pytest.raises(TypeError, match=r"module 0.*tokenizer"):
        model[0]
    with pytest.raises(InputError, match="gnomon train"):
        model.train()
    assert model.train(False) is model.eval() is model.cpu() is model
    for arguments in ({"model_name": "x"}, {"train_datasets": ["x"]}, {"safe_serialization": False}):
        with pytest.raises(InputError, match=next(iter(arguments))):
            model.save("never", **arguments)
    assert model.save(None) is None


def test_names_that_are_not_built_say_so() -> None:
    for name, word in (("CrossEncoder", "sentence_transformers"), ("InputExample", "train"), ("models", "save")):
        with pytest.raises(ImportError, match=name) as error:
            exec(f"from gnomon.compat import {name}")
        assert isinstance(error.value, UnavailableError) and word in str(error.value)
    with pytest.raises(ImportError, match="BinaryIndex"):
        exec("from gnomon.compat.util import semantic_search_faiss")
    with pytest.raises(AttributeError, match="nonsense"):
        compat.nonsense  # noqa: B018


def test_scores_refuse_what_they_would_get_wrong() -> None:
    with pytest.raises(InputError, match="encode"):
        util.cos_sim("a", "b")
    with pytest.raises(InputError, match="gradients"):
        util.cos_sim(torch.ones(2, 3, requires_grad=True), torch.ones(2, 3))
    with pytest.raises(InputError, match="sparse"):
        util.dot_score(torch.eye(3).to_sparse(), torch.ones(2, 3))
    with pytest.raises(InputError, match="3 and 4"):
        util.cos_sim(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(InputError, match="2 and 3"):
        util.pairwise_cos_sim(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(InputError, match="quantized"):
        util.quantize_embeddings(np.ones((2, 8), np.int8), "binary")
    assert util.semantic_search(np.ones((2, 3)), np.ones((0, 3))) == [[], []]
    assert util.community_detection(np.ones((0, 3))) == []
    assert util.quantize_embeddings([], "int8") == []


def test_without_torch_arrays_stand_for_tensors(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    vectors = model.encode(["a", "b"])
    assert isinstance(model.similarity(vectors, vectors), np.ndarray)
    assert all(isinstance(each, np.ndarray) for each in model.encode(["a", "b"], convert_to_numpy=False))
    assert all(isinstance(each, np.ndarray) for each in model.encode(["a"], output_value="token_embeddings"))
    assert isinstance(model.tokenize(["a"])["input_ids"], np.ndarray)
    assert (model.device, model.dtype) == ("cpu", "float32")
    with pytest.raises(ExtraError, match=r"convert_to_tensor.*torch"):
        model.encode("a", convert_to_tensor=True)


@pytest.mark.slow
def test_importing_compat_imports_no_torch() -> None:
    modules = "gnomon.compat, gnomon.compat.util, gnomon.compat.sentence_transformers"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_type_is_named_as_other_libraries_expect(model: SentenceTransformer) -> None:
    """BERTopic and KeyBERT look for these names in the type of a model."""
    assert "sentence_transformers" in str(type(model)) and "SentenceTransformer" in type(model).__name__


def test_encoder_names_the_remedy_for_arguments_of_sentence_transformers() -> None:
    encoder = Encoder.load(GOLDEN / GIST, device="cpu")
    for name in ("batch_size", "convert_to_tensor", "device", "precision", "output_value", "pool", "chunk_size"):
        for encode in (encoder.encode, encoder.encode_query, encoder.encode_document, encoder.encode_dims):
            with pytest.raises(InputError, match=f"{name}.*compat"):
                encode(["a"], **{name: 1})  # pyright: ignore
    with pytest.raises(InputError, match=r"sentences.*first argument"):
        encoder.encode([], sentences=["a"])  # pyright: ignore
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        encoder.encode(["a"], nonsense=1)  # pyright: ignore
    for name in ("truncate_dim", "prompts", "trust_remote_code", "backend", "model_kwargs", "cache_folder"):
        with pytest.raises(InputError, match=name):
            Encoder.load(GOLDEN / GIST, **{name: 1})  # pyright: ignore
    with pytest.raises(TypeError, match="nonsense"):
        Encoder.load(GOLDEN / GIST, nonsense=1)  # pyright: ignore
    with pytest.raises(InputError, match=r"Encoder\.load\('x'\)"):
        Encoder("x")  # pyright: ignore
    with pytest.raises(InputError, match=r"with_max_seq_length\(9\)"):
        encoder.max_seq_length = 9
    with pytest.raises(InputError, match="prompt="):
        encoder.prompts = {}
    with pytest.raises(AttributeError, match="property dim"):
        encoder.get_sentence_embedding_dimension()
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        encoder.nonsense  # noqa: B018
    with pytest.raises(InputError, match="Encode texts"):
        encoder.similarity("a", "b")
    vectors_BD = encoder.encode(["a", "b c"])
    assert encoder.dim == vectors_BD.shape[1]
    np.testing.assert_allclose(
        encoder.similarity_pairwise(vectors_BD, vectors_BD[::-1]),
        np.diag(encoder.similarity(vectors_BD, vectors_BD[::-1])),
        rtol=1e-6,
    )
    with pytest.raises(InputError, match="pairs"):
        encoder.similarity_pairwise(vectors_BD, vectors_BD[:1])


def test_a_folder_that_is_no_model_is_the_error_of_encoder(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        SentenceTransformer(str(tmp_path))

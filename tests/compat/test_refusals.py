"""What cannot be honoured is an error that names the value and what to do; without torch, arrays stand for tensors."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
    assert read_load_options(**NOTHING)["dtype"] == "float32"  # on a GPU too, as in sentence-transformers
    assert read_load_options(**NOTHING | {"device": "cpu:0"})["device"] == "cpu"
    hub = {"local_files_only": True, "revision": "main", "cache_dir": "here"}
    assert read_load_options(**NOTHING | {"model_kwargs": hub}).items() >= hub.items()
    for given, device in (({"": "cpu"}, "cpu"), ({"": 1}, "cuda:1"), ("auto", "auto"), ("cuda", "cuda")):
        assert read_load_options(**NOTHING | {"model_kwargs": {"device_map": given}})["device"] == device
    for dtype, name in (
        ("auto", "float32"),
        ("bfloat16", "bfloat16"),
        (torch.half, "float16"),
        (np.float32, "float32"),
    ):
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
        ({"inputs": [("a", "b")]}, ["text 0", "one at a time"]),
        ({"inputs": ["a", {"text": "b"}]}, ["text 1", "'text'"]),
        ({"inputs": {"text": "b"}}, ["dict", "'text'"]),
        ({"inputs": ["a", None]}, ["text 1", "None"]),
        ({"inputs": b"a"}, ["bytes", "b'a'"]),
        ({}, ["inputs"]),
        ({"inputs": "a", "sentences": "b"}, ["sentences", "inputs"]),
        ({"inputs": "a", "batch_size": 0}, ["batch_size", "0"]),
        ({"inputs": "a", "chunk_size": 0}, ["chunk_size", "0"]),
        ({"inputs": "a", "pool": {}}, ["pool", "start_multi_process_pool"]),
        ({"inputs": "a", "precision": "int8", "output_value": None}, ["int8", "output_value"]),
        ({"inputs": "a", "precision": "binary", "output_value": "token_embeddings"}, ["binary", "output_value"]),
        ({"inputs": "a", "processing_kwargs": {"txt": {"max_length": 4}}}, ["txt", "max_length"]),
        ({"inputs": "a", "processing_kwargs": {"text": {"truncation": False}}}, ["truncation", "max_seq_length"]),
        ({"inputs": pd.DataFrame({"id": ["1"], "text": ["a"]})}, ["DataFrame", "columns"]),
        ({"inputs": {"a", "b"}}, ["set"]),
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
    for name in ("truncate_dim", "similarity_fn_name", "default_prompt_name"):
        with pytest.raises(AttributeError, match=name):
            setattr(encoder, name, 64)
    with pytest.raises(InputError, match=r"modules.*load the folder\.$"):
        Encoder.load(GOLDEN / GIST, modules=[])  # pyright: ignore
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


def test_settings_of_one_copy_do_not_end_another(model: SentenceTransformer) -> None:
    original = copy.deepcopy(model)
    for other in (copy.copy(original), copy.deepcopy(original)):
        other.to(torch.bfloat16)
        assert (other.dtype, original.dtype) == (torch.bfloat16, torch.float32)
        assert original.encode("a").shape == (64,)
    assert original.to("cpu:0") is original.float() is original

    class Subclass(SentenceTransformer):
        pass

    made = Subclass(str(GOLDEN / GIST), device="cpu")
    assert type(copy.deepcopy(made)) is type(copy.copy(made)) is Subclass


def test_results_have_the_type_that_the_model_computes_in(model: SentenceTransformer) -> None:
    half = copy.deepcopy(model).half()
    assert half.encode(["a"]).dtype == np.float16
    assert half.encode(["a"], convert_to_tensor=True).dtype == torch.float16
    bfloat16 = copy.deepcopy(model).bfloat16()
    assert bfloat16.encode(["a"]).dtype == np.float32
    assert bfloat16.encode(["a"], convert_to_tensor=True).dtype == torch.bfloat16
    with pytest.raises(InputError, match="float64"):
        copy.deepcopy(model).to(torch.float64)


def test_a_relative_path_holds_after_the_folder_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mini").symlink_to(GOLDEN / GIST)
    monkeypatch.chdir(tmp_path)
    relative = SentenceTransformer("mini", device="cpu")
    monkeypatch.chdir("/")
    assert relative.bfloat16().dtype == torch.bfloat16


def test_the_folder_of_downloads_is_that_of_sentence_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--org--mini"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("0" * 40)).symlink_to(GOLDEN / GIST, target_is_directory=True)
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path))
    assert SentenceTransformer("org/mini", device="cpu").get_embedding_dimension() == 64


def test_prompts_that_are_gone_are_not_used_and_not_saved(model: SentenceTransformer, tmp_path: Path) -> None:
    changed = copy.deepcopy(model)
    changed.prompts, changed.default_prompt_name = {"task": "do: "}, "task"
    prompted = changed.encode("a")
    changed.prompts = {"query": None}  # pyright: ignore[reportAttributeAccessIssue]
    assert changed.prompts == {"query": ""}
    assert not np.allclose(changed.encode("a"), prompted)
    changed.prompts = None  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_array_equal(changed.encode("a"), model.encode("a"))
    changed.save(str(tmp_path / "saved"))
    assert SentenceTransformer(str(tmp_path / "saved"), device="cpu").default_prompt_name is None


def test_arguments_may_be_given_by_position(model: SentenceTransformer) -> None:
    wanted = model.encode_query(["a", "b"], normalize_embeddings=True)
    np.testing.assert_array_equal(
        model.encode_query(["a", "b"], None, None, 2, False, "sentence_embedding", "float32", True, False, None, True),
        wanted,
    )
    with pytest.raises(TypeError, match="by position"):
        model.encode_document(["a"], *range(20))
    assert model._first_module().max_seq_length == model.max_seq_length
    with pytest.raises(TypeError, match="encode"):
        model({"input_ids": [1]})


def test_the_tokenizer_refuses_what_it_would_get_wrong(model: SentenceTransformer) -> None:
    tokenizer = model.tokenizer
    assert tokenizer(["a b", "c"], padding=True, return_tensors="pt").to("cpu").input_ids.shape == (2, 4)
    assert tokenizer.convert_ids_to_tokens(tokenizer.cls_token_id) == tokenizer.cls_token
    assert tokenizer.convert_tokens_to_ids("nonsenseword") == tokenizer.unk_token_id
    assert len(tokenizer("a b c d e", max_length=4).input_ids) == 4
    for arguments, word in (
        ({"padding": "bogus"}, "bogus"),
        ({"truncation": "bogus"}, "bogus"),
        ({"return_tensors": "tf"}, "tf"),
        ({"text_pair": "b"}, "text_pair"),
        ({"stride": 4}, "stride"),
        ({"max_length": 1}, "max_length"),
    ):
        with pytest.raises(InputError, match=word):
            tokenizer("a", **arguments)
    with pytest.raises(AttributeError, match=r"truncation_side.*folder"):
        tokenizer.truncation_side = "left"
    with pytest.raises(AttributeError, match="AutoTokenizer"):
        tokenizer.push_to_hub("x")


def test_scores_keep_the_type_of_their_vectors() -> None:
    a_BD, b_BD = np.random.default_rng(0).normal(size=(2, 3, 4))
    for name in ("cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"):
        assert getattr(util, name)(a_BD, b_BD).dtype == torch.float64
        assert getattr(util, name)(a_BD.tolist(), b_BD.tolist()).dtype == torch.float32
    assert util.pairwise_cos_sim(a_BD[0], b_BD[0]).shape == ()
    with pytest.raises(InputError, match="different lengths"):
        util.cos_sim([np.ones(3), np.ones(4)], np.ones(3))


@pytest.mark.slow
def test_a_pool_is_ended_by_the_original_class_too(model: SentenceTransformer) -> None:
    """LangChain calls the method of sentence-transformers itself."""
    import sentence_transformers

    pool = model.start_multi_process_pool(["cpu", "cpu"])
    assert len(pool["processes"]) == 2
    vectors = model.encode(["a", "b"], pool=pool)
    sentence_transformers.SentenceTransformer.stop_multi_process_pool(pool)
    np.testing.assert_allclose(vectors, model.encode(["a", "b"]), atol=1e-5)
    with pytest.raises(InputError, match="closed"):
        model.encode(["a"], pool=pool)
    assert model.similarity_fn_name == "cosine"
    other = copy.deepcopy(model)
    other.similarity_fn_name = sentence_transformers.SimilarityFunction.DOT_PRODUCT  # pyright: ignore
    assert other.similarity_fn_name == "dot"

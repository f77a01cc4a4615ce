"""Every combination of arguments gives what sentence-transformers gives: type, dtype, shape and values."""

import copy
import itertools
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gnomon.compat import SentenceTransformer, util

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::gnomon.errors.Notice"),
]

TEXTS = ["A man is eating food.", "", "Größe und Maß, 東京", "the the the", "A man is eating food.", "x " * 400]


@pytest.fixture(scope="module")
def theirs(minilm_folder: Path) -> Any:
    import sentence_transformers

    return sentence_transformers.SentenceTransformer(str(minilm_folder), device="cpu")


@pytest.fixture
def ours(minilm: SentenceTransformer) -> SentenceTransformer:
    return copy.deepcopy(minilm)


def assert_equal(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in found:
            assert_equal(found[key], wanted[key])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_equal(one, other)
    elif isinstance(wanted, np.ndarray | torch.Tensor):
        assert found.dtype == wanted.dtype or len(wanted) == 0  # no vectors are float64 there
        assert tuple(found.shape) == tuple(wanted.shape)
        whole = str(wanted.dtype).removeprefix("torch.") in ("int8", "uint8")
        difference = np.abs(np.asarray(found, np.float64) - np.asarray(wanted, np.float64))
        # a value on the edge of a step may be one off; a sign near zero may flip one bit of a byte
        assert difference.size == 0 or (difference > 1).mean() < 0.01 if whole else difference.max(initial=0) < 2e-5
    else:
        assert found == wanted


@pytest.mark.parametrize("inputs", [TEXTS, TEXTS[0], [], np.array(TEXTS[:2]), (TEXTS[0], TEXTS[2])], ids=str)
@pytest.mark.parametrize(("numpy", "tensor"), list(itertools.product([True, False], repeat=2)))
def test_results_have_the_same_type_and_values(
    ours: SentenceTransformer, theirs: Any, inputs: Any, numpy: bool, tensor: bool
) -> None:
    for output_value in ("sentence_embedding", "token_embeddings", None):
        options = {"convert_to_numpy": numpy, "convert_to_tensor": tensor, "output_value": output_value}
        wanted = theirs.encode(inputs.tolist() if isinstance(inputs, np.ndarray) else inputs, **options)
        assert_equal(ours.encode(inputs, **options), without_padding(wanted))


def tensors_of(features: Any) -> Any:
    return {name: value for name, value in features.items() if isinstance(value, torch.Tensor)}


def without_padding(features: Any) -> Any:
    """Dicts of one text each, without the padding that there depends on the other texts of a batch."""
    if isinstance(features, list):
        return [without_padding(each) for each in features]
    if not isinstance(features, dict):
        return features
    length = int(features["attention_mask"].sum())
    whole = {"sentence_embedding", "prompt_length", "modality"}
    return {name: value if name in whole else value[:length] for name, value in features.items()}


@pytest.mark.parametrize("precision", ["float32", None, "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("tensor", [True, False])
def test_precisions(ours: SentenceTransformer, theirs: Any, precision: Any, tensor: bool) -> None:
    for truncate_dim, normalized in itertools.product([None, 64, 1000], [True, False]):
        options = {
            "precision": precision,
            "convert_to_tensor": tensor,
            "truncate_dim": truncate_dim,
            "normalize_embeddings": normalized,
        }
        assert_equal(ours.encode(TEXTS, **options), theirs.encode(TEXTS, **options))


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_prompts_and_settings(ours: SentenceTransformer, theirs: Any, similarity: Any) -> None:
    theirs = copy.deepcopy(theirs)
    for model in (ours, theirs):
        model.prompts = {"query": "query: ", "passage": "passage: ", "task": "Do this: "}
        model.default_prompt_name = "task"
        model.max_seq_length = 12
        model.truncate_dim = 100
        model.similarity_fn_name = similarity
    for call in (
        lambda model: model.encode(TEXTS),
        lambda model: model.encode(TEXTS, prompt_name="passage"),
        lambda model: model.encode(TEXTS, prompt="other: "),
        lambda model: model.encode(TEXTS, prompt=""),
        lambda model: without_padding(model.encode(TEXTS, prompt_name="task", output_value=None)),
        lambda model: model.encode_query(TEXTS),
        lambda model: model.encode_document(sentences=TEXTS),
        lambda model: model.encode_document(TEXTS, prompt_name="query"),
        lambda model: model.encode(TEXTS, processing_kwargs={"text": {"max_length": 6, "truncation": True}}),
        lambda model: without_padding(
            model.encode(TEXTS, output_value=None, processing_kwargs={"text": {"max_length": 6, "truncation": True}})
        ),
        lambda model: model.similarity(model.encode(TEXTS), model.encode(TEXTS[:2])),
        lambda model: model.similarity_pairwise(model.encode(TEXTS), model.encode(TEXTS[::-1])),
        lambda model: model.get_sentence_embedding_dimension(),
        lambda model: model.get_embedding_dimension(),
        lambda model: model.max_seq_length,
        lambda model: model.device,
        lambda model: model.dtype,
        lambda model: tensors_of(model.tokenize(TEXTS[:3])),
        lambda model: tensors_of(model.preprocess(TEXTS, prompt="a b: ")),
    ):
        assert_equal(call(ours), call(theirs))
    with ours.truncate_embeddings(8), theirs.truncate_embeddings(8):
        assert_equal(ours.encode(TEXTS), theirs.encode(TEXTS))
    assert ours.truncate_dim == 100


def test_what_is_saved_opens_there_with_all_settings(ours: SentenceTransformer, theirs: Any, tmp_path: Path) -> None:
    ours.prompts = {"query": "query: "}
    ours.default_prompt_name, ours.max_seq_length, ours.truncate_dim = "query", 40, 100
    ours.similarity_fn_name = "manhattan"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("stays")
    ours.save(str(tmp_path / "model"))
    opened = type(theirs)(str(tmp_path / "model"), device="cpu")
    again = SentenceTransformer(tmp_path / "model", device="cpu")
    assert (tmp_path / "model" / "mine.txt").read_text() == "stays"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    for model in (opened, again):
        assert model.prompts == {"query": "query: ", "document": ""}
        assert (model.default_prompt_name, model.max_seq_length, model.truncate_dim) == ("query", 40, 100)
        assert model.similarity_fn_name == "manhattan"
        assert_equal(ours.encode(TEXTS), model.encode(TEXTS))
    opened.save(str(tmp_path / "theirs"))
    assert_equal(SentenceTransformer(str(tmp_path / "theirs")).encode(TEXTS), opened.encode(TEXTS))


def test_several_processes_give_the_same(ours: SentenceTransformer) -> None:
    alone = ours.encode(TEXTS)
    pool = ours.start_multi_process_pool(["cpu", "cpu"])
    try:
        ours.max_seq_length = 8
        np.testing.assert_allclose(ours.encode(TEXTS, pool=pool, chunk_size=2), ours.encode(TEXTS), atol=1e-5)
        ours.max_seq_length = 256
        tensor = ours.encode_multi_process(TEXTS, pool, prompt="")
    finally:
        ours.stop_multi_process_pool(pool)
    np.testing.assert_allclose(tensor, alone, atol=1e-5)
    np.testing.assert_allclose(ours.encode(TEXTS, device=["cpu", torch.device("cpu")]), alone, atol=1e-5)
    assert ours.device == torch.device("cpu")


def test_copies_and_pickles_keep_settings_of_their_own(minilm: SentenceTransformer) -> None:
    copied = copy.deepcopy(minilm)
    copied.prompts["query"] = "q: "
    copied.max_seq_length = 16
    assert minilm.prompts["query"] == "" and minilm.max_seq_length == 256
    pickled = pickle.loads(pickle.dumps(copied))
    assert pickled.prompts == copied.prompts and pickled.max_seq_length == 16
    np.testing.assert_array_equal(pickled.encode(TEXTS), copied.encode(TEXTS))


def test_helpers_take_every_kind_of_vectors(theirs: Any) -> None:
    import sentence_transformers.util as their_util

    random = np.random.default_rng(5)
    a_BD, b_CD = random.normal(size=(7, 12)).astype(np.float32), random.normal(size=(7, 12)).astype(np.float32)
    a_BD[3] = 0
    kinds = [
        lambda x: x,
        torch.from_numpy,
        lambda x: list(x),
        lambda x: [torch.from_numpy(row) for row in x],
        lambda x: x.astype(np.float64),
        lambda x: x[0],
        lambda x: torch.from_numpy(x).half(),
    ]
    for name in ("cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"):
        for kind in kinds:
            found, wanted = (
                getattr(util, name)(kind(a_BD), kind(b_CD)),
                getattr(their_util, name)(kind(a_BD), kind(b_CD)),
            )
            assert tuple(found.shape) == tuple(wanted.shape) and isinstance(found, torch.Tensor)
            np.testing.assert_allclose(found, wanted.float(), atol=2e-3 if kind is kinds[-1] else 1e-5)
    for name in util.SimilarityFunction.possible_values():
        for pick in ("to_similarity_fn", "to_similarity_pairwise_fn"):
            found = getattr(util.SimilarityFunction, pick)(name)(a_BD, b_CD)
            np.testing.assert_allclose(
                found, getattr(their_util.SimilarityFunction, pick)(name)(a_BD, b_CD), atol=1e-5, err_msg=name
            )
    for name in ("pairwise_cos_sim", "pairwise_dot_score", "pairwise_euclidean_sim", "pairwise_manhattan_sim"):
        np.testing.assert_allclose(
            getattr(util, name)(a_BD, b_CD), getattr(their_util, name)(a_BD, b_CD), atol=1e-5, err_msg=name
        )
    assert_equal(
        util.normalize_embeddings(torch.from_numpy(a_BD)), their_util.normalize_embeddings(torch.from_numpy(a_BD))
    )


@pytest.mark.parametrize("seed", range(8))
def test_searches_and_groups_are_the_same(seed: int) -> None:
    import sentence_transformers.util as their_util

    random = np.random.default_rng(seed)
    centers = random.normal(size=(6, 16))
    vectors_BD = (centers[random.integers(0, 6, 80)] + random.normal(scale=0.3, size=(80, 16))).astype(np.float32)
    tensor = torch.from_numpy(vectors_BD)
    for score in ("cos_sim", "dot_score"):
        options = {"top_k": 7, "corpus_chunk_size": 13, "query_chunk_size": 5}
        found = util.semantic_search(vectors_BD[:9], tensor, score_function=getattr(util, score), **options)
        wanted = their_util.semantic_search(tensor[:9], tensor, score_function=getattr(their_util, score), **options)
        assert [[hit["corpus_id"] for hit in hits] for hits in found] == [
            [hit["corpus_id"] for hit in hits] for hits in wanted
        ]
        assert_scores_equal(found, wanted)
    own = util.semantic_search(tensor[:3], tensor, score_function=lambda a, b: a @ b.T, top_k=4, query_chunk_size=2)
    assert [[hit["corpus_id"] for hit in hits] for hits in own] == [
        [hit["corpus_id"] for hit in hits]
        for hits in util.semantic_search(tensor[:3], tensor, score_function=util.dot_score, top_k=4)
    ]
    for options in ({"top_k": 3}, {"max_pairs": 20}, {"query_chunk_size": 7, "corpus_chunk_size": 11}):
        found = util.paraphrase_mining_embeddings(vectors_BD, **options)
        wanted = their_util.paraphrase_mining_embeddings(tensor, **options)
        np.testing.assert_allclose([pair[0] for pair in found], [pair[0] for pair in wanted], atol=1e-5)
        least = (
            wanted[-1][0] + 1e-5
        )  # pairs of nearly equal scores stand in either order, and one of them may be left out
        scores = {tuple(pair[1:]): pair[0] for pair in found}
        for score, first, second in wanted:
            assert score <= least or scores[first, second] == pytest.approx(score, abs=1e-5)
    for threshold, size in ((0.7, 5), (0.8, 2), (0.9, 3)):
        found = util.community_detection(vectors_BD, threshold, size, batch_size=17)
        wanted = their_util.community_detection(tensor, threshold, size, batch_size=17)
        assert found == wanted


def assert_scores_equal(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(
        [[hit["score"] for hit in hits] for hits in found],
        [[hit["score"] for hit in hits] for hits in wanted],
        atol=1e-5,
    )


def test_quantization_is_the_same() -> None:
    from sentence_transformers.util import quantize_embeddings

    vectors_BD = np.random.default_rng(2).normal(size=(20, 24)).astype(np.float32)
    ranges = np.stack([vectors_BD[:10].min(0), vectors_BD[:10].max(0)])
    for precision in ("float32", "int8", "uint8", "binary", "ubinary"):
        for options in ({}, {"ranges": ranges}, {"calibration_embeddings": vectors_BD[:10]}):
            for vectors in (vectors_BD, torch.from_numpy(vectors_BD), list(vectors_BD)):
                found = util.quantize_embeddings(vectors, precision, **options)
                wanted = quantize_embeddings(vectors, precision, **options)
                np.testing.assert_array_equal(found, wanted, f"{precision} {list(options)}")


def test_the_tokenizer_is_that_of_transformers(minilm: SentenceTransformer, theirs: Any) -> None:
    from transformers import AutoTokenizer

    ours, other = minilm.tokenizer, AutoTokenizer.from_pretrained(theirs[0].tokenizer.name_or_path)
    text = "Unbelievable, naïve 東京 [SEP] costs"
    assert ours.encode(text) == other.encode(text)
    assert ours.encode(text, add_special_tokens=False) == other.encode(text, add_special_tokens=False)
    assert ours.encode(text, truncation=True, max_length=6) == other.encode(text, truncation=True, max_length=6)
    assert ours.tokenize(text) == other.tokenize(text)
    assert ours.decode(ours.encode(text), skip_special_tokens=True) == other.decode(
        other.encode(text), skip_special_tokens=True
    )
    assert ours.convert_tokens_to_ids(["hello", "[PAD]"]) == other.convert_tokens_to_ids(["hello", "[PAD]"])
    assert (len(ours), ours.vocab_size, ours.pad_token_id) == (len(other), other.vocab_size, other.pad_token_id)
    assert ours.batch_decode([[7592], [2088]]) == other.batch_decode([[7592], [2088]])
    assert set(ours.all_special_ids) == set(other.all_special_ids)
    assert ours.is_fast
    for options in (
        {},
        {"padding": True},
        {"padding": True, "return_tensors": "pt"},
        {"padding": "max_length", "max_length": 20, "truncation": True, "return_tensors": "np"},
    ):
        found, wanted = ours([text, "short"], **options), other([text, "short"], **options)
        assert found.keys() == wanted.keys()
        for key in found:
            np.testing.assert_array_equal(np.array(found[key], object), np.array(wanted[key], object), str(options))
    assert dict(ours(text)) == dict(other(text))


def test_evaluators_of_sentence_transformers_take_the_class(minilm: SentenceTransformer, theirs: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

        evaluator = EmbeddingSimilarityEvaluator(
            ["a dog", "a cat", "rain"], ["a puppy", "a lamp", "weather"], [0.9, 0.1, 0.8], write_csv=False
        )
        found, wanted = minilm.evaluate(evaluator), theirs.evaluate(evaluator)
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), atol=1e-5)

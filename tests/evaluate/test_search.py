"""BM25, packed signs and fusions through mteb's protocol: what they find, and that no label chooses its own weight.

Q: queries; N: documents; D: width of a vector; K: results of a query.
"""

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gnomon.errors import InputError
from gnomon.evaluate.mteb import search as mteb_search
from gnomon.evaluate.mteb.search import BinaryBackend, Bm25Search, CachedSearch, HybridSearch
from gnomon.search import hybrid as hybrid_module
from gnomon.search.binary import NUM_RESCORED, BinaryIndex
from gnomon.search.bm25 import Bm25
from gnomon.search.fusion import (
    MIN_LABELLED_QUERIES,
    MR_TYDI_ALPHAS,
    cross_fit_alpha,
    fuse_mr_tydi,
    reciprocal_rank_fusion,
    tune_alpha,
)
from gnomon.search.hybrid import published_alpha

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of mteb and datasets
mteb = pytest.importorskip("mteb")
datasets = pytest.importorskip("datasets")
mocks = pytest.importorskip("mteb.mocks.mock_tasks")
pytest.importorskip("bm25s")

from mteb.models.models_protocols import EncoderProtocol, SearchProtocol  # noqa: E402
from mteb.models.search_wrappers import SearchEncoderWrapper  # noqa: E402

WORDS = "water boils at one hundred degrees and ice melts when the library opens its old door to a cold wind".split()
SAID: dict[str, Any] = {
    "task_metadata": SimpleNamespace(name="task"),
    "hf_split": "test",
    "hf_subset": "default",
    "encode_kwargs": {},
    "num_proc": None,
}
Runs = dict[str, dict[str, float]]


@pytest.fixture(autouse=True)
def no_bars() -> None:
    datasets.disable_progress_bars()


def corpus(texts: Sequence[str], titles: Sequence[str] | None = None) -> Any:
    columns = {"id": [f"d{place}" for place in range(len(texts))], "text": list(texts)}
    return datasets.Dataset.from_dict(columns | ({} if titles is None else {"title": list(titles)}))


def queries(texts: Sequence[Any], front: str = "q", **more: Any) -> Any:
    ids = [f"{front}{place}" for place in range(len(texts))]
    return datasets.Dataset.from_dict({"id": ids, "text": list(texts)} | more)


def sentences(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 6)) for _ in range(count)]


def of(search: Any, documents: Any, asked: Any, top_k: int = 1000, **options: Any) -> Runs:
    search.index(documents, **SAID)
    return search.search(asked, top_k=top_k, **SAID | {"top_ranked": None} | options)


# ---- BM25


@pytest.mark.parametrize("top_k", [1, 3, 1000])
def test_bm25_gives_the_scores_of_the_index(top_k: int) -> None:
    texts, titles, asked = sentences(30, 1), ["", "a title"] * 15, sentences(5, 2)
    found = of(Bm25Search(), corpus(texts, titles), queries(asked), top_k)
    slow = Bm25([f"{title} {text}".strip() for title, text in zip(titles, texts, strict=True)]).top_k(asked, top_k)
    assert list(found) == [f"q{place}" for place in range(5)]
    for run, (scores, rows) in zip(found.values(), slow, strict=True):
        assert list(run.items()) == [(f"d{row}", float(score)) for row, score in zip(rows, scores, strict=True)]
        assert len(run) <= top_k


def test_bm25_of_other_numbers() -> None:
    texts, asked = sentences(30, 1), sentences(5, 2)
    found = of(Bm25Search(k1=1.5, b=0.75), corpus(texts), queries(asked))
    slow = Bm25(texts, k1=1.5, b=0.75).top_k(asked, 1000)
    assert [list(run.values()) for run in found.values()] == [scores.tolist() for scores, _ in slow]


@pytest.mark.parametrize(("k1", "b"), [(-1, 0.4), (math.nan, 0.4), (0.9, 1.1)])
def test_wrong_numbers_of_bm25_fail_at_once(k1: float, b: float) -> None:
    with pytest.raises(InputError, match=r"(k1|b) is "):
        Bm25Search(k1=k1, b=b)


def test_bm25_puts_candidates_into_order_and_leaves_none_out() -> None:
    documents = corpus(["ice melts", "water boils", "the door", "ice and water"])
    top_ranked = {"q0": ["d2", "d1", "d3"], "q1": []}
    found = of(Bm25Search(), documents, queries(["ice water", "ice"]), top_k=1, top_ranked=top_ranked)
    assert found["q0"].keys() == {"d1", "d2", "d3"}
    assert found["q0"]["d3"] > found["q0"]["d1"] > found["q0"]["d2"] == 0
    assert found["q1"] == {}


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "ice"}, "ice"),
        ({"text": "ice", "instruction": "not water"}, "ice not water"),
        ({"text": "ice", "instruction": None}, "ice"),
        ({"text": ["ice", "and water"]}, "ice; and water"),
        (
            {"text": [{"role": "user", "content": "ice"}, {"role": "model", "content": "cold"}]},
            "user: ice; model: cold",
        ),
        ({"text": ["ice"], "instruction": "answer"}, "answer ice"),
    ],
)
def test_a_query_is_read_as_mteb_joins_it(row: dict[str, Any], text: str) -> None:
    assert mteb_search._join_query(row) == text
    given = queries([row["text"]], **({"instruction": [row["instruction"]]} if row.get("instruction") else {}))
    from mteb._create_dataloaders import create_dataloader

    loader = create_dataloader(
        given, task_metadata=mocks.MockRetrievalTask.metadata, prompt_type=mteb.types.PromptType.query
    )
    assert [read for batch in loader for read in batch["text"]] == [text]


def test_no_query_and_no_word() -> None:
    assert of(Bm25Search(), corpus(["ice"]), queries(["ice"]).select([])) == {}
    assert of(Bm25Search(), corpus(["?", ""]), queries(["ice", ""])) == {"q0": {}, "q1": {}}


def test_an_index_is_made_once_a_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    build: list[int] = []

    class Counted(Bm25):
        def __init__(self, documents: Sequence[str], **options: Any) -> None:
            build.append(len(documents))
            super().__init__(documents, **options)

    search = Bm25Search()
    monkeypatch.setattr(mteb_search, "Bm25", Counted)
    first, second = corpus(["ice"]), corpus(["water", "door"])
    for documents in (first, first, second, second, first):
        assert of(search, documents, queries(["ice water"]))["q0"]
    assert build == [1, 2, 1]


def test_bm25_runs_mtebs_mock_tasks_of_retrieval() -> None:
    found = dict(mteb.mock_run(Bm25Search()).items())
    kinds = {task.metadata.name: task.metadata for task in mteb.mocks.ALL_MOCK_TASK_TEST_GRID}
    assert {name: str(each.exception) for name, each in found.items() if hasattr(each, "exception")} == {}
    assert {kinds[name].type for name, each in found.items() if each is not None} == {
        "Retrieval",
        "Reranking",
        "InstructionRetrieval",
        "InstructionReranking",
    }


def test_it_searches_and_does_not_encode() -> None:
    for search in (Bm25Search(), CachedSearch(Bm25Search()), HybridSearch(Bm25Search(), Bm25Search())):
        assert isinstance(search, SearchProtocol)
        assert not isinstance(search, EncoderProtocol)


# ---- what was found before


class Counting:
    """Finds as many documents as a query has letters; counts how often it is asked."""

    def __init__(self) -> None:
        self.indexed: list[Any] = []
        self.asked: list[tuple[str, ...]] = []
        self.mteb_model_meta = SimpleNamespace(name="counting", revision="1")

    def index(self, corpus: Any, **options: Any) -> None:
        self.indexed.append((corpus["id"], options["hf_subset"], options["encode_kwargs"]))

    def search(self, queries: Any, *, top_k: int, **options: Any) -> Runs:
        self.asked.append((*queries["id"], options["hf_split"], str(top_k)))
        return {row["id"]: {f"d{at}": float(at) for at in range(len(row["text"]))} for row in queries}


def test_remembered_gives_what_the_inner_gave_and_asks_it_once() -> None:
    inner = Counting()
    search, asked = CachedSearch(inner), queries(["a", "abc"])
    found = [of(search, corpus(["x"] * 4), asked) for _ in range(3)]
    assert found == [{"q0": {"d0": 0.0}, "q1": {"d0": 0.0, "d1": 1.0, "d2": 2.0}}] * 3
    assert len(inner.asked) == len(inner.indexed) == 1
    assert search.mteb_model_meta is inner.mteb_model_meta


def test_remembered_gives_copies() -> None:
    """mteb takes documents out of what it is given, where a document is the query itself."""
    search = CachedSearch(Counting())
    first = of(search, corpus(["x"]), queries(["abc"]))
    del first["q0"]["d1"]
    assert of(search, corpus(["x"]), queries(["abc"]))["q0"].keys() == {"d0", "d1", "d2"}


@pytest.mark.parametrize(
    "other",
    [
        {"hf_subset": "fra"},
        {"hf_split": "dev"},
        {"task_metadata": SimpleNamespace(name="other")},
        {"top_k": 5},
        {"asked": queries(["abc"], front="p")},
    ],
)
def test_remembered_asks_again_for_anything_else(other: dict[str, Any]) -> None:
    inner = Counting()
    search = CachedSearch(inner)
    of(search, corpus(["x"]), queries(["abc"]))
    options = SAID | {key: value for key, value in other.items() if key in SAID}
    search.index(corpus(["x"]), **options)
    search.search(other.get("asked", queries(["abc"])), top_k=other.get("top_k", 1000), top_ranked=None, **options)
    assert len(inner.asked) == 2


def test_remembered_indexes_for_each_search_of_a_corpus() -> None:
    """mteb's own search forgets its corpus after one."""
    inner = Counting()
    search = CachedSearch(inner)
    search.index(corpus(["x"]), **SAID)
    for asked in (queries(["a"]), queries(["a"], front="p"), queries(["a"])):
        search.search(asked, top_k=9, **SAID)
    assert len(inner.indexed) == 2


# ---- fusion


class Scripted:
    """A way of searching that finds what it was told to: {query: {document: score}}."""

    def __init__(self, runs: Mapping[str, Mapping[str, float]]) -> None:
        self.runs = runs
        self.asked: list[list[str]] = []
        self.mteb_model_meta = SimpleNamespace(name="scripted", revision="1")

    def index(self, corpus: Any, **options: Any) -> None: ...

    def search(self, queries: Any, *, top_k: int, **options: Any) -> Runs:
        self.asked.append(list(queries["id"]))
        best = {query: sorted(self.runs[query].items(), key=lambda item: -item[1])[:top_k] for query in queries["id"]}
        return {query: dict(run) for query, run in best.items()}


N = 12


def build(front: str, count: int, good: str, seed: int) -> tuple[Runs, Runs, dict[str, dict[str, int]]]:
    """(sparse, dense, labels) of queries for which one of the two is right and the other is noise."""
    rng = np.random.default_rng(seed)
    sparse: Runs = {}
    dense: Runs = {}
    relevant: dict[str, dict[str, int]] = {}
    for place in range(count):
        right = int(rng.integers(N))
        runs = {name: rng.random(N) for name in ("sparse", "dense")}
        runs[good][right] += 1
        query = f"{front}{place}"
        sparse[query] = {f"d{at}": float(score) for at, score in enumerate(runs["sparse"])}
        dense[query] = {f"d{at}": float(score) for at, score in enumerate(runs["dense"])}
        relevant[query] = {f"d{right}": 1, f"d{(right + 1) % N}": 0}
    return sparse, dense, relevant


def split_of(relevant: Mapping[str, Mapping[str, int]], front: str) -> dict[str, Any]:
    return {"queries": queries(["x"] * len(relevant), front), "relevant_docs": relevant, "corpus": corpus(["x"] * N)}


TEST = build("q", 40, "sparse", 1)
DEV = build("p", 30, "dense", 2)
BOTH: tuple[Runs, Runs] = (TEST[0] | DEV[0], TEST[1] | DEV[1])
DOCUMENTS = corpus(["x"] * N)


def hybrid(alpha: Any = "tuned", **splits: Any) -> HybridSearch:
    return HybridSearch(
        Scripted(BOTH[0]),
        Scripted(BOTH[1]),
        alpha=alpha,
        load_splits=lambda task, subset: splits if (task, subset) == ("task", "default") else {},
    )


def fused(search: HybridSearch, top_k: int = 1000) -> Runs:
    return of(search, DOCUMENTS, queries(["x"] * 40), top_k)


def test_alpha_is_tuned_on_another_split() -> None:
    search = hybrid(test=split_of(TEST[2], "q"), dev=split_of(DEV[2], "p"))
    found = fused(search)
    alpha = tune_alpha(DEV[0], DEV[1], DEV[2])
    assert alpha > 2  # in dev the dense scores are right
    assert tune_alpha(TEST[0], TEST[1], TEST[2]) < 0.5  # and here the words are
    assert search.alphas == {"default": [alpha]}
    for query, run in found.items():
        assert run == pytest.approx(fuse_mr_tydi(TEST[0][query], TEST[1][query], alpha=alpha))
    assert search.sparse.asked == [[f"q{place}" for place in range(40)], [f"p{place}" for place in range(30)]]


def test_other_labels_of_the_evaluated_split_change_no_alpha() -> None:
    other = {query: {f"d{(int(query[1:]) * 7) % N}": 1} for query in TEST[2]}
    found = [fused(hybrid(test=split_of(each, "q"), dev=split_of(DEV[2], "p"))) for each in (TEST[2], other)]
    assert found[0] == found[1]
    # while those of dev do
    turned = split_of({query: {f"d{(int(query[1:]) * 7) % N}": 1} for query in DEV[2]}, "p")
    assert fused(hybrid(test=split_of(TEST[2], "q"), dev=turned)) != found[0]


@pytest.mark.parametrize(
    ("splits", "chosen"),
    [
        (["train", "validation", "dev"], "dev"),
        (["train", "validation"], "validation"),
        (["train"], "train"),
    ],
)
def test_which_split_is_tuned_on(splits: list[str], chosen: str) -> None:
    """The first of dev, validation and train that judges a document of this corpus to be relevant."""
    nothing = {"queries": queries(["x"], "p"), "relevant_docs": {"p0": {"d0": 0}}, "corpus": DOCUMENTS}
    elsewhere = nothing | {"relevant_docs": {"p0": {"other": 1}}}
    others = {name: split_of(DEV[2], "p") if name == chosen else elsewhere for name in splits}
    passed_over = {name: nothing for name in ("dev", "validation") if name not in splits}
    for data in (others, others | passed_over):
        search = hybrid(test=split_of(TEST[2], "q"), **data)
        fused(search)
        assert search.alphas == {"default": [tune_alpha(*DEV)]}


@pytest.mark.parametrize("name", ["val", "valid"])
def test_d6_other_names_of_the_validation_split_are_tuned_on(name: str) -> None:
    search = hybrid(test=split_of(TEST[2], "q"), train=split_of(TEST[2], "q"), **{name: split_of(DEV[2], "p")})
    fused(search)
    assert search.alphas == {"default": [tune_alpha(*DEV)]}


@pytest.mark.parametrize("how", ["hybrid", "rrf"])
def test_d2_a_query_that_is_a_document_is_left_out_before_fusion(how: Any) -> None:
    """Its score, the highest of both lists, would set the scale that the others are fused on."""
    runs: list[Runs] = [
        {"d1": {"d1": 90.0, "d2": 3.0, "d3": 2.0}, "q2": {"d1": 1.0, "d3": 2.0}},
        {"d1": {"d1": 1.0, "d3": 0.4, "d2": 0.3}, "q2": {"d1": 0.5, "d2": 0.6}},
    ]
    asked = queries(["x", "x"]).remove_columns("id").add_column("id", ["d1", "q2"])  # pyright: ignore
    found: dict[bool, Runs] = {}
    for ignores in (False, True):
        search = HybridSearch(Scripted(runs[0]), Scripted(runs[1]), how, alpha=2.0)
        if ignores:
            search = search.for_task(
                load_splits=lambda task, subset: {}, ignores_identical_ids=lambda task: task == "task"
            )
        found[ignores] = of(search, DOCUMENTS, asked, 9)
    assert found[True]["q2"] == found[False]["q2"]
    assert "d1" in found[False]["d1"]
    sparse, dense = ({key: score for key, score in each["d1"].items() if key != "d1"} for each in runs)
    expected = fuse_mr_tydi(sparse, dense, alpha=2.0) if how == "hybrid" else reciprocal_rank_fusion([sparse, dense])
    assert found[True]["d1"] == pytest.approx(expected)


def test_the_evaluated_split_is_not_the_one_to_tune_on() -> None:
    """dev may be evaluated itself."""
    search = hybrid(dev=split_of(TEST[2], "q"))
    search.index(DOCUMENTS, **SAID | {"hf_split": "dev"})
    search.search(queries(["x"] * 40), top_k=1000, **SAID | {"hf_split": "dev"})
    assert search.alphas == {"default": sorted(set(cross_fit_alpha(*TEST).values()))}
    assert len(search.sparse.asked) == 1


def test_a_split_on_another_corpus_is_of_no_use() -> None:
    elsewhere = {
        query: {f"other-{document}": label for document, label in labels.items()} for query, labels in DEV[2].items()
    }
    search = hybrid(test=split_of(TEST[2], "q"), dev=split_of(elsewhere, "p"))
    fused(search)
    assert search.alphas == {"default": sorted(set(cross_fit_alpha(*TEST).values()))}


def test_many_queries_of_another_split_are_not_all_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hybrid_module, "MAX_TUNING_QUERIES", 8)
    search = hybrid(test=split_of(TEST[2], "q"), dev=split_of(DEV[2], "p"))
    fused(search)
    some = [f"p{place}" for place in range(0, 30, 4)]
    assert search.dense.asked[1] == some
    assert search.alphas == {"default": [tune_alpha(DEV[0], DEV[1], {query: DEV[2][query] for query in some})]}


def test_with_one_split_no_query_chooses_its_own_alpha() -> None:
    """Against the definition: each query's labels may be turned without a change to its own run."""
    data = {"test": split_of(TEST[2], "q")}
    search = hybrid(**data)
    found = fused(search)
    alphas = cross_fit_alpha(*TEST)
    assert search.alphas == {"default": sorted(set(alphas.values()))}
    for query in TEST[2]:
        assert found[query] == pytest.approx(fuse_mr_tydi(TEST[0][query], TEST[1][query], alpha=alphas[query]))
        other = TEST[2] | {query: {f"d{at}": 1 for at in range(N) if at % 2}}
        assert fused(hybrid(test=split_of(other, "q")))[query] == found[query]


def test_with_few_queries_both_count_alike() -> None:
    few = {query: TEST[2][query] for query in list(TEST[2])[: MIN_LABELLED_QUERIES - 1]}
    search = hybrid(test=split_of(few, "q"))
    fused(search)
    assert search.alphas == {"default": [1.0]}


@pytest.mark.parametrize("alpha", [0, 0.5, 1, 3.0])
def test_alpha_may_be_a_number(alpha: float) -> None:
    search = hybrid(alpha)
    found = fused(search)
    assert search.alphas == {"default": [alpha]}
    assert all(
        run == pytest.approx(fuse_mr_tydi(TEST[0][query], TEST[1][query], alpha=alpha)) for query, run in found.items()
    )


def test_published_alphas_are_by_language() -> None:
    search = hybrid("published")
    for subset, alpha in MR_TYDI_ALPHAS.items():
        search.index(DOCUMENTS, **SAID | {"hf_subset": subset})
        found = search.search(queries(["x"] * 3), top_k=9, **SAID | {"hf_subset": subset})
        assert search.alphas[subset] == [alpha] == [published_alpha(subset)]
        assert found["q0"].keys() <= TEST[0]["q0"].keys()
    assert (MR_TYDI_ALPHAS["swahili"], MR_TYDI_ALPHAS["korean"]) == (0.56, 1.0)
    with pytest.raises(InputError, match=r"'default'.*arabic"):
        fused(search)


@pytest.mark.parametrize("alpha", ["dev", "", "0.5", -0.1, math.nan, math.inf, None])
def test_a_wrong_alpha_fails_at_once(alpha: Any) -> None:
    with pytest.raises(InputError, match=rf"alpha {alpha!r}.*tuned.*published"):
        HybridSearch(Scripted({}), Scripted({}), alpha=alpha)


@pytest.mark.parametrize("top_k", [1, 4, 1000])
def test_reciprocal_ranks(top_k: int) -> None:
    """Of the best of each list, as deep as the search looks; the best of the fusion, equal ones by id."""
    search = HybridSearch(Scripted(TEST[0]), Scripted(TEST[1]), "rrf")
    found = fused(search, top_k)
    for query, run in found.items():
        lists = [dict(sorted(each[query].items(), key=lambda item: -item[1])[:top_k]) for each in TEST[:2]]
        slow = sorted(reciprocal_rank_fusion(lists).items(), key=lambda item: (item[1], item[0]), reverse=True)[:top_k]
        assert list(run.items()) == slow
    assert search.alphas == {}


def test_equal_scores_are_truncated_by_id_descending() -> None:
    class All(Scripted):
        def search(self, queries: Any, **options: Any) -> Runs:
            return {"q0": {"b": 1.0, "a": 1.0, "d": 1.0, "c": 1.0}}

    search = HybridSearch(All({}), All({}), alpha=1)
    assert list(of(search, DOCUMENTS, queries(["x"]), 2)["q0"]) == ["d", "c"]


@pytest.mark.parametrize(
    ("how", "alpha", "words", "revision"),
    [
        ("hybrid", "tuned", {}, "1_hybrid-alpha-tuned"),
        ("hybrid", 0.5, {}, "1_hybrid-alpha-0.5"),
        ("rrf", "tuned", {}, "1_rrf"),
        ("rrf", "tuned", {"k1": 1.2}, "1_rrf_k1-1.2_b-0.4"),
    ],
)
def test_the_revision_of_a_fusion(how: Any, alpha: Any, words: dict[str, float], revision: str) -> None:
    meta = HybridSearch(Bm25Search(**words), Scripted({}), how, alpha=alpha).mteb_model_meta
    assert (meta.name, meta.revision) == ("scripted", revision)
    assert Bm25Search(**words).mteb_model_meta.name == "bm25"


def test_a_fusion_runs_mtebs_mock_tasks() -> None:
    search = HybridSearch(CachedSearch(Bm25Search()), CachedSearch(Bm25Search()), alpha=1)
    for task in (mocks.MockRetrievalTask(), mocks.MockInstructionRetrieval(), mocks.MockRetrievalDialogTask()):
        found = mteb.evaluate(search, task, cache=None, co2_tracker=False, show_progress_bar=False)
        assert 0 <= found.task_results[0].get_score() <= 1


# ---- bits


def reference(query_D: np.ndarray, documents_ND: np.ndarray, k: int) -> list[tuple[int, float]]:
    """[(row, score for mteb)]: `BinaryIndex`, whose rescored results are 3 higher so that they sort first."""
    scores_1K, rows_1K = BinaryIndex.from_vectors(documents_ND).top_k(query_D[None], k)
    first = np.arange(scores_1K.shape[1]) < NUM_RESCORED
    return list(zip(rows_1K[0].tolist(), (scores_1K[0] + np.where(first, np.float32(3), 0)).tolist(), strict=True))


@pytest.mark.parametrize("k", [1, 39, 41, 70])
def test_packed_signs_are_added_in_parts_and_scored_as_the_index_does(k: int) -> None:
    rng = np.random.default_rng(k)
    documents_ND = rng.normal(size=(60, 18)).astype(np.float32)
    queries_QD = rng.normal(size=(3, 18)).astype(np.float32)
    ids = [f"d{row}" for row in range(60)]
    backend = BinaryBackend()
    for part in (slice(0, 25), slice(25, 60)):
        # mteb passes what MtebEncoder returns: signs as floats
        backend.add_documents(np.where(documents_ND[part] > 0, 1.0, -1.0), ids[part])
    scores, positions = backend.search(queries_QD, k, similarity_fn=None)
    for query_D, scores_K, positions_K in zip(queries_QD, scores, positions, strict=True):
        assert list(zip(positions_K, scores_K, strict=True)) == reference(query_D, documents_ND, k)
        assert scores_K == sorted(scores_K, reverse=True)


def test_candidates_are_searched_alone() -> None:
    rng = np.random.default_rng(3)
    documents_ND = rng.normal(size=(9, 8)).astype(np.float32)
    queries_QD = rng.normal(size=(2, 8)).astype(np.float32)
    backend = BinaryBackend()
    backend.add_documents(documents_ND, list("abcdefghi"))
    top_ranked = {"q0": ["c", "a", "h"], "q1": ["i"]}
    scores, positions = backend.search(queries_QD, 10, None, top_ranked, {0: "q0", 1: "q1"})
    for query_D, rows, scores_K, positions_K in zip(queries_QD, [[2, 0, 7], [8]], scores, positions, strict=True):
        assert list(zip(positions_K, scores_K, strict=True)) == reference(query_D, documents_ND[rows], 10)
    backend.clear()
    backend.add_documents(documents_ND[:1], ["z"])
    assert backend.search(queries_QD, 5, None)[1] == [[0], [0]]


class Vectors:
    """mteb's encoder over vectors that are drawn by the text: signs of documents, numbers of queries."""

    def __init__(self) -> None:
        self.mteb_model_meta = SimpleNamespace(name="vectors", revision="1", modalities=["text"])

    def encode(self, inputs: Any, *, prompt_type: Any, **options: Any) -> np.ndarray:
        texts = [text for batch in inputs for text in batch["text"]]
        drawn = [np.random.default_rng(list(text.encode())).normal(size=16) for text in texts]
        vectors_ND = np.array(drawn, np.float32)
        return vectors_ND if prompt_type.value == "query" else np.where(vectors_ND > 0, np.float32(1), np.float32(-1))

    def similarity(self, a: Any, b: Any) -> Any:
        raise AssertionError("the index scores")

    similarity_pairwise = similarity


@pytest.mark.parametrize("reranking", [False, True])
def test_bits_are_a_backend_of_mtebs_search(reranking: bool) -> None:
    model: Any = Vectors()
    search = SearchEncoderWrapper(model, index_backend=BinaryBackend())
    documents, asked = corpus(sentences(70, 5)), queries(sentences(4, 6))
    top_ranked = {f"q{place}": [f"d{at}" for at in range(place, 70, 5)] for place in range(4)} if reranking else None
    options = {key: value for key, value in SAID.items() if key != "task_metadata"}
    metadata = mocks.MockRerankingTask.metadata if reranking else mocks.MockRetrievalTask.metadata
    for _ in range(2):
        search.index(documents, task_metadata=metadata, **options)
        found = search.search(asked, task_metadata=metadata, top_k=50, top_ranked=top_ranked, **options)
        batches = {"document": [{"text": documents["text"]}], "query": [{"text": asked["text"]}]}
        bits_ND, queries_QD = (
            model.encode(batches[side], prompt_type=SimpleNamespace(value=side)) for side in ("document", "query")
        )
        for place, query_D in enumerate(queries_QD):
            rows = range(place, 70, 5) if reranking else range(70)
            expected = {f"d{rows[at]}": score for at, score in reference(query_D, bits_ND[list(rows)], 50)}
            assert found[f"q{place}"] == pytest.approx(expected, abs=1e-6)

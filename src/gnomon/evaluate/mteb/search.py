"""The searches of `gnomon.search` as mteb's `SearchProtocol`: BM25, packed signs, and the fusion of two searches.

Nothing is searched, scored or fused here: what is evaluated is what `gnomon.search` serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnomon.search.binary import NUM_RESCORED, BinaryIndex
from gnomon.search.bm25 import Bm25
from gnomon.search.fusion import cross_fit_alpha, tune_alpha
from gnomon.search.hybrid import (
    Alpha,
    FusionMethod,
    Runs,
    check_alpha,
    choose_tuning_split,
    drop_identical_ids,
    fuse_runs,
    published_alpha,
    sample_tuning_queries,
)

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta

    from gnomon.evaluate.mteb.encoder import MtebEncoder

Method = Literal["dense", "bm25", "hybrid", "rrf"]

TITLE_RULE = "title and text with a blank between, stripped, as mteb joins them"
TIE_RULE = "equal scores by document id, descending, as in trec_eval and mteb"


class Bm25Search:
    """Searches by BM25 over the words of texts, without a model."""

    def __init__(self, *, k1: float = 0.9, b: float = 0.4) -> None:
        self.k1, self.b = k1, b
        Bm25([], k1=k1, b=b)  # wrong numbers fail here, not after the texts were read
        self._index: Bm25 | None = None
        self._corpus: Any = None
        self._ids: list[str] = []

    @property
    def mteb_model_meta(self) -> ModelMeta:
        return _build_meta("bm25", f"k1-{self.k1:g}_b-{self.b:g}")

    def index(self, corpus: Any, **mteb_options: Any) -> None:
        """Index a corpus of mteb: rows of id, title and text. mteb's other arguments (task, split) change nothing."""
        if corpus is self._corpus:
            return
        self._corpus, self._ids = corpus, list(corpus["id"])
        titles = corpus["title"] if "title" in corpus.column_names else [None] * len(corpus)
        pairs = zip(titles, corpus["text"], strict=True)
        self._index = Bm25([f"{title or ''} {text}".strip() for title, text in pairs], k1=self.k1, b=self.b)

    def search(self, queries: Any, *, top_k: int, top_ranked: Any = None, **mteb_options: Any) -> Runs:
        """{query: {document: score}} for the documents that share a word with the query, or for all its candidates."""
        assert self._index is not None, "index comes first"
        k = len(self._ids) if top_ranked is not None else top_k
        results = self._index.top_k([_join_query(row) for row in queries], max(k, 1))
        runs: Runs = {}
        for query, (scores_K, rows_K) in zip(queries["id"], results, strict=True):
            runs[query] = {self._ids[row]: float(score) for score, row in zip(scores_K, rows_K, strict=True)}
            if top_ranked is not None:
                runs[query] = {document: runs[query].get(document, 0.0) for document in top_ranked.get(query, ())}
        return runs


class CachedSearch:
    """Caches the runs of a search, because a fusion needs those that were evaluated on their own.

    It holds the runs of one split and subset of a task only: all of them would take gigabytes.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.mteb_model_meta = inner.mteb_model_meta
        self._cached_split: Any = None
        self._runs: dict[tuple[str, ...], Runs] = {}
        self._corpus: tuple[Any, dict[str, Any]] = (None, {})

    def index(
        self, corpus: Any, *, task_metadata: TaskMetadata, hf_split: str, hf_subset: str, **mteb_options: Any
    ) -> None:
        self._corpus = (
            corpus,
            {"task_metadata": task_metadata, "hf_split": hf_split, "hf_subset": hf_subset} | mteb_options,
        )
        split = (task_metadata.name, hf_split, hf_subset)
        if self._cached_split != split:
            self._cached_split, self._runs = split, {}

    def search(self, queries: Any, *, top_k: int, **mteb_options: Any) -> Runs:
        key = (str(top_k), *queries["id"])
        if key not in self._runs:
            corpus, index_options = self._corpus
            self.inner.index(corpus, **index_options)  # before every search: mteb's own forgets its corpus after one
            self._runs[key] = self.inner.search(queries, top_k=top_k, **mteb_options)
        return {query: dict(run) for query, run in self._runs[key].items()}


class HybridSearch:
    """Fuses the runs of a sparse and a dense search (`gnomon.search.hybrid`).

    Args:
        sparse, dense: the two searches.
        fusion: "hybrid" for the formula of Mr. TyDi, sparse + alpha x dense over normalised scores; "rrf" for
            reciprocal ranks.
        alpha: the weight of "hybrid": a number; "tuned" on a split that is not the evaluated one, or without one by
            cross-fitting (no query's own labels choose its alpha); "published" for those of MrTidyRetrieval that the
            e5 card used.
        load_splits: (task, subset) -> {split: mteb's data of it}, for "tuned".
        ignores_identical_ids: whether a task leaves the document with a query's own id out of its results.

    Raises:
        InputError: another alpha, or one below 0.
    """

    def __init__(
        self,
        sparse: Any,
        dense: Any,
        fusion: FusionMethod = "hybrid",
        *,
        alpha: Alpha = "tuned",
        load_splits: Callable[[str, str], Mapping[str, Any]] = lambda task, subset: {},
        ignores_identical_ids: Callable[[str], bool] = lambda task: False,
    ) -> None:
        check_alpha(alpha)
        self.sparse, self.dense = sparse, dense
        self.fusion: FusionMethod = fusion
        self.alpha: Alpha = alpha
        self.alphas: dict[str, list[float]] = {}
        """{subset: the alphas that were used}"""
        self._load_splits, self._ignores_identical_ids = load_splits, ignores_identical_ids
        self._documents: set[str] = set()

    def for_task(
        self,
        *,
        load_splits: Callable[[str, str], Mapping[str, Any]],
        ignores_identical_ids: Callable[[str], bool],
    ) -> HybridSearch:
        """The same search for the data of one task."""
        return HybridSearch(
            self.sparse,
            self.dense,
            self.fusion,
            alpha=self.alpha,
            load_splits=load_splits,
            ignores_identical_ids=ignores_identical_ids,
        )

    @property
    def mteb_model_meta(self) -> ModelMeta:
        meta = self.dense.mteb_model_meta
        bm25_settings = self.sparse.mteb_model_meta.revision
        parts = [
            meta.revision,
            f"{self.fusion}-alpha-{self.alpha}" if self.fusion == "hybrid" else self.fusion,
            bm25_settings if bm25_settings != Bm25Search().mteb_model_meta.revision else "",
        ]
        return _build_meta(meta.name, "_".join(filter(None, parts)))

    def index(self, corpus: Any, **mteb_options: Any) -> None:
        self._documents = set(corpus["id"])
        for search in (self.sparse, self.dense):
            search.index(corpus, **mteb_options)

    def search(self, queries: Any, *, top_k: int, hf_subset: str, hf_split: str, **mteb_options: Any) -> Runs:
        """{query: {document: score}} for the best documents of both; equal scores as in `TIE_RULE`."""
        task = mteb_options["task_metadata"].name
        options = {"top_k": top_k, "hf_subset": hf_subset, "hf_split": hf_split} | mteb_options
        sparse, dense = self._search_both(queries, options)
        if self.fusion == "rrf":
            return fuse_runs(sparse, dense, k=top_k, method="rrf")
        splits = self._load_splits(task, hf_subset) if self.alpha == "tuned" else {}
        alphas = self._choose_alphas(splits, options, sparse, dense)
        self.alphas[hf_subset] = sorted({*self.alphas.get(hf_subset, ()), *alphas.values()})
        return fuse_runs(sparse, dense, k=top_k, alphas=alphas)

    def _search_both(self, queries: Any, options: Mapping[str, Any]) -> tuple[Runs, Runs]:
        sparse, dense = self.sparse.search(queries, **options), self.dense.search(queries, **options)
        if self._ignores_identical_ids(options["task_metadata"].name):
            return drop_identical_ids(sparse), drop_identical_ids(dense)
        return sparse, dense

    def _choose_alphas(
        self, splits: Mapping[str, Any], options: Mapping[str, Any], sparse: Runs, dense: Runs
    ) -> dict[str, float]:
        """{query: its alpha}."""
        if isinstance(self.alpha, int | float):
            return dict.fromkeys(sparse, float(self.alpha))
        if self.alpha == "published":
            return dict.fromkeys(sparse, published_alpha(options["hf_subset"]))
        evaluated = options["hf_split"]
        labels_of_split = {name: data["relevant_docs"] for name, data in splits.items()}
        tuning_split = choose_tuning_split(labels_of_split, evaluated, self._documents)
        if tuning_split is None:
            return cross_fit_alpha(sparse, dense, labels_of_split[evaluated])
        queries = splits[tuning_split]["queries"]
        queries = queries.select(sample_tuning_queries(len(queries)))
        qrels = {query: labels_of_split[tuning_split].get(query, {}) for query in queries["id"]}
        return dict.fromkeys(sparse, tune_alpha(*self._search_both(queries, options), qrels))


class BinaryBackend:
    """`gnomon.search.BinaryIndex` as an index backend of mteb's search."""

    def __init__(self) -> None:
        self._bits: list[NDArray[np.uint8]] = []
        self._dim = 0
        self._ids: list[str] = []

    def add_documents(self, embeddings: ArrayLike, idxs: Sequence[str]) -> None:
        """Add float vectors of documents [N, D], of which the signs are stored, and their ids."""
        chunk = BinaryIndex.from_vectors(embeddings)
        self._bits.append(chunk.bits_NB)
        self._dim = chunk.dim
        self._ids.extend(idxs)

    def search(
        self,
        embeddings: ArrayLike,
        top_k: int,
        similarity_fn: Any,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        query_idx_to_id: Mapping[int, str] | None = None,
    ) -> tuple[list[list[float]], list[list[int]]]:
        """(scores, positions) of the best documents of each query: positions in the corpus, or among its candidates."""
        queries_QD = np.asarray(embeddings, np.float32)
        index = BinaryIndex(np.concatenate(self._bits), self._dim)
        if top_ranked is None or query_idx_to_id is None:
            scores_QK, rows_QK = _search_index(index, queries_QD, top_k)
            return scores_QK.tolist(), rows_QK.tolist()
        row_of = {document: row for row, document in enumerate(self._ids)}
        scores: list[list[float]] = []
        positions: list[list[int]] = []
        for number, query_D in enumerate(queries_QD):
            rows = [row_of[document] for document in top_ranked[query_idx_to_id[number]]]
            scores_1K, rows_1K = _search_index(index.select(rows), query_D[None], top_k)
            scores += scores_1K.tolist()
            positions += rows_1K.tolist()
        return scores, positions

    def clear(self) -> None:
        self._bits, self._ids = [], []


def _search_index(
    index: BinaryIndex, queries_QD: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """As `BinaryIndex.top_k`, with 3 added to the rescored results: mteb sorts by score, and they come first."""
    scores_QK, rows_QK = index.top_k(queries_QD, k)
    scores_QK[:, :NUM_RESCORED] += 3
    return scores_QK, rows_QK


def build_dense_search(encoder: MtebEncoder) -> Any:
    """mteb's own search by vectors, over `BinaryBackend` where the precision is "binary-rescored"."""
    from mteb.models.search_wrappers import SearchEncoderWrapper

    backend = BinaryBackend() if encoder.options.precision == "binary-rescored" else None
    model: Any = encoder  # mteb's protocol has a constructor of its own, which is not called here
    return SearchEncoderWrapper(model, index_backend=backend)


def _join_query(row: Mapping[str, Any]) -> str:
    """A query as mteb joins it: text, then instruction; a conversation in one line, its instruction first."""
    text, instruction = row["text"], row.get("instruction") or ""
    if isinstance(text, list):
        turns = "; ".join(turn if isinstance(turn, str) else f"{turn['role']}: {turn['content']}" for turn in text)
        return f"{instruction} {turns}".strip()
    return f"{text} {instruction}".strip()


def _build_meta(name: str, revision: str) -> ModelMeta:
    from mteb.models.model_meta import ModelMeta

    return ModelMeta.create_empty(overwrites={"name": name, "revision": revision})

"""Ways of searching a corpus, as mteb's `SearchProtocol`: BM25, dense vectors in bits, and the fusion of two.

Q: queries; N: documents; D: width of a vector; K: results of a query.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnomon import modules
from gnomon.errors import InputError
from gnomon.search.bm25 import Bm25
from gnomon.search.exact import top_k_indices
from gnomon.search.fusion import (
    MIN_LABELLED_QUERIES,
    MR_TYDI_ALPHAS,
    cross_fit_alpha,
    fuse_mr_tydi,
    reciprocal_rank_fusion,
    tune_alpha,
)

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta

Run = Mapping[str, float]
"""{document: score} of one query."""
Runs = dict[str, dict[str, float]]
"""{query: its run}"""
Method = Literal["dense", "bm25", "hybrid", "rrf"]
Alpha = float | Literal["tuned", "published"]

NUM_RESCORED = 40
"""Documents of a query, the nearest by bits, that are put into order by the query's own numbers: four times the ten
that nDCG@10 looks at, as is usual."""

MAX_TUNING_QUERIES = 1000
"""Queries of another split that are enough to choose one number by."""

TUNING_SPLITS = ("dev", "validation", "valid", "val", "train")
"""Splits that alpha may be tuned on, the first that is there."""

TITLE_RULE = "title and text with a blank between, stripped, as mteb joins them"
TIE_RULE = "equal scores by document id, descending, as in trec_eval and mteb"


class Bm25Search:
    """BM25 over the words of texts; no model."""

    def __init__(self, *, k1: float = 0.9, b: float = 0.4) -> None:
        self.k1, self.b = k1, b
        Bm25([], k1=k1, b=b)  # wrong numbers fail here, rather than after the work
        self._index: Bm25 | None = None
        self._corpus: Any = None
        self._ids: list[str] = []

    @property
    def mteb_model_meta(self) -> ModelMeta:
        return _build_meta("bm25", f"k1-{self.k1:g}_b-{self.b:g}")

    def index(self, corpus: Any, **mteb_options: Any) -> None:
        """Index a corpus of mteb: rows of id, title and text. What mteb says beside (task, split) changes nothing."""
        if corpus is self._corpus:
            return
        self._corpus, self._ids = corpus, list(corpus["id"])
        titles = corpus["title"] if "title" in corpus.column_names else [None] * len(corpus)
        pairs = zip(titles, corpus["text"], strict=True)
        self._index = Bm25([f"{title or ''} {text}".strip() for title, text in pairs], k1=self.k1, b=self.b)

    def search(self, queries: Any, *, top_k: int, top_ranked: Any = None, **mteb_options: Any) -> Runs:
        """{query: {document: score}} of the documents that share a word with the query, or of its candidates."""
        assert self._index is not None, "index comes first"
        k = len(self._ids) if top_ranked is not None else top_k
        found = self._index.top_k([_join_query(row) for row in queries], max(k, 1))
        runs: Runs = {}
        for query, (scores_K, rows_K) in zip(queries["id"], found, strict=True):
            runs[query] = {self._ids[row]: float(score) for score, row in zip(scores_K, rows_K, strict=True)}
            if top_ranked is not None:
                runs[query] = {document: runs[query].get(document, 0.0) for document in top_ranked.get(query, ())}
        return runs


class CachedSearch:
    """A way of searching that keeps its last answers: fusions ask for those that were computed on their own.

    It keeps those of one split and subset of a task: of all, they would take gigabytes.
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
        of = (task_metadata.name, hf_split, hf_subset)
        if self._cached_split != of:
            self._cached_split, self._runs = of, {}

    def search(self, queries: Any, *, top_k: int, **mteb_options: Any) -> Runs:
        asked = (str(top_k), *queries["id"])
        if asked not in self._runs:
            corpus, how = self._corpus
            self.inner.index(corpus, **how)  # anew for every search: mteb's forgets it after one
            self._runs[asked] = self.inner.search(queries, top_k=top_k, **mteb_options)
        return {query: dict(run) for query, run in self._runs[asked].items()}


class HybridSearch:
    """The fusion of BM25 and dense scores.

    Args:
        sparse, dense: the two ways of searching.
        how: "hybrid" for the formula of Mr. TyDi, sparse + alpha x dense over normalised scores; "rrf" for reciprocal
            ranks.
        alpha: of "hybrid": a number; "tuned" on a split that is not the one that is judged, or where there is none by
            cross-fitting (no query's own judgements choose its alpha); "published" for those of the e5 card, of
            MrTidyRetrieval.

    Raises:
        InputError: an alpha that is none of these, or below 0.
    """

    def __init__(
        self, sparse: Any, dense: Any, fusion: Literal["hybrid", "rrf"] = "hybrid", *, alpha: Alpha = "tuned"
    ) -> None:
        if not (0 <= alpha < math.inf if isinstance(alpha, int | float) else alpha in ("tuned", "published")):
            raise InputError(f"alpha {alpha!r} is not a finite number of at least 0, 'tuned' or 'published'.")
        self.sparse, self.dense, self.fusion, self.alpha = sparse, dense, fusion, alpha
        self.alphas: dict[str, list[float]] = {}
        """{subset: the alphas that were used}; the run empties it before each task."""
        self.load_splits: Callable[[str, str], Mapping[str, Any]] = lambda task, subset: {}
        """(task, subset) -> {split: mteb's data of it}; set by the run."""
        self.ignores_identical_ids: Callable[[str], bool] = lambda task: False
        """Whether a task leaves the document with a query's own id out of its results; set by the run."""
        self._documents: set[str] = set()

    @property
    def mteb_model_meta(self) -> ModelMeta:
        meta = self.dense.mteb_model_meta
        words = self.sparse.mteb_model_meta.revision
        said = [
            f"{self.fusion}-alpha-{self.alpha}" if self.fusion == "hybrid" else self.fusion,
            words if words != Bm25Search().mteb_model_meta.revision else "",
        ]
        return _build_meta(meta.name, "_".join(filter(None, (meta.revision, *said))))

    def index(self, corpus: Any, **mteb_options: Any) -> None:
        self._documents = set(corpus["id"])
        for each in (self.sparse, self.dense):
            each.index(corpus, **mteb_options)

    def search(self, queries: Any, *, top_k: int, hf_subset: str, hf_split: str, **mteb_options: Any) -> Runs:
        """{query: {document: score}} of the best of both; equal scores by id, as in `TIES`."""

        ignore = self.ignores_identical_ids(mteb_options["task_metadata"].name)

        def both(asked: Any) -> tuple[Runs, Runs]:
            found = [
                each.search(asked, top_k=top_k, hf_subset=hf_subset, hf_split=hf_split, **mteb_options)
                for each in (self.sparse, self.dense)
            ]
            if ignore:  # before fusion: it would stretch the scale of both lists, and count when alpha is chosen
                found = [_drop_identical_ids(runs) for runs in found]
            return found[0], found[1]

        sparse, dense = both(queries)
        if self.fusion == "rrf":
            fused = {query: reciprocal_rank_fusion([sparse[query], dense[query]]) for query in queries["id"]}
        else:
            splits = self.load_splits(mteb_options["task_metadata"].name, hf_subset) if self.alpha == "tuned" else {}
            alphas = self._choose_alphas(hf_subset, splits, hf_split, sparse, dense, both)
            self.alphas[hf_subset] = sorted({*self.alphas.get(hf_subset, ()), *alphas.values()})
            fused = {query: fuse_mr_tydi(sparse[query], dense[query], alpha=alphas[query]) for query in queries["id"]}
        return {query: _best_documents(run, top_k) for query, run in fused.items()}

    def _choose_alphas(
        self,
        subset: str,
        splits: Mapping[str, Any],
        split: str,
        sparse: Runs,
        dense: Runs,
        search_both: Callable[[Any], tuple[Runs, Runs]],
    ) -> dict[str, float]:
        """{query: its alpha}."""
        if isinstance(self.alpha, int | float):
            return dict.fromkeys(sparse, float(self.alpha))
        if self.alpha == "published":
            return dict.fromkeys(sparse, published_alpha(subset))
        others = [splits[name] for name in TUNING_SPLITS if name in splits and name != split]
        other = next((data for data in others if self._can_tune_on(data["relevant_docs"])), None)
        if other is None:
            return cross_fit_alpha(sparse, dense, splits[split]["relevant_docs"])
        count = len(other["queries"])
        asked = other["queries"].select(range(0, count, math.ceil(count / MAX_TUNING_QUERIES) or 1))
        relevant = {query: other["relevant_docs"].get(query, {}) for query in asked["id"]}
        return dict.fromkeys(sparse, tune_alpha(*search_both(asked), relevant))

    def _can_tune_on(self, relevant: Mapping[str, Mapping[str, int]]) -> bool:
        """Whether a split has enough queries that are judged on this corpus: some sets have one for each split."""
        judged = (
            any(grade > 0 and document in self._documents for document, grade in grades.items())
            for grades in relevant.values()
        )
        return sum(judged) >= MIN_LABELLED_QUERIES


def published_alpha(subset: str) -> float:
    """The alpha of the e5 card.

    Raises:
        InputError: a subset that has none.
    """
    if subset not in MR_TYDI_ALPHAS:
        raise InputError(f"no alpha was published for {subset!r}; there is one for {', '.join(MR_TYDI_ALPHAS)}.")
    return MR_TYDI_ALPHAS[subset]


class BinaryIndex:
    """mteb's search backend over one bit a component: the nearest by Hamming distance, the first of them put into order
    by the query's own numbers (`RESCORED`). Source: the rescoring of Yamada et al. 2021 (arXiv 2106.00882).
    """

    def __init__(self) -> None:
        self._bits: list[NDArray[np.float32]] = []
        self._ids: list[str] = []

    def add_documents(self, embeddings: ArrayLike, idxs: Sequence[str]) -> None:
        """Signs of documents, +1 and -1 [N, D], and their ids."""
        self._bits.append(np.asarray(embeddings, np.float32))
        self._ids.extend(idxs)

    def search(
        self,
        embeddings: ArrayLike,
        top_k: int,
        similarity_fn: Any,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        query_idx_to_id: Mapping[int, str] | None = None,
    ) -> tuple[list[list[float]], list[list[int]]]:
        """(scores, places) of the best of each query: places in the corpus, or among its candidates."""
        queries_QD, bits_ND = np.asarray(embeddings, np.float32), np.concatenate(self._bits)
        row_of = {document: row for row, document in enumerate(self._ids)}
        scores: list[list[float]] = []
        places: list[list[int]] = []
        for place, query_D in enumerate(queries_QD):
            rows = slice(None)
            if top_ranked is not None and query_idx_to_id is not None:
                rows = [row_of[document] for document in top_ranked[query_idx_to_id[place]]]
            score_K, place_K = _rescore(query_D, bits_ND[rows], top_k)
            scores.append(score_K.tolist())
            places.append(place_K.tolist())
        return scores, places

    def clear(self) -> None:
        self._bits, self._ids = [], []


def _rescore(
    query_D: NDArray[np.float32], bits_ND: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The agreement of signs, -1 to 1, and for the first of them 2 to 4 by the query's own numbers."""
    signs_D = np.where(query_D > 0, np.float32(1), np.float32(-1))
    scores_N: NDArray[np.float32] = (bits_ND @ signs_D / len(query_D)).astype(np.float32)
    order_K = top_k_indices(scores_N, k)
    first = order_K[:NUM_RESCORED]
    scores_N[first] = 3 + modules.similarity("cosine", query_D[None], bits_ND[first])[0]
    order_K = order_K[top_k_indices(scores_N[order_K], k)]
    return scores_N[order_K], order_K


def _drop_identical_ids(runs: Runs) -> Runs:
    return {query: {key: score for key, score in run.items() if key != query} for query, run in runs.items()}


def _best_documents(run: Mapping[str, float], k: int) -> dict[str, float]:
    ordered = sorted(run.items(), key=lambda item: (item[1], item[0]), reverse=True)
    return dict(ordered[:k])


def _join_query(row: Mapping[str, Any]) -> str:
    """A query as mteb joins it: its instruction behind it; the turns of a conversation in one line, behind theirs."""
    text, instruction = row["text"], row.get("instruction") or ""
    if isinstance(text, list):
        turns = "; ".join(turn if isinstance(turn, str) else f"{turn['role']}: {turn['content']}" for turn in text)
        return f"{instruction} {turns}".strip()
    return f"{text} {instruction}".strip()


def _build_meta(name: str, revision: str) -> ModelMeta:
    from mteb.models.model_meta import ModelMeta

    return ModelMeta.create_empty(overwrites={"name": name, "revision": revision})

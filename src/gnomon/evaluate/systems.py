"""Who is judged: a model asked in one way, BM25, or the fusion of the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gnomon.encoder import Encoder
from gnomon.evaluate.cache import VectorCache
from gnomon.evaluate.mteb.encoder import Asking, MtebEncoder
from gnomon.evaluate.mteb.search import Alpha, BinaryIndex, Bm25Search, CachedSearch, HybridSearch, Method

RETRIEVAL_KINDS = ("Retrieval", "Reranking", "InstructionRetrieval", "InstructionReranking")


@dataclass(frozen=True)
class Bm25Settings:
    k1: float = 0.9
    b: float = 0.4
    alpha: Alpha = "tuned"
    """Of the hybrid: see `searchers.Hybrid`."""


@dataclass
class System:
    """One way of running a task."""

    method: Method
    model: Any
    """As mteb takes it."""
    dense: MtebEncoder | None
    bm25: Bm25Settings

    def supports(self, kind: str) -> bool:
        if self.method == "dense":
            rescored = self.dense is not None and self.dense.asking.precision == "binary-rescored"
            return kind in RETRIEVAL_KINDS or not rescored  # elsewhere nothing is searched: it would be "binary" again
        return kind in RETRIEVAL_KINDS and (self.method == "bm25" or "Reranking" not in kind)

    def model_for_task(self, kind: str) -> Any:
        """The model, with the search that a precision needs."""
        if self.method == "dense" and self.dense and kind in RETRIEVAL_KINDS:
            return _build_dense_search(self.dense) if self.dense.asking.precision == "binary-rescored" else self.model
        return self.model

    @property
    def name(self) -> str:
        return self.dense.encoder.name if self.dense else "BM25"

    @property
    def variant(self) -> str:
        own = self.dense.variant if self.dense else ""
        words = f"k1 {self.bm25.k1:g}, b {self.bm25.b:g}" if self.bm25 != Bm25Settings(alpha=self.bm25.alpha) else ""
        fused = {"hybrid": f"with BM25, alpha {self.bm25.alpha}", "rrf": "with BM25, reciprocal ranks"}
        said = [own, fused.get(self.method, ""), words if self.method != "dense" else ""]
        return ", ".join(filter(None, said))

    @property
    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.dense:
            found |= _dense_settings(self.dense)
        if self.method != "dense":
            found |= {"bm25_k1": self.bm25.k1, "bm25_b": self.bm25.b}
        if self.method == "hybrid":
            found["alpha"] = self.bm25.alpha
        return found

    @property
    def identity(self) -> dict[str, Any]:
        """All that a result depends on beside the task."""
        found: dict[str, Any] = {"method": self.method, "settings": self.settings}
        if self.dense:
            spec = self.dense.encoder.spec
            found["fingerprint"] = self.dense.fingerprint
            found["prompts"] = [dict(spec.prompts), dict(spec.query_prompt_names), spec.default_prompt_name]
            found["other prompts"] = dict(self.dense.asking.prompts)
        return found


def build_systems(
    encoder: Encoder | None,
    option_sets: Sequence[Asking],
    methods: Sequence[Method],
    bm25: Bm25Settings,
    cache: VectorCache,
) -> list[System]:
    """Every method; the points of a curve, with the model alone. What a wrong setting raises is raised here."""
    found: list[System] = []
    words = CachedSearch(Bm25Search(k1=bm25.k1, b=bm25.b)) if set(methods) - {"dense"} else None
    adapters = (
        [MtebEncoder(encoder, way, cache=cache, dims=_shared_dims(way, option_sets)) for way in option_sets]
        if encoder
        else []
    )
    if "bm25" in methods:
        found.append(System("bm25", words, None, bm25))
    if adapters:
        first = adapters[0]
        search = CachedSearch(_build_dense_search(first)) if words else None
        if "dense" in methods:
            found.append(System("dense", first, first, bm25))
        fused: list[Literal["hybrid", "rrf"]] = [each for each in ("hybrid", "rrf") if each in methods]
        found.extend(System(how, HybridSearch(words, search, how, alpha=bm25.alpha), first, bm25) for how in fused)
        found.extend(System("dense", adapter, adapter, bm25) for adapter in adapters[1:])
    return found


def _shared_dims(options: Asking, option_sets: Sequence[Asking]) -> list[int]:
    """Widths that others ask of the same texts, read in the same way."""
    read = (options.prompts, options.on_truncate, options.max_seq_length)
    return [
        each.dim for each in option_sets if each.dim and read == (each.prompts, each.on_truncate, each.max_seq_length)
    ]


def _build_dense_search(adapter: MtebEncoder) -> Any:
    from mteb.models.search_wrappers import SearchEncoderWrapper

    backend = BinaryIndex() if adapter.asking.precision == "binary-rescored" else None
    model: Any = adapter  # mteb's protocol names its own way to be made, which nothing calls here
    return SearchEncoderWrapper(model, index_backend=backend)


def _dense_settings(adapter: MtebEncoder) -> dict[str, Any]:
    encoder, asking = adapter.encoder, adapter.asking
    rope = getattr(encoder.spec.trunk, "rope", None)
    return {
        "dim": adapter.dim,
        "truncate_dim": asking.truncate_dim,
        "normalized": encoder.spec.normalizes,
        "similarity": encoder.spec.similarity,
        "max_seq_length": encoder.max_seq_length,
        "ntk_factor": rope.ntk_factor if rope else None,
        "long_texts": asking.on_truncate,
        "precision": asking.precision,
        "bytes_per_vector": adapter.bytes_per_vector,
        "engine": encoder.engine.name,
        "dtype": encoder.dtype,
        "device": encoder.device,
    }

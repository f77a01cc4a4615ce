"""The systems that are evaluated: a model with its options, BM25, or the fusion of the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from gnomon.encoder import Encoder
from gnomon.evaluate.cache import VectorCache
from gnomon.evaluate.mteb.encoder import MtebEncoder
from gnomon.evaluate.mteb.search import Bm25Search, CachedSearch, HybridSearch, Method, build_dense_search
from gnomon.evaluate.options import EvaluationOptions
from gnomon.search.hybrid import Alpha, FusionMethod

RETRIEVAL_KINDS = ("Retrieval", "Reranking", "InstructionRetrieval", "InstructionReranking")
FUSIONS: tuple[FusionMethod, ...] = get_args(FusionMethod)


@dataclass(frozen=True)
class Bm25Settings:
    k1: float = 0.9
    b: float = 0.4
    alpha: Alpha = "tuned"
    """The weight of dense scores in the method "hybrid" (`HybridSearch`)."""


@dataclass
class System:
    """A method of running tasks, with the model or the search that it needs."""

    method: Method
    model: Any
    """What mteb evaluates: an encoder or a search."""
    dense: MtebEncoder | None
    bm25: Bm25Settings

    def supports(self, kind: str) -> bool:
        """Whether tasks of a kind can be run."""
        if self.method == "dense":
            is_rescored = self.dense is not None and self.dense.options.precision == "binary-rescored"
            return kind in RETRIEVAL_KINDS or not is_rescored  # other kinds search nothing: it would equal "binary"
        return kind in RETRIEVAL_KINDS and (self.method == "bm25" or "Reranking" not in kind)

    def model_for_task(self, kind: str) -> Any:
        """The model, or the search over its packed signs."""
        if self.method == "dense" and self.dense and kind in RETRIEVAL_KINDS:
            return build_dense_search(self.dense) if self.dense.options.precision == "binary-rescored" else self.model
        return self.model

    @property
    def name(self) -> str:
        return self.dense.encoder.name if self.dense else "BM25"

    @property
    def variant(self) -> str:
        """What is not the default, in a few words; "" for nothing."""
        is_default = self.method == "dense" or self.bm25 == Bm25Settings(alpha=self.bm25.alpha)
        fusion = {"hybrid": f"with BM25, alpha {self.bm25.alpha}", "rrf": "with BM25, reciprocal ranks"}
        parts = [
            self.dense.variant if self.dense else "",
            fusion.get(self.method, ""),
            "" if is_default else f"k1 {self.bm25.k1:g}, b {self.bm25.b:g}",
        ]
        return ", ".join(filter(None, parts))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as the manifest holds them."""
        settings: dict[str, Any] = {}
        if self.dense:
            settings |= _dense_settings(self.dense)
        if self.method != "dense":
            settings |= {"bm25_k1": self.bm25.k1, "bm25_b": self.bm25.b}
        if self.method == "hybrid":
            settings["alpha"] = self.bm25.alpha
        return settings

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that a result depends on, except for the task."""
        identity: dict[str, Any] = {"method": self.method, "settings": self.settings}
        if self.dense:
            spec = self.dense.encoder.spec
            identity["fingerprint"] = self.dense.fingerprint
            identity["prompts"] = [dict(spec.prompts), dict(spec.query_prompt_names), spec.default_prompt_name]
            identity["other prompts"] = dict(self.dense.options.prompts)
        return identity


def build_systems(
    encoder: Encoder | None,
    options: EvaluationOptions,
    curve: Sequence[EvaluationOptions],
    methods: Sequence[Method],
    bm25: Bm25Settings,
    cache: VectorCache,
) -> list[System]:
    """One system per method with `options`, and the model alone for each point of the curve.

    Raises:
        InputError: a setting that is wrong, or that the model does not have.
    """
    systems: list[System] = []
    bm25_search = CachedSearch(Bm25Search(k1=bm25.k1, b=bm25.b)) if set(methods) - {"dense"} else None
    if "bm25" in methods:
        systems.append(System("bm25", bm25_search, None, bm25))
    if encoder is None:
        return systems
    all_options = [options, *curve]
    first, *others = [
        MtebEncoder(encoder, each, cache=cache, dims=_shared_dims(each, all_options)) for each in all_options
    ]
    dense_search = CachedSearch(build_dense_search(first)) if bm25_search else None
    if "dense" in methods:
        systems.append(System("dense", first, first, bm25))
    fusions: list[FusionMethod] = [method for method in FUSIONS if method in methods]
    for method in fusions:
        search = HybridSearch(bm25_search, dense_search, method, alpha=bm25.alpha)
        systems.append(System(method, search, first, bm25))
    systems.extend(System("dense", other, other, bm25) for other in others)
    return systems


def _shared_dims(options: EvaluationOptions, all_options: Sequence[EvaluationOptions]) -> list[int]:
    """Dimensions that others need of the same texts, with the same prompts and length."""
    reading = (options.prompts, options.on_truncate, options.max_seq_length)
    return [
        each.dim
        for each in all_options
        if each.dim and reading == (each.prompts, each.on_truncate, each.max_seq_length)
    ]


def _dense_settings(adapter: MtebEncoder) -> dict[str, Any]:
    encoder, options = adapter.encoder, adapter.options
    rope = getattr(encoder.spec.trunk, "rope", None)
    return {
        "dim": adapter.dim,
        "truncate_dim": options.truncate_dim,
        "normalized": encoder.spec.normalizes,
        "similarity": encoder.spec.similarity,
        "max_seq_length": encoder.max_seq_length,
        "ntk_factor": rope.ntk_factor if rope else None,
        "long_texts": options.on_truncate,
        "precision": options.precision,
        "bytes_per_vector": adapter.bytes_per_vector,
        "engine": encoder.engine.name,
        "dtype": encoder.dtype,
        "device": encoder.device,
    }

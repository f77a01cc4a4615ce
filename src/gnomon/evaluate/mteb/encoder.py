"""An `Encoder` as mteb wants one: batches of dicts in, arrays out, the right prompt on each side, every text once.

N: texts; D: width of a vector.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnomon import modules
from gnomon.encode_options import EncodeOptions
from gnomon.encoder import Encoder
from gnomon.errors import InputError, TruncationNotice
from gnomon.evaluate.cache import CachePartition, VectorCache
from gnomon.evaluate.prompts import Prompt, PromptSide, choose_prompt
from gnomon.quantization import quantize

if TYPE_CHECKING:
    import torch
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta
    from mteb.types import BatchedInput, PromptType
    from torch.utils.data import DataLoader

Vectors = NDArray[np.float32]
Precision = Literal["float32", "float16", "int8", "binary", "binary-rescored"]
BITS_PER_COMPONENT = {"float32": 32, "float16": 16, "int8": 8, "binary": 1, "binary-rescored": 1}
"""Of a component."""

CHUNK_CHARS = 1 << 20
"""Characters that are encoded, and kept, at a time: what a run that is killed has to do again. It is a constant so that
a run that goes on makes the same chunks, and so the same vectors to the last bit."""

OnTruncate = Literal["cut", "mean"]

FINGERPRINT_DIGITS = 12
"""Digits of a fingerprint that name a model in a path."""


@dataclass(frozen=True)
class Asking:
    """How a model is asked, where that is not its own choice."""

    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    """By mteb's keys; in place of the model's."""
    dim: int | None = None
    truncate_dim: int | None = None
    on_truncate: OnTruncate = "cut"
    """What is made of texts longer than the model reads."""
    max_seq_length: int | None = None
    precision: Precision = "float32"
    """Of documents, and of texts of symmetric tasks. Queries stay as they are, but for "binary": there they are bits
    too. "binary-rescored" finds by bits and puts the first into order by the query's numbers (`searchers.BinaryIndex`).
    """

    @property
    def variant(self) -> str:
        """What is not the model's own choice, in a few words; "" for nothing."""
        said = [
            f"dim {self.dim}" if self.dim else "",
            f"first {self.truncate_dim}" if self.truncate_dim else "",
            f"{self.max_seq_length} tokens" if self.max_seq_length else "",
            self.precision if self.precision != "float32" else "",
            "long texts in windows" if self.on_truncate == "mean" else "",
            f"prompts {_short_digest(self.prompts)}" if self.prompts else "",
        ]
        return ", ".join(filter(None, said))


@dataclass
class EncodeCounters:
    """What was asked of the model for one task."""

    num_texts: int = 0
    num_encoded: int = 0
    num_truncated: int = 0
    """Texts longer than the model reads, of which the rest was left out."""
    seconds: float = 0.0
    prompts: dict[str, Prompt] = field(default_factory=dict[str, Prompt])
    """The last one of queries, of documents, of texts."""

    @property
    def num_cached(self) -> int:
        """Texts that were known already: of an earlier task or run, or equal to another of this one."""
        return self.num_texts - self.num_encoded


class MtebEncoder:
    """mteb's `EncoderProtocol` over an `Encoder`: `mteb.evaluate(MtebEncoder(encoder), tasks)`.

    Args:
        encoder: the model.
        asking: how it is asked.
        cache: where vectors are kept; by default in memory, as long as this object lives.
        dims: other widths that will be asked for (`Asking.dim`): they are computed in the same pass.

    Raises:
        InputError: a width, length or precision that the model does not have.
    """

    def __init__(
        self,
        encoder: Encoder,
        asking: Asking | None = None,
        *,
        cache: VectorCache | None = None,
        dims: Sequence[int] = (),
    ) -> None:
        self.asking = asking or Asking()
        _check_choice("precision", self.asking.precision, get_args(Precision))
        _check_choice("on_truncate", self.asking.on_truncate, get_args(OnTruncate))
        self._original = encoder
        length = self.asking.max_seq_length
        self.encoder = encoder if length is None else encoder.with_max_seq_length(length)
        self.cache = cache or VectorCache(None)
        self.counters = EncodeCounters()
        self._output_dim = _OutputDim.for_options(encoder, self.asking)
        for dim in dims:
            encoder.encode([], prompt="", dim=dim)  # raises what a wrong width raises
        others = {dim for dim in dims if modules.modules_for_dim(encoder.spec, dim)[1] is None} - {
            self._output_dim.head_dim
        }
        # a prefix that the folder names has no width in `encode_dims`, where another head may have that one
        self._head_dims = [*([] if self._output_dim.is_folder_prefix else sorted(others)), self._output_dim.head_dim]

    @property
    def fingerprint(self) -> str:
        """Of the model as it was given: how many tokens it is asked to read is a setting, and makes it no other."""
        return self._original.fingerprint

    @property
    def dim(self) -> int:
        """Of the vectors that are judged."""
        return self._output_dim.truncate_dim or self._output_dim.head_dim

    @property
    def bytes_per_vector(self) -> int:
        """What a store holds of one document, without any index; the last byte of bits may be filled up, as `quantize`
        does.
        """
        return -(-self.dim * BITS_PER_COMPONENT[self.asking.precision] // 8)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb writes of a model: its name, and as its revision the fingerprint and what is not its own choice."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        return ModelMeta.create_empty(
            overwrites={
                "name": self.encoder.name,
                "revision": self.revision,
                "max_tokens": self.encoder.max_seq_length,
                "embed_dim": self.dim,
                "similarity_fn_name": ScoringFunction(self.encoder.spec.similarity),  # they have our names
            }
        )

    @property
    def variant(self) -> str:
        """What is not the model's own choice, nor float32; "" for nothing."""
        dtype = self.encoder.dtype
        return ", ".join(filter(None, (self.asking.variant, f"run in {dtype}" if dtype != "float32" else "")))

    @property
    def revision(self) -> str:
        variant = self.variant.replace(", ", "_").replace(" ", "-")
        return self.fingerprint[:FINGERPRINT_DIGITS] + (f"_{variant}" if variant else "")

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
    ) -> Vectors:
        """Vectors [N, D] of the texts of a loader, in their order.

        `hf_split`, `hf_subset` and `batch_size` are mteb's to say and change nothing here: batches are of tokens.
        """
        side: PromptSide | None = (
            None if prompt_type is None else "query" if prompt_type.value == "query" else "document"
        )
        prompt = self.choose_prompt(task_metadata, side)
        texts = [text for batch in inputs for text in batch["text"]]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        self.counters.prompts[prompt.of] = prompt
        vectors_ND = self._output_dim.apply(self.encode_cached(texts, prompt.text, show_progress_bar))
        as_is = side == "query" and self.asking.precision != "binary"
        return vectors_ND if as_is else quantize_and_restore(vectors_ND, self.asking.precision)

    def choose_prompt(self, task_metadata: TaskMetadata, side: PromptSide | None) -> Prompt:
        """What is put in front of the texts of one side of a task."""
        return choose_prompt(
            self.encoder.spec,
            task=task_metadata.name,
            kind=task_metadata.type,
            side=side,
            overrides=self.asking.prompts,
        )

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> torch.Tensor:
        """Scores [N, M] by the model's own score function; one vector [D] counts as [1, D].

        A tensor, as mteb has it: it makes a number of one score by `float`, which arrays of two axes refuse.
        """
        import torch

        return torch.from_numpy(self.encoder.similarity(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> torch.Tensor:
        """Scores [N] of the rows of one with the rows of the other."""
        import torch

        a_ND, b_ND = (np.asarray(each, np.float32) for each in (embeddings1, embeddings2))
        return torch.from_numpy(modules.similarity_pairwise(self.encoder.spec.similarity, a_ND, b_ND))

    def encode_cached(self, texts: Sequence[str], prompt: str, show_progress_bar: bool | None = None) -> Vectors:
        """Vectors [N, D] as the head gives them, each different text computed once, by any task or run."""
        shelves = {dim: self._open_partition(dim, prompt) for dim in self._head_dims}
        shelf = shelves[self._output_dim.head_dim]
        missing = shelf.missing(texts)
        start = monotonic()
        for chunk in _split_chunks(missing):
            self._encode_missing(chunk, prompt, shelves, show_progress_bar)
        self.counters.seconds += monotonic() - start
        found_ND, cut = shelf.get(texts)
        self.counters.num_texts += len(texts)
        self.counters.num_encoded += len(missing)
        self.counters.num_truncated += cut
        return found_ND

    def _encode_missing(
        self, texts: list[str], prompt: str, partitions: Mapping[int, CachePartition], show_progress_bar: bool | None
    ) -> None:
        long = self.asking.on_truncate
        how: dict[str, Any] = {
            "prompt": prompt,
            "on_truncate": "warn" if long == "cut" else long,
            "show_progress_bar": show_progress_bar,
        }
        cut: Sequence[int] = ()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            if len(partitions) == 1 and not self._output_dim.dim:
                vectors = {self._output_dim.head_dim: self.encoder.encode(texts, **how)}
            else:
                vectors = self.encoder.encode_dims(texts, list(partitions), **how)
        for each in told:
            if isinstance(each.message, TruncationNotice):
                cut = each.message.texts
            else:
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
        for dim, vectors_ND in vectors.items():
            partitions[dim].add(texts, vectors_ND, cut)

    def _open_partition(self, dim: int, prompt: str) -> CachePartition:
        engine = self.encoder.engine.identity
        on_truncate = "mean" if self.asking.on_truncate == "mean" else "warn"
        own = dim == self._output_dim.head_dim and not self._output_dim.dim
        space = self.encoder.space(EncodeOptions(dim=None if own else dim, on_truncate=on_truncate))
        return self.cache.partition({"space": asdict(space), "prompt": prompt, "engine": engine}, dim)


@dataclass(frozen=True)
class _OutputDim:
    """Which head is run, and how much of its vectors is used."""

    dim: int | None
    """As `Encoder.encode` takes it: None for the model's own."""
    head_dim: int
    truncate_dim: int | None
    """A prefix of that; None for all."""
    normalize: bool
    """Whether a prefix is normalised again."""
    is_folder_prefix: bool
    """`head_dim` is a prefix that the folder names."""

    @classmethod
    def for_options(cls, encoder: Encoder, asking: Asking) -> _OutputDim:
        # raises what a wrong width raises
        wanted = encoder.encode([], prompt="", dim=asking.dim, truncate_dim=asking.truncate_dim).shape[1]
        prefix = asking.dim is not None and modules.modules_for_dim(encoder.spec, asking.dim)[1] is not None
        dim = None if asking.dim is None or prefix else asking.dim
        head_dim = encoder.encode([], prompt="", dim=dim).shape[1]
        if head_dim < wanted:  # a prefix wider than the one that the folder names: the head's own full width
            dim = head_dim = encoder.spec.full_dim
        of_folder = dim is None and head_dim < encoder.spec.full_dim
        return cls(dim, head_dim, wanted if wanted < head_dim else None, encoder.spec.normalizes, of_folder)

    def apply(self, vectors_ND: Vectors) -> Vectors:
        if self.truncate_dim is None:
            return vectors_ND
        prefix_ND = vectors_ND[:, : self.truncate_dim]
        return modules.normalize(prefix_ND) if self.normalize else prefix_ND


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"{name} {value!r} is not one of {', '.join(choices)}.")


def _short_digest(prompts: Mapping[str, str]) -> str:
    """Six digits that tell prompts apart, in a path."""
    return hashlib.sha256(json.dumps(dict(prompts), sort_keys=True).encode()).hexdigest()[:6]


def quantize_and_restore(vectors_ND: Vectors, precision: Precision) -> Vectors:
    """Vectors as a store of that precision gives them back."""
    if precision == "float32" or not len(vectors_ND):
        return vectors_ND
    if precision == "float16":
        return quantize(vectors_ND, "float16").values.astype(np.float32)
    if precision == "int8":
        if len(vectors_ND) < 2:
            return vectors_ND
        values, ranges_2D = quantize(vectors_ND, "int8")
        assert ranges_2D is not None
        low_D, high_D = ranges_2D
        return low_D + (values.astype(np.float32) + 128.5) * (high_D - low_D) / 255
    return np.where(vectors_ND > 0, np.float32(1), np.float32(-1))


def _split_chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts, some `CHUNK` characters at a time."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHUNK_CHARS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def curve_points(
    encoder: Encoder,
    asking: Asking,
    *,
    dims: Sequence[int] = (),
    precisions: Sequence[Precision] = (),
    lengths: Sequence[int] = (),
) -> list[Asking]:
    """The points of the curves of a model, without `asking` itself: one setting differs at a time.

    Args:
        dims: widths; a head of its own where the model has one (`Encoder.dims`), else a prefix. lengths: tokens.
    """
    judged = encoder.encode([], prompt="", dim=asking.dim, truncate_dim=asking.truncate_dim).shape[1]
    dims = [dim for dim in dims if dim != judged]
    of_own = [dim for dim in dims if dim in encoder.dims]
    points = [
        *(replace(asking, dim=dim, truncate_dim=None) for dim in of_own),
        *(replace(asking, truncate_dim=dim) for dim in dims if dim not in of_own),
        *(replace(asking, precision=precision) for precision in precisions),
        *(replace(asking, max_seq_length=length) for length in lengths if length != encoder.max_seq_length),
    ]
    return [point for place, point in enumerate(points) if point not in [asking, *points[:place]]]

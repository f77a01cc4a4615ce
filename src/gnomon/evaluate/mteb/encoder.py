"""`MtebEncoder` adapts an `Encoder` to mteb: batches of dicts in, arrays out, the right prompt on each side.

N: texts; D: dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from gnomon import modules
from gnomon.encode_options import EncodeOptions
from gnomon.encoder import Encoder
from gnomon.evaluate.cache import CachePartition, VectorCache
from gnomon.evaluate.options import BITS_PER_COMPONENT, EvaluationOptions, Precision
from gnomon.evaluate.prompts import Prompt, PromptSide, choose_prompt
from gnomon.packed import Vectors
from gnomon.quantization import dequantize, quantize
from gnomon.spec import FINGERPRINT_DIGITS

if TYPE_CHECKING:
    import torch
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta
    from mteb.types import BatchedInput, PromptType
    from torch.utils.data import DataLoader


CHUNK_CHARS = 1 << 20
"""Characters that are encoded and then cached together: what a killed run has to do again. It is a constant, so that a
run that continues makes the same chunks, and so the same vectors to the last bit."""


@dataclass
class EncodeCounters:
    """Counts the texts that the model encoded for one task."""

    num_texts: int = 0
    num_encoded: int = 0
    num_truncated: int = 0
    """Texts longer than the model reads: the rest of each was left out."""
    seconds: float = 0.0
    prompts: dict[str, Prompt] = field(default_factory=dict[str, Prompt])
    """The last prompt of each side: "queries", "documents", "texts"."""

    @property
    def num_cached(self) -> int:
        """Texts whose vectors were there: from an earlier task or run, or from an equal text of this task."""
        return self.num_texts - self.num_encoded


class MtebEncoder:
    """Adapts an `Encoder` to mteb's `EncoderProtocol`: `mteb.evaluate(MtebEncoder(encoder), tasks)`.

    Args:
        encoder: the model.
        options: how it encodes.
        cache: where vectors are cached; by default in memory, as long as this object lives.
        dims: other dimensions that will be needed (`EvaluationOptions.dim`): they are computed in the same pass.

    Raises:
        InputError: a dimension or length that the model does not have.
    """

    def __init__(
        self,
        encoder: Encoder,
        options: EvaluationOptions | None = None,
        *,
        cache: VectorCache | None = None,
        dims: Sequence[int] = (),
    ) -> None:
        self.options = options or EvaluationOptions()
        length = self.options.max_seq_length
        self.encoder = encoder if length is None else encoder.with_max_seq_length(length)
        self.cache = cache or VectorCache(None)
        self.counters = EncodeCounters()
        self._output_dim = _OutputDim.for_options(encoder, self.options.encode_options())
        for dim in dims:
            encoder.output_dim(EncodeOptions(dim=dim))  # raises for a dim that the model does not have
        other_dims = {dim for dim in dims if modules.modules_for_dim(encoder.spec, dim)[1] is None}
        other_dims -= {self._output_dim.module_dim}
        # the folder's own prefix cannot be named to `encode_dims`, where another dense module may have that dimension
        self._module_dims = [
            *([] if self._output_dim.is_folder_prefix else sorted(other_dims)),
            self._output_dim.module_dim,
        ]

    def reset_counters(self) -> EncodeCounters:
        """Start counting for a new task; the counters that are returned are filled from now on."""
        self.counters = EncodeCounters()
        return self.counters

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model; `max_seq_length` is a setting and does not change it."""
        return self.encoder.fingerprint

    @property
    def dim(self) -> int:
        """The dimension of the vectors that are evaluated."""
        return self._output_dim.truncate_dim or self._output_dim.module_dim

    @property
    def bytes_per_vector(self) -> int:
        """The bytes that a store needs for one document, without any index; packed signs are rounded up to bytes."""
        return -(-self.dim * BITS_PER_COMPONENT[self.options.precision] // 8)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb writes about a model. The revision holds the fingerprint and what is not the model's own choice."""
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
        """What is not the model's own choice, and a dtype other than float32; "" for nothing."""
        dtype = self.encoder.dtype
        return ", ".join(filter(None, (self.options.variant, f"run in {dtype}" if dtype != "float32" else "")))

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
        """Encode the texts of a loader: vectors [N, D], in their order.

        `hf_split`, `hf_subset` and `batch_size` belong to mteb's protocol and change nothing: batches go by tokens.
        """
        side: PromptSide | None = (
            None if prompt_type is None else "query" if prompt_type.value == "query" else "document"
        )
        prompt = self.choose_prompt(task_metadata, side)
        texts = [text for batch in inputs for text in batch["text"]]  # pyright: ignore[reportTypedDictNotRequiredAccess]
        self.counters.prompts[prompt.of] = prompt
        vectors_ND = self._output_dim.apply(self.encode_cached(texts, prompt.text, show_progress_bar))
        stays_float = side == "query" and self.options.precision != "binary"
        return vectors_ND if stays_float else quantize_and_restore(vectors_ND, self.options.precision)

    def choose_prompt(self, task_metadata: TaskMetadata, side: PromptSide | None) -> Prompt:
        """The prompt that is added before the texts of one side of a task."""
        return choose_prompt(
            self.encoder.spec,
            task=task_metadata.name,
            kind=task_metadata.type,
            side=side,
            overrides=self.options.prompts,
        )

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> torch.Tensor:
        """Scores [N, M] by the model's own score function; one vector [D] counts as [1, D].

        A tensor, because mteb calls `float` on scores [1, 1]: a tensor allows it, a numpy array does not.
        """
        import torch

        return torch.from_numpy(self.encoder.similarity(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> torch.Tensor:
        """Scores [N] of each row of one side with the same row of the other."""
        import torch

        a_ND, b_ND = np.asarray(embeddings1, np.float32), np.asarray(embeddings2, np.float32)
        return torch.from_numpy(modules.similarity_pairwise(self.encoder.spec.similarity, a_ND, b_ND))

    def encode_cached(self, texts: Sequence[str], prompt: str, show_progress_bar: bool | None = None) -> Vectors:
        """Vectors [N, D] before a prefix is taken; each different text is computed once, in whatever task or run."""
        partitions = {dim: self._open_partition(dim, prompt) for dim in self._module_dims}
        partition = partitions[self._output_dim.module_dim]
        missing = partition.missing(texts)
        start = monotonic()
        for chunk in _split_chunks(missing):
            self._encode_missing(chunk, prompt, partitions, show_progress_bar)
        self.counters.seconds += monotonic() - start
        vectors_ND, num_truncated = partition.get(texts)
        self.counters.num_texts += len(texts)
        self.counters.num_encoded += len(missing)
        self.counters.num_truncated += num_truncated
        return vectors_ND

    def _encode_missing(
        self, texts: list[str], prompt: str, partitions: Mapping[int, CachePartition], show_progress_bar: bool | None
    ) -> None:
        options = replace(self.options.encode_options(prompt), dim=None, truncate_dim=None)
        if len(partitions) == 1 and not self._output_dim.dim:
            encoded = self.encoder.encode_with_counts(texts, options, show_progress_bar=show_progress_bar)
            encoded_of_dim = {self._output_dim.module_dim: encoded}
        else:
            encoded_of_dim = self.encoder.encode_dims_with_counts(
                texts, list(partitions), options, show_progress_bar=show_progress_bar
            )
        for dim, encoded in encoded_of_dim.items():
            partitions[dim].add(texts, encoded.vectors, encoded.truncated)

    def _open_partition(self, dim: int, prompt: str) -> CachePartition:
        is_default = dim == self._output_dim.module_dim and not self._output_dim.dim
        options = replace(self.options.encode_options(), dim=None if is_default else dim, truncate_dim=None)
        space = self.encoder.space(options)
        return self.cache.partition(
            {
                "space": asdict(space),
                "max_seq_length": self.encoder.max_seq_length,  # a fingerprint says nothing about it
                "prompt": prompt,
                "engine": self.encoder.engine.identity,
            },
            dim,
        )


@dataclass(frozen=True)
class _OutputDim:
    """Which dense module runs, and how much of its vectors is used."""

    dim: int | None
    """As `EncodeOptions.dim`: None for the model's own."""
    module_dim: int
    truncate_dim: int | None
    """The length of a prefix of the module's vectors; None for all of it."""
    normalize: bool
    """Whether a prefix is normalised again."""
    is_folder_prefix: bool
    """Whether `module_dim` is a prefix that the folder sets as the model's own dimension."""

    @classmethod
    def for_options(cls, encoder: Encoder, options: EncodeOptions) -> _OutputDim:
        output_dim = encoder.output_dim(options)  # raises for a wrong dim
        is_prefix = options.dim is not None and modules.modules_for_dim(encoder.spec, options.dim)[1] is not None
        dim = None if is_prefix else options.dim
        module_dim = encoder.output_dim(replace(options, dim=dim, truncate_dim=None))
        if module_dim < output_dim:  # a prefix longer than the folder's own: taken from the full vectors
            dim = module_dim = encoder.spec.full_dim
        is_folder_prefix = dim is None and module_dim < encoder.spec.full_dim
        truncate_dim = output_dim if output_dim < module_dim else None
        return cls(dim, module_dim, truncate_dim, encoder.spec.normalizes, is_folder_prefix)

    def apply(self, vectors_ND: Vectors) -> Vectors:
        if self.truncate_dim is None:
            return vectors_ND
        prefix_ND = vectors_ND[:, : self.truncate_dim]
        return modules.normalize(prefix_ND) if self.normalize else prefix_ND


def quantize_and_restore(vectors_ND: Vectors, precision: Precision) -> Vectors:
    """Vectors as a store of that precision returns them; signs are +1 and -1."""
    if precision == "float32" or not len(vectors_ND):
        return vectors_ND
    if precision in ("binary", "binary-rescored"):
        return np.where(vectors_ND > 0, np.float32(1), np.float32(-1))
    if precision == "int8" and len(vectors_ND) < 2:  # one vector has no ranges
        return vectors_ND
    values, ranges_2D = quantize(vectors_ND, precision)
    return dequantize(values, ranges_2D)


def _split_chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts in chunks of about `CHUNK_CHARS` characters."""
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

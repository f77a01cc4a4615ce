"""`Encoder`: a model that turns texts into vectors.

B: texts; D: dimensions of a vector; T: tokens of one text; H: hidden size of the trunk.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Never

import numpy as np
from numpy.typing import ArrayLike

from gnomon import modules
from gnomon.checkpoint.folder import Checkpoint, read_folder, replace_max_seq_length, replace_pooling
from gnomon.checkpoint.hub import Source, resolve_source
from gnomon.encode_call import EncodeCall
from gnomon.encode_options import MODEL_DEFAULTS, EncodeOptions, OnTruncate
from gnomon.engines.protocol import Engine, Failure
from gnomon.engines.select import EngineOptions, Reopen, open_engine
from gnomon.errors import InputError, ModelError, NumericError
from gnomon.inputs import Texts, as_texts, as_whole_number
from gnomon.modules import Postprocessor
from gnomon.packed import Ids, Vectors, pack
from gnomon.pipeline import Encoded, EncodePipeline, EncodeRequest
from gnomon.refusals import ATTRIBUTES, ENCODE_ARGUMENTS, LOAD_ARGUMENTS, refuse_arguments, refuse_attribute
from gnomon.space import Space
from gnomon.spec import ModelSpec, PoolingMode, compute_fingerprint, compute_output_dim
from gnomon.tokenizer import Tokenizer, TokenReport
from gnomon.warn import warn_caller

_warned_folders: set[str] = set()
"""Folders of the models for which this process has warned that `encode` adds no prompt."""


@dataclass(frozen=True)
class _ReadOptions:
    """How a model is read from its folder, in this process and in its worker processes."""

    source: Source
    card: str | None
    ignore_config_keys: tuple[str, ...]
    max_seq_length: int | None
    pooling: PoolingMode | None = None

    def read_checkpoint(self) -> Checkpoint:
        checkpoint = read_folder(
            self.source,
            card=self.card,
            ignore_config_keys=self.ignore_config_keys,
            max_seq_length=self.max_seq_length,
        )
        return checkpoint if self.pooling is None else replace_pooling(checkpoint, self.pooling)


class Encoder:
    """A model that turns texts into vectors. `Encoder.load` makes one.

    It does not change after that. Threads may share it, and it can be used after a fork. A pickle holds its source and
    options, so the copy reads the same folder.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        options: EngineOptions | None = None,
        read_options: _ReadOptions | None = None,
        engine: Engine | None = None,
    ) -> None:
        if not isinstance(checkpoint, Checkpoint):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"Encoder({checkpoint!r}) reads no model. Encoder.load({checkpoint!r}) does.")
        options = EngineOptions() if options is None else options
        self._checkpoint, self._options, self._read_options = checkpoint, options, read_options
        try:
            self._tokenizer = Tokenizer(checkpoint.tokenizer, checkpoint.spec.tokenizer)
        except ModelError as error:
            if read_options is None or read_options.max_seq_length is None:
                raise
            raise InputError(str(error)) from error  # the length is the caller's, not the folder's
        if engine is None:
            engine = open_engine(checkpoint.spec, checkpoint.arrays, options, reopen=self._make_reopen())
        self._engine = engine
        self._pipeline = EncodePipeline(checkpoint.spec, self._tokenizer, self._engine)

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: str | Sequence[str] = "auto",
        engine: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        max_seq_length: int | None = None,
        pooling: PoolingMode | None = None,
        card: str | None = None,
        ignore_config_keys: Sequence[str] = (),
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **unknown: Never,
    ) -> Encoder:
        """Load a model.

        Args:
            source: a model's folder, a hub id ("intfloat/multilingual-e5-small") or "package:NAME", a model inside an
                installed Python package.
            revision: branch, tag or commit of a hub id.
            device: "auto", "cpu", "cuda", "cuda:N", "mps", or several ("cuda:0,cuda:1", or a list): one worker process
                each.
            engine: "auto", "onnx", "openvino" or "torch".
            dtype: "auto" (float32 on a CPU, bfloat16 on a GPU that has it), "float32", "bfloat16" or "float16" (torch),
                or "int8" for weights of 8 bits, faster and less exact (CPU; `gnomon inspect --fidelity`).
            threads: threads of one call on a CPU; None for one per core.
            max_seq_length: tokens that are read of a text, in place of the folder's own number.
            pooling: "mean", "cls", "max", "lasttoken", "weightedmean" or "mean_sqrt_len_tokens", in place of the
                folder's own. The vectors, and the fingerprint, are those of another model.
            card: name of the published model that this one is or was fine-tuned from, where the folder does not show
                it.
            ignore_config_keys: keys of config.json that are not known to gnomon, and that you know not to change
                vectors.
            cache_dir: the folder of downloads, as in huggingface_hub.
            token: for the hub, as in huggingface_hub.
            local_files_only: make no request at all.

        Raises:
            ModelError: the folder cannot be read as a model; says what and why.
            SourceError: a hub id that cannot be reached.
            InputError: an option that cannot be used.
        """
        refuse_arguments("Encoder.load", unknown, LOAD_ARGUMENTS)
        options = EngineOptions.from_arguments(device=device, engine=engine, dtype=dtype, threads=threads)
        resolved = resolve_source(
            source, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        read_options = _ReadOptions(resolved, card, tuple(ignore_config_keys), max_seq_length, pooling)
        checkpoint = read_options.read_checkpoint()
        for message in checkpoint.warnings:
            warn_caller(message)
        return cls(checkpoint, options, read_options)

    def _make_reopen(self) -> Reopen | None:
        """The function that opens this model's engine in another process."""
        return None if self._read_options is None else partial(_reopen_engine, self._read_options)

    def __reduce__(self) -> tuple[Callable[..., Encoder], tuple[Any, ...]]:
        if self._read_options is None:
            raise TypeError("this Encoder was not made by Encoder.load, so it cannot be pickled.")
        return _unpickle, (self._read_options, self._options)

    def __getattr__(self, name: str) -> Never:
        refuse_attribute(name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in ATTRIBUTES:
            refuse_attribute(name)
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"<Encoder {self.name}: {self.spec.dim} dims, {self._engine.name}>"

    def encode(
        self,
        texts: Texts,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        dim: int | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool | None = None,
        on_truncate: OnTruncate = "warn",
        show_progress_bar: bool | None = None,
        **unknown: Never,
    ) -> Vectors:
        """Vectors of texts, float32 [B, D], in the order of the texts; [D] for one str. Equal texts are computed once.

        Args:
            texts: a str, or a list, generator, numpy array, pandas or Arrow column of str.
            prompt: put before every text. Without `prompt` and `prompt_name`, the model's default prompt is used, if
                it has one.
            prompt_name: the name of one of `prompts`.
            dim: one of `dims`. The model's own module for it is used where there is one, else the declared prefix.
            truncate_dim: truncate vectors to their first dimensions; normalised again where the model normalises.
            normalize_embeddings: True for unit length; None or False leave it to the model.
            on_truncate: what to do with texts longer than max_seq_length: "warn" (one warning per call), "error",
                "silent", or "mean" (the mean over windows that overlap by an eighth, weighted by their new tokens).
            show_progress_bar: True, False, or None for work of over two seconds in a terminal.

        Raises:
            InputError: a text that is not a str (with its position), an unknown dim, prompt name or option.
            TruncationError: on_truncate="error" and a text that is too long.
            NumericError: NaN or infinity in a vector.
        """
        refuse_arguments("encode", unknown, ENCODE_ARGUMENTS)
        options = EncodeOptions(
            prompt=prompt,
            prompt_name=prompt_name,
            dim=dim,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            on_truncate=on_truncate,
        )
        if not options.names_a_prompt:
            self._warn_about_prompts()
        return self.encode_with_counts(texts, options, show_progress_bar=show_progress_bar).vectors

    def encode_with_counts(
        self, texts: Texts, options: EncodeOptions = MODEL_DEFAULTS, *, show_progress_bar: bool | None = None
    ) -> Encoded:
        """As `encode`, with the tokens of each text and which texts were truncated. It gives no warning about prompts.

        For callers that would otherwise tokenize twice, or read facts out of warnings.
        """
        postprocessor = self.make_postprocessor(options)
        return self._encode(texts, options, [postprocessor], show_progress_bar)[0]

    def encode_stream(
        self,
        groups: Iterable[Sequence[str]],
        options: EncodeOptions = MODEL_DEFAULTS,
        *,
        first_position: int = 0,
        num_texts: int | None = None,
        on_progress: Callable[[float], object] | None = None,
    ) -> Generator[Encoded]:
        """Encode groups of texts, one after the other, in memory that does not grow with their number.

        While the engine runs one group, the next is taken from `groups` and tokenized, in a thread. Its vectors depend
        on the group alone, not on the other groups. Groups of some thousand texts are as fast as one call: the texts
        of a group are sorted into batches of nearly equal length. Positions, in messages and in `Encoded.truncated`,
        count the texts of all groups. There is no warning about truncation or prompts.

        Args:
            first_position: the position of the first text, where groups were encoded before.
            num_texts: the texts of all groups, and of those encoded before, if that is known. An engine that measures
                how large its batches should be does so for much work only.
            on_progress: called with the number of texts that were just done.

        Raises:
            InputError, TruncationError, NumericError: as `encode`, once the groups before are done; and what `groups`
                raises.
            WorkerError: some texts of a group have failed, after the groups before it.
        """
        prompt, postprocessor = self.resolve_prompt(options), self.make_postprocessor(options)
        calls: deque[EncodeCall] = deque()

        def requests() -> Iterator[tuple[EncodeRequest, Ids]]:
            position = first_position
            for group in groups:
                call = EncodeCall(
                    as_texts(group),
                    prompt=prompt,
                    on_truncate=options.on_truncate,
                    dims=[postprocessor.dim],
                    first_position=position,
                )
                position += len(group)
                calls.append(call)
                yield call.request, call.token_counts_R

        def finish_done() -> Iterator[Encoded]:
            while calls and calls[0].is_done:
                call = calls.popleft()
                yield call.finish(self._pipeline.find_truncated(call.request, call.token_counts_B))[0]

        num_finished = 0
        pooled = self._pipeline.iter_pooled_stream(requests(), prompt=prompt, num_texts=num_texts, advance=on_progress)
        with closing(pooled):
            for number, rows, pooled_BD in pooled:
                self._add_pooled(calls[number - num_finished], rows, pooled_BD, [postprocessor])
                for encoded in finish_done():
                    num_finished += 1
                    yield encoded
        yield from finish_done()  # a group without texts

    def encode_query(
        self,
        texts: Texts,
        *,
        task: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        dim: int | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool | None = None,
        on_truncate: OnTruncate = "warn",
        show_progress_bar: bool | None = None,
        **unknown: Never,
    ) -> Vectors:
        """As `encode`, with the model's prompt for queries.

        `task` chooses among several: "s2p", "s2s", "sts" for stella, or the name of a prompt.
        """
        refuse_arguments("encode_query", unknown, ENCODE_ARGUMENTS)
        if task is not None and (prompt is not None or prompt_name is not None):
            raise InputError(f"task {task!r} chooses a prompt. Give it without prompt and prompt_name.")
        if prompt is None and prompt_name is None:
            prompt_name = self.spec.query_prompt_name(task)
            prompt = "" if prompt_name is None else None  # as in sentence-transformers: not the default prompt
        return self.encode(
            texts,
            prompt=prompt,
            prompt_name=prompt_name,
            dim=dim,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            on_truncate=on_truncate,
            show_progress_bar=show_progress_bar,
        )

    def encode_document(
        self,
        texts: Texts,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        dim: int | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool | None = None,
        on_truncate: OnTruncate = "warn",
        show_progress_bar: bool | None = None,
        **unknown: Never,
    ) -> Vectors:
        """As `encode`, with the model's prompt for documents, if it has one."""
        refuse_arguments("encode_document", unknown, ENCODE_ARGUMENTS)
        if prompt is None and prompt_name is None:
            prompt_name = self.spec.document_prompt_name
            prompt = "" if prompt_name is None else None
        return self.encode(
            texts,
            prompt=prompt,
            prompt_name=prompt_name,
            dim=dim,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            on_truncate=on_truncate,
            show_progress_bar=show_progress_bar,
        )

    def encode_dims(
        self,
        texts: Texts,
        dims: Sequence[int] | None = None,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        normalize_embeddings: bool | None = None,
        on_truncate: OnTruncate = "warn",
        show_progress_bar: bool | None = None,
        **unknown: Never,
    ) -> dict[int, Vectors]:
        """Vectors of several dimensions from one pass of the trunk: {dim: [B, dim]}, or {dim: [dim]} for one str.

        `dims` None means all of `Encoder.dims`.
        """
        refuse_arguments("encode_dims", unknown, ENCODE_ARGUMENTS)
        options = EncodeOptions(
            prompt=prompt, prompt_name=prompt_name, normalize_embeddings=normalize_embeddings, on_truncate=on_truncate
        )
        if not options.names_a_prompt:
            self._warn_about_prompts()
        encoded = self.encode_dims_with_counts(texts, dims, options, show_progress_bar=show_progress_bar)
        return {dim: of_dim.vectors for dim, of_dim in encoded.items()}

    def encode_dims_with_counts(
        self,
        texts: Texts,
        dims: Sequence[int] | None = None,
        options: EncodeOptions = MODEL_DEFAULTS,
        *,
        show_progress_bar: bool | None = None,
    ) -> dict[int, Encoded]:
        """As `encode_dims`, with what `encode_with_counts` gives beside the vectors.

        Raises:
            InputError: also where `options` has a `dim` or `truncate_dim`.
        """
        if options.dim is not None or options.truncate_dim is not None:
            raise InputError("options has a dim or truncate_dim. Give the dimensions as dims.")
        dims = self.dims if dims is None else dims
        if not isinstance(dims, list | tuple) or None in dims:  # pyright: ignore
            raise InputError(f"dims is {dims!r}. Give a list of dimensions, such as {list(self.dims)}.")
        postprocessors = {dim: self.make_postprocessor(replace(options, dim=dim)) for dim in dims}  # each dim once
        encoded = self._encode(texts, options, list(postprocessors.values()), show_progress_bar)
        return dict(zip(postprocessors, encoded, strict=True))

    def encode_tokens(
        self,
        texts: Texts,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        on_truncate: Literal["warn", "error", "silent"] = "warn",
        show_progress_bar: bool | None = None,
        **unknown: Never,
    ) -> list[Vectors]:
        """States of the last layer for each text, float32 [T, H], before pooling and modules.

        Special tokens and the prompt are included.
        """
        refuse_arguments("encode_tokens", unknown, ENCODE_ARGUMENTS)
        if on_truncate not in ("warn", "error", "silent"):
            raise InputError(
                f"on_truncate {on_truncate!r} is not one of warn, error, silent. Token states have no mean."
            )
        texts_B = as_texts(texts)
        prompt = self.resolve_prompt(EncodeOptions(prompt=prompt, prompt_name=prompt_name))
        request = EncodeRequest(texts_B, range(len(texts_B)), len(texts_B), prompt, on_truncate, show_progress_bar)
        states: list[Vectors] = [np.zeros((0, self.spec.trunk.hidden_size), np.float32)] * len(texts_B)
        counts_B = np.zeros(len(texts_B), np.int64)
        for text, states_TH in self._pipeline.iter_states(request, counts_B):
            self._check_finite(states_TH, [text] * len(states_TH), request)
            states[text] = states_TH
        self._pipeline.warn_of_truncation(request, counts_B)
        return states

    def similarity(self, a_BD: ArrayLike, b_CD: ArrayLike) -> Vectors:
        """Scores [B, C] by the model's own score function, higher is nearer; one vector [D] counts as [1, D].

        Raises:
            InputError: texts; shapes that do not fit; int8 or uint8 vectors, which are quantized.
        """
        a, b = _as_vectors(a_BD), _as_vectors(b_CD)
        if a.shape[1] != b.shape[1]:
            raise InputError(f"vectors of shapes {a.shape} and {b.shape} cannot be compared; give [B, D] and [C, D].")
        return modules.similarity(self.spec.similarity, a, b)

    def similarity_pairwise(self, a_BD: ArrayLike, b_BD: ArrayLike) -> Vectors:
        """Scores [B] of vector i of one with vector i of the other, by the model's own score function.

        Raises:
            InputError: texts; shapes that are not equal; int8 or uint8 vectors, which are quantized.
        """
        a, b = _as_vectors(a_BD), _as_vectors(b_BD)
        if a.shape != b.shape:
            raise InputError(f"vectors of shapes {a.shape} and {b.shape} are not pairs; give [B, D] twice.")
        return modules.similarity_pairwise(self.spec.similarity, a, b)

    def tokenize(self, texts: Texts, *, prompt: str | None = None, prompt_name: str | None = None) -> TokenReport:
        """What the model reads of each text: ids, offsets, counts, and where it is truncated."""
        prompt = self.resolve_prompt(EncodeOptions(prompt=prompt, prompt_name=prompt_name))
        return self._tokenizer.tokenize([prompt + text for text in as_texts(texts)])

    def close(self) -> None:
        """End the engine: its worker processes, and the memory of its weights. It encodes nothing after that.

        Also at the end of `with Encoder.load(...) as encoder:`. What `with_max_seq_length` gave has the same engine.
        """
        self._engine.close()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def reopen(self) -> Encoder:
        """The same model on a new engine: for one that no longer computes. The engine of this one is the caller's to
        close.
        """
        return Encoder(self._checkpoint, self._options, self._read_options)

    def save(self, folder: str | Path, *, dialect: str = "classic", overwrite: bool = False) -> Path:
        """Write a folder that sentence-transformers opens, with the same vectors; returns its path.

        Args:
            dialect: "classic" opens in every version; "5.4" and "6.0" are as these versions write.
            overwrite: replace a folder that is not empty.
        """
        from gnomon.checkpoint.save import save_folder

        return save_folder(self._checkpoint, folder, dialect=dialect, overwrite=overwrite)

    def with_max_seq_length(self, max_seq_length: int) -> Encoder:
        """The same model on the same engine, reading another number of tokens of a text.

        Raises:
            InputError: more than the model has positions for, or no more than its special tokens.
        """
        reading = replace(self._read_options, max_seq_length=max_seq_length) if self._read_options else None
        return Encoder(replace_max_seq_length(self._checkpoint, max_seq_length), self._options, reading, self._engine)

    def output_dim(self, options: EncodeOptions = MODEL_DEFAULTS) -> int:
        """Dimensions of the vectors that `encode` gives with these options.

        Raises:
            InputError: a `dim`, `truncate_dim` or prompt name that the model does not have.
        """
        self.resolve_prompt(options)
        return self.make_postprocessor(options).dim

    def space(self, options: EncodeOptions = MODEL_DEFAULTS) -> Space:
        """The space of the vectors that `encode` gives with these options: vectors of equal spaces can be compared."""
        postprocessor = self.make_postprocessor(options)
        full_dim = compute_output_dim(postprocessor.modules, self.spec.pooled_dim)
        return Space(
            fingerprint=self.fingerprint,
            dim=postprocessor.dim,
            cut_from=full_dim if postprocessor.prefix_dim else None,
            normalized=self.spec.normalizes or postprocessor.normalize,
            long_texts="mean" if options.on_truncate == "mean" else "cut",
        )

    @property
    def spec(self) -> ModelSpec:
        return self._checkpoint.spec

    @property
    def read_arguments(self) -> Mapping[str, Any]:
        """The arguments of `load`, besides the revision, that change which vectors it gives: with them, the same source
        opens the same model.
        """
        arguments: dict[str, Any] = {"dtype": self.dtype, "max_seq_length": self.max_seq_length}
        if (options := self._read_options) is not None:
            arguments |= {"card": options.card, "pooling": options.pooling}
            arguments["ignore_config_keys"] = list(options.ignore_config_keys)
        return MappingProxyType({name: value for name, value in arguments.items() if value not in (None, [])})

    @property
    def checkpoint(self) -> Checkpoint:
        """The folder as it was read: arrays, config, card, what was assumed."""
        return self._checkpoint

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, with its rules of length."""
        return self._tokenizer

    @property
    def name(self) -> str:
        return self._checkpoint.source.title

    @property
    def dim(self) -> int:
        """Dimensions of the vectors that `encode` gives by default."""
        return self.spec.dim

    @property
    def dims(self) -> tuple[int, ...]:
        """Every value that `dim=` takes, ascending."""
        return self.spec.dims

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that the model reads, special tokens included; None for no limit."""
        return self.spec.tokenizer.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: object) -> None:
        raise InputError(
            f"max_seq_length does not change after load. encoder.with_max_seq_length({value!r}) gives another encoder."
        )

    @property
    def prompts(self) -> Mapping[str, str]:
        return MappingProxyType(dict(self.spec.prompts))

    @prompts.setter
    def prompts(self, value: object) -> None:
        raise InputError("prompts do not change after load. Give prompt= to encode.")

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def device(self) -> str:
        """The device that it runs on: "cpu", "cuda:0", or several with commas between them."""
        return self._engine.device

    @property
    def dtype(self) -> str:
        """The type that it computes in: "float32", "bfloat16", "float16" or "int8"."""
        return self._engine.dtype

    @property
    def threads(self) -> int | None:
        """Threads of one call, as given to `load`; None for one per core. They do not change."""
        return self._options.threads

    @threads.setter
    def threads(self, value: object) -> None:
        raise InputError(f"threads cannot be changed after load; Encoder.load(..., threads={value!r}) makes another.")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights, spec and tokenizer, as 64 hexadecimal digits; computed on first use."""
        return compute_fingerprint(self.spec, self._checkpoint.arrays, self._tokenizer.canonical_json())

    def resolve_prompt(self, options: EncodeOptions) -> str:
        """The text that `encode` puts before each text with these options; "" for none.

        Raises:
            InputError: a prompt name that the model does not have.
        """
        if options.prompt is not None:
            return options.prompt
        name = options.prompt_name if options.prompt_name is not None else self.spec.default_prompt_name
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.prompts:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"prompt name {name!r} is not in this model. It has {_join_names(self.prompts)}.")
        return self.prompts[name]

    def _warn_about_prompts(self) -> None:
        key = str(self._checkpoint.source.folder)
        if not any(self.prompts.values()) or self.spec.default_prompt_name or key in _warned_folders:
            return
        _warned_folders.add(key)
        warn_caller(
            f"{self.name} has prompts ({_join_names(self.prompts)}) and encode adds none; use encode_query and "
            'encode_document, or prompt_name=. With prompt="" there is no prompt and no warning. (It is given once.)'
        )

    def make_postprocessor(self, options: EncodeOptions) -> Postprocessor:
        """What turns the pooled vectors of an engine into those of `encode` with these options.

        Raises:
            InputError: a `dim` or `truncate_dim` that the model does not have.
        """
        dim, truncate_dim = options.dim, options.truncate_dim
        if dim is not None and (type(dim) is bool or dim not in self.dims):
            raise InputError(
                f"dim {dim!r} is not in this model. It has {_join_names(self.dims)}. "
                "(truncate_dim= truncates to any number of dimensions.)"
            )
        chain, prefix_dim = modules.modules_for_dim(self.spec, None if dim is None else int(dim))
        full_dim = compute_output_dim(chain, self.spec.pooled_dim)
        if truncate_dim is not None:
            wanted_dim = as_whole_number(truncate_dim, "truncate_dim", int(dim or full_dim))
            prefix_dim = wanted_dim if wanted_dim < full_dim else None
        requested = bool(options.normalize_embeddings) and not self.spec.normalizes  # unit vectors stay as they are
        again = requested or (prefix_dim is not None and self.spec.normalizes)
        return Postprocessor(chain, prefix_dim, again, prefix_dim or full_dim, self._checkpoint.arrays)

    def _encode(
        self,
        texts: Texts,
        options: EncodeOptions,
        postprocessors: Sequence[Postprocessor],
        show_progress_bar: bool | None,
    ) -> list[Encoded]:
        """The vectors that each postprocessor makes from one pass of the trunk."""
        call = EncodeCall(
            as_texts(texts),
            prompt=self.resolve_prompt(options),
            on_truncate=options.on_truncate,
            dims=[post.dim for post in postprocessors],
            show_progress_bar=show_progress_bar,
        )
        for rows, pooled_BD in self._pipeline.iter_pooled(call.request, call.token_counts_R):
            self._add_pooled(call, rows, pooled_BD, postprocessors)
        self._pipeline.warn_of_truncation(call.request, call.token_counts_R)
        encoded = call.finish(self._pipeline.find_truncated(call.request, call.token_counts_B))
        return [replace(each, vectors=each.vectors[0]) for each in encoded] if isinstance(texts, str) else encoded

    def _add_pooled(
        self,
        call: EncodeCall,
        rows: Sequence[int],
        pooled_BD: Vectors | Failure,
        postprocessors: Sequence[Postprocessor],
    ) -> None:
        """Give a call what the engine computed of some of its texts."""
        if isinstance(pooled_BD, Failure):
            call.add_failure(rows, pooled_BD.reason)
            return
        vectors = [postprocess(pooled_BD) for postprocess in postprocessors]
        for vectors_BD in vectors:
            self._check_finite(vectors_BD, rows, call.request)
        call.add_vectors(rows, vectors)

    def _check_finite(self, vectors_BD: Vectors, text_indices: Sequence[int], request: EncodeRequest) -> None:
        finite_B = np.isfinite(vectors_BD).all(axis=-1)
        if finite_B.all():
            return
        row = text_indices[int(np.argmin(finite_B))]
        ids_T = self._tokenizer.truncate(self._tokenizer.encode([request.prompt + request.texts[row]])[0])
        why = self._engine.explain_nonfinite(pack([ids_T]))
        raise NumericError(f"text {request.positions[row]} gives NaN or infinity: {why}.")


def _reopen_engine(read_options: _ReadOptions, options: EngineOptions) -> Engine:
    checkpoint = read_options.read_checkpoint()
    return open_engine(checkpoint.spec, checkpoint.arrays, options)


def _as_vectors(values: ArrayLike) -> Vectors:
    """Float vectors [B, D]; one [D] counts as [1, D].

    Raises:
        InputError: texts, another number of axes, or quantized vectors.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise InputError(f"similarity compares vectors, and these are {array.dtype}. Encode texts first.")
    modules.check_not_quantized(array)
    vectors_BD = np.atleast_2d(array.astype(np.float32, copy=False))
    if vectors_BD.ndim != 2:
        raise InputError(f"vectors of shape {array.shape} cannot be compared; give [B, D] or [D].")
    return vectors_BD


def _unpickle(read_options: _ReadOptions, options: EngineOptions) -> Encoder:
    return Encoder(read_options.read_checkpoint(), options, read_options)


def _join_names(names: Any) -> str:
    return ", ".join(str(name) for name in names) or "none"

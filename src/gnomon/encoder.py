"""`Encoder`: texts in, vectors out. The public noun.

B: texts; D: width of a vector; T: tokens of one text; H: hidden width of the trunk.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnomon import heads
from gnomon.batching import batches
from gnomon.checkpoint.folder import Checkpoint, read_folder
from gnomon.checkpoint.hub import Source, resolve
from gnomon.engines import Engine
from gnomon.engines.choose import Options, open_engine
from gnomon.errors import InputError, Notice, NumericError, TruncationError
from gnomon.inputs import Texts, as_texts, check_encodable, whole_number
from gnomon.packed import Ids, pack, split
from gnomon.space import Space
from gnomon.spec import HeadSpec, ModelSpec, fingerprint
from gnomon.tokenizer import Tokenizer, TokenReport

Vectors = NDArray[np.float32]
OnTruncate = Literal["warn", "error", "silent", "mean"]
Reload = tuple[Source, str | None, tuple[str, ...]]
"""What a pickled copy reads its model with: the source, the card that was named, the config keys to ignore."""

TOKENIZED_AT_ONCE = 8192
"""Texts that are tokenised between two steps of the progress bar."""

BAR_DELAY = 2.0
"""Seconds of work before a progress bar is shown."""

_told: set[str] = set()
"""Models of which this process has said that `encode` adds no prompt."""


@dataclass(frozen=True)
class _Job:
    """One call, checked: what is read, and what each batch becomes."""

    ids: list[Ids]
    """What the trunk reads: one entry a text, or one a window."""
    text_of: list[int]
    """Index of the text of each entry."""
    weights: list[int]
    """New tokens of each entry."""
    prompt_tokens: int


class Encoder:
    """A model that turns texts into vectors.

    Made by `Encoder.load`. It does not change after that; threads may share it, it can be pickled (as its source and
    options: the copy reads the same folder) and used after a fork.
    """

    def __init__(self, checkpoint: Checkpoint, options: Options, reload: Reload | None = None) -> None:
        self._checkpoint, self._options, self._reload = checkpoint, options, reload
        self._tokenizer = Tokenizer(checkpoint.tokenizer, checkpoint.spec.tokenizer)
        self._engine = open_engine(checkpoint.spec, checkpoint.arrays, options)

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        device: str = "auto",
        engine: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        card: str | None = None,
        ignore_config_keys: Sequence[str] = (),
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> Encoder:
        """Load a model.

        Args:
            source: a model's folder, a hub id ("intfloat/multilingual-e5-small") or "package:NAME", a model inside an
                installed Python package.
            revision: branch, tag or commit of a hub id.
            device: "auto" or "cpu".
            engine: "auto", "onnx" or "openvino".
            dtype: "auto" or "float32"; "int8" for weights of 8 bits, faster and less exact (`gnomon inspect
                --fidelity`).
            threads: threads of one call; None for one a core.
            card: name of the published model that this is or was tuned from, where the folder does not show it.
            ignore_config_keys: keys of config.json that are not known to gnomon, and that you know not to change
                vectors.
            cache_dir, token, local_files_only: as in huggingface_hub. Offline, no request is made at all.

        Raises:
            ModelError: the folder cannot be read as a model; says what and why. SourceError: a hub id that cannot be
                reached.
            InputError: an option that cannot be used.
        """
        options = Options.check(device=device, engine=engine, dtype=dtype, threads=threads)
        found = resolve(source, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
        checkpoint = read_folder(found, card=card, ignore_config_keys=ignore_config_keys)
        for notice in checkpoint.notices:
            warnings.warn(notice, Notice, stacklevel=2)
        return cls(checkpoint, options, (found, card, tuple(ignore_config_keys)))

    def __reduce__(self) -> tuple[Callable[..., Encoder], tuple[Any, ...]]:
        if self._reload is None:
            raise TypeError("this Encoder was not made by Encoder.load, so it cannot be pickled.")
        return _unpickle, (*self._reload, self._options)

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
    ) -> Vectors:
        """Vectors of texts, float32 [B, D]; of one str, [D]. In the order of the texts; equal texts are computed once.

        Args:
            texts: a str, or a list, generator, numpy array, pandas or Arrow column of str.
            prompt: put in front of every text. Without `prompt` and `prompt_name`, the model's default prompt, if it
                has one.
            prompt_name: the name of one of `prompts`.
            dim: a width of `dims`: its own head where the model has one, else the declared prefix.
            truncate_dim: cut vectors to any prefix; normalised again where the model normalises.
            normalize_embeddings: True for unit length; None or False leave it to the model.
            on_truncate: what to do with texts longer than max_seq_length: "warn" (one notice a call), "error",
                "silent", or "mean" (the mean over windows that overlap by an eighth, weighted by their new tokens).
            show_progress_bar: True, False, or None for work of over two seconds in a terminal.

        Raises:
            InputError: a text that is not a str (with its position), an unknown dim, prompt name or option.
            TruncationError: on_truncate="error" and a text that is too long.
            NumericError: NaN or infinity in a vector.
        """
        if prompt is None and prompt_name is None:
            self._tell_of_prompts()
        prompt = self._prompt(prompt, prompt_name)
        finish = self._finisher(dim, truncate_dim, normalize_embeddings)
        return self._encode(texts, prompt, [finish], on_truncate, show_progress_bar)[0]

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
    ) -> Vectors:
        """As `encode`, with the model's prompt for queries.

        `task` chooses among several: "s2p", "s2s", "sts" for stella, or the name of a prompt.
        """
        if prompt is None and prompt_name is None:
            prompt_name = self.spec.query_prompt_name(task)
            prompt = "" if prompt_name is None else None  # as in sentence-transformers: not the default prompt
        elif task is not None:
            raise InputError(f"task {task!r} chooses a prompt; give it without prompt and prompt_name.")
        prompt = self._prompt(prompt, prompt_name)
        finish = self._finisher(dim, truncate_dim, normalize_embeddings)
        return self._encode(texts, prompt, [finish], on_truncate, show_progress_bar)[0]

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
    ) -> Vectors:
        """As `encode`, with the model's prompt for documents, if it has one."""
        if prompt is None and prompt_name is None:
            prompt_name = self.spec.document_prompt_name
            prompt = "" if prompt_name is None else None
        prompt = self._prompt(prompt, prompt_name)
        finish = self._finisher(dim, truncate_dim, normalize_embeddings)
        return self._encode(texts, prompt, [finish], on_truncate, show_progress_bar)[0]

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
    ) -> dict[int, Vectors]:
        """Vectors of several widths from one pass of the trunk: {dim: [B, dim]}, or {dim: [dim]} of one str.

        `dims` None means all of `Encoder.dims`.
        """
        widths = self.dims if dims is None else dims
        if not isinstance(widths, list | tuple) or None in widths:  # pyright: ignore
            raise InputError(f"dims is {dims!r}; give a list of widths, such as {list(self.dims)}.")
        if prompt is None and prompt_name is None:
            self._tell_of_prompts()
        prompt = self._prompt(prompt, prompt_name)
        finishers = {dim: self._finisher(dim, None, normalize_embeddings) for dim in widths}  # each width once
        vectors = self._encode(texts, prompt, list(finishers.values()), on_truncate, show_progress_bar)
        return dict(zip(finishers, vectors, strict=True))

    def encode_tokens(
        self,
        texts: Texts,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        on_truncate: Literal["warn", "error", "silent"] = "warn",
        show_progress_bar: bool | None = None,
    ) -> list[Vectors]:
        """States of the last layer, float32 [T, H] for each text, in front of pooling and heads.

        Special tokens and the prompt are included.
        """
        if on_truncate not in ("warn", "error", "silent"):
            raise InputError(
                f"on_truncate {on_truncate!r} is not one of warn, error, silent; token states have no mean."
            )
        listed = as_texts(texts)
        job = self._job(listed, self._prompt(prompt, prompt_name), on_truncate, show_progress_bar)
        states: list[Vectors] = [np.zeros((0, self.spec.trunk.hidden), np.float32)] * len(listed)
        for batch in self._batches(job, show_progress_bar):
            packed = pack([job.ids[index] for index in batch])
            states_TH = self._engine.states(packed)
            _check_finite(states_TH, np.repeat(batch, packed.lengths_B))
            for index, text_TH in zip(batch, split(states_TH, packed), strict=True):
                states[index] = text_TH
        return states

    def similarity(self, a_BD: ArrayLike, b_CD: ArrayLike) -> Vectors:
        """Scores [B, C] by the model's own score function, higher is nearer; one vector [D] counts as [1, D]."""
        a, b = (np.atleast_2d(np.asarray(vectors, np.float32)) for vectors in (a_BD, b_CD))
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
            raise InputError(f"vectors of shapes {a.shape} and {b.shape} cannot be compared; give [B, D] and [C, D].")
        return heads.similarity(self.spec.similarity, a, b)

    def tokenize(self, texts: Texts, *, prompt: str | None = None, prompt_name: str | None = None) -> TokenReport:
        """What the model reads of each text: ids, offsets, counts, and where it was cut."""
        prompt = self._prompt(prompt, prompt_name)
        return self._tokenizer.report([prompt + text for text in as_texts(texts)])

    def save(self, folder: str | Path, *, dialect: str = "classic", overwrite: bool = False) -> Path:
        """Write a folder that sentence-transformers opens, with the same vectors; returns its path.

        Args:
            dialect: "classic" opens in every version; "5.4" and "6.0" are as these versions write.
            overwrite: replace a folder that is not empty.
        """
        from gnomon.checkpoint.save import save_folder

        return save_folder(self._checkpoint, folder, dialect=dialect, overwrite=overwrite)

    def space(
        self,
        *,
        dim: int | None = None,
        truncate_dim: int | None = None,
        normalize_embeddings: bool | None = None,
        on_truncate: OnTruncate = "warn",
    ) -> Space:
        """What the vectors of such a call may be compared with."""
        _check_on_truncate(on_truncate)
        finish = self._finisher(dim, truncate_dim, normalize_embeddings)
        return Space(
            fingerprint=self.fingerprint,
            dim=finish.width,
            cut_from=heads.width(finish.layers, self.spec.pooled_dim) if finish.prefix else None,
            normalized=self.spec.normalizes or finish.normalize,
            long_texts="mean" if on_truncate == "mean" else "cut",
        )

    @property
    def spec(self) -> ModelSpec:
        return self._checkpoint.spec

    @property
    def checkpoint(self) -> Checkpoint:
        """The folder as it was read: arrays, config, card, what was assumed."""
        return self._checkpoint

    @property
    def name(self) -> str:
        source = self._checkpoint.source
        return source.name or source.folder.name

    @property
    def dims(self) -> tuple[int, ...]:
        """Every width that `dim=` takes."""
        return self.spec.dims

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that the model reads, special tokens included; None for no limit."""
        return self.spec.tokenizer.max_seq_length

    @property
    def prompts(self) -> Mapping[str, str]:
        return MappingProxyType(dict(self.spec.prompts))

    @property
    def engine(self) -> Engine:
        return self._engine

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of canonical weights, spec and tokenizer, as hex; computed when first asked for."""
        return fingerprint(self.spec, self._checkpoint.arrays, self._tokenizer.canonical())

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        if prompt is not None:
            if prompt_name is not None:
                raise InputError(f"prompt {prompt!r} and prompt_name {prompt_name!r} were both given; give one.")
            if not isinstance(prompt, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InputError(f"prompt is {prompt!r}; it must be a str.")
            check_encodable(prompt, "prompt")
            return prompt
        name = prompt_name if prompt_name is not None else self.spec.default_prompt_name
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.prompts:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(f"prompt name {name!r} is not in this model; it has {_listed(self.prompts)}.")
        return self.prompts[name]

    def _tell_of_prompts(self) -> None:
        key = str(self._checkpoint.source.folder)
        if not self.prompts or self.spec.default_prompt_name or key in _told:
            return
        _told.add(key)
        warnings.warn(
            f"{self.name} has prompts ({_listed(self.prompts)}) and encode adds none; use encode_query and "
            'encode_document, or prompt_name=. To encode without, prompt="" is silent. (Said once.)',
            Notice,
            stacklevel=3,
        )

    def _finisher(self, dim: int | None, truncate_dim: int | None, normalize: bool | None) -> _Finisher:
        if dim is not None and (type(dim) is bool or dim not in self.dims):
            raise InputError(
                f"dim {dim!r} is not in this model; it has {_listed(self.dims)}. (truncate_dim= cuts to any width.)"
            )
        if normalize not in (None, True, False):
            raise InputError(f"normalize_embeddings is {normalize!r}; it may be True, False or None.")
        layers, prefix = heads.chain(self.spec, None if dim is None else int(dim))
        full = heads.width(layers, self.spec.pooled_dim)
        if truncate_dim is not None:
            most = int(dim or full)
            cut = whole_number(truncate_dim, "truncate_dim", most)
            prefix = cut if cut < full else None
        again = bool(normalize) or (prefix is not None and self.spec.normalizes)
        return _Finisher(layers, prefix, again, prefix or full, self._checkpoint.arrays)

    def _encode(
        self,
        texts: Texts,
        prompt: str,
        finishers: Sequence[_Finisher],
        on_truncate: OnTruncate,
        show_progress_bar: bool | None,
    ) -> list[Vectors]:
        _check_on_truncate(on_truncate)
        listed = as_texts(texts)
        first_of: dict[str, int] = {}
        for position, text in enumerate(listed):
            first_of.setdefault(text, position)
        positions = list(first_of.values())
        job = self._job(list(first_of), prompt, on_truncate, show_progress_bar, positions)
        outs = [np.empty((len(listed), finish.width), np.float32) for finish in finishers]
        for rows, pooled_BD in self._pooled(job, show_progress_bar):
            places = [positions[row] for row in rows]
            for finish, out_BD in zip(finishers, outs, strict=True):
                vectors_BD = finish(pooled_BD)
                _check_finite(vectors_BD, places)
                out_BD[places] = vectors_BD
        copies = [(at, first_of[text]) for at, text in enumerate(listed) if first_of[text] != at]
        if copies:
            to, source = np.array(copies).T
            for out_BD in outs:
                out_BD[to] = out_BD[source]
        return [out_BD[0] for out_BD in outs] if isinstance(texts, str) else outs

    def _job(
        self,
        texts: list[str],
        prompt: str,
        on_truncate: OnTruncate,
        show_progress_bar: bool | None,
        positions: Sequence[int] | None = None,
    ) -> _Job:
        """Tokenise and cut; `positions` are those of the texts in what the caller gave."""
        whole = self._whole_ids([prompt + text for text in texts] if prompt else texts, positions, show_progress_bar)
        prompt_tokens = 0 if self.spec.pooling.include_prompt else self._tokenizer.prompt_tokens(prompt)
        everyone = list(range(len(texts)))
        limit = self.max_seq_length
        long = [index for index, ids_T in enumerate(whole) if limit is not None and len(ids_T) > limit]
        if not long:
            return _Job(whole, everyone, [1] * len(whole), prompt_tokens)
        if on_truncate == "mean":
            windows = [self._tokenizer.windows(ids_T, prompt) for ids_T in whole]
            owners = [index for index, window in enumerate(windows) for _ in window.ids]
            ids = [ids_T for window in windows for ids_T in window.ids]
            return _Job(ids, owners, [new for window in windows for new in window.new_tokens], prompt_tokens)
        worst = max(long, key=lambda index: len(whole[index]))
        position = positions[worst] if positions else worst
        texts_given = "different texts" if positions else "texts"
        what = (
            f"{len(long)} of {len(texts)} {texts_given} are longer than {limit} tokens; "
            f"the longest, text {position}, has {len(whole[worst]):,}"
        )
        if on_truncate == "error":
            raise TruncationError(f"{what}. Shorten them, or let on_truncate= be 'mean', 'warn' or 'silent'.")
        if on_truncate == "warn":
            told = f"{what}: the rest of each was cut off. (on_truncate='mean' reads all.)"
            warnings.warn(told, Notice, stacklevel=4 if positions else 3)
        return _Job([self._tokenizer.cut(ids_T) for ids_T in whole], everyone, [1] * len(whole), prompt_tokens)

    def _whole_ids(
        self, texts: list[str], positions: Sequence[int] | None, show_progress_bar: bool | None
    ) -> list[Ids]:
        """Ids of whole texts; each has a row in the embedding table."""
        ids: list[Ids] = []
        with _progress(len(texts), show_progress_bar, "reading", " texts") as advance:
            for start in range(0, len(texts), TOKENIZED_AT_ONCE):
                ids += self._tokenizer.ids(texts[start : start + TOKENIZED_AT_ONCE])
                advance(len(ids) - start)
        rows = self.spec.trunk.rows
        for index, ids_T in enumerate(ids):
            if ids_T.size and ids_T.max() >= rows:
                text = positions[index] if positions else index
                raise InputError(
                    f"text {text} has token {ids_T.max()}, and the model has vectors for {rows}; the tokenizer was "
                    "given tokens that the model was not trained with."
                )
        return ids

    def _pooled(self, job: _Job, show_progress_bar: bool | None) -> Iterator[tuple[list[int], Vectors]]:
        """(texts, their pooled vectors), batch by batch; the windows of a long text are averaged and come last."""
        windows = np.bincount(job.text_of, minlength=1)
        long = {text: np.zeros(self.spec.pooled_dim) for text in np.flatnonzero(windows > 1).tolist()}
        for batch in self._batches(job, show_progress_bar):
            pooled_BD = self._engine.pool(pack([job.ids[index] for index in batch]), job.prompt_tokens)
            texts = [job.text_of[index] for index in batch]
            for index, text, vector_D in zip(batch, texts, pooled_BD, strict=True) if long else ():
                if text in long:
                    long[text] += job.weights[index] * vector_D.astype(np.float64)
            whole = [place for place, text in enumerate(texts) if text not in long]
            if whole:
                yield [texts[place] for place in whole], pooled_BD[whole] if long else pooled_BD
        if long:
            totals = np.bincount(job.text_of, weights=job.weights)
            yield list(long), np.stack([total / totals[text] for text, total in long.items()]).astype(np.float32)

    def _batches(self, job: _Job, show_progress_bar: bool | None) -> Iterator[list[int]]:
        lengths = [len(ids_T) for ids_T in job.ids]
        with _progress(sum(lengths), show_progress_bar, "encoding", " tokens") as advance:
            for batch in batches(lengths, self._engine.token_budget):
                yield batch
                advance(sum(lengths[index] for index in batch))


@dataclass(frozen=True)
class _Finisher:
    """Pooled vectors -> the vectors that were asked for."""

    layers: tuple[HeadSpec, ...]
    prefix: int | None
    normalize: bool
    width: int
    arrays: Mapping[str, NDArray[Any]]

    def __call__(self, pooled_BD: Vectors) -> Vectors:
        vectors_BD = heads.apply(self.layers, self.arrays, pooled_BD)
        if self.prefix is not None:
            vectors_BD = vectors_BD[:, : self.prefix]
        return heads.normalize(vectors_BD) if self.normalize else vectors_BD


def _unpickle(source: Source, card: str | None, ignore_config_keys: tuple[str, ...], options: Options) -> Encoder:
    checkpoint = read_folder(source, card=card, ignore_config_keys=ignore_config_keys)
    return Encoder(checkpoint, options, (source, card, ignore_config_keys))


@contextmanager
def _progress(total: int, show: bool | None, what: str, unit: str) -> Generator[Callable[[int], object]]:
    """A bar on stderr, once the work has taken two seconds; None shows it in a terminal only."""
    if show is False or (show is None and not sys.stderr.isatty()):
        yield lambda count: None
        return
    from tqdm import tqdm

    delay = 0 if show else BAR_DELAY
    with tqdm(
        total=total, desc=what, unit=unit, unit_scale=True, delay=delay, leave=bool(show), file=sys.stderr
    ) as bar:
        yield bar.update


def _check_finite(vectors_BD: Vectors, texts: Sequence[int] | NDArray[np.int64]) -> None:
    finite_B = np.isfinite(vectors_BD).all(axis=-1)
    if not finite_B.all():
        text = int(np.asarray(texts)[~finite_B][0])
        raise NumericError(f"text {text} gives NaN or infinity; the weights are damaged, or overflow in this dtype.")


def _check_on_truncate(on_truncate: str) -> None:
    if on_truncate not in get_args(OnTruncate):
        raise InputError(f"on_truncate {on_truncate!r} is not one of {_listed(get_args(OnTruncate))}.")


def _listed(names: Any) -> str:
    return ", ".join(str(name) for name in names) or "none"

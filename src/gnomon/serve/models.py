"""`ServedModel`: an encoder with its batcher. `ModelRegistry`: which of the models a client means."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnomon.checkpoint.hub import resolve_source
from gnomon.encode_options import EncodeOptions
from gnomon.encoder import Encoder
from gnomon.engines.protocol import Engine
from gnomon.errors import InputError
from gnomon.messages import closest_names, list_some, shorten
from gnomon.modules import Postprocessor
from gnomon.packed import Vectors
from gnomon.quantization import quantize
from gnomon.serve.answer_cache import AnswerCache
from gnomon.serve.batcher import Batcher
from gnomon.serve.options import ModelOptions, ServeOptions, check_names
from gnomon.serve.requests import InputType, ModelInfo, RequestError, VectorType
from gnomon.serve.warm_up import measure_speed, set_events, test_engine
from gnomon.serve.work import Job
from gnomon.vector_files import read_ranges

EVERY_TOKEN = 10_000_000
"""Tokens of much work, for which an engine chooses its largest budget."""

SUFFIXES: Mapping[str, InputType] = {"query": "query", "document": "document", "passage": "document"}
"""What may follow a name and a colon, beside the names of the model's own prompts."""

OnStep = Callable[[int, int, float], None]


def load_encoder(options: ModelOptions) -> Encoder:
    """
    Raises:
        GnomonError: as `Encoder.load`.
    """
    return Encoder.load(
        options.source,
        revision=options.revision,
        device=options.device,
        engine=options.engine,
        dtype=options.dtype,
        threads=options.threads,
        max_seq_length=options.max_seq_length,
        pooling=options.pooling,  # pyright: ignore[reportArgumentType] checked there
        card=options.card,
        ignore_config_keys=options.ignore_config_keys,
        cache_dir=options.cache_dir,
        token=options.token,
        local_files_only=options.local_files_only,
    )


class ServedModel:
    """A model that is loaded and served.

    Args:
        encoder: the model.
        options: as the operator wrote them.
        serve: limits of the server.
        notify: called from a thread with the jobs that were just done.
        cache: of pooled vectors.
        on_step: called from a thread after each step with its number of texts, tokens and seconds.

    Raises:
        InputError: a dim, prompt name, or ranges that do not fit the model.
        NumericError: the self-test failed.
    """

    def __init__(
        self,
        encoder: Encoder,
        options: ModelOptions,
        serve: ServeOptions,
        *,
        notify: Callable[[list[Job]], None],
        cache: AnswerCache | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        self.encoder, self.options = encoder, options
        self.names = options.client_names
        self.created = int(time.time())
        self.default_prompt = encoder.resolve_prompt(
            EncodeOptions(prompt=options.default_prompt, prompt_name=options.default_prompt_name)
        )
        _check_dim(options.dim, encoder)
        self.ranges_2D = None if options.ranges is None else _read_ranges(options, encoder)
        self.fingerprint = encoder.fingerprint
        self.salt = blake2b(f"{self.fingerprint} {encoder.engine.identity}".encode(), digest_size=16).digest()
        """Part of the keys of its texts in the answer cache, where other models have texts, too."""
        self._files = _list_files(encoder.checkpoint.source.folder)
        test_engine(encoder)
        self.batch_tokens = serve.max_batch_tokens or encoder.engine.budget(EVERY_TOKEN)
        self.batcher = Batcher(
            encoder.engine,
            budget=self.batch_tokens,
            pooled_dim=encoder.spec.pooled_dim,
            notify=set_events,
            cache=cache,
            reopen=self._reopen_engine,
            slots=len(encoder.device.split(",")),
            max_texts=options.max_batch_texts,
            max_queue_tokens=serve.max_queue_tokens,
            max_queue_texts=serve.max_queue_texts,
            on_step=on_step,
        )
        if serve.warm_up:
            try:
                measure_speed(encoder, self.batcher, self.batch_tokens)
            except BaseException:
                self.batcher.close()
                raise
        self.batcher.notify = notify

    @property
    def name(self) -> str:
        """The name in answers to requests that name none."""
        return self.names[0]

    def choose_name(self, name: str | None) -> str:
        """The name in an answer: the one that the request has, if it is one of this model's."""
        return name if name is not None and name in (*self.names, self.options.source) else self.name

    def make_postprocessor(self, dimensions: int | None, normalize: bool | None) -> Postprocessor:
        """What turns pooled vectors into those of a request.

        Args:
            normalize: as in `EmbedRequest`.

        Raises:
            RequestError: dimensions that the model does not have.
        """
        try:
            options = EncodeOptions(dim=dimensions or self.options.dim, normalize_embeddings=normalize is not False)
            postprocessor = self.encoder.make_postprocessor(options)
        except InputError as error:
            dims = ", ".join(map(str, self.encoder.dims))
            raise RequestError(
                f"dimensions {dimensions} is not in this model. It has {dims}. Choose one of them, or leave it out.",
                "bad_dimensions",
                param="dimensions",
            ) from error
        return postprocessor.without_normalization() if normalize is False else postprocessor

    def resolve_prompt(
        self,
        prompt: str | None,
        prompt_name: str | None,
        input_type: InputType | None,
        optional_prompt_name: str | None = None,
    ) -> str:
        """The text to put before each text of a request. At most one of the arguments is given.

        Args:
            optional_prompt_name: a prompt that is used where the model has it.

        Raises:
            RequestError: a prompt name that the model does not have.
        """
        spec = self.encoder.spec
        if prompt is not None:
            return prompt
        if input_type is not None:
            return spec.prompt_text(spec.query_prompt_name() if input_type == "query" else spec.document_prompt_name)
        if optional_prompt_name is not None:
            return spec.prompts.get(optional_prompt_name, "")
        if prompt_name is None:
            return self.default_prompt
        if prompt_name not in spec.prompts:
            known = f"It has: {list_some(spec.prompts)}." if spec.prompts else "It has no prompts."
            raise RequestError(
                f"prompt name {shorten(prompt_name)} is not in this model. {known}",
                "unknown_prompt",
                param="prompt_name",
            )
        return spec.prompts[prompt_name]

    def quantize(self, vectors_BD: Vectors, kind: VectorType) -> NDArray[Any]:
        """Vectors of a quantised type.

        Raises:
            RequestError: it needs ranges, and the model has none of these dimensions; or it packs bits, and the
                dimensions are not a multiple of 8.
        """
        ranges_2D = None
        if kind in ("int8", "uint8"):
            ranges_2D = self.ranges_2D
            if ranges_2D is None or ranges_2D.shape[1] != vectors_BD.shape[1]:
                raise RequestError(
                    f"{kind} needs the ranges of {vectors_BD.shape[1]} dimensions, and the server has none: they come "
                    "from a corpus, not from one request. Start it with --ranges, or request float or ubinary.",
                    "unsupported",
                    param="embedding_types",
                )
        elif vectors_BD.shape[1] % 8:
            raise RequestError(
                f"{kind} packs 8 dimensions into a byte, and the vectors have {vectors_BD.shape[1]}.",
                "bad_dimensions",
                param="embedding_types",
            )
        return quantize(vectors_BD, kind, ranges_2D).values  # pyright: ignore[reportArgumentType] not "float"

    def info(self) -> ModelInfo:
        encoder, spec = self.encoder, self.encoder.spec
        waiting = [self.batcher.num_waiting(lane) for lane in ("interactive", "bulk")]
        return ModelInfo(
            name=self.name,
            aliases=self.names[1:],
            source=self.options.source,
            revision=self.options.revision,
            fingerprint=self.fingerprint,
            dimensions=encoder.dims,
            dim=self.options.dim or encoder.dim,
            max_tokens=encoder.max_seq_length,
            prompts=encoder.prompts,
            default_prompt_name=self._default_prompt_name,
            input_types={"query": spec.query_prompt_name(), "document": spec.document_prompt_name},
            pooling="+".join(spec.pooling.modes),
            dtype=encoder.dtype,
            device=encoder.device,
            engine=encoder.engine.name,
            created=self.created,
            stats={
                "queue_texts": sum(texts for texts, _ in waiting),
                "queue_tokens": sum(tokens for _, tokens in waiting),
                "running_texts": self.batcher.num_running(),
                "batch_tokens": self.batch_tokens,
                "tokens_per_second": round(self.batcher.tokens_per_second, 1),
            },
        )

    @property
    def _default_prompt_name(self) -> str | None:
        """The name of the prompt where a request names none; None also where the operator gave a text of their own."""
        if self.options.default_prompt is not None:
            return None
        return self.options.default_prompt_name or self.encoder.spec.default_prompt_name

    def has_changed(self) -> bool:
        """Whether its source has other files now than when it was loaded.

        Raises:
            GnomonError: the source cannot be reached any more.
        """
        options = self.options
        source = resolve_source(
            options.source,
            revision=options.revision,
            cache_dir=options.cache_dir,
            token=options.token,
            local_files_only=options.local_files_only,
        )
        return _list_files(source.folder) != self._files

    def close(self) -> None:
        """End the batcher and let go of the engine; what waits fails."""
        self.batcher.close()
        self.encoder.close()

    def _reopen_engine(self) -> Engine:
        self.encoder.close()
        self.encoder = self.encoder.reopen()
        return self.encoder.engine


class NamedModel(NamedTuple):
    """What a client's name means. At most one of `input_type` and `prompt_name` is there."""

    model: ServedModel
    name: str
    """The name without its suffix; the model's first where it is not served."""
    input_type: InputType | None = None
    prompt_name: str | None = None


class ModelRegistry:
    """The models that are served, by the names that clients use.

    A name may end in ":query", ":document" or ":" and a prompt name, which chooses the model's prompt for clients that
    can choose nothing else. Where one model is served, it answers to every name, but not to its own with a wrong end.

    Raises:
        InputError: two models have one name.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = tuple(models)
        check_names(model.options for model in models)
        self._by_name = {name: model for model in models for name in model.names}
        for model in models:
            self._by_name.setdefault(model.options.source, model)

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self.models)

    def find_known(self, name: str) -> ServedModel:
        """The model that has this name.

        Raises:
            RequestError: none has it.
        """
        if name not in self._by_name:
            raise self._unknown(name)
        return self._by_name[name]

    def find(self, name: str | None) -> NamedModel:
        """The model of a name, and the prompt that the name chooses.

        Raises:
            RequestError: several models are served, and none has this name; or one has it, and not this suffix.
        """
        if not name:
            return NamedModel(self.models[0], self.models[0].name)
        if name in self._by_name:
            return NamedModel(self._by_name[name], name)
        stem = name
        while ":" in stem:  # names may hold colons, too: the longest counts
            stem = stem.rpartition(":")[0]
            if stem in self._by_name:
                return _apply_suffix(self._by_name[stem], stem, name[len(stem) + 1 :])
        if len(self.models) == 1:
            model, (_, colon, suffix) = self.models[0], name.rpartition(":")
            input_type, prompt_name = (_read_suffix(model, suffix) if colon else None) or (None, None)
            return NamedModel(model, model.name, input_type, prompt_name)
        raise self._unknown(name, " :query or :document may follow a name.")

    def _unknown(self, name: str, hint: str = "") -> RequestError:
        known = list_some(known for model in self.models for known in model.names)
        return RequestError(
            f"model {shorten(name)} is not served here. There are: {known}.{hint}", "unknown_model", param="model"
        )


def _apply_suffix(model: ServedModel, name: str, suffix: str) -> NamedModel:
    """
    Raises:
        RequestError: the model has no such prompt.
    """
    chosen = _read_suffix(model, suffix)
    if chosen is not None:
        return NamedModel(model, name, *chosen)
    offered = list(dict.fromkeys([*SUFFIXES, *model.encoder.spec.prompts]))
    near = closest_names(suffix, offered)
    hint = f" Did you mean {f'{name}:{near[0]}'!r}?" if near else ""
    raise RequestError(
        f"model {shorten(f'{name}:{suffix}', 60 + len(name))} is not served here. After {name!r} may follow "
        f"{list_some(f':{each}' for each in offered)}.{hint}",
        "unknown_model",
        param="model",
    )


def _read_suffix(model: ServedModel, suffix: str) -> tuple[InputType | None, str | None] | None:
    """The input type or the prompt name that a suffix chooses; None for another word."""
    if suffix in SUFFIXES:
        return SUFFIXES[suffix], None
    return (None, suffix) if suffix in model.encoder.spec.prompts else None


def _list_files(folder: Path) -> list[tuple[str, int, int]]:
    """The path, size and time of change of each file of a model."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _check_dim(dim: int | None, encoder: Encoder) -> None:
    """
    Raises:
        InputError: not one of the model's dimensions.
    """
    if dim is not None and dim not in encoder.dims:
        dims = ", ".join(map(str, encoder.dims))
        raise InputError(f"dim {dim} is not in this model. It has {dims}. Choose one of them.")


def _read_ranges(options: ModelOptions, encoder: Encoder) -> NDArray[np.float32]:
    """
    Raises:
        InputError: not ranges of vectors that the model gives.
    """
    assert options.ranges
    ranges_2D = np.asarray(read_ranges(options.ranges), np.float32)
    if ranges_2D.ndim != 2 or len(ranges_2D) != 2 or ranges_2D.shape[1] not in encoder.dims:
        dims = ", ".join(map(str, encoder.dims))
        raise InputError(
            f"the ranges in {options.ranges} have shape {ranges_2D.shape}. They must be [2, D] with D one of {dims}."
        )
    return ranges_2D

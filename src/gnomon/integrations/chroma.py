"""`GnomonEmbeddingFunction`: a model as Chroma's `EmbeddingFunction`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from gnomon.encode_options import OnTruncate
from gnomon.encoder import Encoder
from gnomon.errors import InputError, SpaceError
from gnomon.integrations.embedder import (
    Embedder,
    LoadArguments,
    check_fingerprint,
    describe_origin,
    explain_missing,
    load_encoder,
)

try:
    from chromadb.api.types import Documents, EmbeddingFunction  # pyright: ignore[reportMissingImports]
    from chromadb.utils.embedding_functions import (  # pyright: ignore[reportMissingImports]
        register_embedding_function,
    )
except ImportError as error:
    raise explain_missing("GnomonEmbeddingFunction", "chromadb", "chroma") from error

SPACES = {"cosine": "cosine", "dot": "ip", "euclidean": "l2"}
"""The model's score function -> Chroma's name for it. Chroma does not have "manhattan"."""

OWN_KEYS = ("dim", "query_prompt_name", "document_prompt_name", "on_truncate")
"""Keys of a config that are arguments of GnomonEmbeddingFunction alone."""

_encoders: dict[str, Encoder] = {}
"""Models by their configs. Chroma builds the function of a collection again at every call that embeds texts."""


@register_embedding_function  # pyright: ignore[reportUntypedClassDecorator]
class GnomonEmbeddingFunction(EmbeddingFunction[Documents]):  # pyright: ignore[reportUntypedBaseClass]
    """A model as Chroma's `EmbeddingFunction`.

    Queries get the model's prompt for queries, documents that for documents. A collection stores the source, the
    arguments without `token`, and the fingerprint. It opens the model again in a process that has imported this module,
    and refuses a model with another fingerprint. A model stays in memory until the process ends.

    Args:
        source: a model's folder, a hub id or "package:NAME"; or an `Encoder`.
        dim: one of `Encoder.dims`; None for the model's own.
        query_prompt_name: the prompt of queries; None for the model's own.
        document_prompt_name: the prompt of documents; None for the model's own, if it has one.
        on_truncate: what to do with texts that are too long, as in `Encoder.encode`.
        **load_arguments: those of `Encoder.load`.

    Raises:
        InputError: a dim, prompt name or option that cannot be used. ModelError, SourceError: as `Encoder.load`.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Encoder,
        *,
        dim: int | None = None,
        query_prompt_name: str | None = None,
        document_prompt_name: str | None = None,
        on_truncate: OnTruncate = "warn",
        **load_arguments: Unpack[LoadArguments],
    ) -> None:
        encoder = load_encoder(source, **load_arguments)
        self._embedder = Embedder(encoder, dim, query_prompt_name, document_prompt_name, on_truncate)
        self._origin = describe_origin(source, encoder, load_arguments)
        _encoders[_key(self._origin)] = encoder

    @property
    def encoder(self) -> Encoder:
        return self._embedder.encoder

    def __call__(self, input: list[str]) -> list[NDArray[np.float32]]:  # noqa: A002  Chroma gives it by this name
        """One vector per document.

        Raises:
            InputError: a single str; an image, or anything else that is not a str, with its position.
        """
        return list(self._embedder.embed_documents(input))

    def embed_query(self, input: list[str]) -> list[NDArray[np.float32]]:  # noqa: A002
        """One vector per query. Chroma calls it for `query_texts`."""
        return list(self._embedder.embed_queries(input))

    @staticmethod
    def name() -> str:
        """The name under which a collection stores this function."""
        return "gnomon"

    def default_space(self) -> str:
        """The space of a collection that names none: that of the model's score function."""
        return SPACES.get(self.encoder.spec.similarity, "cosine")

    def get_config(self) -> dict[str, Any]:
        """What a collection stores, as values of JSON."""
        embedder = self._embedder
        return {**self._origin, **{key: getattr(embedder, key) for key in OWN_KEYS}}

    @staticmethod
    def build_from_config(config: Mapping[str, Any]) -> GnomonEmbeddingFunction:
        """The function of a collection.

        Raises:
            InputError: not a config of `get_config`. SpaceError: the model has another fingerprint.
        """
        GnomonEmbeddingFunction.validate_config(config)
        own = {key: config[key] for key in OWN_KEYS if key in config}
        origin = {key: value for key, value in config.items() if key not in OWN_KEYS}
        encoder = _encoders.get(_key(origin))
        if encoder is None:
            encoder = load_encoder(**{key: value for key, value in origin.items() if key != "fingerprint"})
            check_fingerprint(encoder, origin["fingerprint"], "the collection")
            _encoders[_key(origin)] = encoder
        function = GnomonEmbeddingFunction.__new__(GnomonEmbeddingFunction)
        function._embedder, function._origin = Embedder(encoder, **own), origin
        return function

    @staticmethod
    def validate_config(config: Mapping[str, Any]) -> None:
        """
        Raises:
            InputError: a key that is missing or unknown.
        """
        required, known = {"source", "fingerprint"}, {*LoadArguments.__annotations__, *OWN_KEYS}
        wrong = (required - config.keys()) | (config.keys() - required - known)
        if wrong:
            raise InputError(f"the config of an embedding function of gnomon lacks or does not know {sorted(wrong)}.")

    def validate_config_update(self, old_config: Mapping[str, Any], new_config: Mapping[str, Any]) -> None:
        """
        Raises:
            SpaceError: the new function gives other vectors than those that the collection holds.
        """
        for key in ("fingerprint", *OWN_KEYS):
            if old_config.get(key) != new_config.get(key):
                raise SpaceError(
                    f"{key} is {old_config.get(key)!r} in the collection, and {new_config.get(key)!r} in the new "
                    "function. Their vectors cannot be compared. Make a new collection."
                )


def _key(origin: Mapping[str, Any]) -> str:
    return json.dumps(origin, sort_keys=True)

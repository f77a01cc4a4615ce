"""`GnomonEmbeddings`: a model as LangChain's `Embeddings`."""

from __future__ import annotations

import os
from typing import Unpack

from gnomon.encode_options import OnTruncate
from gnomon.encoder import Encoder
from gnomon.integrations.embedder import Embedder, LoadArguments, explain_missing, load_encoder

try:
    from langchain_core.embeddings import Embeddings  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise explain_missing("GnomonEmbeddings", "langchain-core", "langchain") from error


class GnomonEmbeddings(Embeddings):  # pyright: ignore[reportUntypedBaseClass]
    """A model as LangChain's `Embeddings`.

    Queries get the model's prompt for queries, documents that for documents. Threads may share it. The async methods
    run in a thread. A pickle holds the source and the arguments, not the weights.

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

    @property
    def encoder(self) -> Encoder:
        return self._embedder.encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per text, in the order of the texts.

        Raises:
            InputError: a single str; a text that is not a str, with its position.
        """
        return self._embedder.embed_documents(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        """The vector of one query.

        Raises:
            InputError: not a str.
        """
        return self._embedder.embed_queries([text])[0].tolist()

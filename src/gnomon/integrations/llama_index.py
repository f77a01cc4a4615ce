"""`GnomonEmbedding`: a model as LlamaIndex's `BaseEmbedding`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, cast

from gnomon.encode_options import OnTruncate
from gnomon.encoder import Encoder
from gnomon.integrations.embedder import (
    Embedder,
    LoadArguments,
    check_fingerprint,
    describe_origin,
    explain_missing,
    load_encoder,
)
from gnomon.spec import PoolingMode

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding  # pyright: ignore[reportMissingImports]
    from llama_index.core.bridge.pydantic import (  # pyright: ignore[reportMissingImports]
        BaseModel,
        ConfigDict,
        Field,
        PrivateAttr,
    )
except ImportError as error:
    raise explain_missing("GnomonEmbedding", "llama-index-core", "llama-index") from error


class GnomonEmbedding(BaseEmbedding):  # pyright: ignore[reportUntypedBaseClass]
    """A model as LlamaIndex's `BaseEmbedding`.

    Queries get the model's prompt for queries, texts that for documents. The async methods run in a thread.
    `to_dict` holds the source, all arguments but `token`, and the fingerprint, so that a cache of LlamaIndex never
    gives the vectors of another model; `from_dict` opens the model again.

    Args:
        source: a model's folder, a hub id or "package:NAME"; or an `Encoder`.
        dim: one of `Encoder.dims`; None for the model's own.
        query_prompt_name: the prompt of queries; None for the model's own.
        document_prompt_name: the prompt of documents; None for the model's own, if it has one.
        on_truncate: what to do with texts that are too long, as in `Encoder.encode`.
        embed_batch_size: texts that LlamaIndex gives in one call; gnomon makes batches of equal length out of them.

    The other arguments are those of `Encoder.load` and of `BaseEmbedding`.

    Raises:
        InputError: a dim, prompt name or option that cannot be used. ModelError, SourceError: as `Encoder.load`.
        pydantic.ValidationError: an unknown argument, or one of a wrong type.
    """

    model_config = ConfigDict(extra="forbid")

    source: str
    dim: int | None = None
    query_prompt_name: str | None = None
    document_prompt_name: str | None = None
    on_truncate: OnTruncate = "warn"
    embed_batch_size: int = Field(default=256, gt=0, le=2048)
    fingerprint: str = ""
    """That of the model. A given one must be the model's."""

    revision: str | None = None
    device: str | list[str] = "auto"
    engine: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    max_seq_length: int | None = None
    pooling: PoolingMode | None = None
    card: str | None = None
    ignore_config_keys: list[str] = Field(default_factory=list)
    cache_dir: str | Path | None = None
    token: str | bool | None = Field(default=None, exclude=True, repr=False)
    local_files_only: bool = False

    _embedder: Embedder = PrivateAttr()

    def __init__(self, source: str | os.PathLike[str] | Encoder, **arguments: Any) -> None:
        text = source.name if isinstance(source, Encoder) else os.fspath(source)
        super().__init__(source=text, **arguments)
        load_arguments = cast(
            LoadArguments, {name: arguments[name] for name in LoadArguments.__annotations__ if name in arguments}
        )
        encoder = load_encoder(source, **load_arguments)
        if self.fingerprint:
            check_fingerprint(encoder, self.fingerprint, f"what was stored for {self.source}")
        for name, value in describe_origin(source, encoder, load_arguments).items():
            setattr(self, name, value)
        if "model_name" not in arguments:
            self.model_name = encoder.name
        self._embedder = Embedder(
            encoder, self.dim, self.query_prompt_name, self.document_prompt_name, self.on_truncate
        )

    @classmethod
    def class_name(cls) -> str:
        return "GnomonEmbedding"

    @property
    def encoder(self) -> Encoder:
        return self._embedder.encoder

    def __setstate__(self, state: dict[str, Any]) -> None:
        BaseModel.__setstate__(self, state)  # LlamaIndex's own calls __init__ with the fields, without an Encoder

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embedder.embed_queries([query])[0].tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embedder.embed_documents([text])[0].tolist()

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embedder.embed_documents(texts).tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

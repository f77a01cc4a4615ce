"""`Embedder`: what the classes of all frameworks have in common."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from gnomon.encode_options import EncodeOptions, OnTruncate
from gnomon.encoder import Encoder
from gnomon.errors import ExtraError, InputError, SpaceError
from gnomon.install import advise_install
from gnomon.packed import Vectors
from gnomon.spec import PoolingMode


class LoadArguments(TypedDict, total=False):
    """The arguments of `Encoder.load`, besides the source."""

    revision: str | None
    device: str | Sequence[str]
    engine: str
    dtype: str
    threads: int | None
    max_seq_length: int | None
    pooling: PoolingMode | None
    card: str | None
    ignore_config_keys: Sequence[str]
    cache_dir: str | Path | None
    token: str | bool | None
    local_files_only: bool


@dataclass(frozen=True)
class Embedder:
    """A model, with how it encodes queries and documents.

    Args:
        encoder: the model.
        dim: one of `Encoder.dims`; None for the model's own.
        query_prompt_name: the prompt of queries; None for the model's own.
        document_prompt_name: the prompt of documents; None for the model's own, if it has one.
        on_truncate: as in `Encoder.encode`.

    Raises:
        InputError: a dim or prompt name that the model does not have; an unknown `on_truncate`.
    """

    encoder: Encoder
    dim: int | None = None
    query_prompt_name: str | None = None
    document_prompt_name: str | None = None
    on_truncate: OnTruncate = "warn"

    def __post_init__(self) -> None:
        for name in (self.query_prompt_name, self.document_prompt_name):
            options = EncodeOptions(prompt_name=name, dim=self.dim, on_truncate=self.on_truncate)
            self.encoder.output_dim(options)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors of queries, float32 [B, D]."""
        return self.encoder.encode_query(
            _as_list(texts),
            prompt_name=self.query_prompt_name,
            dim=self.dim,
            on_truncate=self.on_truncate,
            show_progress_bar=False,
        )

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of documents, float32 [B, D]."""
        return self.encoder.encode_document(
            _as_list(texts),
            prompt_name=self.document_prompt_name,
            dim=self.dim,
            on_truncate=self.on_truncate,
            show_progress_bar=False,
        )


def _as_list(texts: Any) -> list[Any]:
    if isinstance(texts, str):
        raise InputError(f"the texts are one str, {texts[:40]!r}. Give a list of texts, [text] for a single one.")
    return list(texts)


def load_encoder(source: str | os.PathLike[str] | Encoder, **arguments: Unpack[LoadArguments]) -> Encoder:
    """The model of a source; an Encoder is taken as it is.

    Raises:
        InputError: arguments beside an Encoder, which is loaded already.
    """
    if not isinstance(source, Encoder):
        return Encoder.load(source, **arguments)  # pyright: ignore[reportArgumentType]  it takes no other names
    if arguments:
        names = ", ".join(arguments)
        raise InputError(
            f"{names} cannot be changed in an Encoder. Give them to Encoder.load, or give its source here."
        )
    return source


def describe_origin(
    source: str | os.PathLike[str] | Encoder, encoder: Encoder, arguments: LoadArguments
) -> dict[str, Any]:
    """The source and the arguments that open a model again, as values of JSON, and its fingerprint.

    A folder is an absolute path, and a hub id has the commit of its files. `token` is left out: it is a secret.

    Args:
        source: what the caller gave.
        encoder: the model, loaded.
        arguments: what the caller gave beside the source.
    """
    origin = encoder.checkpoint.source
    opening: Mapping[str, Any] = arguments
    if isinstance(source, Encoder):
        text = origin.name or str(origin.folder)
        opening = encoder.read_arguments
    else:
        text = str(origin.folder) if Path(source).is_dir() else os.fspath(source)
    values: dict[str, Any] = {key: _to_json(value) for key, value in opening.items() if key != "token"}
    if origin.revision is not None and origin.name == text:
        values["revision"] = origin.revision
    return {"source": text, **values, "fingerprint": encoder.fingerprint}


def _to_json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def check_fingerprint(encoder: Encoder, fingerprint: str, where: str) -> None:
    """
    Raises:
        SpaceError: the model has another fingerprint than the one that `where` holds.
    """
    if encoder.fingerprint != fingerprint:
        raise SpaceError(
            f"{where} holds vectors of another model. Its fingerprint is {fingerprint[:12]}, and that of "
            f"{encoder.name} is {encoder.fingerprint[:12]}. Open it with its own model, or encode its texts again."
        )


def explain_missing(framework: str, package: str, extra: str) -> ExtraError:
    """The error for a framework that is not installed."""
    return ExtraError(f"{framework} needs the package {package}, which is not installed. {advise_install(extra)}")

"""`ServeOptions`: everything that an operator chooses. The command line makes one; `app` reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from gnomon.errors import InputError
from gnomon.serve.requests import Truncate, VectorType

DEFAULT_PORT = 7997
"""infinity's port."""

LogFormat = Literal["text", "json"]
IdVocabulary = Literal["refuse", "model", "cl100k"]
Empty = Literal["error", "embed"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A model that is served. What has the name of an argument of `Encoder.load` is one."""

    source: str
    names: tuple[str, ...] = ()
    """The names that clients use, the first in answers. Without names: the last two parts of the source's path."""
    revision: str | None = None
    card: str | None = None
    ignore_config_keys: tuple[str, ...] = ()
    device: str = "auto"
    engine: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    max_seq_length: int | None = None
    cache_dir: str | None = None
    token: str | None = field(default=None, repr=False)
    local_files_only: bool = False
    pooling: str | None = None
    """"mean", "cls" or "lasttoken" in place of the model's own pooling; it changes the fingerprint."""
    dim: int | None = None
    """Dimensions where a request names none."""
    default_prompt: str | None = None
    default_prompt_name: str | None = None
    """The prompt where a request names none."""
    vector_type: VectorType = "float"
    """The type of vectors where a request names neither a type nor an encoding_format."""
    ranges: Path | None = None
    """Ranges of int8 and uint8 vectors, as `gnomon encode` writes them beside its output."""
    max_batch_texts: int | None = None
    """At most so many texts in a batch; None leaves it to the budget of tokens."""

    @property
    def client_names(self) -> tuple[str, ...]:
        """The names that clients use, also where the operator gave none."""
        return self.names or default_names(self.source)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How the models are served."""

    models: tuple[ModelOptions, ...]
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    uds: Path | None = None
    """A unix socket, in place of host and port."""
    url_prefix: str = ""
    """Clients may put it before every path; paths without it are served, too: "" or "/name"."""
    server: Literal["granian", "uvicorn"] = "granian"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    api_key_file: Path | None = None
    """As `key_file` reads it; read again on SIGHUP."""
    admin_key: str | None = field(default=None, repr=False)
    """The key of /admin/reload; None allows it on a unix socket only."""
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 32 << 20
    max_inputs: int = 2048
    max_batch_tokens: int | None = None
    """None: measured, or the engine's own."""
    max_queue_tokens: int | None = None
    """None: what the measured speed computes within half of the time that a request may take, and at least so many as
    `queue_limits` says.
    """
    max_queue_texts: int | None = None
    cache_bytes: int = 256 << 20
    """Of the answer cache, in memory, for all models; 0 for none."""
    empty: Empty = "error"
    truncate: Truncate | None = None
    """For requests that name nothing; None for the side at which the model itself truncates."""
    token_ids: IdVocabulary = "refuse"
    """What token ids on the OpenAI route are: refused, ids of the model, or of OpenAI's cl100k vocabulary."""
    tokenizer_threads: int | None = None
    request_timeout: float = 60.0
    """Seconds that a request may take."""
    drain_delay: float = 5.0
    """Seconds after SIGTERM in which new requests are still taken."""
    drain_timeout: float = 25.0
    """Seconds in which the requests that are under way may end, after that."""
    warm_up: bool = True
    exit_when_loaded: bool = False
    """Load and check the models, then end: --preload-only."""
    playground: bool = True
    log_format: LogFormat = "text"
    log_level: str = "info"
    metrics_port: int | None = None
    """A second port for /metrics; it is on the main port in any case."""
    otlp_endpoint: str | None = None
    """The URL of a collector of traces: port 4317 by gRPC, any other by HTTP."""
    otlp_service_name: str = "gnomon"

    @property
    def has_keys(self) -> bool:
        return bool(self.api_keys or self.api_key_file)


def check_names(models: Iterable[ModelOptions]) -> None:
    """
    Raises:
        InputError: two models with one name.
    """
    owners: dict[str, ModelOptions] = {}
    for model in models:
        for name in dict.fromkeys(model.client_names):
            if name in owners:
                raise InputError(
                    f"{name!r} names two models, {owners[name].source} and {model.source}. Clients choose a model by "
                    "its name. Give each model its own: --name once for each, in the same order."
                )
            owners[name] = model


def default_names(source: str) -> tuple[str, ...]:
    """The name of a model without names: the last two parts of its source, as in infinity; NAME of "package:NAME"."""
    parts: Sequence[str] = [part for part in source.removeprefix("package:").replace("\\", "/").split("/") if part]
    return ("/".join(parts[-2:]) or source,)

"""`Call`: one request on its way through the server, and how long it may take."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from gnomon.serve.models import ServedModel
from gnomon.serve.requests import ErrorKind, RequestError, Timings
from gnomon.serve.work import Job, Lane


class ClientGoneError(Exception):
    """The client has closed its connection: there is nobody to answer."""


@dataclass(eq=False)
class Call:
    """One request on its way: who makes it, and how long it may take."""

    client: Hashable = None
    timeout: float = 60.0
    reads_cache: bool = True
    began: float = field(default_factory=time.monotonic)
    job: Job | None = None
    gone: bool = False
    """Whether the client has closed its connection."""
    model: ServedModel | None = None
    lane: Lane | None = None
    num_inputs: int = 0
    num_tokens: int = 0
    num_truncated: int = 0
    num_unknown_fields: int = 0
    timings: Timings | None = None
    counts: bool = False
    """Whether it is a request for vectors."""
    answer_bytes: int = 0
    """What its answer takes, until that is sent."""
    body_bytes: int = 0
    """What its body takes, if that is large. It counts until the request ends: its texts live as long."""
    error_kind: ErrorKind | None = None
    request_id: str = ""

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    @property
    def seconds_left(self) -> float:
        return self.timeout - self.seconds

    def check_alive(self) -> None:
        """
        Raises:
            ClientGoneError: the client went away.
            RequestError: its time is over.
        """
        if self.gone:
            raise ClientGoneError
        if self.seconds_left <= 0:
            raise timeout_error()

    def disconnect(self) -> None:
        """The client has gone: what has not begun is dropped. Called on the event loop."""
        self.gone = True
        if self.job is not None and self.model is not None:
            self.model.batcher.cancel(self.job)
            if not self.job.waiter.done():
                self.job.waiter.set_exception(ClientGoneError())


def timeout_error() -> RequestError:
    return RequestError("the request took longer than it may. Try again, with fewer texts.", "timeout")

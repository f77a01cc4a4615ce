"""`Memory`: what the bodies and the answers of all requests under way take together, and how much they may."""

from __future__ import annotations

from gnomon.serve.call import Call
from gnomon.serve.requests import RequestError
from gnomon.serve.work import Lane

MAX_BODIES_BYTES = 256 << 20
"""What bodies may take together. One request may always have more."""

SMALL_BODY_BYTES = 64 << 10
"""Smaller bodies are not counted."""

MAX_ANSWER_BYTES = 512 << 20
"""What answers may take together. One request may always be larger."""

BULK_SHARE = 0.75
"""Bulk requests may take this share of it: the rest is for interactive ones, whose answers are small."""

BYTES_PER_NUMBER = 17
"""What a number of an answer takes until it is sent: 4 bytes as float32, and about 13 as JSON."""


class Memory:
    """What the requests under way take."""

    def __init__(self) -> None:
        self.body_bytes = 0
        """Of large bodies."""
        self.answer_bytes = 0

    def release(self, call: Call) -> None:
        """A request has ended."""
        self.body_bytes -= call.body_bytes
        self.answer_bytes -= call.answer_bytes

    def reserve_body(self, call: Call, num_bytes: int) -> None:
        """Count the bytes of a request's body, as many as have come so far.

        Raises:
            RequestError: bodies take too much memory.
        """
        if num_bytes < SMALL_BODY_BYTES:
            return
        others = self.body_bytes - call.body_bytes
        if others and others + num_bytes > MAX_BODIES_BYTES:
            raise _busy(f"the bodies of other requests take {_mib(others)} of the {_mib(MAX_BODIES_BYTES)} for all")
        call.body_bytes = num_bytes
        self.body_bytes = others + num_bytes

    def reserve_answer(self, call: Call, num_values: int, lane: Lane) -> None:
        """Count the numbers of a request's answer, before they are computed.

        Raises:
            RequestError: answers take too much memory.
        """
        num_bytes = num_values * BYTES_PER_NUMBER
        limit = MAX_ANSWER_BYTES if lane == "interactive" else int(BULK_SHARE * MAX_ANSWER_BYTES)
        if self.answer_bytes and self.answer_bytes + num_bytes > limit:
            raise _busy(
                f"the answers of requests under way take {_mib(self.answer_bytes)}, and this one needs "
                f"{_mib(num_bytes)} of the {_mib(limit)} for {lane} requests"
            )
        call.answer_bytes = num_bytes
        self.answer_bytes += num_bytes

    def reserve_states(self, call: Call, num_tokens: int, hidden_size: int) -> None:
        """As `reserve_answer`, for the states of tokens.

        Raises:
            RequestError: they take too much memory, alone or beside other answers.
        """
        num_values = num_tokens * hidden_size
        if num_values * BYTES_PER_NUMBER > MAX_ANSWER_BYTES:
            raise RequestError(
                f"the states of {num_tokens:,} tokens take {_mib(num_values * BYTES_PER_NUMBER)}, and "
                f"{_mib(MAX_ANSWER_BYTES)} are the limit. Send fewer texts at once.",
                "too_many",
            )
        self.reserve_answer(call, num_values, "bulk")


def _mib(num_bytes: int) -> str:
    return f"{-(-num_bytes >> 20):,} MiB"


def _busy(reason: str) -> RequestError:
    return RequestError(f"the server is busy: {reason}. Try again later.", "overloaded", retry_after=1.0)

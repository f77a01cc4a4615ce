"""`BodyRoom`: how many bytes of bodies the server holds at once."""

from __future__ import annotations

from gnomon.serve.requests import RequestError

MAX_BODIES_BYTES = 256 << 20
"""Of all bodies that are being received, or belong to a request under way. Their objects take several times as much."""


class BodyRoom:
    """Counts the bytes of bodies. A single body always has room: --max-body bounds it.

    Args:
        limit: bytes of all bodies together.
    """

    def __init__(self, limit: int = MAX_BODIES_BYTES) -> None:
        self.limit = limit
        self.num_bytes = 0

    def take(self, num_bytes: int, held: int) -> None:
        """Make room for more bytes of a body.

        Args:
            held: bytes of the same body that have room already.

        Raises:
            RequestError: "overloaded": the bodies of others take the room.
        """
        if self.num_bytes > held and self.num_bytes + num_bytes > self.limit:
            raise RequestError(
                f"the server is busy: bodies under way take {self.num_bytes:,} bytes, and {self.limit:,} is the limit. "
                "Try again later.",
                "overloaded",
                retry_after=1.0,
            )
        self.num_bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        self.num_bytes -= num_bytes

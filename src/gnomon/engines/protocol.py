"""Engines: token ids in, vectors out. They know a spec and arrays, and not where these came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from gnomon.batching import FULL_PADDING, PaddingCost
from gnomon.errors import InputError
from gnomon.packed import Packed, Vectors


@dataclass(frozen=True)
class Failure:
    """Why a batch has no vectors, where other batches go on."""

    reason: str


class Engine(Protocol):
    """What encode, serve, search and evaluate see of a runtime. Safe to call from several threads."""

    name: str
    """What a person reads: the runtime, the device and the dtype."""
    identity: str
    """Names the computation, for cache keys: two engines of equal identity give a text the same vector. An engine of
    several processes has the identity of one of them.
    """
    device: str = "cpu"
    """The device that it runs on: "cpu", "cuda:0", or several with commas between them."""
    dtype: str = "float32"
    """The dtype that it computes in: "float32", "bfloat16", "float16" or "int8"."""
    padding: PaddingCost = FULL_PADDING
    """What a token of padding costs."""
    closed: bool = False

    def budget(self, total_tokens: int) -> int:
        """The best number of tokens for one batch, out of `total_tokens` in all; padding counts by its cost."""
        ...

    def pool(self, packed: Packed) -> Vectors:
        """Pooled vectors [B, D], before the modules after pooling. `packed.skip_B` says what pooling leaves out."""
        ...

    def pool_batches(self, batches: Iterable[Packed]) -> Iterator[Vectors | Failure]:
        """`pool` of each batch, in order. An engine may take batches ahead of the vectors that it returns."""
        for packed in batches:
            yield self.pool(packed)

    def states(self, packed: Packed) -> Vectors:
        """Token states [T, H] of the last layer."""
        ...

    def explain_nonfinite(self, packed: Packed) -> str:
        """Why a text has NaN or infinity in its vector."""
        return "the weights are damaged, or overflow in this dtype"

    def close(self) -> None:
        """End its processes and let go of its memory; it computes nothing after that. A second time does nothing."""
        self.closed = True

    def check_open(self) -> None:
        """
        Raises:
            InputError: it was closed.
        """
        if self.closed:
            raise closed_error()


def closed_error() -> InputError:
    return InputError("this model was closed. Load it again with Encoder.load.")

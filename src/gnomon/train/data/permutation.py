"""Pseudo-random numbers and permutations, computed at single positions without state or an array of all positions.

The order of a run depends on these only, so it is the same in every process and with every version of numpy.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Key = tuple[int | str, ...]
"""Names a stream of numbers: the seed, then whatever distinguishes it from the seed's other streams."""

ROUNDS = 8
"""Rounds of the Feistel network. Four give a permutation that cannot be distinguished from a random one if its halves
are large (Luby and Rackoff 1988). Here a half may have two values, and twice as many rounds are cheap.
"""


def random_bits(counters: NDArray[np.int64], key: Key) -> NDArray[np.uint64]:
    """64 random bits for each counter: blake2b of the key, and splitmix64 (Steele, Lea and Flood 2014) from there."""
    return _mix(counters.astype(np.uint64), _derive_secrets(key, 1)[0])


def uniform(counters: NDArray[np.int64], key: Key) -> NDArray[np.float64]:
    """A number in [0, 1) for each counter."""
    return (random_bits(counters, key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(positions: NDArray[np.int64], n: int, key: Key) -> NDArray[np.int64]:
    """The values at these positions of a permutation of range(n) that the key chooses. Positions are in range(n), too.

    A Feistel network over pairs (left, right) of about sqrt(n) values each. A value outside of range(n) goes through it
    again until it is inside (cycle walking: Black and Rogaway 2002); at most one value in sqrt(n) does.
    """
    values = positions.astype(np.uint64)
    assert n >= 1 and (not len(values) or values.max() < n), "a position outside of the permutation"
    high = int(np.ceil(np.sqrt(n)))
    low = -(-n // high)
    secrets = _derive_secrets(key, ROUNDS)
    walking = np.arange(len(values))
    while len(walking):
        values[walking] = _apply_feistel(values[walking], high, low, secrets)
        walking = walking[values[walking] >= n]
    return values.astype(np.int64)


def _apply_feistel(values: NDArray[np.uint64], high: int, low: int, secrets: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A permutation of range(high * low): each round adds a hash of one half to the other."""
    left, right = np.divmod(values, np.uint64(low))
    for round_, secret in enumerate(secrets):
        if round_ % 2:
            right = (right + _mix(left, secret) % np.uint64(low)) % np.uint64(low)
        else:
            left = (left + _mix(right, secret) % np.uint64(high)) % np.uint64(high)
    return left * np.uint64(low) + right


def _mix(values: NDArray[np.uint64], secret: np.uint64) -> NDArray[np.uint64]:
    """The bits of values + secret, finished as in splitmix64."""
    bits = (values ^ secret) * np.uint64(0x9E3779B97F4A7C15) + secret
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _derive_secrets(key: Key, count: int) -> NDArray[np.uint64]:
    digest = blake2b("\0".join(map(str, key)).encode(), digest_size=8 * count).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64)

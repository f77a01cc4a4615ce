"""What an engine adds to a token by its position and its type: rows of tables, and rotary angles.

T: tokens of all texts; S: positions; R: half of a head's components.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gnomon.errors import InputError
from gnomon.packed import Ids, Packed
from gnomon.spec import RopeSpec, TrunkSpec

RotaryTables = tuple[NDArray[np.floating], NDArray[np.floating]]
"""cos and sin of the rotary angles, [S, R] each."""


def position_ids(trunk: TrunkSpec, packed: Packed) -> Ids:
    """[T]: the row of the position table for each token. Padding ids inside a text do not count (RoBERTa)."""
    if trunk.pad_id is None:
        return packed.positions_T + trunk.position_offset
    real_T = packed.ids_T != trunk.pad_id
    count_T = np.cumsum(real_T)
    before_B = np.concatenate([[0], count_T])[packed.bounds[:-1]]
    return (count_T - np.repeat(before_B, packed.lengths_B)) * real_T + trunk.pad_id


def rotary_tables(rope: RopeSpec, head_size: int, length: int, dtype: DTypeLike = np.float32) -> RotaryTables:
    """cos and sin for `length` positions, or for more of them; read-only, since they are cached for all engines.

    They are computed in float64, whatever `dtype` they are returned in.
    """
    return _compute_rotary_tables(rope, head_size, 1 << max(length - 1, 1).bit_length(), np.dtype(dtype))


@lru_cache(maxsize=32)
def _compute_rotary_tables(rope: RopeSpec, head_size: int, length: int, dtype: np.dtype[np.floating]) -> RotaryTables:
    positions_S = np.arange(length, dtype=np.float64)
    angles_SR = positions_S[:, None] * rope.frequencies(head_size)
    tables = np.cos(angles_SR).astype(dtype), np.sin(angles_SR).astype(dtype)
    for table in tables:
        table.setflags(write=False)
    return tables


def check_token_types(trunk: TrunkSpec, packed: Packed) -> None:
    """Check that the table of token types has a row for each type of a batch.

    Raises:
        InputError: it has not.
    """
    if packed.types_T is None or not packed.types_T.size:
        return
    least, most = int(packed.types_T.min()), int(packed.types_T.max())
    rows = max(trunk.num_token_types, 1)  # without a table, type 0 adds nothing
    if least < 0 or most >= rows:
        raise InputError(
            f"token type {least if least < 0 else most} is not in this model. It has {rows}, counted from 0. "
            "Leave token types out (types_T=None), or use a model that was trained with them."
        )

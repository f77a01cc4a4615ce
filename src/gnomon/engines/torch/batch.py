"""`DeviceBatch`: `Packed` as tensors on a device, with what attention must know of where texts begin.

T: tokens of all texts; B: texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnomon.engines.positions import check_token_types, position_ids
from gnomon.engines.torch.padding import PaddedBuckets
from gnomon.packed import Packed
from gnomon.spec import TrunkSpec


class EqualLengthRun(NamedTuple):
    """Neighbouring texts of equal length."""

    start: int
    """The first token."""
    num_texts: int
    length: int


@dataclass(frozen=True)
class Spans:
    """Where each text begins and ends among the rows of a tensor."""

    bounds: Tensor
    """[B + 1], int32: text b is rows bounds[b]:bounds[b + 1]."""
    lengths: Sequence[int]

    @classmethod
    def from_lengths(cls, lengths_B: NDArray[np.int64], device: torch.device) -> Spans:
        bounds = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths_B)]).astype(np.int32))
        return cls(to_device(bounds, device), lengths_B.tolist())

    @cached_property
    def max_length(self) -> int:
        return max(self.lengths, default=0)

    @cached_property
    def single_rows(self) -> Spans:
        """One row for each of these texts."""
        texts = len(self.lengths)
        bounds = torch.arange(texts + 1, dtype=torch.int32, device=self.bounds.device)
        return Spans(bounds, [1] * texts)

    @cached_property
    def equal_length_runs(self) -> list[EqualLengthRun]:
        """Neighbours of equal length, together: texts sorted by length give one run for each length."""
        runs: list[EqualLengthRun] = []
        start = 0
        for length in self.lengths:
            if runs and runs[-1].length == length:
                runs[-1] = runs[-1]._replace(num_texts=runs[-1].num_texts + 1)
            else:
                runs.append(EqualLengthRun(start, 1, length))
            start += length
        return runs

    @cached_property
    def buckets(self) -> PaddedBuckets:
        """Neighbours of about one length, together, and padded to it."""
        return PaddedBuckets.from_lengths(self.lengths, self.bounds.device)


@dataclass(frozen=True)
class DeviceBatch:
    """Texts that the trunk reads."""

    ids_T: Tensor
    positions_T: Tensor
    """0, 1, 2, ... within each text."""
    position_ids_T: Tensor
    """Rows of the position table."""
    spans: Spans
    types_T: Tensor | None = None
    """Rows of the token type table; None is row 0 for all."""

    @classmethod
    def from_packed(cls, packed: Packed, trunk: TrunkSpec, device: torch.device | str = "cpu") -> DeviceBatch:
        """Packed ids on a device; on CUDA the copy does not wait for the device.

        Raises:
            InputError: a token type that the model does not have.
        """
        check_token_types(trunk, packed)
        device = torch.device(device)
        positions_T = to_device(_int32(packed.positions_T), device)
        rows_T = (
            positions_T
            if _position_ids_are_positions(trunk)
            else to_device(_int32(position_ids(trunk, packed)), device)
        )
        spans = Spans.from_lengths(packed.lengths_B, device)
        types_T = None if packed.types_T is None else to_device(_int32(packed.types_T), device)
        return cls(to_device(_int32(packed.ids_T), device), positions_T, rows_T, spans, types_T)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        types = () if self.types_T is None else (self.types_T,)
        return self.ids_T, self.positions_T, self.position_ids_T, self.spans.bounds, *types


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, through pinned memory on CUDA so that it overlaps with what runs there."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def _position_ids_are_positions(trunk: TrunkSpec) -> bool:
    return trunk.pad_id is None and not trunk.position_offset


def _int32(values: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(values.astype(np.int32))

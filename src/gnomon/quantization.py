"""Stores vectors in fewer bytes: float16, 8 bits, or one bit per component.

`quantize` returns the ranges of int8 and uint8 and takes them again, so that queries are quantised as their corpus was.
The definitions are those of `quantize_embeddings` in sentence-transformers, except that values outside the ranges are
clipped.

B: vectors; D: dimension.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gnomon.errors import InputError, NumericError
from gnomon.messages import check_choice

VectorPrecision = Literal["float16", "int8", "uint8", "binary", "ubinary"]


class Quantized(NamedTuple):
    """Quantised vectors and the ranges that they were quantised with."""

    values: NDArray[Any]
    """[B, D], or [B, ceil(D / 8)] for binary and ubinary."""
    ranges: NDArray[np.float32] | None
    """[2, D], the lowest and the highest value of each component; None where the precision needs none."""


def quantize(vectors_BD: ArrayLike, precision: VectorPrecision, ranges: ArrayLike | None = None) -> Quantized:
    """Quantise vectors.

    Args:
        vectors_BD: float vectors [B, D], or one [D].
        precision: "float16"; "int8" or "uint8" (256 steps between the ranges); "binary" or "ubinary" (the signs, 8 to a
            byte, zeros after the last one; "binary" is "ubinary" minus 128).
        ranges: [2, D] of an earlier call, for int8 and uint8; None takes them from these vectors.

    Raises:
        InputError: an unknown precision, a wrong shape, ranges that are missing or not used.
        NumericError: NaN or infinity, or a value beyond float16.
    """
    vectors = np.asarray(vectors_BD, dtype=np.float32)
    check_choice(precision, "precision", get_args(VectorPrecision))
    if vectors.ndim not in (1, 2):
        raise InputError(f"vectors have shape {vectors.shape}; give [B, D], or one vector [D].")
    if not np.isfinite(vectors).all():
        raise NumericError("the vectors hold NaN or infinity, which cannot be quantised.")
    if precision in ("int8", "uint8"):
        return _quantize_to_8_bits(vectors, precision, ranges)
    if ranges is not None:
        raise InputError(f"ranges are not used by {precision}. Only int8 and uint8 take them; leave ranges out.")
    if precision == "float16":
        return Quantized(_to_float16(vectors), None)
    bits = np.packbits(vectors > 0, axis=-1)
    return Quantized(bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8), None)


def _quantize_to_8_bits(vectors: NDArray[np.float32], precision: str, ranges: ArrayLike | None) -> Quantized:
    if ranges is None and (vectors.ndim == 1 or len(vectors) < 2):
        raise InputError(
            f"{precision} of a single vector needs ranges=. Give those that its corpus was quantised with."
        )
    ranges_2D = (
        np.stack([vectors.min(axis=0), vectors.max(axis=0)]) if ranges is None else np.asarray(ranges, np.float32)
    )
    if ranges_2D.shape != (2, vectors.shape[-1]):
        raise InputError(f"ranges have shape {ranges_2D.shape}; they must be [2, {vectors.shape[-1]}].")
    low, high = ranges_2D
    if not np.isfinite(ranges_2D).all() or (low > high).any():
        raise InputError("ranges must be finite, the lowest first.")
    steps = (high - low) / 255
    steps = np.where(steps > 0, steps, 1)  # a range too narrow for 256 steps is one step
    values = np.clip(np.floor((vectors - low) / steps), 0, 255)
    if precision == "uint8":
        return Quantized(values.astype(np.uint8), ranges_2D)
    return Quantized((values - 128).astype(np.int8), ranges_2D)


def _to_float16(vectors: NDArray[np.float32]) -> NDArray[np.float16]:
    largest = float(np.abs(vectors).max(initial=0))
    if largest > float(np.finfo(np.float16).max):
        raise NumericError(
            f"{largest:g} is beyond the largest float16 (65504). Normalise the vectors, or keep float32."
        )
    return vectors.astype(np.float16)


def dequantize(values_BD: NDArray[Any], ranges: ArrayLike | None = None) -> NDArray[np.float32]:
    """Float vectors from those of `quantize`: the middle of each value's step for int8 and uint8.

    Args:
        values_BD: float16, int8 or uint8 values [B, D], or one vector [D].
        ranges: [2, D] that `quantize` used, for int8 and uint8.

    Raises:
        InputError: values of another type; ranges that are missing or have another shape.
    """
    if values_BD.dtype == np.float16:
        return values_BD.astype(np.float32)
    if str(values_BD.dtype) not in ("int8", "uint8"):
        raise InputError(f"values are {values_BD.dtype}; they must be float16, int8 or uint8.")
    if ranges is None:
        raise InputError(f"{values_BD.dtype} values need ranges=, those that quantize returned with them.")
    ranges_2D = np.asarray(ranges, np.float32)
    if ranges_2D.shape != (2, values_BD.shape[-1]):
        raise InputError(f"ranges have shape {ranges_2D.shape}; they must be [2, {values_BD.shape[-1]}].")
    low_D, high_D = ranges_2D
    middle = 0.5 if values_BD.dtype == np.uint8 else 128.5
    return low_D + (values_BD.astype(np.float32) + np.float32(middle)) * (high_D - low_D) / 255


def unpack_signs(bits_BN: NDArray[np.uint8], dim: int) -> NDArray[np.float32]:
    """The signs [B, dim], +1 and -1, of vectors that `quantize` packed to "ubinary"."""
    return np.where(np.unpackbits(bits_BN, axis=-1, count=dim), np.float32(1), np.float32(-1))

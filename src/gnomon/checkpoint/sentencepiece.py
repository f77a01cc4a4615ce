"""Reads SentencePiece models without the sentencepiece package: pieces, character map and a few settings.

The file is one protobuf message; the numbers below are from its definition, `ModelProto` in
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

PIECE, TRAINER_SPEC, NORMALIZER_SPEC = 1, 2, 3  # fields of ModelProto
CHARSMAP = 2  # field of NormalizerSpec

# Field number, name, and the default value.
TRAINER_SETTINGS = (
    (3, "model_type", 1),
    (35, "byte_fallback", 0),
    (40, "unk_id", 0),
    (41, "bos_id", 1),
    (42, "eos_id", 2),
)
NORMALIZER_SETTINGS = (
    (3, "add_dummy_prefix", 1),
    (4, "remove_extra_whitespaces", 1),
    (5, "escape_whitespaces", 1),
)
MODEL_TYPE_NAMES = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # kinds of pieces

Value = int | float | bytes
Fields = dict[int, Value]
T = TypeVar("T", int, float, bytes)


class Piece(NamedTuple):
    text: str
    score: float  # log probability
    kind: int


class SentencePieceModel(NamedTuple):
    """Pieces in the order of their ids, the normalizer's precompiled map (b"" for none), and the settings above."""

    pieces: list[Piece]
    charsmap: bytes
    settings: dict[str, int]


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """The model in a file.

    Raises:
        ValueError: a damaged file. The message says what is wrong; the caller adds the path.
    """
    pieces: list[Piece] = []
    specs: dict[int, Fields] = {}
    for number, value in _iterate_fields(path.read_bytes()):
        if number == PIECE:
            pieces.append(_parse_piece(_parse_message(value)))
        elif number in (TRAINER_SPEC, NORMALIZER_SPEC):
            specs[number] = _parse_message(value)
    if len(specs) < 2:  # they follow the pieces: without this check a truncated file would pass
        raise ValueError(
            "trainer_spec or normalizer_spec is missing, so the file is truncated or not a SentencePiece model"
        )
    trainer, normalizer = specs[TRAINER_SPEC], specs[NORMALIZER_SPEC]
    settings = {name: _check_type(int, trainer.get(number, default)) for number, name, default in TRAINER_SETTINGS}
    settings |= {
        name: _check_type(int, normalizer.get(number, default)) for number, name, default in NORMALIZER_SETTINGS
    }
    return SentencePieceModel(pieces, _check_type(bytes, normalizer.get(CHARSMAP, b"")), settings)


def _parse_piece(fields: Fields) -> Piece:
    text, score, kind = (
        _check_type(bytes, fields.get(1, b"")),
        _check_type(float, fields.get(2, 0.0)),
        _check_type(int, fields.get(3, NORMAL)),
    )
    if not math.isfinite(score):
        raise ValueError(f"a piece has score {score}, which is not a finite number")
    return Piece(text.decode(), score, kind)


# ---- protobuf: https://protobuf.dev/programming-guides/encoding


def _parse_message(value: Value) -> Fields:
    return dict(_iterate_fields(_check_type(bytes, value)))


def _check_type(kind: type[T], value: Value) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"a field holds {type(value).__name__} where {kind.__name__} belongs")
    return value


def _iterate_fields(blob: bytes) -> Iterator[tuple[int, Value]]:
    """The (field number, value) pairs of one message: varints as int, four bytes as float, everything else as bytes."""
    position = 0
    while position < len(blob):
        key, position = _read_varint(blob, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _read_varint(blob, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _read_varint(blob, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(
                f"wire type {wire} before byte {position} of a message of {len(blob)} bytes is not protobuf"
            )
        if position + size > len(blob):
            raise ValueError(f"a field of {size} bytes at byte {position} passes the end of its {len(blob)} bytes")
        content = blob[position : position + size]
        yield number, struct.unpack("<f", content)[0] if wire == 5 else content
        position += size


def _read_varint(blob: bytes, position: int) -> tuple[int, int]:
    """The little-endian base-128 number at `position`, and where it ends."""
    if position < len(blob) and blob[position] < 0x80:  # nearly always, and a model has a million of them
        return blob[position], position + 1
    value = 0
    for shift, byte in zip(range(0, 70, 7), blob[position : position + 10], strict=False):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + shift // 7 + 1
    raise ValueError(f"the number at byte {position} does not end within its {len(blob)} bytes")

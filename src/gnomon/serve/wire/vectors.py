"""Writes vectors and what every answer with vectors holds: headers, types, the report, raw bytes.

B: inputs; D: dimensions.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
from numpy.typing import NDArray

from gnomon.messages import list_some, shorten
from gnomon.serve.requests import Answer, EmbedRequest, EmbedResult, StatesResult, VectorType
from gnomon.serve.wire.embed_fields import OCTETS

NPY = "application/x-npy"
JSON_TYPES = ("application/json", "application/*", "*/*")
PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
OPTIONS = orjson.OPT_SERIALIZE_NUMPY

MAX_NAMES = 5
"""Fields that a warning names."""

ITEMS_PER_PART = 64
"""Items of a list that are written at once. orjson lets no other thread run while it writes, and 64 vectors take it 2
milliseconds, where an answer with 2,048 takes 50.
"""


def json_answer(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(orjson.dumps(_write_long_lists(body), option=OPTIONS), status, headers=dict(headers or {}))


def _write_long_lists(value: Any) -> Any:
    """The same JSON, with long lists written part by part already."""
    if isinstance(value, dict):
        fields: dict[str, Any] = value
        return {name: _write_long_lists(each) for name, each in fields.items()}
    if not isinstance(value, list) or len(value) <= ITEMS_PER_PART:
        return value
    items: list[Any] = value
    starts = range(0, len(items), ITEMS_PER_PART)
    parts = [orjson.dumps(items[start : start + ITEMS_PER_PART], option=OPTIONS)[1:-1] for start in starts]
    return orjson.Fragment(b"".join((b"[", b",".join(parts), b"]")))


def write_vectors(result: EmbedResult, vector_type: VectorType) -> Sequence[Any]:
    """One value per input that orjson writes: an array of numbers, or the base64 of float32, little-endian."""
    if vector_type == "base64":
        return [b64encode(row.tobytes()).decode("ascii") for row in _little_endian(result.vectors_BD)]
    if vector_type == "float":
        return list(np.ascontiguousarray(result.vectors_BD))
    return list(np.ascontiguousarray(result.quantized[vector_type]))


def write_report(request: EmbedRequest, result: EmbedResult) -> dict[str, Any]:
    """The key `report` of an answer; nothing where it was not requested."""
    if not request.report:
        return {}
    counts = zip(result.token_counts, result.full_token_counts, strict=True)
    rows: list[dict[str, Any]] = [{"tokens": read, "full_tokens": full} for read, full in counts]
    if result.report is not None:
        for row, at in zip(rows, result.report.truncated_at, strict=True):
            row["truncated_at"] = at
    else:  # token ids have no characters
        truncated = set(result.truncated)
        for index, row in enumerate(rows):
            row["truncated"] = index in truncated
    return {"report": rows}


def collect_warnings(request: EmbedRequest, result: EmbedResult) -> list[str]:
    """What a client should know about an answer."""
    warnings, name = warn_of_unknown(request.unknown_fields), request.optional_prompt_name
    if name is not None and not result.prompt:
        warnings.append(f"the model has no prompt named {shorten(name)}. The texts were embedded without a prompt.")
    return warnings


def warn_of_unknown(fields: Sequence[str]) -> list[str]:
    """The warning that fields of a body were ignored, if any were."""
    if not fields:
        return []
    return [f"unknown fields were ignored: {list_some((shorten(name, 40) for name in fields), MAX_NAMES)}."]


def warning_header(warnings: Sequence[str]) -> dict[str, str]:
    return {"x-gnomon-warning": header_text(" ".join(warnings))} if warnings else {}


def embed_headers(request: EmbedRequest, result: EmbedResult) -> dict[str, str]:
    """Headers of every answer with vectors; times are whole milliseconds."""
    return {**result_headers(result), **warning_header(collect_warnings(request, result))}


def result_headers(result: EmbedResult | StatesResult) -> dict[str, str]:
    """Those of them that do not depend on the request."""
    return {
        "x-gnomon-fingerprint": header_text(result.fingerprint),
        "x-gnomon-truncated": str(len(result.truncated)),
        "x-gnomon-tokens": str(sum(result.token_counts)),
        "x-queue-time": milliseconds(result.timings.queue),
        "x-inference-time": milliseconds(result.timings.inference),
    }


def tei_headers(result: EmbedResult | StatesResult) -> dict[str, str]:
    """TEI's own headers. It sends the same compute type on every device."""
    timings = result.timings
    return {
        "x-compute-type": "gpu+optimized",
        "x-compute-time": milliseconds(timings.total),
        "x-compute-characters": str(result.num_characters),
        "x-compute-tokens": str(sum(result.token_counts)),
        "x-total-time": milliseconds(timings.total),
        "x-tokenization-time": milliseconds(timings.tokenization),
        "x-queue-time": milliseconds(timings.queue),
        "x-inference-time": milliseconds(timings.inference),
    }


def milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def header_text(value: str) -> str:
    """A text as headers may hold it: characters other than printable ASCII are percent-encoded."""
    return quote(value, safe=PRINTABLE, errors="replace")


# ---- raw bytes


def answer_raw(request: EmbedRequest, result: EmbedResult, accept: str | None) -> Answer | None:
    """The vectors as bytes, where the body or the header Accept wants them: the first type of the request, row by row,
    little-endian. None where the dialect's own JSON is wanted.
    """
    content_type = request.raw_type or choose_raw_type(accept)
    if content_type is None:
        return None
    vector_type = request.vector_types[0]
    as_float = vector_type in ("float", "base64")
    values = _little_endian(result.vectors_BD if as_float else result.quantized[vector_type])
    headers = {
        **embed_headers(request, result),
        "x-gnomon-model": header_text(result.model),
        "x-gnomon-dtype": values.dtype.name,
        "x-gnomon-shape": ",".join(map(str, values.shape)),
    }
    return Answer(_to_npy(values) if content_type == NPY else values.tobytes(), 200, content_type, headers)


def choose_raw_type(accept: str | None) -> str | None:
    """The first of the types in a header Accept that the server writes, if it is not JSON."""
    for part in (accept or "").lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if any(parameter.replace(" ", "") in ("q=0", "q=0.0") for parameter in parameters):
            continue
        if name in JSON_TYPES:
            return None
        if name in (OCTETS, NPY):
            return name
    return None


def _little_endian(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))


def _to_npy(values: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.lib.format.write_array(file, values, version=(1, 0), allow_pickle=False)
    return file.getvalue()

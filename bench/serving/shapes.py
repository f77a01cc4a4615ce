"""Shapes of answers, as JSON with types in place of values."""

from typing import Any

VECTOR, VECTORS = [float], [[float]]
OPENAI = {
    "object": "list",
    "model": str,
    "data": [{"object": "embedding", "index": int, "embedding": [float]}],
    "usage": {"prompt_tokens": int, "total_tokens": int},
}
COHERE = {"id": str, "response_type": "embeddings_by_type", "embeddings": dict, "texts": [str], "meta": dict}
MODELS = {"object": "list", "data": [{"id": str, "object": "model", "owned_by": str, "created": int}]}
INFINITY_MODELS = {"object": "list", "data": [{"id": str, "stats": dict, "capabilities": [str], "backend": str}]}
TOKENS = [[{"id": int, "text": str, "special": bool}]]
INFO = {
    "model_id": str,
    "model_dtype": str,
    "model_type": {"embedding": {"pooling": str}},
    "max_concurrent_requests": int,
    "max_input_length": int,
    "max_batch_tokens": int,
    "max_client_batch_size": int,
    "auto_truncate": bool,
    "tokenization_workers": int,
    "version": str,
}
OLLAMA = {"model": str, "embeddings": [[float]]}
ERROR = {"error": {"message": str, "type": str}}
TEI_ERROR = {"error": str, "error_type": str}
COHERE_ERROR = {"message": str}
JINA_ERROR = {"detail": str}


def mismatch(value: Any, shape: Any, where: str = "$") -> str | None:
    """Where and how a value differs from a shape; None where it fits. Keys beside those of the shape are allowed.

    A list's shape is that of each of its items, and it has at least one; a number without a fraction is a float, too.
    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where} is {type(value).__name__}, not an object"
        missing = [key for key in shape if key not in value]
        if missing:
            return f"{where} has no {missing[0]}"
        return next(filter(None, (mismatch(value[key], shape[key], f"{where}.{key}") for key in shape)), None)
    if isinstance(shape, list):
        if not isinstance(value, list) or not value:
            return f"{where} is {str(value)[:40]}, not a list with items"
        return next(filter(None, (mismatch(item, shape[0], f"{where}[{at}]") for at, item in enumerate(value))), None)
    if isinstance(shape, type):
        allowed = (float, int) if shape is float else shape
        fits = isinstance(value, allowed) and not (isinstance(value, bool) and shape is not bool)
        return None if fits else f"{where} is {str(value)[:40]!r}, not {shape.__name__}"
    return None if value == shape else f"{where} is {value!r}, not {shape!r}"

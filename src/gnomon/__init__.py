"""Text embeddings: encode, search, train and evaluate, light and exact.

    from gnomon import Encoder
    enc = Encoder.load("intfloat/multilingual-e5-small")
    vectors = enc.encode_document(["one text", "another"])

Importing this package imports no runtime; each is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnomon.encode_options import EncodeOptions
    from gnomon.encoder import Encoder
    from gnomon.quantization import Quantized, quantize
    from gnomon.space import Space
    from gnomon.spec import ModelSpec
    from gnomon.tokenizer import TokenReport
    from gnomon.vector_files import StoredVectors, read_vectors

__all__ = [
    "EncodeOptions",
    "Encoder",
    "ModelSpec",
    "Quantized",
    "Space",
    "StoredVectors",
    "TokenReport",
    "quantize",
    "read_vectors",
]

_HOMES = {
    "EncodeOptions": "gnomon.encode_options",
    "Encoder": "gnomon.encoder",
    "ModelSpec": "gnomon.spec",
    "Quantized": "gnomon.quantization",
    "Space": "gnomon.space",
    "StoredVectors": "gnomon.vector_files",
    "TokenReport": "gnomon.tokenizer",
    "quantize": "gnomon.quantization",
    "read_vectors": "gnomon.vector_files",
}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use: the import of the package itself stays a few milliseconds."""
    from importlib import import_module, metadata

    if name == "__version__":
        return metadata.version("gnomon")
    if name not in _HOMES:
        raise AttributeError(f"module 'gnomon' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""The place of `quantize_embeddings` in sentence-transformers; scripts import it from here or from `util`."""

from gnomon.compat.util import quantize_embeddings

__all__ = ["quantize_embeddings"]

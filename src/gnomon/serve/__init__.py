"""The server: `gnomon serve`. One port, several dialects, one batcher per model."""

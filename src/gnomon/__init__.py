"""Text embeddings: encode, search, judge, serve and train, light and exact."""

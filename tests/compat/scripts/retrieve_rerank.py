"""Retrieve with packed signs and 64 dimensions, then score the candidates again with whole vectors."""

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings, semantic_search

model = SentenceTransformer("all-MiniLM-L6-v2")
documents = [f"{animal} {verb} in the {place}." for animal in ("A dog", "A bird", "A fish", "A horse")
             for verb in ("sleeps", "eats", "runs") for place in ("garden", "river", "forest")]
queries = ["an animal that swims", "a pony resting under trees"]

document_embeddings = model.encode(documents, normalize_embeddings=True)
query_embeddings = model.encode(queries, normalize_embeddings=True)

bits = quantize_embeddings(document_embeddings, precision="ubinary")
query_bits = model.encode(queries, precision="ubinary")
distances = np.unpackbits(bits[None] ^ query_bits[:, None], axis=-1).sum(-1)
candidates = np.argsort(distances, axis=1, kind="stable")[:, :10]

results = []
for query, query_embedding in enumerate(query_embeddings):
    scores = document_embeddings[candidates[query]] @ query_embedding
    best = candidates[query][np.argsort(-scores)[:3]]
    results.append([documents[index] for index in best])
    print(queries[query], results[-1])

with model.truncate_embeddings(64):
    short_hits = semantic_search(model.encode(queries), model.encode(documents), top_k=3)

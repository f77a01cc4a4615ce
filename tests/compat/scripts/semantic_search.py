"""Semantic search over a small corpus, as in the sentence-transformers documentation."""

import torch
from sentence_transformers import SentenceTransformer

embedder = SentenceTransformer("all-MiniLM-L6-v2")

corpus = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
    "A woman is playing violin.",
    "Two men pushed carts through the woods.",
    "A man is riding a white horse on an enclosed ground.",
    "A monkey is playing drums.",
    "A cheetah is running behind its prey.",
]
corpus_embeddings = embedder.encode_document(corpus, convert_to_tensor=True)

queries = [
    "A man is eating pasta.",
    "Someone in a gorilla costume is playing a set of drums.",
    "A cheetah chases prey on across a field.",
]

top_k = min(5, len(corpus))
results = []
for query in queries:
    query_embedding = embedder.encode_query(query, convert_to_tensor=True)
    similarity_scores = embedder.similarity(query_embedding, corpus_embeddings)[0]
    scores, indices = torch.topk(similarity_scores, k=top_k)
    print("\nQuery:", query)
    for score, idx in zip(scores, indices):
        print(f"(Score: {score:.4f})", corpus[idx])
    results.append((scores.tolist(), indices.tolist()))

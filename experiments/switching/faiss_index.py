"""A FAISS index over the demo's texts: exact inner products, and packed signs."""

import json
from pathlib import Path

import faiss
from sentence_transformers import SentenceTransformer

lines = (Path(__file__).parents[2] / "demo" / "python-faq.jsonl").read_text("utf-8").splitlines()
docs = [json.loads(line)["text"] for line in lines]

model = SentenceTransformer("all-MiniLM-L6-v2")
embeddings = model.encode(docs, normalize_embeddings=True, convert_to_numpy=True, batch_size=64)
index = faiss.IndexFlatIP(model.get_sentence_embedding_dimension())
index.add(embeddings)
queries = ["Why is my list changing?", "how fast is it?"]
scores, rows = index.search(model.encode(queries, normalize_embeddings=True), 5)

binary = faiss.IndexBinaryFlat(model.get_sentence_embedding_dimension())
binary.add(model.encode(docs, precision="ubinary"))
distances, binary_rows = binary.search(model.encode(queries, precision="ubinary"), 5)
result = {
    "rows": rows.tolist(),
    "scores": scores.tolist(),
    "distances": distances.tolist(),
    "binary_rows": binary_rows.tolist(),
}

"""Semantic search with util.semantic_search, on normalised tensors and the dot product."""

from sentence_transformers import SentenceTransformer, util

model = SentenceTransformer("all-MiniLM-L6-v2", device="cpu")
documents = [f"Item {number}: a {colour} {thing}" for number, (colour, thing) in enumerate(
    (colour, thing) for colour in ("red", "green", "blue", "yellow") for thing in ("car", "house", "bird", "boat")
)]
corpus_embeddings = model.encode(documents, convert_to_tensor=True, batch_size=8, show_progress_bar=False)
corpus_embeddings = corpus_embeddings.to("cpu")
corpus_embeddings = util.normalize_embeddings(corpus_embeddings)
query_embeddings = model.encode(["a sailing vessel", "an animal that flies"], convert_to_tensor=True)
query_embeddings = util.normalize_embeddings(query_embeddings)
hits = util.semantic_search(query_embeddings, corpus_embeddings, score_function=util.dot_score, top_k=4)
for hit in hits[0]:
    print(documents[hit["corpus_id"]], "(Score: {:.4f})".format(hit["score"]))

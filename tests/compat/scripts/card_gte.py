"""The example of the card of gte-large-en-v1.5."""

# Requires sentence_transformers>=2.7.0

from sentence_transformers import SentenceTransformer
from sentence_transformers.util import cos_sim

sentences = ["That is a happy person", "That is a very happy person"]

model = SentenceTransformer("Alibaba-NLP/gte-large-en-v1.5", trust_remote_code=True)
embeddings = model.encode(sentences)
score = cos_sim(embeddings[0], embeddings[1])
print(score)

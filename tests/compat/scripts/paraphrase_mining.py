"""Paraphrase mining, as in the sentence-transformers documentation."""

from sentence_transformers import SentenceTransformer
from sentence_transformers.util import paraphrase_mining

model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
sentences = [
    "The cat sits outside",
    "A man is playing guitar",
    "I love pasta",
    "The new movie is awesome",
    "The cat plays in the garden",
    "A woman watches TV",
    "The new movie is so great",
    "Do you like pizza?",
]
paraphrases = paraphrase_mining(model, sentences, show_progress_bar=False, batch_size=16)
for paraphrase in paraphrases[0:10]:
    score, i, j = paraphrase
    print(f"{sentences[i]} \t\t {sentences[j]} \t\t Score: {score:.4f}")

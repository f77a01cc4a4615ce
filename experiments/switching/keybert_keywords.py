"""KeyBERT with the model object."""

from keybert import KeyBERT
from sentence_transformers import SentenceTransformer

doc = """
Supervised learning is the machine learning task of learning a function that maps an input to an output based on
example input-output pairs. It infers a function from labeled training data consisting of a set of training examples.
A supervised learning algorithm analyzes the training data and produces an inferred function, which can be used for
mapping new examples.
"""
kw_model = KeyBERT(model=SentenceTransformer("all-MiniLM-L6-v2"))
result = {
    "keywords": kw_model.extract_keywords(doc, keyphrase_ngram_range=(1, 2), stop_words="english", top_n=8),
    "diverse": kw_model.extract_keywords(doc, use_mmr=True, diversity=0.7, stop_words="english"),
}

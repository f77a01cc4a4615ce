"""BERTopic with the model object, on questions and answers of the demo."""

import json
from pathlib import Path

from bertopic import BERTopic
from sentence_transformers import SentenceTransformer
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

lines = (Path(__file__).parents[2] / "demo" / "python-faq.jsonl").read_text("utf-8").splitlines()
docs = [json.loads(line)["text"] for line in lines]

sentence_model = SentenceTransformer("all-MiniLM-L6-v2")
topic_model = BERTopic(
    embedding_model=sentence_model,
    umap_model=PCA(n_components=5, random_state=42),
    hdbscan_model=KMeans(n_clusters=6, random_state=42, n_init=10),
)
topics, _ = topic_model.fit_transform(docs)
similar, scores = topic_model.find_topics("memory and performance", top_n=3)
words = {topic: [word for word, _ in topic_model.get_topic(topic)[:4]] for topic in sorted(set(topics))}
result = {"topics": [int(topic) for topic in topics], "scores": [float(score) for score in scores], "words": words}

"""k-means and agglomerative clustering of sentences, and fast clustering by communities."""

from sentence_transformers import SentenceTransformer
from sentence_transformers.util import community_detection
from sklearn.cluster import AgglomerativeClustering, KMeans

embedder = SentenceTransformer("all-MiniLM-L6-v2")
corpus = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "A man is eating pasta.",
    "The girl is carrying a baby.",
    "The baby is carried by the woman",
    "A man is riding a horse.",
    "A man is riding a white horse on an enclosed ground.",
    "A monkey is playing drums.",
    "Someone in a gorilla costume is playing a set of drums.",
    "A cheetah is running behind its prey.",
    "A cheetah chases prey on across a field.",
]
corpus_embeddings = embedder.encode(corpus)

clustering_model = KMeans(n_clusters=5, n_init=10, random_state=1)
clustering_model.fit(corpus_embeddings)
cluster_assignment = clustering_model.labels_.tolist()

agglomerative = AgglomerativeClustering(n_clusters=None, distance_threshold=1.2)
agglomerative.fit(embedder.encode(corpus, normalize_embeddings=True))
agglomerative_assignment = agglomerative.labels_.tolist()

clusters = community_detection(embedder.encode(corpus, convert_to_tensor=True), min_community_size=2, threshold=0.6)
for number, cluster in enumerate(clusters):
    print("Cluster", number + 1, [corpus[index] for index in cluster])

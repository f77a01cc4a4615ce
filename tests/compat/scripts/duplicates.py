"""Duplicate detection in a column of a table: a matrix of cosine similarities and a threshold."""

import numpy as np
import pandas as pd
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import cos_sim

table = pd.DataFrame(
    {
        "sku": ["A1", "A2", "B1", "B2", "C1", "C2"],
        "title": [
            "Apple iPhone 13, 128 GB, blue",
            "iPhone 13 by Apple (128GB) Blue",
            "Wooden garden chair",
            "Garden chair made of wood",
            "USB-C charging cable 2 m",
            "Ceramic coffee mug",
        ],
    }
)
model = SentenceTransformer("all-MiniLM-L6-v2")
model.max_seq_length = 64
embeddings = model.encode(table["title"].tolist(), show_progress_bar=True)
matrix = cos_sim(embeddings, embeddings).numpy()
rows, columns = np.where(np.triu(matrix, k=1) > 0.7)
pairs = [(table["sku"][i], table["sku"][j]) for i, j in zip(rows, columns)]
print(pairs)
nearest = model.similarity_pairwise(embeddings[::2], embeddings[1::2])

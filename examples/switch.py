"""One script for sentence-transformers and for gnomon: only the import differs.

    python examples/switch.py                              # gnomon
    python examples/switch.py --with sentence-transformers # the original, if it is installed

Both print the same scores. The last line says how long it took from the first import to the result.
"""

import argparse
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
parser.add_argument("--with", dest="library", choices=["gnomon", "sentence-transformers"], default="gnomon")
arguments = parser.parse_args()
start = time.perf_counter()

if arguments.library == "gnomon":
    from gnomon.compat import SentenceTransformer, util
else:
    from sentence_transformers import SentenceTransformer, util

model = SentenceTransformer(arguments.model)
documents = ["The key is under the flower pot.", "The museum opens at nine.", "Store the cells dry and cool."]
corpus = model.encode_document(documents, normalize_embeddings=True, batch_size=32)
query = model.encode_query("how do I get in?", normalize_embeddings=True)
for hit in util.semantic_search(query, corpus, top_k=3)[0]:
    print(f"{hit['score']:.3f}  {documents[hit['corpus_id']]}")
print(f"{arguments.library}: {time.perf_counter() - start:.1f} s")

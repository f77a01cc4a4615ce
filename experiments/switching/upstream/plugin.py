"""pytest plugin: sentence_transformers' class and helpers are gnomon.compat's."""
import sentence_transformers, sentence_transformers.util as su
import sentence_transformers.util.similarity, sentence_transformers.util.retrieval, sentence_transformers.util.quantization
import sentence_transformers.sentence_transformer.model
from gnomon.compat import SentenceTransformer, util
sentence_transformers.SentenceTransformer = SentenceTransformer
sentence_transformers.sentence_transformer.model.SentenceTransformer = SentenceTransformer
for name in util.__all__:
    value = getattr(util, name)
    for module in (su, su.similarity, su.retrieval, su.quantization):
        if hasattr(module, name):
            setattr(module, name, value)

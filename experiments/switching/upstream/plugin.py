"""A pytest plugin: the class and the helpers of sentence_transformers are those of gnomon.compat.

It must be loaded before the tests import them: python -m pytest -p experiments.switching.upstream.plugin ...
"""

import sentence_transformers
import sentence_transformers.sentence_transformer.model
import sentence_transformers.util
import sentence_transformers.util.quantization
import sentence_transformers.util.retrieval
import sentence_transformers.util.similarity

from gnomon.compat import SentenceTransformer, util

for module in (sentence_transformers, sentence_transformers.sentence_transformer.model):
    module.SentenceTransformer = SentenceTransformer
package = sentence_transformers.util
for module in (package, package.quantization, package.retrieval, package.similarity):
    for name in util.__all__:
        if hasattr(module, name):
            setattr(module, name, getattr(util, name))

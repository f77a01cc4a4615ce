"""The example of the card of stella_en_400M_v5, on a CPU."""

from sentence_transformers import SentenceTransformer

# This model supports two prompts: "s2p_query" and "s2s_query".
# They are defined in `config_sentence_transformers.json`
query_prompt_name = "s2p_query"
queries = [
    "What are some ways to reduce stress?",
    "What are the benefits of drinking green tea?",
]
# docs do not need any prompts
docs = [
    "There are many effective ways to reduce stress.",
    "Green tea has been consumed for centuries and is known for its potential health benefits.",
]

# you can also use this model without the features of `use_memory_efficient_attention` and `unpad_inputs`.
model = SentenceTransformer(
    "dunzhang/stella_en_400M_v5",
    trust_remote_code=True,
    device="cpu",
    config_kwargs={"use_memory_efficient_attention": False, "unpad_inputs": False},
)
query_embeddings = model.encode(queries, prompt_name=query_prompt_name)
doc_embeddings = model.encode(docs)
print(query_embeddings.shape, doc_embeddings.shape)

similarities = model.similarity(query_embeddings, doc_embeddings)
print(similarities)

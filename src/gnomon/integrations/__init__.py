"""Classes of other frameworks that encode in this process, without a server.

| framework | class | extra |
|---|---|---|
| LangChain | `gnomon.integrations.langchain.GnomonEmbeddings` | `langchain` |
| LlamaIndex | `gnomon.integrations.llama_index.GnomonEmbedding` | `llama-index` |
| Chroma | `gnomon.integrations.chroma.GnomonEmbeddingFunction` | `chroma` |

Each module needs its framework, and is imported by its own name. All three give queries the model's prompt for queries
and other texts that for documents, as `Encoder.encode_query` and `Encoder.encode_document` do.
"""

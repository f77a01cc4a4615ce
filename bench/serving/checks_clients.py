"""Checks 10 to 15: clients' own libraries, in the environments and tests of `make clients`."""

import shutil

from bench.serving.checks import Context, NotPossibleError, check, expect, run_make


def run_clients(*names: str) -> str:
    return run_make("clients", "SELECT=" + " ".join(f"tests/clients/test_{name}.py" for name in names))


@check(10, "openai-python")
def openai_python(context: Context) -> str:
    return run_clients("openai")


@check(11, "openai-js")
def openai_js(context: Context) -> str:
    """@langchain/openai is in the same file: both need node."""
    if not shutil.which("node"):
        raise NotPossibleError("node is not installed")
    return run_clients("openai_js")


@check(12, "langchain")
def langchain(context: Context) -> str:
    return run_clients("langchain_openai")


@check(13, "llama-index, haystack, litellm, chroma, mem0, InferenceClient")
def other_clients(context: Context) -> str:
    return run_clients("llama_index_clients", "haystack", "litellm", "chroma_clients", "mem0", "huggingface_hub")


@check(14, "cohere")
def cohere(context: Context) -> str:
    """Its rerank is refused until cross-encoders exist."""
    server = context.server()
    refusal = server.post("/v2/rerank", {"model": "m", "query": "a", "documents": ["a", "b"]})
    expect(
        400 <= refusal.status < 500 and refusal.json().get("message"), f"rerank: {refusal.status} {refusal.text[:100]}"
    )
    return f"{run_clients('cohere')}; rerank is refused with {refusal.status}"


@check(15, "requests of dify and open-webui")
def recorded_requests(context: Context) -> str:
    server = context.server()
    requests = (
        ("/v1/embeddings", {"input": ["ping"]}, {}),
        ("/v1/embeddings", {"input": ["ping"], "model": "m"}, {"Authorization": ""}),
        (
            "/v1/embeddings",
            {"input": ["ping"], "model": "m", "encoding_format": "float"},
            {"Authorization": "Bearer None"},
        ),
        ("/v1/embeddings", {"input": ["ping"], "model": "m", "prefix": "query: "}, {"Authorization": "Bearer x"}),
        ("/tokenize", {"inputs": "ping"}, {}),
    )
    for path, body, headers in requests:
        answer = server.post(path, body, headers)
        expect(answer.status == 200, f"{path} {body}: {answer.status} {answer.text[:100]}")
    info = server.get("/info").json()
    expect(next(iter(info["model_type"])) == "embedding", f"model_type is {info['model_type']}")
    prefixed, joined = (server.embed("ping", prefix="query: "), server.embed("query: ping"))
    expect(prefixed.json()["data"] == joined.json()["data"], "prefix is not put before the text")
    return f"{len(requests)} requests answered 200; prefix is a prompt; /info as dify reads it"

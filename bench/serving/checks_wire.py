"""Checks 1 to 9, 16 and 17: what goes over the wire."""

import json
import subprocess
import sys
from typing import Any

import numpy as np

from bench.process import ROOT
from bench.serving import shapes
from bench.serving.checks import (
    API_KEY,
    SECRET_TEXT,
    Context,
    NotPossibleError,
    check,
    distance,
    expect,
    expect_close,
    run_tool,
    vectors_of,
)
from bench.serving.client import Client
from bench.serving.load import Group, Plan, run_load
from bench.serving.samples import batches, mixed
from bench.serving.servers import Server

CARD = (
    "v2 --model-id dunzhang/stella_en_400M_v5 --revision refs/pr/24 --dtype bfloat16 --batch-size 16 --device cuda "
    "--engine torch --port 7997 --no-bettertransformer"
).split()
NEIGHBOURS = 500
LONG_WORDS = 10_000


@check(1, "the card's line")
def card_line(context: Context) -> str:
    """Without CUDA it is refused before any network access; on the CPU the golden checkpoint serves every head."""
    if has_cuda():
        raise NotPossibleError("this machine has CUDA, so the refusal cannot be seen")
    words = ["strace", "-f", "-e", "trace=connect", sys.executable, "-m", "gnomon", "serve", *CARD]
    done = run_tool(words, env=environment(), timeout=120)
    inet = [line for line in done.stdout.splitlines() if "AF_INET" in line and "connect(" in line]
    expect(done.returncode == 2, f"exit status {done.returncode}, expected 2: {done.stdout[-300:]}")
    expect("CUDA" in done.stdout, f"the message does not name CUDA: {done.stdout[-300:]}")
    expect(not inet, f"it connects to the network: {inet[:1]}")
    options = ("v2", "--device", "cpu", "--dtype", "float32", "--batch-size", "16", "--engine", "torch")
    return f"exits with 2 and names CUDA; {serve_heads(context, *options, '--no-bettertransformer')}"


def has_cuda() -> bool:
    done = subprocess.run([sys.executable, "-c", "import torch; print(torch.cuda.is_available())"], capture_output=True)
    return b"True" in done.stdout


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


def serve_heads(context: Context, *options: str) -> str:
    """Every head of the stella-shaped checkpoint, beside the library."""
    from gnomon import Encoder

    texts = ["the first text", "another one, somewhat longer than the first"]
    first = [option for option in options if option == "v2"]
    rest = [option for option in options if option != "v2"]
    with (
        Encoder.load(str(context.stella)) as encoder,
        context.new_server(*rest, source=str(context.stella), first=first) as server,
    ):
        for dim in encoder.dims:
            vectors_BD = vectors_of(server.embed(texts, dimensions=dim))
            expected_BD = encoder.encode(texts, dim=dim, prompt="", normalize_embeddings=True)
            expect_close(vectors_BD, np.asarray(expected_BD), f"dimensions {dim}")
            expect(np.allclose(np.linalg.norm(vectors_BD, axis=1), 1, atol=1e-5), f"dimensions {dim}: norm is not 1")
        wrong = server.embed(texts, dimensions=7)
        expect(wrong.status == 400, f"dimensions 7: {wrong.status}")
        expect(all(str(dim) in wrong.text for dim in encoder.dims), f"the message has no list: {wrong.text[:200]}")
        return f"heads {', '.join(map(str, encoder.dims))} equal the library, 7 is 400 with the list"


@check(2, "exact vectors")
def exact_vectors(context: Context) -> str:
    texts = ["a", "b", "Where do I change my password?", "Ein Satz.", "日本語の文"]
    far = expect_close(vectors_of(context.server().embed(texts)), context.encode(texts), "vectors")
    return f"distance {far:.1e}"


@check(3, "base64 equals float")
def base64_floats(context: Context) -> str:
    texts = ["one text", "another text, with more words"]
    server = context.server()
    floats, packed = (vectors_of(server.embed(texts, encoding_format=name)) for name in ("float", "base64"))
    expect(np.array_equal(floats, packed), "they differ")
    return f"{floats.size} numbers, bit for bit"


@check(4, "neighbours do not matter")
def neighbours(context: Context) -> str:
    text = "How do I merge two dictionaries in one expression?"
    sample = mixed(context.texts, NEIGHBOURS, context.encoder)
    server = context.server("--cache", "0")
    expected_BD = context.encode([text])
    alone = expect_close(vectors_of(server.embed([text])), expected_BD, "alone")
    among = vectors_of(server.embed([*sample.texts[:250], text, *sample.texts[250:]]))
    crowd = expect_close(among[250:251], expected_BD, f"among {NEIGHBOURS}")
    others = expect_close(np.delete(among, 250, axis=0), context.encode(sample.texts), "the others")
    groups = [Group("load", batches(sample, 4), clients=64), Group("one", one_text(text), count=50, keep=True)]
    counts = run_load(Plan(groups, seconds=20), server.address)["counts"]["one"]
    loaded = [np.asarray(json.loads(body)["data"][0]["embedding"])[None] for _, body in counts.answers]
    expect(loaded, "no answer under load")
    worst = max(expect_close(vector_BD, expected_BD, "under load") for vector_BD in loaded)
    return (
        f"alone {alone:.1e}, among {NEIGHBOURS} {crowd:.1e} (these {others:.1e}), under load of 64 clients {worst:.1e}"
    )


def one_text(text: str) -> list[Any]:
    from bench.serving.load import prepare

    return [prepare("/v1/embeddings", {"input": text, "model": "m", "encoding_format": "float"})]


@check(5, "heads")
def heads(context: Context) -> str:
    return serve_heads(context)


@check(6, "every dialect")
def every_dialect(context: Context) -> str:
    ranges = context.work / "ranges.npy"
    corpus_BD = context.encode(mixed(context.texts, 200, context.encoder).texts)
    np.save(ranges, np.stack([corpus_BD.min(axis=0), corpus_BD.max(axis=0)]))
    server, seen = context.server("--ranges", str(ranges)), list[str]()
    for method, path, body, shape in REQUESTS:
        answer = server.post(path, body) if method == "POST" else server.get(path)
        expect(answer.status == 200, f"{path}: {answer.status} {answer.text[:150]}")
        wrong = shapes.mismatch(answer.json(), shape)
        expect(not wrong, f"{path}: {wrong}")
        seen.append(path)
    for path, body, status, shape in REFUSALS:
        answer = server.post(path, body)
        expect(answer.status == status, f"{path} {sorted(body)}: {answer.status}, expected {status}")
        wrong = shapes.mismatch(answer.json(), shape)
        expect(not wrong, f"{path}: {wrong}")
    types = check_types(server, context, corpus_BD)
    return f"{len(seen)} answers and {len(REFUSALS)} refusals have their shapes; {types}"


def check_types(server: Server, context: Context, corpus_BD: np.ndarray) -> str:
    """Cohere's six types, each beside the library's own vectors of that type."""
    import base64

    from gnomon.quantization import quantize

    texts, names = ["a cat", "a dog that barks"], ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    body = {"model": "m", "input_type": "classification", "texts": texts, "embedding_types": names}
    answer = server.post("/v2/embed", body)
    expect(answer.status == 200, f"/v2/embed with six types: {answer.status} {answer.text[:150]}")
    found, expected_BD = answer.json()["embeddings"], context.encode(texts)
    expect(set(found) == set(names), f"the types are {sorted(found)}")
    expect_close(np.asarray(found["float"]), expected_BD, "float")
    packed = np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in found["base64"]])
    expect_close(packed, expected_BD, "base64")
    ranges_2D = np.stack([corpus_BD.min(axis=0), corpus_BD.max(axis=0)])
    for name in ("int8", "uint8", "binary", "ubinary"):
        values = quantize(expected_BD, name, ranges_2D if "int8" in name or name == "uint8" else None).values
        rows = np.asarray(found[name])
        expect(rows.shape == values.shape, f"{name}: shape {rows.shape}, expected {values.shape}")
        # the last bit of a float may move a value over a border
        worst = (
            int(np.abs(rows.astype(int) - values.astype(int)).max()) if "int8" in name else int((rows != values).sum())
        )
        expect(worst <= 1, f"{name} differs from the library's by {worst}")
    return "six types of /v2/embed equal the library's"


REQUESTS: tuple[tuple[str, str, Any, Any], ...] = (
    ("POST", "/embed", {"inputs": "a"}, shapes.VECTORS),
    ("POST", "/embed", {"inputs": ["a", "b"], "truncate": True}, shapes.VECTORS),
    ("POST", "/", {"inputs": ["a"]}, shapes.VECTORS),
    ("POST", "/embed_all", {"inputs": "a b"}, [[[float]]]),
    ("POST", "/similarity", {"inputs": {"source_sentence": "a", "sentences": ["a", "b"]}}, shapes.VECTOR),
    ("POST", "/tokenize", {"inputs": "a b"}, shapes.TOKENS),
    ("POST", "/decode", {"ids": [[101, 1037, 102]]}, [str]),
    ("GET", "/info", None, shapes.INFO),
    ("GET", "/models", None, shapes.INFINITY_MODELS),
    ("GET", "/v1/models", None, shapes.MODELS),
    ("POST", "/embeddings", {"input": ["a"], "model": "m"}, shapes.OPENAI),
    ("POST", "/v1/embeddings", {"input": "a", "model": "m"}, shapes.OPENAI),
    ("POST", "/openai/deployments/m/embeddings?api-version=1", {"input": "a"}, shapes.OPENAI),
    ("POST", "/v1/embeddings", {"input": ["a"], "model": "m", "task": "text-matching"}, shapes.OPENAI),
    ("POST", "/api/embed", {"model": "m", "input": ["a"]}, shapes.OLLAMA),
    (
        "POST",
        "/v2/embed",
        {"model": "m", "input_type": "search_query", "texts": ["a"], "embedding_types": ["float", "ubinary", "base64"]},
        shapes.COHERE,
    ),
    (
        "POST",
        "/v1/embed",
        {"model": "m", "input_type": "search_query", "texts": ["a"]},
        {"id": str, "response_type": "embeddings_floats", "embeddings": [[float]]},
    ),
)
REFUSALS: tuple[tuple[str, dict[str, Any], int, Any], ...] = (
    ("/rerank", {"query": "a", "texts": ["a", "b"]}, 424, shapes.TEI_ERROR),
    ("/rerank", {"query": "a", "documents": ["a", "b"], "model": "m"}, 400, {"error": dict}),
    ("/v2/rerank", {"query": "a", "documents": ["a", "b"], "model": "m"}, 400, shapes.COHERE_ERROR),
    ("/predict", {"inputs": "a"}, 424, shapes.TEI_ERROR),
    ("/embed_sparse", {"inputs": "a"}, 424, shapes.TEI_ERROR),
)
"""Until cross-encoders, classifiers and sparse models exist here."""


@check(7, "TEI's own expectations")
def tei_expectations(context: Context) -> str:
    """As its test_http_embed.rs: a single text and a batch of three with dimensions, and without.

    all-MiniLM declares no prefix of 128, so dimensions are those of the checkpoint of stella's shape.
    """
    far = check_alike(context.server(), context.encoder.dim)
    stella = context.server_of(context.stella)
    fars = [check_alike(stella, dim, dimensions=dim) for dim in (256, 512, 1024)]
    refused = context.server().post("/embed", {"inputs": "test", "dimensions": 128})
    expect(refused.status == 422, f"dimensions 128, which the model does not declare: {refused.status}")
    return (
        f"single and batch differ by {far:.1e}, with dimensions 256, 512 and 1024 by {max(fars):.1e}, norm 1; "
        f"128 of a model without it is refused with {refused.status}"
    )


def check_alike(server: Server, dim: int, **fields: Any) -> float:
    """How far the vectors of a batch of equal texts are from that of the single text, relative to its norm."""
    single = server.post("/embed", {"inputs": "test", **fields}).json()
    batch = server.post("/embed", {"inputs": ["test"] * 3, **fields}).json()
    expect(len(single) == 1 and len(batch) == 3, f"{len(single)} and {len(batch)} vectors")
    rows_BD = np.asarray(single + batch)
    expect(rows_BD.shape[1] == dim, f"{rows_BD.shape[1]} dimensions, expected {dim}")
    expect(np.allclose(np.linalg.norm(rows_BD, axis=1), 1, atol=1e-5), f"{dim} dimensions: norm is not 1")
    far = max(distance(rows_BD[at : at + 1], rows_BD[:1]) for at in range(4))
    expect(far <= 1e-6, f"single and batch differ by {far:.1e}")
    return far


@check(8, "infinity's own tests")
def infinity_tests(context: Context) -> str:
    """Run by experiments/serving_upstream, which needs infinity's source; its results are committed."""
    results = ROOT / "experiments" / "serving_upstream" / "results.json"
    if not results.exists():
        raise NotPossibleError("experiments/serving_upstream has no results.json; its README says how to run it")
    found = json.loads(results.read_text())
    tests, text = found["tests"], found["counts"]["text embeddings over HTTP"]
    failed = {name: row.get("why", "not explained") for name, row in tests.items() if row["outcome"] != "passed"}
    unexplained = [name for name, why in failed.items() if why == "not explained"]
    expect(not unexplained, f"not explained: {', '.join(unexplained)}")
    share = f"{text['passed']} of {sum(text.values())} that are about text embeddings over HTTP"
    return f"{len(tests) - len(failed)} of {len(tests)} pass, and {share}; the others are explained"


ALLOWED = range(400, 500)
PART = 1 << 20
"""Bytes of a large body that are sent between two looks for an answer."""
BAD_BODIES: tuple[tuple[str, Any], ...] = (
    ("an empty list", {"input": [], "model": "m"}),
    ("an empty text", {"input": ["a", "", "b"], "model": "m"}),
    ("2,049 inputs", {"input": ["a"] * 2049, "model": "m"}),
    ("a wrong type", {"input": [1.5], "model": "m"}),
    ("a null input", {"input": None, "model": "m"}),
    ("an object", {"input": {"a": 1}, "model": "m"}),
    ("no JSON", b"{"),
    ("no body", b""),
    ("a list", b"[]"),
    ("a lone surrogate", rb'{"input": "\ud800", "model": "m"}'),
    ("no UTF-8", b'{"input": "\xff", "model": "m"}'),
    ("dimensions of another model", {"input": "a", "model": "m", "dimensions": 7}),
    ("an unknown prompt", {"input": "a", "model": "m", "prompt_name": "no such"}),
    ("token ids", {"input": [[1, 2, 3]], "model": "m"}),
)
ROUTES: dict[str, tuple[str, Any]] = {
    "/v1/embeddings": ("input", shapes.ERROR),
    "/embed": ("inputs", {"error": str}),
    "/v2/embed": ("texts", shapes.COHERE_ERROR),
    "/api/embed": ("input", {"error": str}),
}


@check(9, "errors")
def errors(context: Context) -> str:
    count, server = 0, context.server()
    for path, (key, shape) in ROUTES.items():
        with Client(server.address) as client:
            for what, body in BAD_BODIES:
                if path == "/embed" and what == "token ids":
                    continue  # TEI's dialect has them
                data = rename(body, key) if isinstance(body, dict) else body
                answer = client.post(path, data)
                expect(answer.status in ALLOWED, f"{path}, {what}: {answer.status} {answer.text[:150]}")
                wrong = shapes.mismatch(answer.json(), shape)
                expect(not wrong, f"{path}, {what}: {wrong}: {answer.text[:150]}")
                good = client.post("/v1/embeddings", {"input": "a", "model": "m"})
                expect(good.status == 200, f"{path}, after {what}: the connection answers {good.status}")
                count += 1
    indexed = server.embed(["a", "", "b"])
    expect("[1]" in indexed.text, f"an empty text's message has no index: {indexed.text[:200]}")
    nulls = dict.fromkeys(("encoding_format", "dimensions", "user", "prompt_name", "truncate"))
    expect(server.embed("a", **nulls).status == 200, "null fields are refused")
    big = json.dumps({"input": "a" * (40 << 20)}).encode()
    status = post_big(server, big)
    expect(status == 413, f"40 MB are answered {status}, not 413")
    expect(server.embed("a").status == 200, "after 40 MB")
    return f"{count} bad bodies, a body of 40 MB is 413, {check_several_models(context)}, {check_names(context)}"


def rename(body: dict[str, Any], key: str) -> dict[str, Any]:
    return {key if name == "input" else name: value for name, value in body.items()} | (
        {"input_type": "search_document"} if key == "texts" else {}
    )


def post_big(server: Server, body: bytes) -> int | None:
    """The status that a client sees who looks for an answer while it sends, as curl does; None for none."""
    import select
    import socket

    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection((server.address.host, server.address.port), timeout=30) as connection:
        connection.sendall(head)
        for start in range(0, len(body), PART):
            if select.select([connection], [], [], 0)[0]:
                break
            try:
                connection.sendall(body[start : start + PART])
            except OSError:
                break
        try:
            line = connection.recv(1 << 16).split(b"\r\n")[0].split()
        except OSError:
            return None
    return int(line[1]) if len(line) > 1 else None


def check_several_models(context: Context) -> str:
    """With two models a name must be one of theirs, in each dialect with its own shape; with one any name serves."""
    server = context.server(str(context.stella), "--name", "other")
    expected = {"/v1/embeddings": 404, "/embed": 404, "/v2/embed": 404, "/api/embed": 404}
    for path, (key, shape) in ROUTES.items():
        for name, status in (("m", 200), ("other", 200), ("no-such-model", expected[path])):
            answer = server.post(path, rename({"input": ["a"], "model": name}, key))
            expect(answer.status == status, f"{path}, model {name}: {answer.status}, expected {status}")
        wrong = shapes.mismatch(answer.json(), shape)
        expect(not wrong, f"{path}, an unknown model: {wrong}: {answer.text[:150]}")
    expect(context.server().embed("a", model="no-such-model").status == 200, "with one model any name serves")
    return "an unknown model of two is 404"


def check_names(context: Context) -> str:
    server = context.server("--api-key", API_KEY)
    answers = {
        "no key": server.embed("a").status,
        "wrong key": server.post("/v1/embeddings", {"input": "a"}, {"Authorization": "Bearer wrong"}).status,
        "key": server.post("/v1/embeddings", {"input": SECRET_TEXT}, {"Authorization": f"Bearer {API_KEY}"}).status,
        "api-key": server.post("/v1/embeddings", {"input": "a"}, {"api-key": API_KEY}).status,
    }
    expect(answers == {"no key": 401, "wrong key": 401, "key": 200, "api-key": 200}, f"keys: {answers}")
    expect(server.get("/health").status == 200, "/health needs a key")
    return "wrong keys are 401"


@check(16, "token counts")
def token_counts(context: Context) -> str:
    sample = mixed(context.texts, 1000, context.encoder)
    server = context.server()
    answer = server.embed(list(sample.texts))
    expect(answer.status == 200, f"{answer.status} {answer.text[:100]}")
    usage = answer.json()["usage"]
    expect(usage["prompt_tokens"] == usage["total_tokens"] == sample.num_tokens, f"{usage}, not {sample.num_tokens}")
    with Client(server.address) as client:
        for text, tokens in zip(sample.texts, sample.tokens, strict=True):
            single = client.post("/v1/embeddings", {"input": text, "model": "m"}).json()["usage"]["prompt_tokens"]
            expect(single == tokens, f"{single} tokens of a text that has {tokens}")
    prompted = server.embed("a b", prompt="search query: ").json()["usage"]["prompt_tokens"]
    expected = len(context.encoder.tokenize("a b", prompt="search query: ").ids[0])
    expect(prompted == expected, f"with a prompt {prompted} tokens, expected {expected}")
    return f"{sample.num_tokens:,} tokens of 1,000 texts, together and of each alone, and {expected} with a prompt"


@check(17, "truncation is reported")
def truncation(context: Context) -> str:
    text = " ".join(f"word{number % 97}" for number in range(LONG_WORDS))
    server, encoder = context.server(), context.encoder
    counted = encoder.tokenize(text).counts[0]
    answer = server.embed([text, "short", text])
    expect(answer.headers.get("x-gnomon-truncated") == "2", f"header {answer.headers.get('x-gnomon-truncated')}, not 2")
    expect_close(vectors_of(answer)[:1], context.encode([text]), "truncated")
    report = server.embed([text, "short"], report=True).json().get("report") or [{}, {}]
    cut = encoder.tokenize(text).truncated_at[0]
    rows = [{"tokens": encoder.max_seq_length, "full_tokens": counted, "truncated_at": cut}]
    rows += [{"tokens": 3, "full_tokens": 3, "truncated_at": None}]
    expect(report == rows, f"the report is {report}, expected {rows}")
    refused = server.embed([text], truncate=False)
    expect(refused.status in (400, 422), f"truncate false: {refused.status}")
    both = all(str(number) in refused.text.replace(",", "") for number in (counted, encoder.max_seq_length))
    expect(both, f"the message has not {counted} and {encoder.max_seq_length}: {refused.text[:200]}")
    tei = server.post("/embed", {"inputs": text, "truncate": False})
    expect(tei.status == 422, f"/embed with truncate false: {tei.status}")
    mean = vectors_of(server.embed([text], on_truncate="mean"))
    far = expect_close(mean, context.encode([text], on_truncate="mean"), "mean")
    return (
        "header 2 of 3; the report has each input's tokens and the character of the cut; "
        f"refused with {refused.status} and both numbers; mean equals the library ({far:.1e})"
    )

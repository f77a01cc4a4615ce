"""Check 36, beside the 35 of the reference: any body, in every dialect, over HTTP."""

import http.client
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from bench.serving.checks import CheckError, Context, check, expect, expect_close, vectors_of
from bench.serving.client import Client
from bench.serving.process import measure_usage
from bench.serving.servers import Server

SLOW_ANSWER = 10.0
"""Seconds after which an answer to a small body counts as a hang."""
SETTLING = 500
"""Bodies for each route before memory is measured."""
INTENDED = (501, 503)
"""Statuses of the 5xx that a client's body may cause."""
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "OpenAI": ("/v1/embeddings", {"input": None, "model": "m"}),
    "Azure": ("/openai/deployments/m/embeddings?api-version=1", {"input": None}),
    "Jina": ("/v1/embeddings", {"input": None, "model": "m", "task": "text-matching"}),
    "infinity": ("/embeddings", {"input": None, "model": "m", "modality": "text"}),
    "TEI embed": ("/embed", {"inputs": None}),
    "TEI root": ("/", {"inputs": None}),
    "TEI embed_all": ("/embed_all", {"inputs": None}),
    "TEI similarity": ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}}),
    "TEI tokenize": ("/tokenize", {"inputs": None}),
    "TEI decode": ("/decode", {"ids": [[101, 102]]}),
    "vLLM detokenize": ("/detokenize", {"tokens": [101, 102]}),
    "Cohere v1": ("/v1/embed", {"texts": None, "model": "m", "input_type": "search_query"}),
    "Cohere v2": (
        "/v2/embed",
        {"texts": None, "model": "m", "input_type": "search_query", "embedding_types": ["float"]},
    ),
    "Ollama": ("/api/embed", {"input": None, "model": "m"}),
    "Ollama, old": ("/api/embeddings", {"prompt": "a", "model": "m"}),
    "rerank": ("/rerank", {"query": "a", "documents": ["a"], "texts": ["a"]}),
}
"""Dialect -> path, and the fields of a right body; None stands for inputs of every kind."""


@check(36, "fuzz of every dialect")
def fuzz(context: Context) -> str:
    """Thousands of bodies to each route: no unintended 5xx, no hang, flat memory, and right vectors afterwards."""
    codes, lines, faults = Counter[str](), list[str](), list[str]()
    with context.new_server("--request-timeout", "20") as server:
        for path, required in ROUTES.values():  # memory settles; what is wrong shows below
            with suppress(CheckError):
                fuzz_route(server, path, required, min(SETTLING, context.fuzz), Counter())
        before = measure_usage(server.pid)
        for name, (path, required) in ROUTES.items():
            found = Counter[str]()
            slowest = 0.0
            try:
                slowest = fuzz_route(server, path, required, context.fuzz, found)
            except CheckError as fault:
                faults.append(str(fault))
            codes += found
            lines.append(f"{name} {found.total():,} (200: {found['200']:,}; slowest {1e3 * slowest:.0f} ms)")
        after = measure_usage(server.pid)
        expect_close(vectors_of(server.embed(["a"])), context.encode(["a"]), "afterwards")
        expect(server.status("/ready") == 200, "/ready afterwards")
    figures = (
        f"{codes.total():,} bodies, {dict(sorted(codes.items()))}; {before.resident_mib:.0f} to "
        f"{after.resident_mib:.0f} MiB, {before.descriptors} to {after.descriptors} descriptors; {', '.join(lines)}"
    )
    expect(not faults, f"{'; '.join(faults)}; {figures}")
    expect(after.resident_mib < 1.05 * before.resident_mib + 16, f"memory grows: {figures}")
    expect(after.descriptors <= before.descriptors + 4, f"descriptors leak: {figures}")
    return figures


def fuzz_route(server: Server, path: str, required: dict[str, Any], count: int, codes: Counter[str]) -> float:
    """Send so many bodies to a route over one connection, and count the statuses; the seconds of the slowest answer.

    Raises:
        CheckError: with the smallest body that shows what is wrong.
    """
    from hypothesis import HealthCheck, Phase, given, settings

    from bench.serving.bodies import make_bodies

    slowest = [0.0]
    with Client(server.address, timeout=SLOW_ANSWER) as client:

        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(make_bodies(required))
        def send(body: bytes) -> None:
            start = time.monotonic()
            try:
                answer = client.post(path, body)
            except (OSError, http.client.HTTPException) as error:
                raise CheckError(f"{path} {body!r}: {type(error).__name__}: {error}") from error
            slowest[0] = max(slowest[0], time.monotonic() - start)
            codes[str(answer.status)] += 1
            bad = answer.status >= 500 and answer.status not in INTENDED
            expect(not bad, f"{path} {body!r}: {answer.status} {answer.text[:200]}")
            if answer.headers.get("content-type", "").startswith("application/json"):
                answer.json()

        send()
    return slowest[0]

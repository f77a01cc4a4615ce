"""Every path of the server: what it does, in which dialect its errors are, and whether it needs a key."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.resources import files

from gnomon.serve.exchange import make_id
from gnomon.serve.requests import Answer, EmbedRequest, EmbedResult, RequestError
from gnomon.serve.service import INLINE_NUMBERS
from gnomon.serve.visit import NO_METHODS, Endpoint, Operation, Visit
from gnomon.serve.wire import cohere, ollama, openai, tei
from gnomon.serve.wire.choose import (
    choose_embeddings_dialect,
    choose_rerank_dialect,
    choose_root_operation,
    choose_tokenize_dialect,
)
from gnomon.serve.wire.dialect import Dialect, Stamp
from gnomon.serve.wire.errors import render_openai_error, render_tei_error
from gnomon.serve.wire.fields import Fields, parse_body
from gnomon.serve.wire.inputs import check_inputs, check_texts
from gnomon.serve.wire.vectors import answer_raw, json_answer

# ---- vectors


async def embed(visit: Visit, dialect: Dialect, *, fields: Fields | None = None, model: str | None = None) -> Answer:
    """Vectors, in one dialect.

    Args:
        fields: the body, where it was read to find the dialect.
        model: the model's name where the body has none.
    """
    visit.render_error, visit.call.counts = dialect.render_error, True
    fields = await visit.read_fields() if fields is None else fields
    request = dialect.parse_embed(fields)
    if model is not None and request.model is None:
        request = replace(request, model=model)
    visit.call.num_unknown_fields = len(request.unknown_fields)
    check_inputs(request, visit.host.options.max_inputs, visit.host.options.empty, dialect.input_field)
    request = visit.host.service.apply_defaults(request)
    token_ids = "model" if dialect is tei.TEI else None
    result = await visit.host.service.embed(request, visit.call, token_ids)
    render = partial(_render, dialect, request, result, visit.exchange.header("accept"), visit.exchange.request_id)
    if result.vectors_BD.size <= INLINE_NUMBERS:
        return render()
    return await visit.host.service.render_in_thread(render)


def _render(
    dialect: Dialect, request: EmbedRequest, result: EmbedResult, accept: str | None, request_id: str
) -> Answer:
    raw = answer_raw(request, result, accept)
    return raw if raw is not None else dialect.render_embed(request, result, Stamp(make_id(), int(time.time())))


async def embed_chosen(visit: Visit) -> Answer:
    """`/embeddings`: the fields show the dialect."""
    visit.call.counts = True
    fields = await visit.read_fields()
    return await embed(visit, choose_embeddings_dialect(fields), fields=fields)


async def embed_root(visit: Visit) -> Answer:
    """`/embed` and `POST /`: TEI's three operations; the fields show which."""
    visit.render_error, visit.call.counts = render_tei_error, True
    fields = await visit.read_fields()
    operation = choose_root_operation(fields)
    if operation == "similarity":
        return await similarity(visit, fields=fields)
    if operation == "rerank":
        raise _refuse("rerank")
    return await embed(visit, tei.TEI, fields=fields)


async def embed_all(visit: Visit) -> Answer:
    visit.render_error = render_tei_error
    request = visit.host.service.apply_defaults(tei.parse_embed_all(await visit.read_fields()))
    check_inputs(request, visit.host.options.max_inputs, visit.host.options.empty, "inputs")
    result = await visit.host.service.states(request, visit.call)
    return await visit.host.service.render_in_thread(partial(tei.render_states, result))


async def similarity(visit: Visit, *, fields: Fields | None = None) -> Answer:
    visit.render_error = render_tei_error
    request = tei.parse_similarity(await visit.read_fields() if fields is None else fields)
    texts = [request.source, *request.texts]
    check_texts(request.texts, visit.host.options.max_inputs - 1, visit.host.options.empty, "sentences")
    check_texts(texts, visit.host.options.max_inputs, visit.host.options.empty, "inputs")
    visit.call.counts = True
    scores, result = await visit.host.service.similarity(request, visit.call)
    return tei.render_similarity(scores, result)


# ---- tokens


async def tokenize(visit: Visit) -> Answer:
    fields = await visit.read_fields()
    dialect = choose_tokenize_dialect(fields)
    visit.render_error = dialect.render_error
    request = dialect.parse(fields)
    check_texts(request.texts, visit.host.options.max_inputs, "embed", "inputs")
    tokens, model = await visit.host.service.tokenize(request, visit.call)
    return await visit.host.service.render_in_thread(partial(dialect.render, request, tokens, model.info()))


async def decode(visit: Visit) -> Answer:
    visit.render_error = render_tei_error
    request = tei.parse_decode(await visit.read_fields())
    check_texts(request.ids, visit.host.options.max_inputs, "embed", "ids")
    return tei.render_decode(await visit.host.service.decode(request, visit.call))


async def detokenize(visit: Visit) -> Answer:
    request = openai.parse_detokenize(await visit.read_fields())
    return openai.render_detokenize(await visit.host.service.decode(request, visit.call))


# ---- other kinds of models


def _refuse(what: str) -> RequestError:
    kind = {
        "rerank": "a reranker",
        "classify": "a classifier",
        "predict": "a classifier",
        "embed_sparse": "a sparse model",
    }
    return RequestError(
        f"{what} needs {kind[what]}, and the models served here embed texts. Send texts to /v1/embeddings.",
        "unsupported",
    )


async def refuse_rerank(visit: Visit) -> Answer:
    fields = await visit.read_fields()
    visit.render_error = choose_rerank_dialect(fields, visit.exchange.path).render_error
    raise _refuse("rerank")


def refuse(what: str, render_error: Callable[[RequestError], Answer]) -> Operation:
    async def refuse_it(visit: Visit) -> Answer:
        visit.render_error = render_error
        await visit.read_fields()
        raise _refuse(what)

    return refuse_it


# ---- facts


async def list_models(visit: Visit) -> Answer:
    return openai.render_models(model.info() for model in visit.host.service.models)


async def show_model(visit: Visit) -> Answer:
    name = visit.parameters["name"]
    model = visit.host.service.models.find_known(name)
    return openai.render_model(model.info(), name)


async def show_info(visit: Visit) -> Answer:
    host = visit.host
    models = [*host.service.models]
    texts = models[0].options.max_batch_texts
    limits = tei.Limits(
        max_concurrent_requests=host.options.max_queue_texts or 2**31 - 1,
        max_batch_tokens=models[0].batch_tokens,
        max_batch_requests=texts,
        max_client_batch_size=host.options.max_inputs,
        auto_truncate=host.options.truncate != "error",
        tokenization_workers=host.service.num_threads,
        version=version("gnomon"),
    )
    return tei.render_info(models[0].info(), limits, [model.name for model in models])


async def list_ollama_tags(visit: Visit) -> Answer:
    return ollama.render_tags(model.info() for model in visit.host.service.models)


async def show_ollama_version(visit: Visit) -> Answer:
    return ollama.render_version(version("gnomon"))


async def show_metrics(visit: Visit) -> Answer:
    from gnomon.serve.metrics import CONTENT_TYPE

    return Answer(visit.host.render_metrics(), content_type=CONTENT_TYPE)


# ---- operations


async def show_startup(visit: Visit) -> Answer:
    return visit.host.answer_probe("startup")


async def show_ready(visit: Visit) -> Answer:
    return visit.host.answer_probe("ready")


async def show_health(visit: Visit) -> Answer:
    return visit.host.answer_probe("health")


async def show_liveness(visit: Visit) -> Answer:
    return visit.host.answer_probe("live")


async def reload_models(visit: Visit) -> Answer:
    """`POST /admin/reload`: load all models again, or one of another revision: {"model": ..., "revision": ...}."""
    visit.host.check_admin(visit.exchange)
    body = await visit.read_body()
    fields = parse_body(body or b"{}")
    name, revision = fields.text("model"), fields.text("revision")
    if unknown := fields.unknown():
        raise RequestError(f"the body has {unknown[0]!r}, and it may have model and revision.", "invalid")
    if revision is not None and name is None and len(visit.host.service.models.models) > 1:
        raise RequestError("a revision is of one model. Name the model, too.", "invalid", param="model")
    await visit.host.reload(name, revision)
    return json_answer({"models": {model.name: model.fingerprint for model in visit.host.service.models}})


async def show_playground(visit: Visit) -> Answer:
    """`GET /`: the page for browsers; for all others it is a probe, as in TEI."""
    wants_page = "text/html" in (visit.exchange.header("accept") or "")
    if not visit.host.options.playground or not wants_page:
        return visit.host.answer_probe("health")
    page = files("gnomon.serve").joinpath("playground.html").read_bytes()
    headers = {
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
    }
    return Answer(page, content_type="text/html; charset=utf-8", headers=headers)


POST_ALONE = frozenset({"POST"})


def _post(operation: Operation) -> Mapping[str, Operation]:
    return {"POST": operation}


def _get(operation: Operation) -> Mapping[str, Operation]:
    return {"GET": operation, "HEAD": operation}


def _dialect(dialect: Dialect) -> Mapping[str, Operation]:
    return _post(partial(embed, dialect=dialect))


def _endpoints() -> list[Endpoint]:
    """All endpoints, the most used first."""
    tei_endpoint = partial(Endpoint, render_error=render_tei_error)
    probe = partial(
        Endpoint, render_error=render_tei_error, is_probe=True, guarded_methods=NO_METHODS, model_methods=NO_METHODS
    )
    return [
        *(Endpoint(path, _post(embed_chosen)) for path in ("/v1/embeddings", "/embeddings")),
        tei_endpoint("/embed", _post(embed_root)),
        probe("/ready", _get(show_ready)),
        probe("/health", _get(show_health)),
        Endpoint("/openai/deployments/{name:path}/embeddings", _post(embed_azure)),
        Endpoint("/v1/embed", _dialect(cohere.COHERE_V1), cohere.COHERE_V1.render_error),
        Endpoint("/v2/embed", _dialect(cohere.COHERE_V2), cohere.COHERE_V2.render_error),
        Endpoint("/api/embed", _dialect(ollama.OLLAMA), ollama.OLLAMA.render_error),
        Endpoint("/api/embeddings", _dialect(ollama.OLLAMA_OLD), ollama.OLLAMA.render_error),
        Endpoint("/api/tags", _get(list_ollama_tags), ollama.OLLAMA.render_error),
        Endpoint("/api/version", _get(show_ollama_version), ollama.OLLAMA.render_error, model_methods=NO_METHODS),
        tei_endpoint(
            "/", {**_get(show_playground), "POST": embed_root}, guarded_methods=POST_ALONE, model_methods=POST_ALONE
        ),
        tei_endpoint("/invocations", _post(embed_root)),
        *(
            tei_endpoint(path, _post(embed_root))
            for path in ("/pipeline/feature-extraction", "/models/{name:path}/pipeline/feature-extraction")
        ),
        tei_endpoint("/embed_all", _post(embed_all)),
        tei_endpoint("/similarity", _post(similarity)),
        tei_endpoint("/tokenize", _post(tokenize)),
        Endpoint("/v1/tokenize", _post(tokenize)),
        tei_endpoint("/decode", _post(decode)),
        Endpoint("/detokenize", _post(detokenize)),
        tei_endpoint("/info", _get(show_info)),
        *(Endpoint(path, _get(list_models)) for path in ("/v1/models", "/models")),
        *(Endpoint(path, _get(show_model)) for path in ("/v1/models/{name:path}", "/models/{name:path}")),
        tei_endpoint("/rerank", _post(refuse_rerank)),
        *(Endpoint(path, _post(refuse_rerank)) for path in ("/v1/rerank", "/v2/rerank")),
        *(tei_endpoint(f"/{name}", _post(refuse(name, render_tei_error))) for name in ("predict", "embed_sparse")),
        Endpoint("/classify", _post(refuse("classify", render_openai_error))),
        *(probe(path, _get(show_health)) for path in ("/healthz", "/ping")),
        *(probe(path, _get(show_ready)) for path in ("/readyz", "/v1/health/ready")),
        *(probe(path, _get(show_liveness)) for path in ("/livez", "/v1/health/live")),
        probe("/startup", _get(show_startup)),
        probe("/metrics", _get(show_metrics)),
        Endpoint("/admin/reload", _post(reload_models), guarded_methods=NO_METHODS, model_methods=NO_METHODS),
    ]


async def embed_azure(visit: Visit) -> Answer:
    """Azure's path names the model, where the body does not."""
    fields = await visit.read_fields()
    return await embed(visit, choose_embeddings_dialect(fields), fields=fields, model=visit.parameters["name"])


ENDPOINTS = _endpoints()

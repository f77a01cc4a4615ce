"""Every path of the server: what it does, in which dialect its errors are, and whether it needs a key."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from typing import TypeVar

from gnomon.serve import tokens
from gnomon.serve.exchange import make_id
from gnomon.serve.requests import (
    Answer,
    DecodeRequest,
    EmbedRequest,
    EmbedResult,
    RequestError,
    SimilarityRequest,
    TokenizeRequest,
)
from gnomon.serve.service import INLINE_NUMBERS
from gnomon.serve.states import compute_states
from gnomon.serve.visit import NO_METHODS, Endpoint, Operation, Visit
from gnomon.serve.wire import cohere, ollama, openai, tei
from gnomon.serve.wire.choose import (
    choose_embeddings_dialect,
    choose_rerank_dialect,
    choose_root_operation,
    choose_tokenize_dialect,
)
from gnomon.serve.wire.dialect import Dialect, Stamp, TokenizeDialect
from gnomon.serve.wire.errors import render_tei_error
from gnomon.serve.wire.fields import Fields
from gnomon.serve.wire.inputs import check_inputs, check_texts
from gnomon.serve.wire.vectors import answer_raw, json_answer, warn_of_unknown, warning_header

NamesModel = TypeVar("NamesModel", EmbedRequest, SimilarityRequest)

# ---- vectors


async def embed(visit: Visit, choose: Callable[[Fields], Dialect]) -> Answer:
    """Vectors.

    Args:
        choose: the dialect of a body.
    """
    visit.call.counts = True
    dialect, request = await visit.parse(partial(_parse_embed, visit, choose))
    return await _answer_embed(visit, dialect, request)


def _parse_embed(visit: Visit, choose: Callable[[Fields], Dialect], fields: Fields) -> tuple[Dialect, EmbedRequest]:
    dialect = choose(fields)
    visit.render_error = dialect.render_error
    return dialect, dialect.parse_embed(fields)


async def _answer_embed(visit: Visit, dialect: Dialect, request: EmbedRequest) -> Answer:
    request = _complete(visit, request, dialect.input_field)
    vocabulary = "model" if dialect is tei.TEI else None
    result = await visit.host.service.embed(request, visit.call, vocabulary)
    render = partial(_render, dialect, request, result, visit.exchange.header("accept"), visit.exchange.request_id)
    if result.vectors_BD.size <= INLINE_NUMBERS and not visit.call.body_bytes:  # Cohere's answers hold the texts
        return render()
    return await visit.host.service.render_in_thread(render)


def _complete(visit: Visit, request: EmbedRequest, input_field: str) -> EmbedRequest:
    """The request, checked, with what it leaves open.

    Raises:
        RequestError: wrong inputs, or an unknown model.
    """
    visit.call.num_unknown_fields = len(request.unknown_fields)
    check_inputs(request, visit.host.options.max_inputs, visit.host.options.empty, input_field)
    return visit.host.service.apply_defaults(_name_model(visit, request))


def _name_model(visit: Visit, request: NamesModel) -> NamesModel:
    """The request, for the model that the path names where the body names none."""
    name = visit.parameters.get("name")
    return request if name is None or request.model is not None else replace(request, model=name)


def _warn(answer: Answer, request: EmbedRequest | SimilarityRequest | TokenizeRequest | DecodeRequest) -> Answer:
    """An answer without vectors, with a header that names the fields that were ignored, if any were."""
    warning = warning_header(warn_of_unknown(request.unknown_fields))
    return replace(answer, headers={**answer.headers, **warning}) if warning else answer


def _render(
    dialect: Dialect, request: EmbedRequest, result: EmbedResult, accept: str | None, request_id: str
) -> Answer:
    raw = answer_raw(request, result, accept)
    return raw if raw is not None else dialect.render_embed(request, result, Stamp(make_id(), int(time.time())))


async def embed_root(visit: Visit) -> Answer:
    """`/embed` and `POST /`: TEI's three operations; the fields show which."""
    visit.call.counts = True
    request = await visit.parse(_parse_root)
    if isinstance(request, SimilarityRequest):
        return await _answer_similarity(visit, request)
    return await _answer_embed(visit, tei.TEI, request)


def _parse_root(fields: Fields) -> EmbedRequest | SimilarityRequest:
    operation = choose_root_operation(fields)
    if operation == "rerank":
        raise _refuse("rerank")
    return tei.parse_similarity(fields) if operation == "similarity" else tei.parse_embed(fields)


async def embed_all(visit: Visit) -> Answer:
    visit.call.counts = True
    request = _complete(visit, await visit.parse(tei.parse_embed_all), "inputs")
    result = await compute_states(visit.host.service, request, visit.call)
    return _warn(await visit.host.service.render_in_thread(partial(tei.render_states, result)), request)


async def similarity(visit: Visit) -> Answer:
    visit.call.counts = True
    return await _answer_similarity(visit, await visit.parse(tei.parse_similarity))


async def _answer_similarity(visit: Visit, request: SimilarityRequest) -> Answer:
    visit.call.num_unknown_fields = len(request.unknown_fields)
    request = _name_model(visit, request)
    texts = [request.source, *request.texts]
    check_texts(request.texts, visit.host.options.max_inputs - 1, visit.host.options.empty, "sentences")
    check_texts(texts, visit.host.options.max_inputs, visit.host.options.empty, "inputs")
    scores, result = await visit.host.service.similarity(request, visit.call)
    return _warn(tei.render_similarity(scores, result), request)


# ---- tokens


async def tokenize(visit: Visit) -> Answer:
    dialect, request = await visit.parse(partial(_parse_tokenize, visit))
    check_texts(request.texts, visit.host.options.max_inputs, "embed", "inputs")
    rows, model = await tokens.tokenize(visit.host.service, request, visit.call)
    render = partial(dialect.render, request, rows, model.info())
    return _warn(await visit.host.service.render_in_thread(render), request)


def _parse_tokenize(visit: Visit, fields: Fields) -> tuple[TokenizeDialect, TokenizeRequest]:
    dialect = choose_tokenize_dialect(fields)
    visit.render_error = dialect.render_error
    return dialect, dialect.parse(fields)


async def decode(visit: Visit) -> Answer:
    request = await visit.parse(tei.parse_decode)
    check_texts(request.ids, visit.host.options.max_inputs, "embed", "ids")
    return _warn(tei.render_decode(await tokens.decode(visit.host.service, request, visit.call)), request)


async def detokenize(visit: Visit) -> Answer:
    request = await visit.parse(openai.parse_detokenize)
    return _warn(openai.render_detokenize(await tokens.decode(visit.host.service, request, visit.call)), request)


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
    dialect = await visit.parse(partial(choose_rerank_dialect, path=visit.exchange.path))
    visit.render_error = dialect.render_error
    raise _refuse("rerank")


def refuse(what: str) -> Operation:
    async def refuse_it(visit: Visit) -> Answer:
        await visit.parse(lambda fields: None)
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
    fields = await visit.parse(lambda fields: fields, empty=b"{}")
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
    return _post(partial(embed, choose=lambda fields: dialect))


def _endpoints() -> list[Endpoint]:
    """All endpoints, the most used first."""
    choose_dialect = _post(partial(embed, choose=choose_embeddings_dialect))
    tei_endpoint = partial(Endpoint, render_error=render_tei_error)
    probe = partial(
        Endpoint, render_error=render_tei_error, is_probe=True, guarded_methods=NO_METHODS, model_methods=NO_METHODS
    )
    return [
        *(Endpoint(path, choose_dialect) for path in ("/v1/embeddings", "/embeddings")),
        tei_endpoint("/embed", _post(embed_root)),
        probe("/ready", _get(show_ready)),
        probe("/health", _get(show_health)),
        Endpoint("/openai/deployments/{name:path}/embeddings", choose_dialect),
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
        *(tei_endpoint(f"/{name}", _post(refuse(name))) for name in ("predict", "embed_sparse")),
        Endpoint("/classify", _post(refuse("classify"))),
        *(probe(path, _get(show_health)) for path in ("/healthz", "/ping")),
        *(probe(path, _get(show_ready)) for path in ("/readyz", "/v1/health/ready")),
        *(probe(path, _get(show_liveness)) for path in ("/livez", "/v1/health/live")),
        probe("/startup", _get(show_startup)),
        probe("/metrics", _get(show_metrics)),
        Endpoint("/admin/reload", _post(reload_models), guarded_methods=NO_METHODS, model_methods=NO_METHODS),
    ]


ENDPOINTS = _endpoints()

"""openai for Python: sync and async, every format, dimensions, large requests, errors."""

import asyncio
import base64
from typing import Any

import numpy as np
import pytest
from client_texts import TEXTS
from live_server import Server

pytest.importorskip("openai", reason="openai is not here: `make clients` runs this")

import openai
from openai import AsyncOpenAI, AzureOpenAI, OpenAI

pytestmark = [pytest.mark.slow, pytest.mark.clients]

FORMATS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "float": {"encoding_format": "float"},
    "base64": {"encoding_format": "base64"},
}


def make_client(url: str, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def vectors_of(answer: Any) -> list[Any]:
    """In the order of `data`; base64 that was requested is not decoded by the client."""
    assert [item.index for item in answer.data] == [*range(len(answer.data))]
    return [
        np.frombuffer(base64.b64decode(item.embedding), "<f4") if isinstance(item.embedding, str) else item.embedding
        for item in answer.data
    ]


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_sync(server: Server, options: dict[str, Any]) -> None:
    answer = make_client(server.url).embeddings.create(input=TEXTS, model=server.name, **options)
    server.assert_plain(vectors_of(answer), TEXTS)
    assert (answer.object, answer.model) == ("list", server.name)
    counts = [len(ids) for ids in server.encoder.tokenize(TEXTS, prompt="").ids]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (sum(counts), sum(counts))


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_async(server: Server, options: dict[str, Any]) -> None:
    async def embed() -> list[Any]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            calls = [client.embeddings.create(input=text, model=server.name, **options) for text in TEXTS]
            return await asyncio.gather(*calls)

    server.assert_plain([vectors_of(answer)[0] for answer in asyncio.run(embed())], TEXTS)


def test_the_formats_are_equal_bit_for_bit(server: Server) -> None:
    client = make_client(server.url)
    answers = [client.embeddings.create(input=TEXTS, model=server.name, **options) for options in FORMATS.values()]
    first, *others = [np.asarray(vectors_of(answer), np.float32) for answer in answers]
    assert first.shape == (len(TEXTS), server.encoder.dim)
    assert all(np.array_equal(first, other) for other in others)


def test_a_prompt_is_chosen_in_four_ways(e5: Server) -> None:
    client, query = make_client(e5.url), "which animal purrs?"
    for options in (
        {"model": "e5:query"},
        {"model": "e5", "extra_body": {"input_type": "query"}},
        {"model": "e5", "extra_body": {"prompt_name": "query"}},
        {"model": "e5", "extra_body": {"prompt": "query: "}},
    ):
        e5.assert_queries(vectors_of(client.embeddings.create(input=query, **options)), [query])
    e5.assert_documents(vectors_of(client.embeddings.create(input=query, model="e5:document")), [query])
    e5.assert_plain(vectors_of(client.embeddings.create(input=query, model="e5")), [query])


def test_an_alias_without_prompts_adds_nothing(minilm: Server) -> None:
    answer = make_client(minilm.url).embeddings.create(input=TEXTS, model="minilm:query")
    minilm.assert_plain(vectors_of(answer), TEXTS)


def test_usage_counts_the_prompt(e5: Server) -> None:
    answer = make_client(e5.url).embeddings.create(input=TEXTS, model="e5:query")
    assert answer.usage.prompt_tokens == sum(len(ids) for ids in e5.encoder.tokenize(TEXTS, prompt_name="query").ids)


def test_dimensions_choose_a_head(stella: Server) -> None:
    client = make_client(stella.url)
    for dim in stella.encoder.dims:
        answer = client.embeddings.create(input=TEXTS, model="stella:document", dimensions=dim)
        stella.assert_documents(vectors_of(answer), TEXTS, dim=dim)
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(input="a", model="stella", dimensions=7)
    message = str(caught.value)
    assert all(str(dim) in message for dim in (7, *stella.encoder.dims)) and caught.value.code == "invalid_dimensions"


def test_2048_inputs_come_back_in_order(minilm: Server) -> None:
    texts = [f"text number {number} of many" for number in range(2048)]
    minilm.assert_plain(vectors_of(make_client(minilm.url).embeddings.create(input=texts, model="minilm")), texts)


def test_too_many_inputs(minilm: Server) -> None:
    with pytest.raises(openai.BadRequestError, match=r"2,?048"):
        make_client(minilm.url).embeddings.create(input=["a"] * 2049, model="minilm")


def test_any_name_is_accepted_with_one_model(minilm: Server) -> None:
    answer = make_client(minilm.url).embeddings.create(input=TEXTS, model="text-embedding-3-small")
    minilm.assert_plain(vectors_of(answer), TEXTS)
    assert answer.model == "minilm"


@pytest.mark.parametrize(
    ("texts", "part"), [([], "input"), ("", "empty"), (["a", "", "b"], "input[1]"), ([[1, 2, 3]], "token")]
)
def test_bad_input(minilm: Server, texts: Any, part: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        make_client(minilm.url).embeddings.create(input=texts, model="minilm")
    assert part in caught.value.message and caught.value.type == "invalid_request_error"
    make_client(minilm.url).embeddings.create(input="a", model="minilm")


def test_an_unknown_model_of_two(two_models: str, load: Any) -> None:
    client = make_client(two_models, "a-key-that-is-secret")
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(input="a", model="gpt-7")
    assert caught.value.code == "model_not_found"
    assert all(name in caught.value.message for name in ("gpt-7", "minilm", "paraphrase"))
    for name in ("minilm", "paraphrase"):
        answer = client.embeddings.create(input=TEXTS, model=name)
        Server(two_models, name, load(name)).assert_plain(vectors_of(answer), TEXTS)


@pytest.mark.parametrize("key", ["wrong", "A-KEY-THAT-IS-SECRET", "schlüssel"])
def test_a_bad_key(two_models: str, key: str) -> None:
    with pytest.raises((openai.AuthenticationError, UnicodeEncodeError)) as caught:
        make_client(two_models, key).embeddings.create(input="a", model="minilm")
    if isinstance(caught.value, openai.AuthenticationError):
        assert caught.value.code == "invalid_api_key" and "a-key-that-is-secret" not in str(caught.value)


def test_models_are_listed(server: Server, two_models: str) -> None:
    assert server.name in [model.id for model in make_client(server.url).models.list()]
    assert make_client(server.url).models.retrieve(server.name).id == server.name
    names = [model.id for model in make_client(two_models, "a-key-that-is-secret").models.list()]
    assert {"minilm", "paraphrase"} <= {*names}
    with pytest.raises(openai.NotFoundError):
        make_client(server.url).models.retrieve("org/no-such-model")


def test_an_answer_has_a_request_id(minilm: Server) -> None:
    answer = make_client(minilm.url).embeddings.create(input="a", model="minilm")
    assert answer._request_id


def test_azure(minilm: Server) -> None:
    client = AzureOpenAI(azure_endpoint=minilm.url, api_version="2024-10-21", api_key="none", max_retries=0)
    minilm.assert_plain(vectors_of(client.embeddings.create(input=TEXTS, model="minilm")), TEXTS)

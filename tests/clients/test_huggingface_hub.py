"""`InferenceClient` of huggingface_hub, with the address of a server in place of a model.

langchain-huggingface, which uses this client, refuses every address since its version 1.2; and it needs huggingface_hub
before version 2, so it cannot be installed here. The guide says what to use instead.
"""

import asyncio

import numpy as np
import pytest
from client_texts import TEXTS
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from live_server import Server

pytestmark = [pytest.mark.slow, pytest.mark.clients, pytest.mark.usefixtures("online")]


@pytest.mark.parametrize("path", ["/embed", "", "/"])
def test_feature_extraction(server: Server, path: str) -> None:
    client = InferenceClient(model=server.url + path)
    vectors = client.feature_extraction(TEXTS)  # pyright: ignore
    assert isinstance(vectors, np.ndarray) and vectors.dtype == np.float32
    server.assert_plain(vectors, TEXTS)
    for text in TEXTS[:3]:
        assert client.feature_extraction(text).shape == (1, server.encoder.dim)
        server.assert_plain(client.feature_extraction(text), [text])


def test_async(server: Server) -> None:
    client = AsyncInferenceClient(model=f"{server.url}/embed")
    server.assert_plain(asyncio.run(client.feature_extraction(TEXTS[0])), TEXTS[:1])


def test_options(e5: Server, minilm: Server, stella: Server) -> None:
    client = InferenceClient(model=f"{e5.url}/embed")
    e5.assert_queries(client.feature_extraction(TEXTS[0], prompt_name="query"), TEXTS[:1])
    long = TEXTS[-1]
    client = InferenceClient(model=f"{minilm.url}/embed")
    right = client.feature_extraction(long, truncate=True, truncation_direction="Right")
    left = client.feature_extraction(long, truncate=True, truncation_direction="Left")
    minilm.assert_plain(right, [long])
    assert not np.allclose(left, right, atol=1e-3)
    dim = stella.encoder.dims[0]
    vectors = InferenceClient(model=f"{stella.url}/embed").feature_extraction(TEXTS[0], dimensions=dim)
    stella.assert_plain(vectors, TEXTS[:1], dim=dim)


def test_errors(minilm: Server) -> None:
    client = InferenceClient(model=f"{minilm.url}/embed")
    for options, status in (
        ({"text": ""}, 400),
        ({"text": "a", "prompt_name": "qurey"}, 422),
        ({"text": TEXTS[-1], "truncate": False}, 422),
        ({"text": "a", "dimensions": 7}, 422),
    ):
        with pytest.raises(HfHubHTTPError) as caught:
            client.feature_extraction(**options)
        assert caught.value.response.status_code == status, options

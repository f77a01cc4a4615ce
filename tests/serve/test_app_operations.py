"""What operators see of the application: keys, logs, states, reloads."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import goldens
import pytest
from starlette.testclient import TestClient

from gnomon import Encoder
from gnomon.errors import InputError, NotAModelError, Notice, NumericError, SourceError
from gnomon.serve.app import App
from gnomon.serve.batcher import Health
from gnomon.serve.key_file import read_key_file
from gnomon.serve.logs import LOGGER, MAX_SENT, log, quote_sent, set_up_logs
from gnomon.serve.models import load_encoder
from gnomon.serve.options import LogFormat, ModelOptions, ServeOptions
from gnomon.serve.service import Service
from gnomon.serve.watch import check_health

goldens.require(whole_module=True)
pytestmark = pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")

E5 = str(goldens.GOLDEN / "multilingual-e5-small")


@contextmanager
def serve(
    *models: ModelOptions, load: Callable[[ModelOptions], Encoder] = load_encoder, **options: Any
) -> Iterator[tuple[TestClient, App]]:
    """A client of a server that is ready."""
    options = {"warm_up": False, **options}
    app = App(ServeOptions(models=models or (ModelOptions(source=E5),), **options), load=load)
    with TestClient(app, raise_server_exceptions=True) as client:
        while app.state == "loading":
            client.get("/livez")  # a request, so that the loop of the application runs
        assert app.state == "ready", app.ended
        yield client, app


def load_quietly(source: str = E5) -> Encoder:
    """A golden model; its folder lacks prompts, of which a warning says whose are used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        return Encoder.load(source, threads=1)


# ---- keys


def test_a_comment_after_a_key_is_not_of_the_key(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# teams\nsecret  # team a\n\tsec#ret\t#team b\n\n  # none\n")
    assert read_key_file(file) == ["secret", "sec#ret"]
    with serve(api_key_file=file) as (client, _):
        codes = [client.get("/info", headers={"api-key": key}).status_code for key in ("secret", "sec#ret", "sec")]
    assert codes == [200, 200, 401]


@pytest.mark.parametrize("line", ["two words", "schl\u00fcssel", "null\0"])
def test_a_line_that_is_not_a_key_is_named_by_its_number(line: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"good\n\n{line}\n", "utf-8")
    with pytest.raises(InputError, match="line 3") as caught:
        read_key_file(file)
    assert line not in str(caught.value)


def test_a_line_of_the_log_names_the_key(tmp_path: Path, read_logs: Callable[[], list[str]]) -> None:
    with serve(api_keys=("secret",)) as (client, _):
        set_up_logs("text", "debug")
        for headers in ({"api-key": "secret"}, {"api-key": "wrong"}):
            client.post("/embed", json={"inputs": "a"}, headers=headers)
        client.get("/ready")
    lines = read_logs()
    name = hashlib.sha256(b"secret").hexdigest()[:8]
    assert [f" key={name} " in f"{line} " for line in lines] == [True, False, False]
    assert "key=" not in "".join(lines[1:])
    assert "secret" not in "".join(lines)


# ---- logs


@pytest.fixture
def read_logs(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[str]]]:
    """What was written to stderr, by lines."""
    yield lambda: capsys.readouterr().err.splitlines()
    LOGGER.handlers[:] = []
    LOGGER.propagate = True
    LOGGER.setLevel(logging.NOTSET)


FORGED = "/%0A12:00:00%20info%20%20%20%20POST%20/v1/embeddings%20status=200"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_client_forges_no_line_and_no_field(form: LogFormat, read_logs: Callable[[], list[str]]) -> None:
    with serve() as (client, _):
        set_up_logs(form, "info")
        client.get(FORGED, headers={"x-request-id": "me status=200 tokens=9"})
        client.request("GE" * 500, f"/\u2028{'a' * 1000}")
    lines = read_logs()
    assert len(lines) == 2
    assert FORGED in lines[0]
    assert "me%20status=200%20tokens=9" in lines[0]
    assert "/%E2%80%A8aaa" in lines[1]
    assert len(lines[1]) < 3 * MAX_SENT
    if form == "text":
        statuses = [[word for word in line.split() if word.startswith("status=")] for line in lines]
        assert statuses == [["status=404"], ["status=404"]]
    else:
        assert [json.loads(line)["status"] for line in lines] == [404, 404]


def test_a_line_of_the_log_is_one_line_whatever_it_holds(read_logs: Callable[[], list[str]]) -> None:
    set_up_logs("text", "info")
    log(logging.INFO, "one\ntwo", reason="three\x1b[2J\u2028four")
    (line,) = read_logs()
    assert line.endswith(r"one\ntwo reason=three\x1b[2J\u2028four")


def test_a_line_of_text_has_date_and_time_and_clear_values(read_logs: Callable[[], list[str]]) -> None:
    set_up_logs("text", "info")
    log(logging.INFO, "one", engine="onnx graph, float32", dimensions=[64, 32], prompts=[], lane=None, word='a"b')
    (line,) = read_logs()
    stamp, rest = line.split(" ", 1)
    assert abs(datetime.fromisoformat(stamp).timestamp() - time.time()) < 3600
    assert datetime.fromisoformat(stamp).tzinfo is not None
    assert rest == r'''info    one engine="onnx graph, float32" dimensions=64,32 prompts="" word="a\"b"'''


def test_lists_are_lists_in_json_and_none_is_left_out(read_logs: Callable[[], list[str]]) -> None:
    set_up_logs("json", "info")
    log(logging.INFO, "one", dimensions=[64, 32], lane=None)
    line = json.loads(read_logs()[0])
    assert line["dimensions"] == [64, 32]
    assert "lane" not in line


def test_the_address_of_a_client_ends_its_line(read_logs: Callable[[], list[str]]) -> None:
    set_up_logs("text", "info")
    client = TestClient(App(ServeOptions(models=(ModelOptions(source=E5),))), client=("10.1.2.3", 5000))
    client.get("/none")
    assert read_logs()[0].endswith(" client=10.1.2.3")


def test_a_reload_says_what_it_did(tmp_path: Path, read_logs: Callable[[], list[str]]) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n")
    folder = tmp_path / "model"
    shutil.copytree(E5, folder)
    models = (ModelOptions(source=E5, names=("a",)), ModelOptions(source=str(folder), names=("b",)))
    with serve(*models, api_key_file=file) as (client, app):
        set_up_logs("json", "info")
        file.write_text("one\ntwo\n")
        client.portal.call(partial(app.reload, changed_only=True))
        (folder / "README.md").write_text("changed")
        client.portal.call(partial(app.reload, changed_only=True))
    lines = [json.loads(line) for line in read_logs()]
    found = [(line["keys"], line["loaded"], line["unchanged"]) for line in lines if line["message"] == "reloaded"]
    assert found == [(2, [], ["a", "b"]), (2, ["b"], ["a"])]


def test_what_a_client_sent_is_quoted_only_where_it_must_be() -> None:
    assert quote_sent("/v1/embeddings") == "/v1/embeddings"
    assert quote_sent("/caf\u00e9") == "/caf\u00e9"
    assert quote_sent("100%\ud800") == "100%25%ED%A0%80"
    assert quote_sent("x" * MAX_SENT) == "x" * MAX_SENT
    assert quote_sent(" " * MAX_SENT) == ("%20" * MAX_SENT)[: MAX_SENT - 3] + "..."


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_fault_of_ours_shows_its_frames_and_no_text(
    form: LogFormat, read_logs: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "a text that nobody may read"

    async def fail(*_: Any, **__: Any) -> None:
        try:
            raise ValueError(secret)
        except ValueError as error:
            raise KeyError(secret) from error

    with serve() as (client, _):
        monkeypatch.setattr(Service, "embed", fail)
        set_up_logs(form, "debug")
        answer = client.post("/v1/embeddings", json={"input": secret})
    assert answer.status_code == 500
    lines = read_logs()
    (frames,) = [line for line in lines if "frames" in line]
    assert [
        part for part in ("KeyError", "ValueError", Path(__file__).name, "fail", "operations.py") if part not in frames
    ] == []
    assert not any(secret in line for line in lines)


# ---- several models


def test_a_failed_engine_of_one_model_leaves_lists_and_the_other_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(ModelOptions(source=E5, names=("a",)), ModelOptions(source=E5, names=("b",))) as (client, app):
        first, second = app.service.models
        monkeypatch.setattr(first.batcher, "check_health", lambda: Health("failed", "device lost"))
        monkeypatch.setattr(first.batcher, "_state", "failed")
        for path in ("/v1/models", "/info"):
            assert client.get(path).status_code == 200
        assert client.post("/v1/embeddings", json={"model": "b", "input": "x"}).status_code == 200
        for path in ("/ready", "/health"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["status"]) == (503, "failed")
        assert client.get("/livez").status_code == 200
        monkeypatch.setattr(second.batcher, "check_health", lambda: Health("stuck", "for 9 seconds"))
        assert check_health(app.service.models) == Health("stuck", "for 9 seconds")
        assert client.get("/livez").status_code == 503


# ---- reload


@pytest.mark.parametrize(
    ("body", "error", "status"),
    [
        ({"model": "e5", "revision": "nope"}, SourceError("no revision 'nope'"), 400),
        ({"revision": "nope"}, NotAModelError("no config.json"), 400),
        ({"revision": "nope"}, InputError("dim 7"), 400),
        ({"revision": "main"}, NumericError("the self-test failed"), 500),
        ({"model": "e5"}, SourceError("the hub cannot be reached"), 500),
        ({}, InputError("ranges"), 500),
    ],
)
def test_a_revision_that_is_not_there_is_the_clients_mistake(
    body: dict[str, str], error: Exception, status: int
) -> None:
    loads = iter([load_quietly])

    def load(options: ModelOptions) -> Encoder:
        for first in loads:
            return first()
        raise error

    with serve(ModelOptions(source=E5, names=("e5",)), load=load, admin_key="k") as (client, _):
        answer = client.post("/admin/reload", json=body, headers={"authorization": "Bearer k"})
        assert answer.status_code == status
        assert str(error) in answer.json()["error"]["message"]
        assert client.post("/embed", json={"inputs": "a"}).status_code == 200


# ---- the default prompt


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with a default prompt of its own, "query"."""
    folder = tmp_path_factory.mktemp("models") / "prompted"
    shutil.copytree(E5, folder)
    config = {"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("options", "name", "text"),
    [
        ({}, "query", "query: "),
        ({"default_prompt_name": "document"}, "document", "passage: "),
        ({"default_prompt": "x"}, None, "x"),
        ({"default_prompt": ""}, None, ""),
    ],
)
def test_the_default_prompt_that_is_named_is_the_one_that_is_used(
    options: dict[str, Any], name: str | None, text: str, prompted: str
) -> None:
    with serve(ModelOptions(source=prompted, **options)) as (client, _):
        assert client.get("/info").json()["default_prompt_name"] == name
        assert client.get("/v1/models").json()["data"][0]["default_prompt_name"] == name
        answers = [
            client.post("/embed", json=body).json() for body in ({"inputs": "a"}, {"inputs": "a", "prompt": text})
        ]
    assert answers[0] == answers[1]


def test_a_model_that_is_loaded_while_the_server_stops_is_closed() -> None:
    """Its thread goes on when the task that waits for it is cancelled."""
    gate, began, loaded = threading.Event(), threading.Event(), list[Encoder]()

    def load(options: ModelOptions) -> Encoder:
        began.set()
        assert gate.wait(30)
        loaded.append(load_quietly(options.source))
        return loaded[0]

    before = set(threading.enumerate())
    app = App(ServeOptions(models=(ModelOptions(source=E5),), warm_up=False), load=load)
    close = app.loader.close

    async def close_and_go_on() -> None:
        await close()
        gate.set()

    app.loader.close = close_and_go_on
    with TestClient(app):
        assert began.wait(30)
    until = time.monotonic() + 30
    while any("engine" in thread.name for thread in set(threading.enumerate()) - before):
        assert time.monotonic() < until
        threading.Event().wait(0.002)
    assert loaded[0].engine.closed

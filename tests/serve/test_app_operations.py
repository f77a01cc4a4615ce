"""What operators see of the application: keys, logs, states, reloads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import goldens
import pytest
from starlette.testclient import TestClient

from gnomon import Encoder
from gnomon.errors import InputError, Notice
from gnomon.serve.app import App
from gnomon.serve.key_file import read_key_file
from gnomon.serve.models import load_encoder
from gnomon.serve.options import ModelOptions, ServeOptions

goldens.require(whole_module=True)
pytestmark = pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")

E5 = str(goldens.GOLDEN / "multilingual-e5-small")


@contextmanager
def serve(
    *models: ModelOptions, load: Callable[[ModelOptions], Encoder] = load_encoder, **options: Any
) -> Iterator[tuple[TestClient, App]]:
    """A client of a server that is ready."""
    app = App(ServeOptions(models=models or (ModelOptions(source=E5),), **{"warm_up": False, **options}), load=load)
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

"""`gnomon serve`: its command line and environment, and those of infinity and TEI, become `ServeOptions`."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gnomon.checkpoint import hub
from gnomon.cli import encode, main, serve
from gnomon.cli.serve_options import checks
from gnomon.cli.serve_options.infinity import INFINITY
from gnomon.cli.serve_options.own import OWN
from gnomon.cli.serve_options.parameters import PARAMETERS
from gnomon.cli.serve_options.rows import Row
from gnomon.cli.serve_options.tei import TEI
from gnomon.engines.select import EngineOptions
from gnomon.errors import ExtraError
from gnomon.serve.options import ModelOptions, ServeOptions

STELLA = (
    "v2 --model-id dunzhang/stella_en_400M_v5 --revision refs/pr/24 --dtype bfloat16 --batch-size 16 --device cuda "
    "--engine torch --port 7997 --no-bettertransformer"
).split()
SECRET = "sk-very-secret"


class Server:
    """Runs the command; keeps the options that would be served."""

    def __init__(self) -> None:
        self.served: list[ServeOptions] = []

    def run(self, *args: object, env: dict[str, str] | None = None) -> Result:
        return CliRunner(env={"COLUMNS": "80"} | (env or {})).invoke(main, ["serve", *map(str, args)])

    def options(self, *args: object, env: dict[str, str] | None = None) -> ServeOptions:
        result = self.run(*args, env=env)
        assert result.exit_code == 0, result.output
        return self.served[-1]

    def notes(self, *args: object, env: dict[str, str] | None = None) -> list[str]:
        result = self.run(*args, env=env)
        assert result.exit_code == 0, result.output
        return [line.removeprefix("note: ") for line in result.stderr.splitlines() if line.startswith("note: ")]

    def refusal(self, *args: object, env: dict[str, str] | None = None) -> str:
        result = self.run(*args, env=env)
        assert result.exit_code == 2, result.output
        assert self.served == []
        (line,) = [line for line in result.stderr.splitlines() if line.lower().startswith("error: ")]
        return line


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """A server that is not run, without variables of this machine, in a folder with some files."""
    server = Server()
    module = ModuleType("gnomon.serve.run")
    module.run_server = lambda options: server.served.append(options) or 0  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "gnomon.serve.run", module)
    monkeypatch.setattr(serve, "require_server", lambda server: None)
    monkeypatch.setattr(hub, "resolve_source", lambda *_, **__: pytest.fail("the model was looked for"))
    for name in [name for name in os.environ if name.startswith(("GNOMON_", "INFINITY_"))]:
        monkeypatch.delenv(name)
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("-----")
    (tmp_path / "keys.txt").write_text(f"# for the team\n{SECRET}\n")
    np.save(tmp_path / "ranges.npy", np.zeros((2, 4), np.float32))
    monkeypatch.chdir(tmp_path)
    return server


@pytest.fixture
def any_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices and engines are not checked."""
    monkeypatch.setattr(EngineOptions, "from_arguments", lambda **_: EngineOptions())


# ---- each row of each table

TLS = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"]
SHARED: dict[str, tuple[str, Any]] = {
    "--revision": ("refs/pr/24", "refs/pr/24"),
    "--device": ("cuda:0,cuda:1", "cuda:0,cuda:1"),
    "--dtype": ("bfloat16", "bfloat16"),
    "--embedding-dtype": ("binary", "binary"),
    "--default-prompt": ("query: ", "query: "),
    "--default-prompt-name": ("s2p", "s2p"),
    "--batch-size": ("16", 16),
    "--host": ("::1", "::1"),
    "--port": ("8000", 8000),
    "--url-prefix": ("/embed", "/embed"),
    "--api-key": (SECRET, (SECRET,)),
    "--cors-allow-origin": ("https://a.b", ("https://a.b",)),
    "--permissive-cors": ("true", ("*",)),
    "--max-batch-tokens": ("16384", 16384),
    "--preload-only": ("true", True),
    "--pooling": ("last-token", "lasttoken"),
    "--log-level": ("Warning", "warning"),
    "--otlp-endpoint": ("http://otel:4317", "http://otel:4317"),
    "--otlp-service-name": ("vectors", "vectors"),
    "--model-id": ("a/b", "a/b"),
    "--served-model-name": ("small,text-embedding-3-small", ("small", "text-embedding-3-small")),
    "--device-id": ("0,1", "cuda:0,cuda:1"),
}
VALUES: dict[str, tuple[str, Any]] = SHARED | {
    "GNOMON_MODEL": ("a/b", "a/b"),
    "--name": ("small,tiny", ("small", "tiny")),
    "--card": ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
    "--ignore-config-key": ("some_key", ("some_key",)),
    "--local-files-only": ("true", True),
    "--engine": ("openvino", "openvino"),
    "--max-seq-length": ("128", 128),
    "--threads": ("3", 3),
    "--dim": ("256", 256),
    "--ranges": ("ranges.npy", Path("ranges.npy")),
    "--truncate": ("mean", "mean"),
    "--empty": ("embed", "embed"),
    "--token-ids": ("cl100k", "cl100k"),
    "--uds": ("s.sock", Path("s.sock")),
    "--server": ("uvicorn", "uvicorn"),
    "--tls-cert": ("cert.pem", Path("cert.pem")),
    "--tls-key": ("key.pem", Path("key.pem")),
    "--tls-client-ca": ("cert.pem", Path("cert.pem")),
    "--api-key-file": ("keys.txt", Path("keys.txt")),
    "--admin-key": (SECRET, SECRET),
    "--max-body": ("64M", 64 << 20),
    "--max-inputs": ("10", 10),
    "--max-queue-tokens": ("5000", 5000),
    "--cache": ("0", 0),
    "--tokenizer-threads": ("2", 2),
    "--request-timeout": ("2.5", 2.5),
    "--drain-delay": ("0", 0.0),
    "--drain-timeout": ("9", 9.0),
    "--warm-up": ("false", False),
    "--playground": ("false", False),
    "--log-format": ("json", "json"),
    "--metrics-port": ("9000", 9000),
    # infinity
    "--model-name-or-path": ("a/b", "a/b"),
    "--model-warmup": ("false", False),
    "--pooling-method": ("cls", "cls"),
    "INFINITY_QUEUE_SIZE": ("99", 99),
    "INFINITY_MAX_CLIENT_BATCH_SIZE": ("98", 98),
    # TEI
    "--tokenization-workers": ("4", 4),
    "--max-concurrent-requests": ("512", 512),
    "--max-batch-requests": ("8", 8),
    "--max-client-batch-size": ("32", 32),
    "--auto-truncate": ("false", "error"),
    "--dense-path": ("2_Dense_256", 256),
    "--hf-token": (SECRET, SECRET),
    "--hf-api-token": (SECRET, SECRET),
    "--hostname": ("::1", "::1"),
    "--huggingface-hub-cache": ("/data", "/data"),
    "--payload-limit": ("2000000", 2_000_000),
    "--json-output": ("true", "json"),
    "--prometheus-port": ("9000", 9000),
    "LOG_LEVEL": ("info,hyper=warn", "info"),
    "AIP_HTTP_PORT": ("8080", 8080),
}
"""Title of a row -> a text and the value of its field."""
OTHER_FIELDS = {"device_id": "device"}
COMPANIONS = {"--tls-cert": TLS[2:], "--tls-key": TLS[:2], "--tls-client-ca": TLS}
TABLES = {"own": OWN, "infinity": INFINITY, "tei": TEI}
ROWS = [pytest.param(row, name, id=f"{name}:{row.title}") for name, rows in TABLES.items() for row in rows]


def field_of(options: ServeOptions, row: Row) -> Any:
    field = OTHER_FIELDS.get(row.field, row.field)
    return getattr(options if hasattr(options, field) else options.models[0], field)


def typed(row: Row, flag: str, text: str) -> list[str]:
    if row.form == "switch":
        return [row.flags[0] if text == "true" else row.flags[1]]
    return [flag] if row.form == "flag" else [flag, text]


def base(row: Row) -> list[str]:
    """What a server needs beside this option."""
    return [*([] if row.field == "source" else ["m/n"]), *COMPANIONS.get(row.title, [])]


@pytest.mark.usefixtures("any_engine")
@pytest.mark.parametrize(("row", "table"), [param for param in ROWS if param.values[0].flags])
def test_a_typed_option_acts_or_says_why_not(row: Row, table: str, server: Server) -> None:
    if row.acts:
        text, value = VALUES[row.title]
        long = [flag for flag in row.flags if row.form != "switch"] or row.flags[:1]
        for flag in long:
            assert field_of(server.options(*base(row), *typed(row, flag, text)), row) == value
            assert SECRET not in server.run(*base(row), *typed(row, flag, text)).output
        return
    for flag in row.flags if row.form != "flag" else row.flags[:1]:
        (note,) = server.notes("m/n", *([flag, "x"] if row.form == "value" else [flag]))
        assert note.startswith(f"{flag} has no effect: ")
        assert note.endswith(row.text)
        assert server.served[-1] == ServeOptions(models=(ModelOptions(source="m/n"),))


@pytest.mark.usefixtures("any_engine")
@pytest.mark.parametrize(("row", "table"), [param for param in ROWS if param.values[0].env])
def test_a_variable_acts_or_says_why_not(row: Row, table: str, server: Server) -> None:
    more = ["--tei-env"] if table == "tei" else []
    if row.acts:
        text, value = VALUES[row.title]
        assert field_of(server.options(*base(row), *more, env={str(row.env): text}), row) == value
        if table == "tei":
            assert server.options("m/n", env={str(row.env): text}) == ServeOptions(models=(ModelOptions(source="m/n"),))
        return
    (note,) = server.notes("m/n", *more, env={str(row.env): "true"})
    assert note.startswith(f"{row.env} has no effect: ")


def test_rows_with_a_flag_in_common_mean_the_same() -> None:
    fields: dict[str, set[str]] = {}
    for row in (*OWN, *INFINITY, *TEI):
        for flag in row.flags:
            fields.setdefault(flag, set()).add(f"{row.field} {row.spread} {row.form} {row.read}")
    assert {flag: kinds for flag, kinds in fields.items() if len(kinds) > 1} == {}


def test_every_flag_is_on_the_command_line_and_the_peers_are_hidden() -> None:
    flags = [flag for parameter in PARAMETERS.values() for flag in parameter.flags]
    assert sorted(flags) == sorted({flag for row in (*OWN, *INFINITY, *TEI) for flag in row.flags})
    page = CliRunner(env={"COLUMNS": "100"}).invoke(main, ["serve", "--help"]).stdout
    assert "--max-queue-tokens" in page
    assert not [flag for flag in ("--bettertransformer", "--uds-path", "--served-model-name") if flag in page]


def test_options_that_other_commands_have_say_the_same() -> None:
    others = {option.opts[0]: option.help for option in encode.encode.params if hasattr(option, "help")}  # pyright: ignore[reportAttributeAccessIssue]
    shared = ("--revision", "--card", "--ignore-config-key", "--local-files-only", "--device", "--engine", "--dtype")
    shared += ("--max-seq-length", "--threads")
    ours = {row.title: row.text for row in OWN}
    assert {flag: ours[flag] for flag in shared} == {flag: others[flag] for flag in shared}


@pytest.mark.parametrize(("option", "rows"), [("--help-infinity", INFINITY), ("--help-tei", TEI)])
def test_the_tables_of_the_peers_are_printed(option: str, rows: Sequence[Row], server: Server) -> None:
    result = server.run(option)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    assert [head.split()[0].strip(",") for head in heads] == [row.title for row in rows]
    assert max(len(line) for line in lines if line.startswith(" ")) <= 80
    assert "    No effect: " in result.stdout


# ---- infinity's words, and the host


def test_stellas_line_names_the_missing_gpu_before_any_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a request was made"))
    message = server.refusal(*STELLA)
    assert "'cuda': no CUDA device was found" in message
    assert "--device cpu" in message


def test_stellas_line_without_torch(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from gnomon.engines import select

    monkeypatch.setattr(select, "has_torch", lambda: False)
    monkeypatch.setattr(select, "has_gpu_driver", lambda: False)
    assert "no CUDA device was found" in server.refusal(*STELLA)


@pytest.mark.usefixtures("any_engine")
def test_stellas_line_with_a_gpu(server: Server) -> None:
    (model,) = server.options(*STELLA).models
    assert (model.source, model.revision, model.device) == ("dunzhang/stella_en_400M_v5", "refs/pr/24", "cuda")
    assert (model.dtype, model.engine, model.max_batch_texts) == ("bfloat16", "torch", 16)
    effect, listens = server.notes(*STELLA)
    assert effect.startswith("--no-bettertransformer has no effect")
    assert "0.0.0.0 without an API key" in listens


@pytest.mark.parametrize(
    ("args", "host", "warns"),
    [
        (["m/n"], "127.0.0.1", False),
        (["m/n", "--api-key", SECRET], "0.0.0.0", False),
        (["m/n", "--api-key-file", "keys.txt"], "0.0.0.0", False),
        (["m/n", "--host", "0.0.0.0"], "0.0.0.0", True),
        (["m/n", "--host", "localhost"], "localhost", False),
        (["m/n", "--host", "127.0.0.1", "--api-key", SECRET], "127.0.0.1", False),
        (["m/n", *TLS, "--tls-client-ca", "cert.pem", "--host", "::"], "::", False),
        (["--model-id", "m/n"], "127.0.0.1", False),
        (["v2", "--model-id", "m/n"], "0.0.0.0", True),
        (["v2", "m/n"], "0.0.0.0", True),
        (["v2", "--model-id", "m/n", "--api-key", SECRET], "0.0.0.0", False),
        (["v2", "--model-id", "m/n", "--hostname", "127.0.0.1"], "127.0.0.1", False),
        (["--port", "80", "v2", "--model-id", "m/n", "--uds", "s.sock"], "0.0.0.0", False),
    ],
)
def test_without_a_key_the_host_is_this_machine(args: list[str], host: str, warns: bool, server: Server) -> None:
    notes = server.notes(*args)
    assert server.served[-1].host == host
    assert any("without an API key" in note for note in notes) == warns


def test_v1_is_v2_with_a_line(server: Server) -> None:
    first, _ = server.notes("v1", "--model-name-or-path", "m/n")
    assert "v1" in first
    assert "v2" in first
    assert [model.source for model in server.served[-1].models] == ["m/n"]


def test_code_of_a_checkpoint_is_mentioned_where_it_was_typed_only(server: Server) -> None:
    assert not [note for note in server.notes("v2", "--model-id", "m/n") if "trust" in note]
    assert [note for note in server.notes("v2", "--model-id", "m/n", "--trust-remote-code") if "trust" in note]


def test_a_note_without_effect_is_printed_once(server: Server) -> None:
    (note,) = server.notes("m/n", "--compile", env={"INFINITY_COMPILE": "1"})
    assert note.startswith("--compile ")


# ---- several models


def test_single_values_hold_for_every_model(server: Server) -> None:
    args = ["--batch-size", "4", "--revision", "", "--revision", "r2", "--max-seq-length", "9", "--max-seq-length", "8"]
    one, two = server.options("a/one", "--model-id", "b/two", *args, "--ignore-config-key", "k").models
    assert (one.source, one.max_batch_texts, one.revision, one.max_seq_length) == ("a/one", 4, None, 9)
    assert (two.source, two.max_batch_texts, two.revision, two.max_seq_length) == ("b/two", 4, "r2", 8)
    assert one.ignore_config_keys == two.ignore_config_keys == ("k",)


def test_variables_hold_several_values(server: Server) -> None:
    env = {
        "INFINITY_MODEL_ID": "a/one;b/two;",
        "INFINITY_BATCH_SIZE": "8;4;",
        "INFINITY_REVISION": ";r2",
        "INFINITY_MODEL_WARMUP": "False;0",
        "INFINITY_SERVED_MODEL_NAME": "x,y;z",
        "INFINITY_API_KEY": "with;semicolon",
    }
    options = server.options("v2", env=env)
    one, two = options.models
    assert (one.source, one.max_batch_texts, one.revision, one.names) == ("a/one", 8, None, ("x", "y"))
    assert (two.source, two.max_batch_texts, two.revision, two.names) == ("b/two", 4, "r2", ("z",))
    assert not options.warm_up
    assert options.api_keys == ("with;semicolon",)
    assert server.options("m/n", env={"GNOMON_API_KEY": "a;b"}).api_keys == ("a", "b")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["a", "b", "c", "--batch-size", "1", "--batch-size", "2"], ["--batch-size", "2 values", "3 models"]),
        (["a", "--dim", "1", "--dim", "2"], ["--dim", "2 values", "1 model"]),
        (["a", "b", "--name", "x"], ["--name", "1 value", "2 models", "each"]),
    ],
)
def test_counts_that_differ_are_both_named(args: list[str], parts: list[str], server: Server) -> None:
    message = server.refusal(*args)
    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["a/m", "b/m", "--name", "x", "--name", "y,x"], ["'x'", "a/m", "b/m", "--name"]),
        (["a/m", "./x/a/m"], ["'a/m'", "./x/a/m"]),
        (["a/m", "b/m", "--name", "b/m", "--name", "b/m"], ["'b/m'"]),
    ],
)
def test_two_models_with_one_name_are_refused(args: list[str], parts: list[str], server: Server) -> None:
    message = server.refusal(*args)
    assert [part for part in parts if part not in message] == []


def test_names_may_repeat_for_one_model(server: Server) -> None:
    assert server.options("a/m", "--name", "x,x, y").models[0].names == ("x", "x", "y")


# ---- which value holds


def test_what_is_typed_holds_before_variables_and_ours_before_those_of_the_peers(server: Server) -> None:
    env = {"GNOMON_PORT": "1001", "INFINITY_PORT": "1002", "PORT": "1003", "GNOMON_TEI_ENV": "true"}
    assert server.options("m/n", "--port", "1000", env=env).port == 1000
    assert server.options("m/n", env=env).port == 1001
    assert server.options("m/n", env=env | {"GNOMON_PORT": ""}).port == 1002
    assert server.options("m/n", env=env | {"GNOMON_PORT": "", "INFINITY_PORT": ""}).port == 1003


def test_the_name_of_a_container_is_not_a_host(server: Server) -> None:
    assert server.options("m/n", "--tei-env", env={"HOSTNAME": "pod-7f"}).host == "127.0.0.1"


@pytest.mark.parametrize("name", ["GNOMON_PORT", "INFINITY_PORT", "PORT"])
def test_an_address_of_kubernetes_is_not_a_port(name: str, server: Server) -> None:
    (note,) = server.notes("m/n", "--tei-env", env={name: "tcp://10.0.0.1:7997"})
    assert name in note
    assert server.served[-1].port == 7997


def test_of_an_option_that_is_typed_again_the_last_holds(server: Server) -> None:
    assert server.options("m/n", "--port", "1", "--port", "2").port == 2
    assert server.options("m/n", "--no-warm-up", "--warm-up").warm_up


def test_lists_of_options_add_up(server: Server) -> None:
    args = [
        "--api-key",
        "a",
        "--api-key",
        "b",
        "--api-key",
        "a",
        "--cors-allow-origin",
        "https://x",
        "--permissive-cors",
    ]
    options = server.options("m/n", *args)
    assert options.api_keys == ("a", "b")
    assert options.cors_origins == ("https://x", "*")


@pytest.mark.parametrize(
    ("args", "labels"),
    [
        (["--host", "127.0.0.1", "--hostname", "::1"], ["--host", "--hostname"]),
        (["--port", "1", "-p", "2"], ["--port", "-p"]),
        (["--truncate", "left", "--auto-truncate", "false"], ["--truncate", "--auto-truncate"]),
        (["--dim", "512", "--dense-path", "2_Dense_256"], ["--dim", "--dense-path"]),
        (["--pooling", "cls", "--pooling-method", "mean"], ["--pooling", "--pooling-method"]),
        (["--hf-token", SECRET, "--hf-api-token", "other"], ["--hf-token", "--hf-api-token"]),
    ],
)
def test_options_that_contradict_each_other(args: list[str], labels: list[str], server: Server) -> None:
    message = server.refusal("m/n", *args)
    assert [label for label in labels if f"{label} " not in message] == []
    assert SECRET not in message


def test_options_that_agree_do_not(server: Server) -> None:
    assert server.options("m/n", "--host", "::1", "--hostname", "::1").host == "::1"


# ---- values


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--engine", "ctranslate2"], ["--engine", "ctranslate2", "onnx", "torch", "Leave"]),
        (["--engine", "neuron"], ["--engine", "neuron"]),
        (["--engine", "debugengine"], ["debugengine"]),
        (["--engine", "troch"], ["--engine", "'troch'", "Did you mean 'torch'"]),
        (["--device", "tensorrt"], ["--device", "tensorrt", "--device cuda"]),
        (["--device", "xla"], ["--device", "xla"]),
        (["--device", "gpu"], ["'gpu'", "cuda:N"]),
        (["--dtype", "fp8"], ["--dtype", "fp8", "bfloat16"]),
        (["--dtype", "float64"], ["dtype", "'float64'", "float32"]),
        (["--dtype", "int8", "--engine", "torch"], ["int8", "--engine onnx"]),
        (["--pooling", "splade"], ["--pooling", "splade", "mean"]),
        (["--pooling-method", "max"], ["--pooling-method", "'max'"]),
        (["--embedding-dtype", "int8"], ["int8", "--ranges FILE", "binary"]),
        (["--embedding-dtype", "uint8"], ["uint8", "--ranges FILE"]),
        (["--embedding-dtype", "float64"], ["'float64'", "ubinary"]),
        (["--ranges", "none.npy"], ["--ranges", "none.npy", "not a file"]),
        (["--ranges", "keys.txt"], ["keys.txt", ".npy"]),
        (["--dense-path", "2_Dense"], ["--dense-path", "2_Dense", "--dim N"]),
        (["--dense-path", "heads/2_Dense_256"], ["--dense-path", "--dim N"]),
        (["--device-id", "a"], ["--device-id", "'a'", "0,1"]),
        (["--device-id", "0", "--device", "cpu"], ["--device-id", "cpu", "--device cuda"]),
        (["--device-id", "0", "--device", "cuda:1"], ["--device-id", "cuda:1"]),
        (["--port", "0"], ["--port", "'0'", "65535"]),
        (["--port", "65536"], ["65536", "65535"]),
        (["--port", "http"], ["'http'"]),
        (["--port", "²"], ["--port"]),
        (["--metrics-port", "-1"], ["--metrics-port", "'-1'"]),
        (["--metrics-port", "7997"], ["--metrics-port", "--port", "7997"]),
        (["--prometheus-port", "9000", "-p", "9000"], ["9000"]),
        (["--url-prefix", "embed"], ["--url-prefix", "'embed'", '"/"']),
        (["--url-prefix", "/embed/"], ["--url-prefix", "'/embed/'"]),
        (["--url-prefix", "//a"], ["--url-prefix"]),
        (["--url-prefix", "/a?b"], ["--url-prefix"]),
        (["--otlp-endpoint", "otel:4317"], ["--otlp-endpoint", "'otel:4317'", "http://"]),
        (["--uds", "s.sock", "--host", "::1"], ["--uds", "--host"]),
        (["--uds", "s.sock", "--hostname", "::1"], ["--uds", "--hostname"]),
        (["--uds", "none/s.sock"], ["--uds", "none/s.sock"]),
        (["--host", " "], ["--host", "127.0.0.1"]),
        (["--tls-key", "key.pem"], ["--tls-key", "--tls-cert"]),
        (["--tls-cert", "cert.pem"], ["--tls-cert", "--tls-key"]),
        (["--tls-client-ca", "cert.pem"], ["--tls-client-ca", "--tls-cert"]),
        (["--tls-cert", "none.pem", "--tls-key", "key.pem"], ["--tls-cert", "none.pem"]),
        (["--default-prompt", "q: ", "--default-prompt-name", "q"], ["--default-prompt ", "--default-prompt-name"]),
        (["--api-key-file", "none.txt"], ["--api-key-file", "none.txt"]),
        (["--api-key-file", "empty.txt"], ["--api-key-file", "empty.txt", "no key"]),
        (["--api-key-file", "latin.txt"], ["--api-key-file", "latin.txt", "UTF-8"]),
        (["--api-key-file", "spaces.txt"], ["--api-key-file", "spaces.txt", "line 3"]),
        (["--api-key", ""], ["--api-key", "empty"]),
        (["--api-key", f"{SECRET}\n"], ["--api-key", "header", "line break"]),
        (["--admin-key", f"{SECRET} b"], ["--admin-key", "header"]),
        (["--max-body", "0"], ["--max-body", "'0'"]),
        (["--max-body", "lots"], ["--max-body", "'lots'", "32M"]),
        (["--cache", "-1"], ["--cache", "'-1'"]),
        (["--max-inputs", "0"], ["--max-inputs", "'0'", "1"]),
        (["--batch-size", "1.5"], ["--batch-size", "'1.5'"]),
        (["--threads", "1025"], ["--threads", "'1025'", "1024"]),
        (["--request-timeout", "0"], ["--request-timeout", "'0'"]),
        (["--request-timeout", "nan"], ["--request-timeout", "'nan'"]),
        (["--drain-delay", "-1"], ["--drain-delay", "'-1'"]),
        (["--drain-timeout", "soon"], ["--drain-timeout", "'soon'"]),
        (["--log-level", "loud"], ["--log-level", "'loud'", "trace"]),
        (["--auto-truncate=perhaps"], ["--auto-truncate", "'perhaps'", "true or false"]),
        (["--empty", "keep"], ["--empty", "'keep'", "embed"]),
        (["--server", "hypercorn"], ["--server", "'hypercorn'", "granian"]),
        (["--otlp-endpoint", "http://:1"], ["--otlp-endpoint", "'http://:1'"]),
        (["--otlp-endpoint", "http://otel:99999"], ["--otlp-endpoint", "'http://otel:99999'"]),
        (["--truncate", "middle"], ["--truncate", "'middle'", "mean"]),
        (["--token-ids", "o200k"], ["--token-ids", "'o200k'", "cl100k"]),
    ],
)
def test_a_value_that_cannot_be_is_refused(args: list[str], parts: list[str], server: Server, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# none yet\n\n")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "spaces.txt").write_text(f"# a comment\ngood\n{SECRET} team a\n")
    message = server.refusal("m/n", *args)
    assert [part for part in parts if part not in message] == []
    assert SECRET not in message


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("GNOMON_PORT", "x", ["GNOMON_PORT", "'x'"]),
        ("INFINITY_ENGINE", "ctranslate2;torch", ["INFINITY_ENGINE", "ctranslate2"]),
        ("INFINITY_BATCH_SIZE", "1;2", ["INFINITY_BATCH_SIZE", "2 values", "1 model"]),
        ("INFINITY_MODEL_WARMUP", "true;false", ["INFINITY_MODEL_WARMUP", "one value"]),
        ("INFINITY_COMPILE", "perhaps", ["INFINITY_COMPILE", "true or false"]),
        ("GNOMON_TEI_ENV", "perhaps", ["GNOMON_TEI_ENV", "true or false"]),
    ],
)
def test_a_variable_that_cannot_be_is_named(name: str, text: str, parts: list[str], server: Server) -> None:
    message = server.refusal("m/n", env={name: text})
    assert [part for part in parts if part not in message] == []


@pytest.mark.usefixtures("any_engine")
@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        (["--engine", "optimum"], "engine", "onnx"),
        (["--engine", "Torch"], "engine", "torch"),
        (["--dtype", "auto"], "dtype", "auto"),
        (["--embedding-dtype", "float32"], "vector_type", "float"),
        (["--embedding-dtype", "int8", "--ranges", "ranges.npy"], "vector_type", "int8"),
        (["--pooling-method", "auto"], "pooling", None),
        (["--pooling", "lasttoken"], "pooling", "lasttoken"),
        (["--device", "cuda", "--device-id", "0,1"], "device", "cuda:0,cuda:1"),
        (["--device-id", "3"], "device", "cuda:3"),
        (["--device-id", "", "--device", "cpu"], "device", "cpu"),
        (["--dense-path", "3_Dense_1024/"], "dim", 1024),
        (["--auto-truncate"], "truncate", "right"),
        (["--auto-truncate", "--empty", "embed"], "truncate", "right"),
        (["--auto-truncate", "false"], "truncate", "error"),
        (["--url-prefix", "/"], "url_prefix", ""),
        (["--url-prefix", "/v1/a-b"], "url_prefix", "/v1/a-b"),
        (["--no-permissive-cors"], "cors_origins", ()),
        (["--log-level", "warn"], "log_level", "warning"),
        (["--max-body", "1GiB"], "max_body_bytes", 1 << 30),
        (["--no-playground"], "playground", False),
        (["--no-warm-up"], "warm_up", False),
        (["--no-model-warmup"], "warm_up", False),
        (["--preload-only"], "exit_when_loaded", True),
        ([], "metrics_port", None),
    ],
)
def test_values_of_the_peers_have_our_meaning(args: list[str], field: str, value: Any, server: Server) -> None:
    options = server.options("m/n", *args)
    assert getattr(options if hasattr(options, field) else options.models[0], field) == value


@pytest.mark.usefixtures("any_engine")
def test_another_pooling_gives_a_warning(server: Server) -> None:
    (note,) = server.notes("m/n", "--pooling", "cls")
    assert "--pooling" in note
    assert "fingerprint" in note


@pytest.mark.parametrize("name", ["GNOMON_HOST", "INFINITY_HOST"])
def test_a_host_of_the_environment_beside_a_socket_has_no_effect(name: str, server: Server) -> None:
    (line,) = server.notes("m/n", "--uds", "s.sock", env={name: "0.0.0.0"})
    assert name in line
    assert "no effect" in line
    assert server.served[-1].uds == Path("s.sock")


def test_a_port_beside_a_socket_has_no_effect(server: Server) -> None:
    (note,) = server.notes("m/n", "--uds", "s.sock", "--port", "80")
    assert "--port has no effect" in note


@pytest.mark.parametrize("args", [[], ["v2"], ["", "--tei-env"]])
def test_a_model_is_needed(args: list[str], server: Server) -> None:
    assert "no model" in server.refusal(*args)


def test_the_status_of_the_server_is_that_of_the_command(server: Server) -> None:
    sys.modules["gnomon.serve.run"].run_server = lambda options: 3  # pyright: ignore[reportAttributeAccessIssue]
    assert server.run("m/n").exit_code == 3


def test_an_unknown_option_is_refused(server: Server) -> None:
    assert "--prot" in server.refusal("m/n", "--prot", "1")


def test_a_missing_package_names_the_extra(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else object())
    checks.require_server("granian")
    with pytest.raises(ExtraError, match=r"uvicorn.*serve"):
        checks.require_server("uvicorn")
    monkeypatch.setattr(serve, "require_server", checks.require_server)
    assert "uvicorn" in server.refusal("m/n", "--server", "uvicorn")


# ---- the probe


@pytest.fixture
def listener() -> Generator[Callable[[int], HTTPServer]]:
    """Starts a server that answers /ready with a status."""
    servers: list[HTTPServer] = []

    def start(status: int) -> HTTPServer:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/ready" else 418)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}).start()
        return servers[-1]

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


@pytest.mark.parametrize(("status", "code", "word"), [(200, 0, "ready: "), (503, 1, "not ready: ")])
def test_the_probe_asks_whether_it_is_ready(
    status: int, code: int, word: str, listener: Callable[[int], HTTPServer], server: Server
) -> None:
    port = str(listener(status).server_port)
    forms: list[tuple[list[str], dict[str, str]]] = [
        (["--probe", f"http://127.0.0.1:{port}"], {}),
        (["--probe", f"127.0.0.1:{port}/ready"], {}),
        (["--port", port, "--probe"], {}),
        (["v2", "-p", port, "--probe"], {"http_proxy": "http://127.0.0.1:9"}),
        (["--probe"], {"GNOMON_PORT": port, "GNOMON_HOST": "0.0.0.0"}),
    ]
    for args, env in forms:
        result = server.run(*args, env=env)
        assert result.exit_code == code, result.output
        assert result.stdout.startswith(word)
        assert f"{port}/ready answered {status}" in result.stdout
        assert result.stdout.count("\n") == 1


def test_the_probe_of_a_server_that_is_not_there(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = server.run("--probe", "--port", port)
    assert result.exit_code == 1
    assert str(port) in result.stdout
    result = server.run("--probe", "--uds", "none.sock")
    assert result.exit_code == 1
    assert "none.sock" in result.stdout


def test_the_probe_of_a_socket(server: Server, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(tmp_path / "s.sock"))
        listening.listen()
        listening.settimeout(30)
        lines: list[bytes] = []

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                lines.append(connection.recv(1000).partition(b"\r\n")[0])
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        result = server.run("--probe", "--uds", "s.sock")
        thread.join()
    assert (result.exit_code, lines) == (0, [b"GET /ready HTTP/1.1"])


@pytest.mark.parametrize("answer", [b"\x15\x03\x03\x00\x02\x022", b""])
def test_the_probe_of_a_port_of_tls_asks_for_https(answer: bytes, server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(30)

        def refuse() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=refuse)
        thread.start()
        port = listening.getsockname()[1]
        result = server.run("--probe", "--port", port)
        thread.join()
    assert result.exit_code == 1
    assert f"--probe https://127.0.0.1:{port}/ready" in result.stdout


def test_the_probe_of_another_path_says_nothing_of_ready(listener: Callable[[int], HTTPServer], server: Server) -> None:
    port = listener(200).server_port
    result = server.run("--probe", f"http://127.0.0.1:{port}/health")
    assert result.exit_code == 1
    assert result.stdout == f"http://127.0.0.1:{port}/health answered 418\n"


# ---- variables that nothing reads


@pytest.mark.parametrize(
    ("args", "name", "meant"),
    [
        ([], "GNOMON_API_KEY_FLE", "GNOMON_API_KEY_FILE"),
        (["v2"], "INFINITY_MODEL_IDD", "INFINITY_MODEL_ID"),
        ([], "GNOMON_XQJZ", ""),
    ],
)
def test_a_variable_that_nothing_reads_is_named(args: list[str], name: str, meant: str, server: Server) -> None:
    (line,) = server.notes(*args, "--host", "::1", "m/n", env={name: "x"})
    assert name in line
    assert ("Did you mean" in line) == bool(meant)
    assert meant in line


@pytest.mark.parametrize(
    ("args", "env"),
    [
        ([], {"INFINITY_MODEL_IDD": "x"}),
        (["v2", "--host", "::1"], {"INFINITY_XQJZ": "x"}),
        ([], {"GNOMON_CACHE_DIR": "x", "GNOMON_CACHE_SIZE": "1G", "GNOMON_TEI_ENV": "false"}),
        ([], {"GNOMON_SERVICE_HOST": "10.0.0.1", "GNOMON_PORT_80_TCP_ADDR": "10.0.0.1", "GNOMON_B_PORT": "tcp://1:2"}),
    ],
)
def test_other_variables_give_no_note(args: list[str], env: dict[str, str], server: Server) -> None:
    assert server.notes(*args, "m/n", env=env) == []


# ---- errors that end the start


@pytest.mark.parametrize("env", [{}, {"GNOMON_LOG_FORMAT": "json"}])
def test_an_error_of_the_start_is_a_record_where_the_log_is_json(env: dict[str, str], server: Server) -> None:
    args = ["m/n", "--tls-key", "key.pem"]
    result = server.run(*args, *([] if env else ["--log-format", "json"]), env=env)
    assert result.exit_code == 2
    record = json.loads(result.stderr)
    assert (record["level"], record["status"]) == ("error", 2)
    assert "--tls-cert" in record["message"]


def test_the_word_v2_comes_first(server: Server) -> None:
    assert "gnomon serve v2 MODEL" in server.refusal("m/n", "v2")


@pytest.mark.parametrize("url", ["http://", "ftp://a", "http://a:b"])
def test_a_probe_of_nothing(url: str, server: Server) -> None:
    assert "--probe" in server.refusal("--probe", url)

"""The command line, as a user meets it: what is printed where, the exit status, what lies in the folder afterwards."""

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from gnomon import Encoder, cli, describe, quantize, vector_drafts
from gnomon.cli import main
from gnomon.encode_options import EncodeOptions
from gnomon.install import advise_install
from gnomon.pipeline import EncodePipeline
from gnomon.terminal import display_width, format_matrix
from gnomon.tokenizer import Tokenizer

TEXTS = ["a quick brown fox", "lazy dogs sleep", "a quick brown fox", "", "fünf Füchse und ein 日本語 text"]
LONG = "word " * 200

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    def invoke(*args: object, stdin: str | bytes | None = None) -> Result:
        return CliRunner(env={"COLUMNS": "80"}).invoke(main, [str(arg) for arg in args], input=stdin)

    return invoke


@pytest.fixture
def gist(golden_folder: Callable[[str], Path]) -> Path:
    return golden_folder("GIST-Embedding-v0")


@pytest.fixture
def stella(golden_folder: Callable[[str], Path]) -> Path:
    return golden_folder("stella_en_400M_v5")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("\n".join(TEXTS), "utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [{"_id": f"d{at}", "title": f"Title {at}" if at else "", "text": text} for at, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def manifest_of(path: Path) -> dict[str, Any]:
    return json.loads(Path(f"{path}.json").read_text("utf-8"))


def fails(result: Result, message: str, code: int = 2) -> None:
    """One line on stderr, nothing on stdout."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def notes_of(result: Result) -> str:
    """What `encode` wrote on stderr, before its last line, which says what was written."""
    *notes, summary = result.stderr.splitlines(keepends=True)
    assert re.fullmatch(r".*: [\d,]+ texts? of \d+ dimensions.*; [\d.,]+ s, [\d,]+ texts per second\n", summary)
    return "".join(notes)


def runs_quietly(result: Result) -> None:
    """Nothing on stdout, and on stderr no note but that the fourth of TEXTS is empty."""
    assert (result.exit_code, result.stdout) == (0, "")
    assert [line for line in notes_of(result).splitlines() if not line.startswith("note: 1 of 5 texts of ")] == []


# ---- encode


def test_encode_writes_the_encoders_vectors_and_a_manifest(run: Run, gist: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    result = run("encode", gist, texts, out)
    runs_quietly(result)
    encoder = Encoder.load(gist)
    np.testing.assert_array_equal(np.load(out), encoder.encode(TEXTS))
    manifest = manifest_of(out)
    assert manifest["space"] == vars(encoder.space())
    assert {key: manifest[key] for key in ("model", "revision", "prompt", "precision", "count", "cut", "skipped")} == {
        "model": "GIST-Embedding-v0",
        "revision": None,
        "prompt": "",
        "precision": "float32",
        "count": 5,
        "cut": 0,
        "skipped": 0,
    }
    assert manifest["gnomon"]
    assert names(tmp_path) == ["in.txt", "out.npy", "out.npy.json"]


def test_encode_keeps_the_rows_in_jsonl_and_parquet(run: Run, gist: Path, corpus: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in corpus.read_text("utf-8").splitlines()]
    vectors = Encoder.load(gist).encode(TEXTS)
    printed = run("encode", gist, corpus, "-")
    assert (printed.exit_code, printed.stderr.count("note: ")) == (0, 1)
    assert run("encode", gist, corpus, tmp_path / "out.jsonl").exit_code == 0
    assert run("encode", gist, corpus, tmp_path / "out.parquet").exit_code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == printed.stdout_bytes
    for found in (
        [json.loads(line) for line in printed.stdout.splitlines()],
        pq.read_table(tmp_path / "out.parquet").to_pylist(),
    ):
        np.testing.assert_array_equal(np.array([row.pop("embedding") for row in found], np.float32), vectors)
        assert found == rows


def test_encode_reads_stdin(run: Run, gist: Path) -> None:
    as_txt = run("encode", gist, "-", "-", stdin="one\ntwo\n")
    as_jsonl = run("encode", gist, "-", "-", "--format", "jsonl", "--field", "t", stdin='{"t": "one"}\n{"t": "two"}\n')
    rows = [[json.loads(line) for line in result.stdout.splitlines()] for result in (as_txt, as_jsonl)]
    assert [row["text"] for row in rows[0]] == [row["t"] for row in rows[1]] == ["one", "two"]
    assert rows[0][1]["embedding"] == rows[1][1]["embedding"]


def test_encode_joins_fields_and_takes_a_delimiter(run: Run, gist: Path, tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    table.write_text("sku;title;body\n1;Red lamp;It is red.\n2;;No title.\n", "utf-8")
    fails(run("encode", gist, table, "-"), f"{table}: the header is 'sku;title;body'")
    fails(run("encode", gist, table, "-"), "Give --delimiter ';' to encode")
    fails(run("encode", gist, table, "-", "--delimiter", "semicolons"), "delimiter is 'semicolons'")
    result = run("encode", gist, table, "-", "--delimiter", ";", "--field", "title", "--field", "body")
    assert result.exit_code == 0, result.stderr
    vectors = [json.loads(line)["embedding"] for line in result.stdout.splitlines()]
    expected = Encoder.load(gist).encode(["Red lamp It is red.", "No title."])
    np.testing.assert_array_equal(np.array(vectors, np.float32), expected)
    hits = run(
        "search", gist, "--corpus", table, "--delimiter", ";", "--field", "body", "--field", "title", "--query", "a"
    )
    assert "It is red. Red lamp" in hits.stdout


@pytest.mark.parametrize(
    ("options", "method", "how", "prompt"),
    [
        (["--query"], "encode_query", {}, "s2p_query"),
        (["--query", "--task", "sts"], "encode_query", {"task": "sts"}, "s2s_query"),
        (["--document", "--dim", "256"], "encode_document", {"dim": 256}, ""),
        (["--prompt-name", "s2s_query"], "encode", {"prompt_name": "s2s_query"}, "s2s_query"),
        (["--query", "--truncate-dim", "40"], "encode_query", {"truncate_dim": 40}, "s2p_query"),
        (["--prompt", "Find: ", "--normalize"], "encode", {"prompt": "Find: ", "normalize_embeddings": True}, "Find: "),
        (["--prompt", "", "--on-truncate", "mean"], "encode", {"prompt": "", "on_truncate": "mean"}, ""),
    ],
)
def test_encode_options_are_those_of_the_encoder(
    run: Run, stella: Path, texts: Path, tmp_path: Path, options: list[str], method: str, how: dict, prompt: str
) -> None:
    texts.write_text("\n".join([*TEXTS, LONG]), "utf-8")
    out = tmp_path / "out.npy"
    assert run("encode", stella, texts, out, *options).exit_code == 0
    encoder = Encoder.load(stella)
    expected = getattr(encoder, method)([*TEXTS, LONG], **{"on_truncate": "silent"} | how)
    np.testing.assert_array_equal(np.load(out), expected)
    manifest = manifest_of(out)
    assert manifest["prompt"] == encoder.prompts.get(prompt, prompt)
    space = {key: value for key, value in how.items() if key not in ("task", "prompt", "prompt_name")}
    assert manifest["space"] == vars(encoder.space(EncodeOptions(**space)))
    assert manifest["space"]["dim"] == expected.shape[1]
    assert manifest["cut"] == (0 if "mean" in options else 1)


@pytest.mark.parametrize(
    ("options", "method", "prompt"),
    [([], "encode", "Note: "), (["--query"], "encode_query", ""), (["--document"], "encode_document", "")],
)
def test_the_default_prompt_is_that_of_encode_alone(
    run: Run,
    golden_copy: Callable[..., Path],
    edit_json: Callable[..., Any],
    texts: Path,
    options: list[str],
    method: str,
    prompt: str,
) -> None:
    model, out = golden_copy("GIST-Embedding-v0"), texts.parent / "out.npy"
    changes = {"prompts": {"note": "Note: "}, "default_prompt_name": "note"}
    edit_json(model / "config_sentence_transformers.json", changes)
    result = run("encode", model, texts, out, *options)
    runs_quietly(result)
    np.testing.assert_array_equal(np.load(out), getattr(Encoder.load(model), method)(TEXTS))
    assert manifest_of(out)["prompt"] == prompt


def test_encode_says_that_a_model_with_prompts_gets_none(run: Run, stella: Path, texts: Path, tmp_path: Path) -> None:
    texts.write_text("\n".join(filter(None, TEXTS)), "utf-8")
    bare = run("encode", stella, texts, tmp_path / "out.npy")
    assert notes_of(bare) == (
        "note: stella_en_400M_v5 has prompts (s2p_query, s2s_query) and none is added; see --query, --document and "
        "--prompt-name.\n"
    )
    assert notes_of(run("encode", stella, texts, tmp_path / "out.npy", "--prompt", "", "--overwrite")) == ""


def test_encode_counts_what_was_cut(run: Run, gist: Path, texts: Path, tmp_path: Path) -> None:
    texts.write_text(f"short\n{LONG}\n{LONG}\n{LONG}x", "utf-8")
    out = tmp_path / "out.npy"
    result = run("encode", gist, texts, out)
    assert ": 4 texts of 64 dimensions, 3 truncated; " in result.stderr
    assert notes_of(result) == (
        "note: 3 of 4 texts are longer than 64 tokens: the rest was truncated. --on-truncate mean reads all.\n"
    )
    assert manifest_of(out)["cut"] == 3
    assert notes_of(run("encode", gist, texts, out, "--on-truncate", "silent", "--overwrite")) == ""
    fails(
        run("encode", gist, texts, tmp_path / "other.npy", "--on-truncate", "error"),
        "let --on-truncate be 'mean', 'warn' or 'silent'.",
    )
    assert not (tmp_path / "other.npy").exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "int8", "uint8", "binary", "ubinary"])
def test_encode_quantises(run: Run, gist: Path, texts: Path, tmp_path: Path, precision: Any) -> None:
    out = tmp_path / "out.npy"
    assert run("encode", gist, texts, out, "--precision", precision).exit_code == 0
    expected = quantize(Encoder.load(gist).encode(TEXTS), precision)
    found = np.load(out)
    np.testing.assert_array_equal(found, expected.values)
    assert found.dtype == expected.values.dtype
    assert manifest_of(out)["precision"] == precision
    if expected.ranges is None:
        assert names(tmp_path) == ["in.txt", "out.npy", "out.npy.json"]
        return
    assert manifest_of(out)["ranges"] == "out.npy.ranges.npy"
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy.ranges.npy"), expected.ranges)
    query = [
        "encode",
        gist,
        "-",
        tmp_path / "q.npy",
        "--precision",
        precision,
        "--ranges",
        tmp_path / "out.npy.ranges.npy",
    ]
    assert run(*query, stdin="lazy dogs sleep\n").exit_code == 0
    # the ends of the ranges are values of these texts: alone in its batch, one may fall a step beside
    assert np.abs(np.load(tmp_path / "q.npy").astype(int) - expected.values[[1]]).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dim", "7"], "dim 7 is not in this model. It has 64."),
        (["--dim", "7"], "(--truncate-dim"),
        (["--engine", "openvino", "--dtype", "int8"], "use --engine onnx, or --dtype float32."),
        (["--engine", "onnx", "--dtype", "float16"], "use --engine torch, or --dtype float32 or --dtype int8."),
        (["--engine", "torch", "--dtype", "int8"], "use --engine onnx, or --dtype float32 or --dtype bfloat16 or"),
        (["--dtype", "int4"], "dtype 'int4' is not one of auto, float32, bfloat16, float16, int8."),
        (["--device", "tpu"], "device 'tpu' is not one of auto, cpu, cuda, cuda:N, mps."),
        (["--device", "cuda:x"], "device 'cuda:x' is not one of"),
        (["--device", "cpu,cuda"], "device 'cpu,cuda' mixes cpu and cuda, whose vectors differ; give one kind."),
        (["--device", "auto,cpu"], "device 'auto,cpu' names no devices; give one, or several such as 'cuda:0,cuda:1'."),
        (["--device", "cuda", "--engine", "onnx"], "which has cpu; use --engine torch."),
        (["--device", "cuda", "--dtype", "int8"], "dtype 'int8' is not in engine 'torch'; use --dtype float32 or"),
        (["--truncate-dim", "65"], "truncate_dim is 65; it must be a whole number from 1 to 64."),
        (["--prompt-name", "query"], "prompt name 'query' is not in this model. It has none."),
        (["--query", "--task", "sts"], "task 'sts'"),
        (["--precision", "int8", "--ranges", "in.txt"], "in.txt is not a .npy file of ranges"),
        (["--engine", "tensorrt"], "engine 'tensorrt' is not one of auto, onnx, openvino, torch."),
        (["--threads", "0"], "threads is 0; it must be a whole number from 1 to 1024."),
        (["--threads", "1025"], "threads is 1025"),
        (["--card", "none-such"], "card 'none-such' is not known"),
    ],
)
def test_a_wrong_option_fails_before_the_work(
    run: Run, gist: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setattr(EncodePipeline, "_tokenize_block", lambda *_: pytest.fail("the work began"))
    monkeypatch.chdir(tmp_path)
    fails(run("encode", gist, texts, "out.npy", *options), message)
    assert names(tmp_path) == ["in.txt"]


@pytest.mark.parametrize("verb", ["encode", "similarity", "search", "verify"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--device", "cuda"],
            "device 'cuda': no CUDA device was found, since torch {torch} sees no GPU. Use --device cpu.",
        ),
        (
            ["--device", "cuda:0,cuda:1"],
            "device 'cuda:0': no CUDA device was found, since torch {torch} sees no GPU. Use",
        ),
        (["--dtype", "bfloat16"], "in this machine's cpu, which has no arithmetic for it; use --dtype float32."),
        (["--device", "cpu,cpu", "--dtype", "float16"], "has no arithmetic for it; use --dtype float32."),
    ],
)
def test_a_device_that_is_not_there_fails_in_every_verb(
    run: Run, gist: Path, texts: Path, monkeypatch: pytest.MonkeyPatch, verb: str, options: list[str], message: str
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    for test in ("_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported"):
        monkeypatch.setattr(torch.ops.mkldnn, test, lambda: False, raising=False)
    args = {"encode": [texts, "-"], "similarity": ["a", "b"], "search": ["--corpus", texts, "--query", "a"]}
    fails(run(verb, gist, *args.get(verb, []), *options), message.format(torch=torch.__version__))


def test_a_gpu_that_is_missing_is_told_of_with_those_that_are_there(
    run: Run, gist: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    message = "device 'cuda:3' is not there; there are cuda:0, cuda:1."
    fails(run("encode", gist, texts, "-", "--device", "cuda:3"), message)


@pytest.mark.parametrize("options", [["--engine", "torch"], ["--dtype", "bfloat16"], ["--device", "cuda"]])
def test_torch_that_is_missing_is_one_line(
    run: Run, gist: Path, texts: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    from gnomon.engines import select

    monkeypatch.setattr(select, "has_torch", lambda: False)
    monkeypatch.setattr(select, "has_gpu_driver", lambda: True)
    fails(run("encode", gist, texts, "-", *options), f"the package torch is not installed. {advise_install('torch')}")


def test_without_torch_and_without_a_gpu_torch_is_not_what_is_missing(
    run: Run, gist: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gnomon.engines import select

    monkeypatch.setattr(select, "has_torch", lambda: False)
    monkeypatch.setattr(select, "has_gpu_driver", lambda: False)
    fails(run("encode", gist, texts, "-", "--device", "cuda:1"), "device 'cuda:1': no CUDA device was found, since")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--engine", "torch"],
        ["--engine", "torch", "--device", "cpu", "--dtype", "float32", "--threads", "1"],
        ["--device", "cpu,cpu"],
        ["--device", "cpu", "--engine", "onnx", "--threads", "2"],
    ],
)
def test_encode_runs_where_it_is_told(
    run: Run, gist: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """The same vectors, from the engine that was asked for."""
    if "torch" in options:
        pytest.importorskip("torch")
    made: list[str] = []
    load = cli.encode.load_encoder

    def spied(model: str, how: Any) -> Encoder:
        encoder = load(model, how)
        made.append(encoder.engine.name)
        return encoder

    monkeypatch.setattr(cli.encode, "load_encoder", spied)
    result = run("encode", gist, texts, tmp_path / "out.npy", *options)
    runs_quietly(result)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), Encoder.load(gist).encode(TEXTS), atol=1e-6)
    onnx = "onnx graph, onnxruntime, float32"
    engine = "torch, cpu, float32, grouped attention" if "torch" in options else onnx
    assert made == [f"2 workers: {onnx}, {onnx}" if "cpu,cpu" in options else engine]


@pytest.mark.slow
def test_workers_that_cannot_open_are_one_line(
    run: Run, gist: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "onnxruntime.py").write_text("raise ImportError('left out')")
    Encoder.load(gist)  # imports the package here, before it is broken for workers
    monkeypatch.syspath_prepend(modules)
    fails(run("encode", gist, texts, "-", "--device", "cpu,cpu"), "on cpu: the package onnxruntime is not installed")


def test_a_batch_that_fails_is_told_in_the_words_of_the_command_line(
    run: Run, gist: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gnomon.engines.onnx.engine import OnnxEngine
    from gnomon.engines.protocol import Failure

    failed = Failure("on cuda:1: it burnt")
    monkeypatch.setattr(OnnxEngine, "pool_batches", lambda self, batches: (failed for _ in batches))
    result = run("encode", gist, texts, "-")
    fails(result, "on cuda:1: it burnt")
    assert "ectors=" not in result.stderr


def test_help_names_every_choice(run: Run) -> None:
    shown = run("encode", "--help").stdout
    for choice in ("onnx", "openvino", "torch", "float32", "bfloat16", "float16", "int8", "cpu", "cuda", "mps"):
        assert choice in shown


@pytest.mark.parametrize(
    "options",
    [
        ["--task", "sts"],
        ["--prompt", "a", "--prompt-name", "b"],
        ["--query", "--task", "sts", "--prompt", "a"],
        ["--precision", "float16", "--ranges", "x.npy"],
        ["--precision", "int4"],
        ["--threads", "two"],
        ["--no-such-option"],
    ],
)
def test_a_usage_error_is_clicks(run: Run, options: list[str]) -> None:
    result = run("encode", "model", "in.txt", "out.npy", *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: main encode [OPTIONS] MODEL INPUT OUTPUT\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no texts"),
        (b"a\nb\xff\n", "in.txt, line 2: not UTF-8 (byte 0xff)"),
        (None, "in.txt: No such file or directory"),
    ],
)
def test_an_input_that_cannot_be_read_is_one_line(
    run: Run, gist: Path, texts: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    texts.unlink() if content is None else texts.write_bytes(content)
    fails(run("encode", gist, texts, tmp_path / "out.npy"), message)


def test_skip_bad_reports_the_lines_and_counts_them(run: Run, gist: Path, texts: Path, tmp_path: Path) -> None:
    texts.write_bytes(b"a\n\xff\nb\n")
    result = run("encode", gist, texts, tmp_path / "out.npy", "--skip-bad")
    assert notes_of(result) == f"note: {texts}: 1 line left out, 2 texts kept (line 2: not UTF-8 (byte 0xff)).\n"
    assert ": 2 texts of 64 dimensions, 1 line left out; " in result.stderr
    assert manifest_of(tmp_path / "out.npy")["skipped"] == 1
    assert len(np.load(tmp_path / "out.npy")) == 2


@pytest.mark.parametrize(
    ("model", "message"),
    [("./none-such", "does not exist"), ("some-org/none-such", "is not in the cache"), (".", "is not a model")],
)
def test_a_model_that_is_not_there_is_one_line(
    run: Run, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    fails(run("encode", model, texts, "out.npy", "--local-files-only"), message)


def test_an_output_is_replaced_only_by_a_whole_one(
    run: Run, gist: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.npy"
    assert run("encode", gist, texts, out).exit_code == 0
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}

    def broken(draft: vector_drafts.NpyDraft, error: BaseException) -> None:
        draft.file.write(b"half a group")
        draft.file.flush()
        raise error

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(vector_drafts.NpyDraft, "append", lambda draft, *_: broken(draft, full))
    fails(run("encode", gist, texts, out, "--overwrite"), f"{out} was not written: the disk is full ({tmp_path}).")
    monkeypatch.setattr(vector_drafts.NpyDraft, "append", lambda draft, *_: broken(draft, KeyboardInterrupt()))
    stopped = run("encode", gist, texts, out, "--overwrite")
    assert (stopped.exit_code, stopped.stderr.splitlines()[-1]) == (130, "interrupted")
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_a_fault_of_ours_is_one_line_and_traceback_shows_it(
    run: Run, gist: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_drafts, "write_jsonl", lambda *_: {}["missing"])
    message = "KeyError: 'missing' (a fault of gnomon; gnomon --traceback COMMAND shows where)"
    fails(run("encode", gist, texts, "-"), message)
    assert "Traceback" in run("--traceback", "encode", gist, texts, "-").stderr


# ---- processes: signals, pipes and disks

START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from gnomon.cli import main; main()"


def start(*args: object, code: str = START, encoding: str = "utf-8", **how: Any) -> subprocess.Popen[bytes]:
    # buffered, as users have it: what is left in a buffer at the end is where a broken pipe shows
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    env |= {"COLUMNS": "80", "PYTHONIOENCODING": encoding}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stderr=subprocess.PIPE, env=env, **how)


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_says_that_nothing_is_kept(gist: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "in.txt"
    os.mkfifo(fifo)
    process = start("encode", gist, fifo, tmp_path / "out.npy")
    with fifo.open("wb"):  # returns when the other side reads
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.startswith(b"note: nothing of") and stderr.strip().endswith(b"\n\ninterrupted")
    assert names(tmp_path) == ["in.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("library", ["click", "onnxruntime"])  # while the commands are imported, and within one of them
def test_ctrl_c_within_an_import_waits_for_its_end(gist: Path, texts: Path, tmp_path: Path, library: str) -> None:
    fake = tmp_path / "fake" / f"{library}.py"
    fake.parent.mkdir()
    fake.write_text(
        "import os, pathlib, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
        f"pathlib.Path({str(tmp_path / 'whole')!r}).touch()\n"
    )
    code = f"import sys; sys.path.insert(0, {str(fake.parent)!r}); from gnomon.__main__ import main; main()"
    process = start("encode", gist, texts, tmp_path / "out.npy", code=code)
    _, stderr = process.communicate()
    assert (process.returncode, stderr.splitlines()[-1]) == (130, b"interrupted")
    assert names(tmp_path) == ["fake", "in.txt", "whole"]


@pytest.mark.slow
def test_a_broken_pipe_ends_in_silence(gist: Path, texts: Path) -> None:
    texts.write_text("the same text\n" * 300)  # far more than a pipe holds
    process = start("encode", gist, texts, "-", stdout=subprocess.PIPE)
    assert process.stdout
    assert json.loads(process.stdout.readline())["text"] == "the same text"
    process.stdout.close()
    assert process.stderr
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.slow
def test_a_disk_that_takes_no_more_is_told_by_the_system_itself(gist: Path, texts: Path, tmp_path: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900)); from gnomon.cli import main; main()"
    process = start("encode", gist, texts, tmp_path / "out.npy", code=code)
    _, stderr = process.communicate()
    assert process.returncode == 2
    assert f"\nerror: {tmp_path / 'out.npy'} was not written: it grew too large" in stderr.decode()
    assert names(tmp_path) == ["in.txt"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("verb", ["similarity", "encode"])
def test_a_full_stdout_is_an_error(gist: Path, texts: Path, verb: str) -> None:
    texts.write_text("one")  # less than a buffer holds
    with Path("/dev/full").open("wb") as full:
        process = start(verb, gist, *([texts, "-"] if verb == "encode" else ["a", "b"]), stdout=full)
        _, stderr = process.communicate()
    assert process.returncode == 2
    assert b"output was not written: the disk is full" in stderr and len(stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_b8_help_that_cannot_be_written_is_an_error_and_a_full_stderr_stops_nothing(
    gist: Path, texts: Path, tmp_path: Path
) -> None:
    with Path("/dev/full").open("wb") as full:
        for option in ("--help", "--version"):
            process = start(option, stdout=full)
            message = b"error: the output was not written: the disk is full\n"
            assert (process.communicate()[1], process.returncode) == (message, 2)
        code = f"import os; os.dup2({full.fileno()}, 2); {START}"
        for source, status in ((texts, 0), ("missing.txt", 2)):
            process = start("encode", gist, source, tmp_path / "out.npy", code=code, pass_fds=[full.fileno()])
            process.communicate()
            assert process.returncode == status
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), Encoder.load(gist).encode(TEXTS))


@pytest.mark.slow
def test_b7_texts_of_the_command_line_are_utf8_in_any_locale(gist: Path) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = (
        f"import os; os.execve(sys.executable, [sys.executable, '-c', {START!r}, *sys.argv[1:]], os.environ | {locale})"
    )
    process = start(
        "similarity", gist, "東京", "東京", "--prompt", "検索: ", code=f"import sys; {code}", stdout=subprocess.PIPE
    )
    assert process.communicate() == (b"1.0000\n", b"")


CJK = "東京タワー is tall \U0001f5fc\nplain words\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "shown"),
    [
        (["search", "--corpus", "in.txt", "--query", "tower"], b"????? is tall ?"),
        (["similarity", "東京", "plain", "caf\u00e9"], b"caf\xe9"),
        (["similarity", "--a", "in.txt", "--b", "in.txt"], b"????? is tall ?             | ????? is tall ?\n"),
        (
            ["search", "--corpus", "in.txt", "--query", "tower", "--json"],
            rb"\u6771\u4eac\u30bf\u30ef\u30fc is tall \ud83d\uddfc",
        ),
        (["similarity", "東京", "plain", "--json"], rb"\u6771\u4eac"),
        (["inspect", "--json"], rb"\u6771"),
        (["inspect"], b"folder:"),
        (["save", "new 東"], b"new ?"),
    ],
)
def test_b7_a_console_of_few_letters_gets_replacements_and_json_in_ascii(
    gist: Path, tmp_path: Path, verb: list[str], shown: bytes
) -> None:
    (tmp_path / "in.txt").write_text(CJK, "utf-8")
    model = tmp_path / "東"
    model.symlink_to(gist)
    process = start(verb[0], model, *verb[1:], stdout=subprocess.PIPE, cwd=tmp_path, encoding="cp1252")
    stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, b"")
    assert shown in stdout
    assert "--json" not in verb or stdout.isascii()


CLOSED = """
import os, sys
for number in sys.argv.pop(1): os.close(int(number))
os.execv(sys.executable, [sys.executable, "-m", "gnomon", *sys.argv[1:]])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("closed", "args", "message"),
    [
        ("0", ["encode", "MODEL", "-", "out.npy"], "standard input is closed"),
        ("02", ["encode", "MODEL", "-", "out.npy"], ""),
        ("0", ["search", "MODEL", "--corpus", "in.txt"], "standard input is closed"),
        ("1", ["search", "MODEL", "--corpus", "in.txt", "--query", "a"], "standard output is closed"),
        ("1", ["similarity", "MODEL", "a", "b"], "standard output is closed"),
        ("1", ["inspect", "MODEL"], "standard output is closed"),
        ("1", ["encode", "MODEL", "in.txt", "-"], "standard output is closed"),
        ("1", ["encode", "MODEL", "in.txt", "/dev/stdout"], "/dev/stdout is closed"),
    ],
)
def test_b8_a_stream_that_is_closed_is_an_error_before_the_work(
    texts: Path, tmp_path: Path, closed: str, args: list[str], message: str
) -> None:
    process = start(closed, *args, code=CLOSED, stdout=subprocess.PIPE, cwd=tmp_path)  # MODEL is not there: no work
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (2, b"")
    assert stderr.decode().startswith(f"error: {message}" if message else "")
    assert names(tmp_path) == ["in.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
def test_b8_a_stream_that_is_not_needed_may_be_closed(gist: Path, texts: Path, tmp_path: Path, closed: str) -> None:
    process = start(closed, "encode", gist, "in.txt", "out.npy", code=CLOSED, stdout=subprocess.PIPE, cwd=tmp_path)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), Encoder.load(gist).encode(TEXTS))


@pytest.mark.slow
def test_b9_encode_writes_to_a_pipe_and_to_open_files(run: Run, gist: Path, texts: Path, tmp_path: Path) -> None:
    expected = run("encode", gist, texts, "-").stdout_bytes
    process = start("encode", gist, texts, "/dev/stdout", stdout=subprocess.PIPE)
    assert (process.communicate()[0], process.returncode) == (expected, 0)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = start("encode", gist, texts, fifo)
    assert fifo.read_bytes() == expected
    process.communicate()
    assert (process.returncode, names(tmp_path)) == (0, ["fifo", "in.txt"])
    result = run("encode", gist, texts, "-", "--precision", "int8")
    assert "the ranges of int8 are written beside a file" in result.stderr


def test_b5_empty_texts_are_told_of_by_line(run: Run, gist: Path, tmp_path: Path) -> None:
    path = tmp_path / "pdnan.csv"
    path.write_text("text,n\na,1\n,2\n,3\nb,4\n")
    result = run("encode", gist, path, tmp_path / "out.npy")
    assert result.stderr.startswith(
        f"note: 2 of 4 texts of {path} are empty (lines 3, 4). An empty text is encoded as it is"
    )
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), Encoder.load(gist).encode(["a", "", "", "b"]))
    left_out = run("encode", gist, path, tmp_path / "out.npy", "--skip-bad", "--overwrite")
    assert "2 lines left out, 2 texts kept" in left_out.stderr
    assert (manifest_of(tmp_path / "out.npy")["count"], manifest_of(tmp_path / "out.npy")["skipped"]) == (2, 2)
    searched = run("search", gist, "--corpus", path, "--query", "a", "--json")
    assert [hit["row"] for hit in json.loads(searched.stdout)["results"]] == [0, 3]
    assert "are empty (lines 3, 4). An empty text is left out" in searched.stderr


def test_b11_an_empty_query_of_several_on_stdin_has_an_empty_result(run: Run, gist: Path, corpus: Path) -> None:
    search = ["search", gist, "--corpus", corpus, "-k", 1]
    result = run(*search, "--json", stdin=b"\nlazy\n \n")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(each["query"], len(each["results"])) for each in found] == [("", 0), ("lazy", 1), (" ", 0)]
    assert "note: 2 of 3 queries are empty, query 1 the first" in result.stderr
    shown = run(*search, stdin=b"\nlazy\n")
    assert shown.stdout.split("\n")[:4] == ["", "", "", "lazy"]


def test_skip_bad_leaves_bad_queries_out_too(run: Run, gist: Path, corpus: Path) -> None:
    asked = b"lazy\nbad\xff\nfox\n"
    fails_at = run("search", gist, "--corpus", corpus, "--json", stdin=asked)
    assert "standard input, line 2: not UTF-8 (byte 0xff)" in fails_at.stderr.splitlines()[-1]
    result = run("search", gist, "--corpus", corpus, "--json", "--skip-bad", stdin=asked)
    assert [json.loads(line)["query"] for line in result.stdout.splitlines()] == ["lazy", "fox"]
    assert "standard input, line 2: not UTF-8 (byte 0xff). It is left out." in result.stderr


@pytest.mark.parametrize(
    "options", [["--query", "--document"], ["--query", "--prompt", "x"], ["--document", "--prompt-name", "query"]]
)
def test_a_text_has_one_prompt(run: Run, gist: Path, texts: Path, options: list[str]) -> None:
    result = run("encode", gist, texts, "-", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--query, --document, --prompt and --prompt-name exclude each other" in result.stderr


def test_standard_input_is_one_side_of_a_similarity(run: Run, gist: Path) -> None:
    result = run("similarity", gist, "--a", "-", "--b", "-", stdin="a\n")
    assert result.exit_code == 2
    assert "--a - and --b - both take standard input" in result.stderr


def test_b1_counts_and_vectors_are_those_of_the_good_rows(run: Run, gist: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('id,text\n1,a quick brown fox\n2,"an open quote\n3,lazy dogs sleep\n4,a cat\n')
    fails(run("encode", gist, path, tmp_path / "out.npy"), "in.csv, line 3: a quote opens a cell and none closes it")
    result = run("encode", gist, path, tmp_path / "out.npy", "--skip-bad")
    assert "1 line left out, 3 texts kept (line 3: " in result.stderr
    expected = Encoder.load(gist).encode(["a quick brown fox", "lazy dogs sleep", "a cat"])
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


HEAVY = ("numpy", "onnxruntime", "tokenizers", "onnx", "huggingface_hub", "tqdm", "pyarrow")


@pytest.mark.slow
def test_help_and_inspect_import_nothing_that_they_do_not_need(gist: Path) -> None:
    code = f"""
import io, sys
from contextlib import redirect_stdout
from gnomon.cli import main
def run(*args):
    with redirect_stdout(io.StringIO()) as out:
        try: main(args)
        except SystemExit as end: assert end.code == 0
    assert out.getvalue()
run("--help"); run("--version")
for verb in main.commands: run(verb, "--help")
print([name for name in {HEAVY} if name in sys.modules])
run("inspect", sys.argv[1])
print("onnxruntime" in sys.modules)
"""
    process = start(gist, code=code, stdout=subprocess.PIPE)
    stdout, stderr = process.communicate()
    assert (stdout.decode().split("\n"), stderr) == (["[]", "False", ""], b"")


@pytest.mark.slow
def test_search_asks_in_a_terminal(gist: Path, corpus: Path) -> None:
    ours, theirs = pty.openpty()
    code = "import os; os.environ['TERM'] = 'dumb'; from gnomon.cli import main; main()"
    process = start("search", gist, "--corpus", corpus, "-k", 1, code=code, stdin=theirs, stdout=theirs)
    os.close(theirs)

    def until(mark: bytes) -> str:
        seen = b""
        while mark not in seen:
            seen += os.read(ours, 4096)
        return seen.decode()

    until(b"query> ")
    os.write(ours, b"lazy dogs sleep\n")
    shown = until(b"query> ")
    os.write(ours, b"\x04")
    _, stderr = process.communicate()
    os.close(ours)
    assert "             d1: Title 1\r\n" in shown
    assert process.returncode == 0
    assert stderr.decode().endswith("\nnote: type a query; end with Ctrl-D.\n")


@pytest.mark.parametrize("verb", ["encode", "search"])
def test_b12_every_text_is_tokenised_once(
    run: Run, gist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    path = tmp_path / "in.txt"
    path.write_text("one\ntwo\n" + LONG + "\n", "utf-8")
    read: list[str] = []
    whole = Tokenizer._encode_batch

    def count(tokenizer: Tokenizer, given: list[str], *, offsets: bool) -> Any:
        read.extend(given)
        return whole(tokenizer, given, offsets=offsets)

    monkeypatch.setattr(Tokenizer, "_encode_batch", count)
    if verb == "encode":
        result = run("encode", gist, path, tmp_path / "out.npy")
        assert manifest_of(tmp_path / "out.npy")["cut"] == 1
    else:
        result = run("search", gist, "--corpus", path, "--query", "three")
    assert result.exit_code == 0, result.output
    assert "1 of 3 texts is longer than 64 tokens" in result.stderr
    assert [read.count(text) for text in ("one", "two", LONG)] == [1, 1, 1]


# ---- similarity


def test_two_texts_give_a_number(run: Run, gist: Path) -> None:
    encoder = Encoder.load(gist)
    score = float(encoder.similarity(encoder.encode("a fox"), encoder.encode("a dog"))[0, 0])
    assert run("similarity", gist, "a fox", "a dog").stdout == f"{score:.4f}\n"


def test_more_texts_give_a_matrix_of_80_columns(run: Run, gist: Path) -> None:
    texts = [f"text number {index} that is long enough to be cut 日本語" for index in range(12)]
    encoder = Encoder.load(gist)
    vectors = encoder.encode(texts)
    scores = encoder.similarity(vectors, vectors)
    found = run("similarity", gist, *texts).stdout.splitlines()
    assert found == list(format_matrix(texts, scores.tolist(), 80))
    as_json = json.loads(run("similarity", gist, *texts, "--json").stdout)
    assert (as_json["similarity"], as_json["texts"]) == ("cosine", texts)
    np.testing.assert_allclose(as_json["scores"], scores, atol=1e-6)


def test_two_files_give_a_score_a_pair(run: Run, gist: Path, corpus: Path, texts: Path) -> None:
    pairs = ["similarity", gist, "--a", texts, "--b", corpus, "--b-field", "text"]
    found = run(*pairs)
    assert found.stdout.splitlines()[1] == f"   1.0000  {'lazy dogs sleep':33} | lazy dogs sleep"
    lines = run(*pairs, "--json").stdout.splitlines()
    assert [json.loads(line)["a"] for line in lines] == TEXTS
    assert all(json.loads(line)["score"] == pytest.approx(1, abs=1e-5) for line in lines)
    texts.write_text("one\ntwo\n")
    fails(run(*pairs), f"{texts} has 2 texts and {corpus} 5; pairs need as many in both.")


@pytest.mark.parametrize("args", [[], ["one"], ["--a", "x"], ["one", "two", "--a", "x", "--b", "y"]])
def test_similarity_of_too_little_is_a_usage_error(run: Run, args: list[str]) -> None:
    result = run("similarity", "model", *args)
    assert (result.exit_code, result.stdout) == (2, "")


# ---- search


def test_search_shows_rank_score_id_and_text(run: Run, gist: Path, corpus: Path) -> None:
    result = run("search", gist, "--corpus", corpus, "--query", "a quick brown fox", "-k", 3)
    assert result.stderr.startswith(f"note: 1 of 5 texts of {corpus} is empty (line 4). ")
    lines = result.stdout.splitlines()
    assert lines[:7] == [
        "a quick brown fox",
        f"  1   1.000  {corpus}:1",
        "             d0",
        "             a quick brown fox",
        f"  2   1.000  {corpus}:3",
        "             d2: Title 2",
        "             a quick brown fox",
    ]


def test_search_results_are_those_of_the_encoder(run: Run, stella: Path, corpus: Path) -> None:
    encoder = Encoder.load(stella)
    full = [0, 1, 2, 4]
    documents = encoder.encode_document([TEXTS[row] for row in full])
    query = encoder.encode_query("sleeping dogs", task="sts")
    scores = encoder.similarity(query, documents)[0]
    result = run("search", stella, "--corpus", corpus, "--query", "sleeping dogs", "--task", "sts", "-k", 9, "--json")
    found = json.loads(result.stdout)
    assert found["query"] == "sleeping dogs"
    assert [hit["row"] for hit in found["results"]] == [full[at] for at in np.argsort(-scores, kind="stable")]
    np.testing.assert_allclose([hit["score"] for hit in found["results"]], np.sort(scores)[::-1], atol=1e-6)
    assert all(hit["id"] == f"d{hit['row']}" and hit["text"] == TEXTS[hit["row"]] for hit in found["results"])


def test_search_takes_queries_from_stdin(run: Run, gist: Path, corpus: Path) -> None:
    result = run("search", gist, "--corpus", corpus, "--json", stdin=b"lazy dogs sleep\n\na quick brown fox\r\n")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["query"], [hit["id"] for hit in row["results"][:1]]) for row in found] == [
        ("lazy dogs sleep", ["d1"]),
        ("", []),
        ("a quick brown fox", ["d0"]),
    ]
    assert "1 of 3 queries is empty, query 2 the first" in result.stderr


def test_search_of_an_empty_corpus_is_an_error(run: Run, gist: Path, corpus: Path) -> None:
    corpus.write_text("")
    fails(run("search", gist, "--corpus", corpus, "--query", "a"), "corpus.jsonl holds no texts")
    corpus.write_text('{"text": "  "}\n')
    fails(run("search", gist, "--corpus", corpus, "--query", "a"), "corpus.jsonl holds empty texts alone")
    assert run("search", gist, "--corpus", "-").exit_code == 2


def test_search_prints_no_escape_sequences_and_stays_within_80_columns(run: Run, gist: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("\x1b[31mred\x1b[0m \x07bell\n" + "南瓜的家常做法" * 40 + "\n" + "x" * 300 + "\n", "utf-8")
    result = run("search", gist, "--corpus", path, "--query", "q" * 200)
    assert "\x1b" not in result.stdout
    assert "[31mred[0m bell" in result.stdout
    without_paths = [line for line in result.stdout.splitlines() if str(path) not in line]
    assert max(map(display_width, without_paths)) == 80


# ---- inspect, verify, save


def test_inspect_prints_the_facts(run: Run, stella: Path) -> None:
    facts = describe.collect_facts(Encoder.load(stella).checkpoint)
    assert json.loads(run("inspect", stella, "--json").stdout) == facts
    assert run("inspect", stella).stdout.splitlines() == list(describe.format_facts(facts, 80))
    named = json.loads(run("inspect", stella, "--json", "--card", "e5-small").stdout)
    assert (named["card"], named["card_by"]) == ("e5-small", "--card")


def test_inspect_measures_fidelity_when_asked(
    run: Run, gist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gnomon import fidelity

    asked: dict[str, Any] = {}

    def report(checkpoint: Any, **how: Any) -> fidelity.Fidelity:
        asked.update(how, folder=checkpoint.source.folder)
        return fidelity.Fidelity(lowest=0.98765, mean=0.995, texts=64, precision="int8", cached=True)

    monkeypatch.setattr(fidelity, "measure_fidelity", report)
    monkeypatch.setattr("click.get_app_dir", lambda name: str(tmp_path / name))
    shown = run("inspect", gist, "--fidelity", "--threads", 1).stdout
    assert asked == {"threads": 1, "cache_folder": tmp_path / "gnomon" / "fidelity", "folder": gist}
    assert "fidelity:       int8 against float32: cosine 0.99500 on average" in shown
    assert json.loads(run("inspect", gist, "--fidelity", "--json").stdout)["fidelity"]["lowest"] == 0.98765
    assert run("inspect", gist, "--threads", 1).exit_code == 2


def test_verify_ends_with_1_where_the_numbers_differ(run: Run, golden_folder: Callable[[str], Path]) -> None:
    result = run("verify", golden_folder("gte-large-en-v1.5"))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["expected", "got"]
    assert lines[1].split()[:4] == ["query", "1,", "document", "1"]
    assert lines[1].endswith("DIFFERS")
    assert lines[-1] == "gte-large-en-v1.5: NOT passed (published scores)"


def test_verify_ends_with_0_where_they_agree(run: Run, gist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gnomon import verify

    row = verify.Check("query 1", "0.5", "0.5001", passed=True)
    monkeypatch.setattr(verify, "verify", lambda encoder, card: verify.Verification(card or "its own", [row], "why"))
    result = run("verify", gist, "--card", "gte-base-en-v1.5")
    assert (result.exit_code, result.stdout) == (
        0,
        "         expected  got\nquery 1  0.5       0.5001  ok\ngte-base-en-v1.5: passed (why)\n",
    )


def test_save_writes_a_folder_that_opens(run: Run, gist: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert run("save", gist, folder, "--dialect", "6.0").stdout == f"{folder}\n"
    np.testing.assert_array_equal(Encoder.load(folder).encode(TEXTS), Encoder.load(gist).encode(TEXTS))
    fails(run("save", gist, folder), "is not empty; give a new folder, or --overwrite.")
    assert run("save", gist, folder, "--overwrite").exit_code == 0
    fails(run("save", gist, tmp_path / "other", "--dialect", "7"), "dialect '7' is not one of classic, 5.4, 6.0.")


def test_version(run: Run) -> None:
    import gnomon

    assert run("--version").stdout == f"gnomon {gnomon.__version__}\n"


def test_notices_are_wrapped_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from gnomon.errors import Notice

    monkeypatch.setenv("COLUMNS", "30")
    cli._show_warning(Notice("one\ntwo " * 8), Notice, "somewhere.py", 3)
    assert capsys.readouterr().err == "note: " + "one two " * 7 + "one two\n"
    monkeypatch.setattr(cli.sys, "stderr", SimpleNamespace(isatty=lambda: True, write=print, flush=print))
    monkeypatch.setattr(cli.click, "echo", lambda text, err: print(text))
    cli._show_warning(Notice("one\ntwo " * 8), Notice, "somewhere.py", 3)
    cli._show_warning(DeprecationWarning("of no concern"), DeprecationWarning, "somewhere.py", 3)
    assert (
        capsys.readouterr().out
        == "note: one two one two one two\n      one two one two one two\n      one two one two\n"
    )

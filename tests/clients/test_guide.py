"""Every block of docs/guides/clients.md, as it is written, against a server without prompts and one with them."""

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from guide_blocks import fill_block, run_text
from live_server import Server
from pages import DOCS, Block, find_blocks

pytestmark = [pytest.mark.slow, pytest.mark.clients]

PAGE = DOCS / "guides" / "clients.md"
BLOCKS = {block.line: block for block in find_blocks(PAGE)}
NEED_PROMPTS = ("from llama_index.embeddings.text_embeddings_inference", "from huggingface_hub")
"""How blocks begin that name a prompt, or write it: they are for models that have prompts."""


def lines_of(language: str) -> list[int]:
    return [line for line, block in BLOCKS.items() if block.language == language]


def check(server: Server, values: dict[str, Any]) -> None:
    server.assert_documents(values["document_vectors"], values["documents"])
    server.assert_queries([values["query_vector"]], [values["query"]])


@pytest.fixture
def fill(server: Server) -> Any:
    """Fills a block for a server; skips those of other models."""

    def fill_for_server(block: Block) -> str:
        if block.text.startswith(NEED_PROMPTS) and not server.encoder.prompts:
            pytest.skip("this block is for models with prompts")
        return fill_block(block, server.url, server.name)

    return fill_for_server


@pytest.mark.parametrize("line", lines_of("python"))
def test_python(line: int, server: Server, fill: Any, online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_OPENAI_API_KEY", "the block sets it; this undoes it")
    values = run_text(fill(BLOCKS[line]), f"clients.md:{line}")
    check(server, values)
    if "collection" in values:
        assert values["found"]["documents"] == [[values["documents"][0]]]
        values["chromadb"].Client().delete_collection("museum")


@pytest.mark.parametrize("line", lines_of("js"))
def test_javascript(line: int, server: Server, fill: Any, node_folder: Path) -> None:
    block = BLOCKS[line]
    assert block.name is not None
    script = node_folder / block.name
    script.write_text(fill(block), "utf-8")
    done = subprocess.run(["node", str(script)], capture_output=True, text=True, cwd=node_folder)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    documents, query = ["The museum opens at nine.", "Store the cells dry and cool."], "when does the museum open?"
    assert all(text in block.text for text in (*documents, query))
    server.assert_documents(printed["documentVectors"], documents)
    server.assert_queries([printed["queryVector"]], [query])


def test_curl(e5: Server) -> None:
    """All three commands embed one query with its prompt."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not here")
    commands = [
        shlex.split(line)
        for number in lines_of("sh")
        for line in fill_block(BLOCKS[number], e5.url, e5.name).splitlines()
        if line.startswith("curl")
    ]
    for command in commands:
        done = subprocess.run(
            [*command, "--silent", "--show-error", "--fail-with-body"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        answer = json.loads(done.stdout)
        vectors = answer if isinstance(answer, list) else answer.get("embeddings")
        e5.assert_queries(vectors or [item["embedding"] for item in answer["data"]], ["when does it open?"])
    assert len(commands) == 3

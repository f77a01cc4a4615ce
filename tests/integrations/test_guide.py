"""Every block of docs/guides/integrations.md, in the order of the page, with the real model in place of its hub id."""

import subprocess
import sys
from pathlib import Path

import pytest
from pages import DOCS, find_blocks

pytest.importorskip("chromadb", reason="chromadb is not here: `make clients` runs this")
pytest.importorskip("langchain_core", reason="langchain-core is not here: `make clients` runs this")
pytest.importorskip("llama_index.core", reason="llama-index-core is not here: `make clients` runs this")

pytestmark = pytest.mark.slow

RUN_PAGE = Path(__file__).resolve().parents[1] / "helpers" / "run_page.py"
PAGE = DOCS / "guides" / "integrations.md"


def test_each_block_prints_what_it_shows(e5_folder: Path, tmp_path: Path) -> None:
    """Each in a process of its own: the last opens a collection that another process has written."""
    blocks = [block for block in find_blocks(PAGE) if block.language == "python"]
    for block in blocks:
        text = block.text.replace("intfloat/multilingual-e5-small", str(e5_folder))
        code = (
            f"import sys, warnings; warnings.simplefilter('ignore'); sys.path.insert(0, {str(RUN_PAGE.parent)!r})\n"
            f"from run_page import run_python; run_python({text!r}, {block.line}, {{}}, 'integrations.md')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    assert len(blocks) == 4

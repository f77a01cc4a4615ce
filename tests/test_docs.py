"""The documentation: no link is broken, every page is in the site's menu, generated pages are up to date, public names
are on the pages, and what pages say of the source is there.

Code of README.md and of the guides: test_docs_code.py. (docs/reference/losses.md: tests/losses/test_docs.py.)
"""

import importlib
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Option
from pages import DOCS, ROOT, Link, find_headings, find_links, find_sentences, github_anchors, site_anchors

from gnomon.cli import main
from gnomon.cli.serve_options.infinity import INFINITY
from gnomon.cli.serve_options.own import OWN
from gnomon.cli.serve_options.rows import Row
from gnomon.cli.serve_options.tei import TEI
from gnomon.train.recipe.parse import keys_of

PAGES = sorted(DOCS.rglob("*.md"))
PATTERNS = ("*.md", "bench/**/*.md", "examples/*.md", "experiments/**/*.md")
OTHERS = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
MAX_WORDS = 30
"""Of a sentence, on pages for people who see gnomon for the first time."""
ARCHITECTURES = DOCS / "guides" / "architectures.md"


# ---- links


def broken_links(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere, on GitHub or, for a page in docs/, in the site."""
    for link in find_links(page):
        if not link.is_external and (fault := find_fault(page, link)):
            yield f"{page.relative_to(ROOT)}:{link.line}: {link.target}: {fault}"


def find_fault(page: Path, link: Link) -> str | None:
    target, anchor = link.resolve(page)
    if not target.exists():
        return "there is no such file"
    if page.is_relative_to(DOCS) and not target.is_relative_to(DOCS):
        return "the site holds docs/ alone. Name the file as code instead"
    if not anchor:
        return None
    if target.parent.name == "api":
        return None if is_public_name(anchor) else "there is no such object"
    headings = find_headings(target)
    anchors = github_anchors(headings)
    if target.is_relative_to(DOCS):
        anchors &= site_anchors(headings)
    return None if anchor in anchors else f"there is no such heading, on GitHub and in the site: {sorted(anchors)}"


def is_public_name(name: str) -> bool:
    """Whether "gnomon.Encoder.load" is an object of a package or module `gnomon...`."""
    module, *rest = re.split(r"\.(?=[A-Z]|\w+$)", name)
    value: Any = importlib.import_module(module)
    for part in rest:
        value = getattr(value, part, None)
    return value is not None


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_is_broken(page: Path) -> None:
    assert [*broken_links(page)] == []


def test_broken_links_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page, an anchor, an image and a file outside the site; anchors as GitHub and the site make them."""
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(sys.modules[__name__], "DOCS", tmp_path / "docs")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("# Read me\n")
    page = tmp_path / "docs" / "page.md"
    page.write_text(
        "# A page: `code`\n\n## Twice\n\n## Twice\n\n## One - two\n\n"
        "[here](#a-page-code) [page](page.md#twice) [mail](mailto:a@b.c) [code](`page.md`)\n\n"
        "| table |\n|---|\n| [gone](gone.md) |\n\n"
        "![image](gone.png) [anchor](page.md#thrice) [out](../README.md) [dash](#one-two) [second](#twice-1)\n"
    )
    found = [fault.split(": ")[1] for fault in broken_links(page)]
    assert found == ["%60page.md%60", "gone.md", "gone.png", "page.md#thrice", "../README.md", "#one-two", "#twice-1"]


def test_every_page_is_in_the_menu() -> None:
    def pages(entry: Any) -> Iterator[str]:
        values = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
        yield from [entry] if isinstance(entry, str) else [page for value in values for page in pages(value)]

    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    assert sorted(pages(menu)) == [page.relative_to(DOCS).as_posix() for page in PAGES]


# ---- words


PLAIN_PAGES = [
    ROOT / "README.md",
    DOCS / "index.md",
    *(
        DOCS / "guides" / f"{name}.md"
        for name in (
            "clients",
            "engines",
            "evaluation",
            "integrations",
            "search",
            "serving",
            "switching",
            "table",
            "training",
        )
    ),
]
"""Pages for people who see gnomon for the first time."""


@pytest.mark.parametrize("page", PLAIN_PAGES, ids=lambda page: page.name)
def test_sentences_are_short(page: Path) -> None:
    long = [(line, text) for line, text in find_sentences(page) if len(text.split()) > MAX_WORDS]
    assert long == []


def test_long_sentences_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    words = " ".join(["word"] * 28)
    prose = f"# A page\n\nOne two. A [{words}](a.md) `b c`!\nHow 0.4 long?\n\n"
    page.write_text(f"{prose}```\n{words} {words}\n```\n\n| {words} |\n|---|\n", "utf-8")
    counts = [(line, len(text.split())) for line, text in find_sentences(page)]
    assert counts == [(1, 2), (3, 2), (3, 30), (3, 3), (10, 28)]


# ---- pages that are written from the source


@pytest.mark.parametrize("name", ["cli_page", "recipe_page", "serve_page"])
def test_a_generated_page_is_what_its_script_writes(name: str) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / f"{name}.py"))
    written = script["PAGE"].read_text("utf-8")
    assert written == script["render_page"](), f"run python scripts/{name}.py"


def test_every_key_of_a_recipe_is_on_its_page() -> None:
    """With its default and its bounds: some of them, by hand. No key is without a text."""
    rows = re.findall(
        r"^\| \[?`(\w+)`.*?\| (.*) \| (.*) \| (.*) \|$", (DOCS / "reference/recipes.md").read_text(), re.M
    )
    assert sorted(name for name, *_ in rows) == sorted(key.rpartition(".")[2] for key in keys_of())
    assert [name for name, *_, text in rows if not text.strip()] == []
    table = {name: (values, default) for name, values, default, _ in rows}
    assert table["batch_size"] == ("whole number, at least 1", "`32`")
    assert table["warmup_ratio"] == ("number, at least 0 and at most 1", "`0.0`")
    assert table["targets"] == ("list of texts", '`["query", "value"]`')
    assert table["directions"] == ('`"one_way"`, `"symmetric"`, `"gte"`', '`"one_way"`')
    assert table["model"] == ("text", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cli_page", "recipe_page", "serve_page"])
def test_the_scripts_import_no_torch(name: str) -> None:
    code = f"""
import runpy, sys
runpy.run_path("scripts/{name}.py")["render_page"]()
sys.exit("torch" in sys.modules or "onnxruntime" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_command_and_option_is_on_its_page() -> None:
    sections = re.split(r"^## gnomon ", (DOCS / "reference/cli.md").read_text("utf-8"), flags=re.MULTILINE)
    pages = {name: text for name, _, text in (section.partition("\n") for section in sections[1:])}
    assert sorted(pages) == sorted(main.commands)
    for name, command in main.commands.items():
        shown = [param for param in command.params if isinstance(param, Option) and not param.hidden]
        options = [option for param in shown for option in param.opts]
        assert [option for option in options if f"`{option}`" not in pages[name]] == [], name


@pytest.mark.parametrize("table", [OWN, INFINITY, TEI], ids=["own", "infinity", "tei"])
def test_every_option_of_the_server_is_on_its_page(table: tuple[Row, ...]) -> None:
    """Those of the peers with what they do here, too."""
    page = (DOCS / "reference/serve-options.md").read_text("utf-8")
    cells = {tuple(re.findall(r"`([^`]+)`", line.rpartition(" | ")[0])): line for line in page.splitlines()}
    assert len(table) > 30
    for row in table:
        names = tuple(filter(None, (row.env, *row.flags) if table is OWN else (*row.flags, row.env)))
        line = next(line for key, line in cells.items() if key[: len(names)] == names)
        assert ("No effect: " in line) == (not row.acts)


@pytest.mark.parametrize("page", sorted((DOCS / "reference" / "api").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_of_the_api_names_a_module(page: Path) -> None:
    """The site's generator lists what the module's `__all__` names, or its public classes; each has a docstring."""
    modules = re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)
    assert modules
    for package in map(importlib.import_module, modules):
        names = getattr(package, "__all__", [name for name, value in vars(package).items() if isinstance(value, type)])
        assert len(names) > 2
        assert [name for name in names if callable(value := getattr(package, name)) and not value.__doc__] == []


# ---- what pages say of the source


def test_the_page_names_modules_that_exist() -> None:
    source = ROOT / "src" / "gnomon"
    table = ARCHITECTURES.read_text("utf-8").partition("| floor | modules |")[2].partition("\n\n")[0]
    modules = re.findall(r"`(\w+/?)`", table)
    assert len(modules) > 30
    assert [name for name in modules if not (source / name).is_dir() and not (source / f"{name}.py").is_file()] == []


def test_what_contributing_names_is_there() -> None:
    """Each path exists, and each `NAME` in backticks is in one of these files."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    paths = [path for path in re.findall(r"`([\w./]+[/.][\w./]*)`", page) if "NAME" not in path and path[0] != "."]
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []
    names = re.findall(r"`([A-Z][A-Za-z]+|[A-Z_]{4,}|_cases|reference_pool)`", page)
    assert len(names) > 12
    source = "".join((ROOT / path).read_text("utf-8") for path in paths if path.endswith(".py"))
    assert [name for name in names if name != "NAME" and not re.search(rf"\b{name}\b", source)] == []


def test_the_metadata_is_complete() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    classifiers = {line.partition(" :: ")[0] for line in project["classifiers"]}
    assert {"Development Status", "Intended Audience", "Operating System", "Topic"} <= classifiers
    assert {"authors", "description", "keywords", "license", "readme", "requires-python"} <= project.keys()
    extras = {"parquet", "openvino", "torch", "train", "evaluate", "serve", "all", "docs", "dev"}
    frameworks = {"langchain", "llama-index", "chroma"}
    assert {*project["optional-dependencies"]} == extras | frameworks
    assert "serve" not in project["description"]

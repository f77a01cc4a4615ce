"""gnomon search over files, folders and globs, and gnomon cache, as a user meets them."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from gnomon import Encoder
from gnomon.cli import main
from gnomon.search import corpus_search
from gnomon.search.cache import FILE_NAME

Run = Callable[..., Result]

NOTES = {
    "door.md": "---\ntitle: The door\n---\n\n# Locks\n\nTurn the key twice.\n\n## Lost key\n\nAsk the neighbour.\n",
    "sub/garden.markdown": "Water the tomatoes.\r\n\r\n# Roses\r\nCut them in March.\r\n",
    "sub/list.txt": "milk\n\nbread\n",
    "sub/photo.jpg": "\x00",
    ".hidden.md": "secret",
    ".git/config.md": "secret",
}

ALL = ["notes/door.md", "notes/sub/garden.markdown", "notes/sub/list.txt"]


@pytest.fixture
def run() -> Run:
    def invoke(*args: object, stdin: str | bytes | None = None) -> Result:
        return CliRunner(env={"COLUMNS": "80"}).invoke(main, [str(arg) for arg in args], input=stdin)

    return invoke


@pytest.fixture
def gist(golden_folder: Callable[[str], Path]) -> Path:
    return golden_folder("GIST-Embedding-v0")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of notes in the working directory, so that its path is "notes"."""
    for name, text in NOTES.items():
        path = tmp_path / "notes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    monkeypatch.chdir(tmp_path)
    return Path("notes")


@pytest.fixture
def products(tmp_path: Path) -> Path:
    path = tmp_path / "products.csv"
    path.write_text("sku,title,price,body\nA1,Red lamp,3.50,a lamp\nB2,Blue chair,20,a chair\nC3,Green desk,,a desk\n")
    return path


def hits_of(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout.splitlines()[0])["results"]


def fails(result: Result, *parts: str) -> None:
    """One line on stderr, nothing on stdout."""
    assert (result.exit_code, result.stdout) == (2, "")
    error = result.stderr.splitlines()[-1]
    assert error.lower().startswith("error: ")
    for part in parts:
        assert part in error


@pytest.fixture
def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The documents that are encoded from now on."""
    encoded: list[str] = []
    encode = Encoder.encode_with_counts

    def count(encoder: Encoder, texts: Any, *args: Any, **options: Any) -> Any:
        if isinstance(texts, list) and options.get("show_progress_bar") is False:
            encoded.extend(texts)
        return encode(encoder, texts, *args, **options)

    monkeypatch.setattr(Encoder, "encode_with_counts", count)
    return encoded


# ---- what is searched


def test_a_folder_is_walked_and_markdown_split_at_headings(run: Run, gist: Path, notes: Path) -> None:
    result = run("search", gist, "--corpus", notes, "--query", "key", "-k", 9, "--json")
    found = {(hit["path"], hit["line"], hit["row"]): (hit.get("title"), hit["text"]) for hit in hits_of(result)}
    assert found == {
        ("notes/door.md", 7, 0): ("The door > Locks", "Turn the key twice."),
        ("notes/door.md", 11, 1): ("The door > Locks > Lost key", "Ask the neighbour."),
        ("notes/sub/garden.markdown", 1, 0): (None, "Water the tomatoes."),
        ("notes/sub/garden.markdown", 4, 1): ("Roses", "Cut them in March."),
        ("notes/sub/list.txt", 1, 0): (None, "milk"),
        ("notes/sub/list.txt", 3, 2): (None, "bread"),
    }
    assert "1 file is left out, since no known format shows in the name: notes/sub/photo.jpg." in result.stderr
    assert "1 of 3 texts of notes/sub/list.txt is empty (line 2)" in result.stderr


def test_the_title_is_encoded_before_the_text(run: Run, gist: Path, notes: Path) -> None:
    encoder = Encoder.load(gist)
    texts = ["The door > Locks\nTurn the key twice.", "The door > Locks > Lost key\nAsk the neighbour."]
    scores = encoder.similarity(encoder.encode_query("key"), encoder.encode_document(texts))[0]
    hits = hits_of(run("search", gist, "--corpus", notes / "door.md", "--query", "key", "--json"))
    assert [hit["row"] for hit in hits] == np.argsort(-scores).tolist()
    np.testing.assert_allclose([hit["score"] for hit in hits], np.sort(scores)[::-1], atol=1e-6)


def test_text_output_has_path_and_line_title_and_text(run: Run, gist: Path, notes: Path) -> None:
    result = run("search", gist, "--corpus", notes / "door.md", "--query", "The door > Locks Turn the key twice.")
    assert [line[13:] for line in result.stdout.splitlines()[1:4]] == [
        "notes/door.md:7",
        "The door > Locks",
        "Turn the key twice.",
    ]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["notes/**/*.md"], ["notes/door.md"]),
        (["notes/door.md", "notes/sub/list.txt"], ["notes/door.md", "notes/sub/list.txt"]),
        (["notes/*"], ALL),
        (["notes/door.md", "notes", "./notes/*"], ALL),
    ],
)
def test_files_folders_and_globs_each_file_once(
    run: Run, gist: Path, notes: Path, paths: list[str], expected: list[str]
) -> None:
    result = run("search", gist, "--corpus", *paths, "--query", "key", "-k", 99, "--json")
    assert sorted({hit["path"] for hit in hits_of(result)}) == expected
    repeated = [arg for path in paths for arg in ("--corpus", path)]
    assert hits_of(run("search", gist, *repeated, "--query=key", "-k", 99, "--json")) == hits_of(result)


def test_format_md_reads_files_of_other_names(run: Run, gist: Path, tmp_path: Path) -> None:
    (tmp_path / "README").write_text("# A\ntext\n")
    fails(run("search", gist, "--corpus", tmp_path / "README", "--query", "a"), "README", ".md", "--format")
    result = run("search", gist, "--corpus", tmp_path / "README", "--format", "md", "--query", "a", "--json")
    assert [(hit["title"], hit["line"]) for hit in hits_of(result)] == [("A", 2)]
    piped = run("search", gist, "--corpus", "-", "--format", "md", "--query", "a", "--json", stdin=b"# A\ntext\n")
    assert [(hit["path"], hit["line"]) for hit in hits_of(piped)] == [("-", 2)]


def test_what_cannot_be_searched_is_named(run: Run, gist: Path, notes: Path, tmp_path: Path) -> None:
    search = ["search", gist, "--query", "a", "--corpus"]
    fails(run(*search, "nothing/*.md"), "'nothing/*.md'", "matches no file")
    fails(run(*search, "nothing"), "nothing: No such file or directory")
    (tmp_path / "empty").mkdir()
    fails(run(*search, "empty"), "empty holds no file of a format that is read", "no file at all")
    (tmp_path / "empty" / "a.jpg").write_text("")
    fails(run(*search, "empty"), "1 other file, such as empty/a.jpg", "--format")
    fails(run(*search, "empty/*.jpg"), "1 other file, such as empty/a.jpg", "--format")
    (tmp_path / "blank.md").write_text("\n\n")
    fails(run(*search, "blank.md"), "blank.md holds empty texts alone")
    fails(run(*search, "notes/door.md", "--field", "title"), "'title'", "--field")
    fails(run(*search, "notes/door.md", "--delimiter", ";"), "';'", "--delimiter")
    fails(run(*search, "notes/door.md", "--id-field", "x"), "'x'", "none")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"fine\nbad \xff\n", "line 2: not UTF-8 (byte 0xff)"),
        (b"PK\x03\x04", "zip"),
        (b"a line of text with a \0 in it", "NUL"),
    ],
)
def test_a_broken_file_in_a_folder_is_an_error_or_left_out_by_name(
    run: Run, gist: Path, notes: Path, content: bytes, reason: str
) -> None:
    (notes / "broken.md").write_bytes(content)
    (notes / "empty.md").write_bytes(b"")
    fails(run("search", gist, "--corpus", notes, "--query", "a"), "notes/broken.md", reason, "--skip-bad")
    result = run("search", gist, "--corpus", notes, "--query", "a", "-k", 99, "--json", "--skip-bad")
    paths = {hit["path"] for hit in hits_of(result)}
    assert len(paths - {"notes/broken.md"}) == 3
    assert ("notes/broken.md" in paths) == (b"fine" in content)
    assert reason in result.stderr
    assert "1 file is empty: notes/empty.md" in result.stderr


def test_a_link_to_a_folder_around_it_ends(run: Run, gist: Path, notes: Path) -> None:
    (notes / "sub" / "up").symlink_to("..")
    result = run("search", gist, "--corpus", notes, "--query", "a", "-k", 99, "--json")
    assert len({hit["path"] for hit in hits_of(result)}) == 3


# ---- queries


def test_an_empty_query_is_refused_before_the_corpus_is_read(run: Run, gist: Path) -> None:
    fails(run("search", gist, "--corpus", "not there", "--query", ""), "the query is empty", "--query")
    fails(run("search", "no model", "--corpus", "x", "--query", "a", "--query", " "), "query 2 is empty")


def test_a_query_may_begin_with_a_dash_and_is_one_value(run: Run, gist: Path, notes: Path) -> None:
    result = run("search", gist, "--query", "--help me", "--corpus", "notes/door.md", "--json")
    assert json.loads(result.stdout)["query"] == "--help me"
    forgotten_quotes = run("search", gist, "--corpus", "notes/door.md", "--query", "how", "do", "I")
    assert forgotten_quotes.exit_code == 2
    assert "do" in forgotten_quotes.stderr
    assert run("search", gist, "--corpus", "notes/door.md", "--query").exit_code == 2


# ---- fields


def test_json_has_all_fields(run: Run, gist: Path, products: Path) -> None:
    hits = hits_of(run("search", gist, "--corpus", products, "--field", "title", "--query", "Red lamp", "--json"))
    assert len(hits) == 3
    best = hits[0]
    assert best.pop("score") == pytest.approx(1, abs=1e-5)
    row = {"sku": "A1", "title": "Red lamp", "price": "3.50", "body": "a lamp"}
    assert best == {"path": str(products), "line": 2, "row": 0, "text": "Red lamp", "fields": row}


def test_text_has_the_chosen_fields_and_the_text_once(run: Run, gist: Path, products: Path) -> None:
    search = ["search", gist, "--corpus", products, "--field", "title", "-k", 1]
    plain = run(*search, "--query", "Blue chair").stdout.splitlines()
    assert [line[13:] for line in plain[1:]] == [f"{products}:3", "Blue chair", ""]
    shown = run(*search, "--query", "Blue chair", "--show", "sku,price", "--id-field", "sku").stdout.splitlines()
    assert [line[13:] for line in shown[1:]] == [f"{products}:3", "B2", "sku: B2 | price: 20", "Blue chair", ""]
    assert run(*search, "--show", "sku", "price", "title", "--query", "Green desk").stdout.count("sku: C3\n") == 1
    fails(run(*search, "--query", "a", "--show", "sku,prise"), "'prise'", "Did you mean 'price'?")
    fails(run(*search, "--query", "a", "--id-field", "Sku"), "'Sku'", "Did you mean 'sku'?")


def test_several_fields_are_one_text(run: Run, gist: Path, products: Path) -> None:
    search = ["search", gist, "--corpus", products, "--query", "Red lamp a lamp", "-k", 1]
    several = run(*search, "--field", "title", "--field", "body")
    assert [line[13:] for line in several.stdout.splitlines()[1:]] == [f"{products}:2", "Red lamp a lamp", ""]
    in_a_row = run(*search, "--field", "title", "body")
    assert in_a_row.stdout == several.stdout


def test_a_field_of_json_lines_may_be_in_some_rows_only(run: Run, gist: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two", "tags": ["a"], "a,b": 1}\n')
    result = run("search", gist, "--corpus", path, "--query", "two", "--show", "tags", "a,b")
    lines = [line[13:] for line in result.stdout.splitlines()]
    assert f"{path}:2" in lines
    assert lines[lines.index(f"{path}:2") + 1] == 'tags: ["a"] | a,b: 1'


def test_tables_and_notes_are_searched_together(run: Run, gist: Path, notes: Path, products: Path) -> None:
    pq.write_table(pa.table({"title": ["Grey sofa"], "n": [7]}), "more.parquet")
    search = ["search", gist, "--corpus", products, "more.parquet", "notes", "--field", "title", "--show", "n", "sku"]
    lines = [line[13:] for line in run(*search, "--query", "Grey sofa", "-k", 99).stdout.splitlines()]
    assert lines[1:4] == ["more.parquet row 1", "n: 7", "Grey sofa"]
    assert lines[lines.index(f"{products}:4") :][:3] == [f"{products}:4", "sku: C3", "Green desk"]
    assert "notes/sub/list.txt:3" in lines
    fails(run(*search, "--field", "nmae", "--query", "a"), str(products), "'nmae'")


# ---- the cache


def test_the_second_search_encodes_only_what_changed(
    run: Run, gist: Path, notes: Path, count_encoded: list[str]
) -> None:
    search = ["search", gist, "--corpus", notes, "--json"]
    first = run(*search, "--query", "key")
    assert len(count_encoded) == 6
    count_encoded.clear()
    second = run(*search, "--query", "key")
    assert (count_encoded, second.stdout) == ([], first.stdout)
    (notes / "door.md").write_text(NOTES["door.md"].replace("twice", "once"))
    assert "Turn the key once." in run(*search, "--query", "key").stdout
    assert count_encoded == ["The door > Locks\nTurn the key once."]
    count_encoded.clear()
    uncached = run(*search, "--query", "key", "--no-cache")
    assert (len(count_encoded), uncached.exit_code) == (6, 0)
    count_encoded.clear()
    run(*search, "--query", "key", "--max-seq-length", "16")  # other vectors
    assert len(count_encoded) == 6


def test_truncated_texts_are_reported_from_the_cache_too(run: Run, gist: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("short\n" + "word " * 200 + "\n")
    search = ["search", gist, "--corpus", path, "--query", "a"]
    for _ in range(2):
        assert "1 of 2 texts is longer than 64 tokens: the rest was truncated" in run(*search).stderr
    fails(run(*search, "--on-truncate", "error"), "longer than 64 tokens", "--on-truncate")
    assert run(*search, "--on-truncate", "silent").stderr == ""
    assert run(*search, "--on-truncate", "mean").stderr == ""


def test_ctrl_c_keeps_what_is_encoded(
    run: Run, gist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count_encoded: list[str]
) -> None:
    monkeypatch.setattr(corpus_search, "BLOCK_CHARS", 30)
    path = tmp_path / "in.txt"
    path.write_text("".join(f"text number {number}\n" for number in range(12)))
    count = Encoder.encode_with_counts

    def interrupt(encoder: Encoder, texts: Any, *args: Any, **options: Any) -> Any:
        if len(count_encoded) >= 6:
            raise KeyboardInterrupt
        return count(encoder, texts, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode_with_counts", interrupt)
        assert run("search", gist, "--corpus", path, "--query", "a").exit_code == 130
    num_done = len(count_encoded)
    assert 6 <= num_done < 12
    assert run("search", gist, "--corpus", path, "--query", "a").exit_code == 0
    assert len(count_encoded) == 12
    assert len(set(count_encoded)) == 12


def test_a_locked_cache_is_a_note(
    run: Run, gist: Path, notes: Path, cache_of_searches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gnomon.search.cache.LOCK_SECONDS", 0)
    search = ["search", gist, "--corpus", notes / "door.md", "--query", "key"]
    first = run(*search)
    other = sqlite3.connect(cache_of_searches / FILE_NAME, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    locked = run(*search)
    assert (locked.exit_code, locked.stdout) == (0, first.stdout)
    assert "another process holds it" in locked.stderr
    fails(run("cache", "--clear"), "another process holds it")
    other.close()


def test_cache_prints_where_and_how_large_and_clears(
    run: Run, gist: Path, notes: Path, cache_of_searches: Path
) -> None:
    empty = run("cache")
    assert empty.stdout.splitlines()[0] == f"path   {cache_of_searches / FILE_NAME}"
    assert "vectors of 0 texts" in empty.stdout
    run("search", gist, "--corpus", notes / "door.md", "--query", "key")
    facts = json.loads(run("cache", "--json").stdout)
    assert (facts["texts"], facts["models"], facts["max_bytes"]) == (2, 1, 2**30)
    assert facts["bytes"] == (cache_of_searches / FILE_NAME).stat().st_size
    assert "2 vectors removed" in run("cache", "--clear").stdout
    assert json.loads(run("cache", "--json").stdout)["texts"] == 0

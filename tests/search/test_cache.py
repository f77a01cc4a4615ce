"""The cache of vectors, against a dict; what it drops; damaged, locked, full and read-only files."""

import sqlite3
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.cli.shared import open_corpus_cache
from gnomon.errors import InputError, Notice
from gnomon.search import cache as cache_module
from gnomon.search.cache import DEFAULT_BYTES, FILE_NAME, PAGE_BYTES, CorpusCache, cache_folder

DIM = 8


def vectors_of(texts: list[str], space: str = "a", dim: int = DIM) -> np.ndarray:
    """The vectors that a model would give: the same for the same text."""
    seeds = [zlib.crc32(repr((space, text)).encode()) for text in texts]
    return np.array([np.random.default_rng(seed).standard_normal(dim) for seed in seeds], np.float32)


def add(cache: CorpusCache, texts: list[str], space: str = "a", dim: int = DIM) -> bool:
    truncated = [position for position, text in enumerate(texts) if len(text) > 3]
    return cache.add(space, texts, vectors_of(texts, space, dim), truncated)


def present(cache: CorpusCache, texts: list[str], space: str = "a", dim: int = DIM) -> set[str]:
    """The texts that are here; their vectors and flags are checked."""
    cached = cache.get(space, texts, dim)
    rows = np.flatnonzero(cached.present_N)
    here = [texts[row] for row in rows]
    np.testing.assert_array_equal(cached.vectors_ND[rows], vectors_of(here, space, dim).reshape(-1, dim))
    assert cached.truncated_N[rows].tolist() == [len(text) > 3 for text in here]
    return set(here)


def stored_blocks(folder: Path) -> dict[int, int]:
    """Block -> its `used`, as the file has them."""
    with sqlite3.connect(folder / FILE_NAME) as connection:
        blocks = dict(connection.execute("SELECT id, used FROM blocks"))
        assert {block for (block,) in connection.execute("SELECT id FROM contents")} == blocks.keys()
    connection.close()
    return blocks


def test_what_was_added_is_there_for_the_next_process(tmp_path: Path) -> None:
    with CorpusCache(tmp_path) as cache:
        assert present(cache, ["one", "two", "three"]) == set()
        assert add(cache, ["one", "three"])
        assert add(cache, ["two", "\ud800"])
    with CorpusCache(tmp_path) as cache:
        assert present(cache, ["four", "three", "two", "\ud800", "one"]) == {"one", "two", "three", "\ud800"}
        assert present(cache, ["one"], space="another model") == set()
        assert present(cache, []) == set()
        size = cache.size()
    assert (size.num_texts, size.num_spaces) == (4, 1)
    assert size.num_bytes == cache.path.stat().st_size


TEXTS = st.lists(st.sampled_from([f"text {number}" for number in range(30)]), min_size=1, max_size=6, unique=True)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "get", "reopen"]), TEXTS, st.sampled_from("ab")), max_size=30)


@pytest.mark.filterwarnings("ignore:the cache .* is full:gnomon.errors.Notice")
@given(STEPS)
def test_any_sequence_is_that_of_a_dict_without_the_blocks_used_longest_ago(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[str], str]]
) -> None:
    """The reference: a dict of blocks, of which only what the file dropped is taken from the file."""
    folder, max_bytes, dim = tmp_path_factory.mktemp("cache"), 30 * PAGE_BYTES, 4096
    blocks: dict[int, tuple[str, list[str], int]] = {}
    session = 1
    cache = CorpusCache(folder, max_bytes=max_bytes)
    for action, texts, space in steps:
        if action == "reopen":
            cache.close()
            cache, session = CorpusCache(folder, max_bytes=max_bytes), session + 1
            continue
        holders = {
            text: max((block for block, (of, held, _) in blocks.items() if of == space and text in held), default=None)
            for text in texts
        }
        if action == "get":
            assert present(cache, texts, space, dim) == {text for text, block in holders.items() if block is not None}
            for block in set(holders.values()) - {None}:
                blocks[block] = (*blocks[block][:2], session)
            continue
        is_stored = add(cache, texts, space, dim)
        left = stored_blocks(folder)
        oldest_first = sorted(blocks, key=lambda block: (blocks[block][2], block))
        gone = [block for block in oldest_first if block not in left]
        assert gone == oldest_first[: len(gone)]
        assert all(blocks[block][2] < session for block in gone)
        blocks = {block: content for block, content in blocks.items() if block in left}
        new = left.keys() - blocks.keys()
        assert len(new) == is_stored
        blocks |= dict.fromkeys(new, (space, texts, session))
        assert cache.path.stat().st_size <= max_bytes
    cache.close()


def test_a_corpus_larger_than_the_cache_keeps_what_fits_and_drops_nothing_of_its_own(tmp_path: Path) -> None:
    texts = [[f"{block} {row}" for row in range(10)] for block in range(10)]
    with CorpusCache(tmp_path, max_bytes=500_000) as cache:  # a block takes 82,000 bytes
        assert add(cache, texts[0], dim=2048)
        assert add(cache, texts[1], dim=2048)
        with pytest.warns(Notice, match=r"is full \(500,000 bytes\).*GNOMON_CACHE_SIZE"):
            stored = [add(cache, block, dim=2048) for block in texts[2:]]
        assert present(cache, texts[0], dim=2048) == set(texts[0])
        assert stored[0]
        assert not stored[-1]
    with CorpusCache(tmp_path, max_bytes=500_000) as cache:
        assert present(cache, texts[1], dim=2048) == set(texts[1])
        assert add(cache, texts[9], dim=2048)  # drops the first block, since the second was used after it
        assert present(cache, texts[0], dim=2048) == set()
        assert present(cache, texts[1], dim=2048) == set(texts[1])
    with CorpusCache(tmp_path, max_bytes=200_000) as cache:  # a smaller limit makes the file smaller
        assert add(cache, ["new"], dim=2048)
        assert cache.path.stat().st_size <= 200_000
        assert present(cache, ["new"], dim=2048) == {"new"}


def test_clear_empties_the_file(tmp_path: Path) -> None:
    with CorpusCache(tmp_path / "no" / "folder") as cache:
        cache.clear()
        assert cache.size() == cache_module.CacheSize(0, 0, 0)
        assert not cache.path.exists()
        add(cache, [str(number) for number in range(1000)], dim=64)
        before = cache.size().num_bytes
        cache.clear()
        assert cache.size().num_texts == 0
        assert cache.size().num_bytes < before / 4
        assert add(cache, ["one"])
        assert present(cache, ["one"]) == {"one"}


@pytest.mark.parametrize("content", [b"not a database" * 100, b"", None])
def test_a_damaged_file_is_started_anew(tmp_path: Path, content: bytes | None) -> None:
    with CorpusCache(tmp_path) as cache:
        add(cache, ["one"])
    if content is None:  # the tables of another version
        with sqlite3.connect(cache.path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:
        cache.path.write_bytes(content)
    with CorpusCache(tmp_path) as cache:
        if content == b"":
            assert present(cache, ["one"]) == set()  # as a new file
        else:
            with pytest.warns(Notice, match="was damaged"):
                assert present(cache, ["one"]) == set()
        assert add(cache, ["one"])
        assert present(cache, ["one"]) == {"one"}


def test_a_damaged_block_is_encoded_again_and_the_others_stay(tmp_path: Path) -> None:
    with CorpusCache(tmp_path) as cache:
        add(cache, ["one"])
        add(cache, ["two"])
        with sqlite3.connect(cache.path) as connection:
            (data,) = connection.execute("SELECT vectors FROM contents WHERE id = 1").fetchone()
            connection.execute("UPDATE contents SET vectors = ? WHERE id = 1", (b"\0" + data[1:],))
        connection.close()
        assert present(cache, ["one", "two"]) == {"two"}
        assert list(stored_blocks(tmp_path)) == [2]
        assert add(cache, ["one"])
        assert present(cache, ["one", "two"]) == {"one", "two"}


def test_two_processes_use_it_at_once(tmp_path: Path) -> None:
    with CorpusCache(tmp_path) as first, CorpusCache(tmp_path) as second:
        assert add(first, ["one", "two"])
        assert add(second, ["two", "three"])
        assert add(first, ["four"])
        assert present(second, ["one", "two", "three", "four"]) == {"one", "two", "three", "four"}
        assert present(first, ["one", "two", "three", "four"]) == {"one", "two", "three", "four"}


def test_a_locked_file_is_a_warning(tmp_path: Path) -> None:
    with CorpusCache(tmp_path) as cache:
        add(cache, ["one"])
    other = sqlite3.connect(cache.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with CorpusCache(tmp_path, lock_seconds=0) as cache:
        with pytest.warns(Notice, match="is not used: another process holds it"):
            assert present(cache, ["one"]) == set()
        assert not add(cache, ["two"])  # one warning is enough
        with pytest.raises(OSError, match="another process holds it"):
            cache.clear()
    other.execute("ROLLBACK")
    other.execute("BEGIN IMMEDIATE")  # as during a write: it can be read
    with CorpusCache(tmp_path, lock_seconds=0) as cache:
        assert present(cache, ["one"]) == {"one"}  # that it was used now is not recorded, and needs no warning
        with pytest.warns(Notice, match="vectors are not cached in .*: another process holds it"):
            assert not add(cache, ["two"])
        assert present(cache, ["one"]) == {"one"}
    other.close()


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with CorpusCache(tmp_path / "file" / "folder") as cache:
        with pytest.warns(Notice, match="is not used: .*The search goes on without it"):
            assert present(cache, ["one"]) == set()
        assert not add(cache, ["one"])


@pytest.mark.parametrize(
    ("pragma", "reason"), [("query_only = 1", "may not be written"), ("max_page_count = 9", "full")]
)
def test_a_file_that_cannot_be_written_is_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pragma: str, reason: str
) -> None:
    with CorpusCache(tmp_path) as cache:
        add(cache, ["one"])
    opened = CorpusCache._open

    def open_limited(cache: CorpusCache) -> sqlite3.Connection:
        connection = opened(cache)
        connection.execute(f"PRAGMA {pragma}")
        return connection

    monkeypatch.setattr(CorpusCache, "_open", open_limited)
    with CorpusCache(tmp_path) as cache, pytest.warns(Notice, match=reason) as notes:
        assert present(cache, ["one"]) == {"one"}
        assert not add(cache, [str(number) for number in range(1000)], dim=64)
        assert present(cache, ["one"]) == {"one"}
        assert len(notes) == 1


def test_ctrl_c_during_a_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> int:
        raise KeyboardInterrupt

    with CorpusCache(tmp_path) as cache:
        add(cache, ["one"])
        monkeypatch.setattr(cache_module, "_checksum", interrupt)
        with pytest.raises(KeyboardInterrupt):
            add(cache, ["two"])
        monkeypatch.undo()
        assert list(stored_blocks(tmp_path)) == [1]
        assert present(cache, ["one", "two"]) == {"one"}
        assert add(cache, ["two"])


def test_the_folder_is_that_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "xdg" / "gnomon"
    assert CorpusCache().max_bytes == DEFAULT_BYTES == 2**30


def test_the_command_line_takes_folder_and_size_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GNOMON_CACHE_DIR", str(tmp_path))
    assert open_corpus_cache().path == tmp_path / FILE_NAME
    for text, size in (("0", 0), ("12", 12), ("2k", 2048), ("500M", 500 * 2**20), ("4 GiB", 2**32), ("1TB", 2**40)):
        monkeypatch.setenv("GNOMON_CACHE_SIZE", text)
        assert open_corpus_cache().max_bytes == size
    for text in ("much", "-1", "1.5G", "1X"):
        monkeypatch.setenv("GNOMON_CACHE_SIZE", text)
        with pytest.raises(InputError, match=f"GNOMON_CACHE_SIZE is '{text}'"):
            open_corpus_cache()

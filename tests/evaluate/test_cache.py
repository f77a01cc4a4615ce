"""Vectors by text: what is put in comes out, whatever became of the files in between."""

import errno
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gnomon.errors import Notice
from gnomon.evaluate.cache import RECORD_DTYPE, CachePartition, VectorCache

OF = {"model": "m", "prompt": ""}
D = 5
TEXTS = ["a", "", "the library", "Привет, 南瓜 ❤️", "a ", "\ud800 half", "x" * 3000]


def vectors(texts: list[str], width: int = D) -> np.ndarray:
    """Of each text its own, with values that a copy could spoil."""
    rows = [
        np.random.default_rng([len(text), *text.encode("utf-8", "surrogatepass")]).normal(size=width) for text in texts
    ]
    return np.array(rows, np.float32).reshape(len(texts), width)


def fill(folder: Path | None, *chunks: list[str], cut: tuple[int, ...] = ()) -> None:
    cache = VectorCache(folder)
    for texts in chunks:
        cache.partition(OF, D).add(texts, vectors(texts), [place for place in cut if place < len(texts)])
    cache.close()


def shelf(folder: Path | None, of: dict[str, str] | None = None) -> CachePartition:
    return VectorCache(folder).partition(of or OF, D)


def files(folder: Path, end: str) -> list[Path]:
    return sorted(folder.rglob(f"*.{end}"))


def assert_holds(held: CachePartition, texts: list[str]) -> None:
    assert held.missing(texts) == []
    assert np.array_equal(held.get(texts)[0], vectors(texts))


# ---- what is put in comes out


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.lists(st.text(st.characters(), max_size=30), min_size=1, max_size=6), min_size=1, max_size=5),
    requested=st.lists(st.text(st.characters(), max_size=30), max_size=5),
    on_disk=st.booleans(),
)
@example(chunks=[["", "\ud800", "\udfff\ud800", "a\x00", "a"]], requested=["\ud801", "\x00"], on_disk=True)
def test_texts_come_back_with_their_own_vectors(chunks: list[list[str]], requested: list[str], on_disk: bool) -> None:
    """Against a dict; by this object, and on a disk by the next one too."""
    with TemporaryDirectory() as place:
        folder = Path(place) if on_disk else None
        cache, reference = VectorCache(folder), dict[str, bool]()
        for texts in chunks:
            different = list(dict.fromkeys(texts))
            cut = [at for at, text in enumerate(different) if len(text) % 3 == 0]
            cache.partition(OF, D).add(different, vectors(different), cut)
            reference |= {text: len(text) % 3 == 0 for text in different}
        every = [*requested, *(text for texts in chunks for text in texts), *requested]
        for held in (cache.partition(OF, D), *([shelf(folder)] if on_disk else [])):
            assert held.missing(every) == [text for text in dict.fromkeys(every) if text not in reference]
            known = [text for text in every if text in reference]
            found_ND, cut_count = held.get(known)
            assert np.array_equal(found_ND, vectors(known))
            assert cut_count == sum(reference[text] for text in known)
            assert len(held) == len(reference)
        cache.close()


def test_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    held = shelf(tmp_path)
    held.add(["a", "b"], vectors(["a", "b"]), [0])
    held.add(["a", "c"], vectors(["x", "c"]), [1])
    held.add(["a"], vectors(["y"]), [])
    held.close()
    for each in (held, shelf(tmp_path)):
        assert_holds(each, ["c", "a", "b"])
        assert each.get(["a", "a", "b", "c"])[1] == 3
    assert sum(file.stat().st_size for file in files(tmp_path, "keys")) == 3 * RECORD_DTYPE.itemsize


def test_no_texts_are_nothing(tmp_path: Path) -> None:
    held = shelf(tmp_path)
    held.add([], vectors([]), [])
    assert held.missing([]) == []
    assert held.get([])[0].shape == (0, D)
    assert not files(tmp_path, "keys")


def test_shelves_are_kept_apart_by_all_that_describes_them(tmp_path: Path) -> None:
    others = [{"model": "n", "prompt": ""}, {"model": "m", "prompt": "query: "}, OF | {"engine": "torch"}]
    fill(tmp_path, TEXTS)
    for other in others:
        assert shelf(tmp_path, other).missing(TEXTS) == TEXTS
    assert VectorCache(tmp_path).partition(OF, D + 1).missing(TEXTS) == TEXTS
    cache = VectorCache(tmp_path)
    assert cache.partition(dict(reversed(OF.items())), D) is cache.partition(OF, D)
    assert_holds(cache.partition(OF, D), TEXTS)


def test_in_memory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    held = shelf(None)
    held.add(TEXTS, vectors(TEXTS), [])
    assert_holds(held, TEXTS)
    assert list(tmp_path.iterdir()) == []
    assert shelf(None).missing(TEXTS) == TEXTS


def test_what_is_on_the_disk_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = VectorCache(Path("vectors"))
    cache.partition(OF, D).add(TEXTS[:2], vectors(TEXTS[:2]), [])
    monkeypatch.chdir(tmp_path.parent)
    cache.partition(OF, D).add(TEXTS[2:], vectors(TEXTS[2:]), [])
    blocks = {id(block): block for block, _ in cache.partition(OF, D)._location.values()}
    assert [type(block.vectors_ND) for block in blocks.values()] == [np.memmap] * 2
    assert_holds(cache.partition(OF, D), TEXTS)
    assert_holds(shelf(tmp_path / "vectors"), TEXTS)
    cache.close()


# ---- torn and damaged files


SIZES = {"keys": RECORD_DTYPE.itemsize, "vectors": 4 * D}
CHUNKS = (["a", "b", "c"], ["d"], ["e", "f"])


@pytest.mark.parametrize("end", SIZES)
@pytest.mark.parametrize("records", range(7))
@pytest.mark.parametrize("more", [0, 1, -1])
def test_a_torn_tail_loses_the_chunks_that_it_tore(end: str, records: int, more: int, tmp_path: Path) -> None:
    """Whole chunks, or none of one: the next run then computes the same texts together."""
    fill(tmp_path, *CHUNKS)
    (file,) = files(tmp_path, end)
    size = min(max(records * SIZES[end] + more, 0), file.stat().st_size)
    os.truncate(file, size)
    expected: list[str] = []
    for chunk in CHUNKS:
        if (len(expected) + len(chunk)) * SIZES[end] > size:
            break
        expected += chunk
    every = [text for chunk in CHUNKS for text in chunk]
    held = shelf(tmp_path)
    assert held.missing(every) == every[len(expected) :]
    assert_holds(held, expected)
    held.add(every[len(expected) :], vectors(every[len(expected) :]), [])
    held.close()
    assert_holds(shelf(tmp_path), every)


@pytest.mark.parametrize("end", SIZES)
def test_one_of_the_two_files_alone_is_passed_over(end: str, tmp_path: Path) -> None:
    fill(tmp_path, TEXTS)
    files(tmp_path, end)[0].unlink()
    assert shelf(tmp_path).missing(TEXTS) == TEXTS


@settings(max_examples=60, deadline=None)
@given(data=st.data(), end=st.sampled_from(list(SIZES)))
def test_a_damaged_file_gives_no_wrong_vector(data: st.DataObject, end: str) -> None:
    """Some bytes were changed: every vector that is still given is the right one, and the rest can be put in anew."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        fill(folder, *CHUNKS)
        (file,) = files(folder, end)
        content = bytearray(file.read_bytes())
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[at] = data.draw(st.integers(0, 255))
        file.write_bytes(content)
        every = [text for chunk in CHUNKS for text in chunk]
        held = shelf(folder)
        missing = held.missing(every)
        cached = [text for text in every if text not in missing]
        assert np.array_equal(held.get(cached)[0], vectors(cached))
        held.add(missing, vectors(missing), [])
        held.close()
        assert_holds(held, every)
        assert_holds(shelf(folder), every)


def test_zeros_in_place_of_vectors_are_not_taken_for_some(tmp_path: Path) -> None:
    """What a machine that lost its power leaves: the file has its length, and no content."""
    fill(tmp_path, TEXTS)
    (file,) = files(tmp_path, "vectors")
    file.write_bytes(bytes(file.stat().st_size))
    assert shelf(tmp_path).missing(TEXTS) == TEXTS


def test_a_file_of_another_make_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, TEXTS)
    folder = files(tmp_path, "keys")[0].parent
    (folder / "0.keys").write_bytes(b"\xff" * 999)
    (folder / "0.vectors").write_bytes(b"\xff" * 9999)
    (folder / "1.keys").mkdir()
    (folder / "2.keys").write_bytes(b"")
    (folder / "2.vectors").write_bytes(b"")
    assert_holds(shelf(tmp_path), TEXTS)


# ---- disks


class Full(io.BufferedWriter):
    """A file on a disk that has room for so many more bytes."""

    room = 0

    def write(self, content: Any, /) -> int:
        fits = bytes(content)[: Full.room]
        Full.room -= len(fits)
        super().write(fits)
        if len(fits) < len(content):
            self.flush()
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(fits)

    def close(self) -> None:
        """As one that has content left: it tries to write it, once more."""
        failed = not self.closed and not Full.room
        super().close()
        if failed:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Let there be room for so many bytes in files that are opened from now on."""
    opened = Path.open

    def open_(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode != "xb" or self.name.startswith("."):  # a draft of the small what.json does not count
            return opened(self, mode, *args, **kwargs)
        return Full(io.FileIO(self, "x"))

    def limit(room: int) -> None:
        Full.room = room
        monkeypatch.setattr(Path, "open", open_)

    yield limit


@pytest.mark.parametrize("room", [0, 7, 4 * D * 3, 4 * D * 3 + 10, 3 * (4 * D + RECORD_DTYPE.itemsize) + 3])
def test_a_full_disk_is_reported_once_and_stops_nothing(room: int, tmp_path: Path, full: Callable[[int], None]) -> None:
    full(room)
    cache = VectorCache(tmp_path)
    with pytest.warns(Notice) as warned:
        for chunk in CHUNKS:
            for prompt in ("", "query: "):
                cache.partition(OF | {"prompt": prompt}, D).add(chunk, vectors(chunk), [])
    (message,) = [str(each.message) for each in warned]
    assert f"{tmp_path}: the disk is full" in message
    every = [text for chunk in CHUNKS for text in chunk]
    for prompt in ("", "query: "):
        assert_holds(cache.partition(OF | {"prompt": prompt}, D), every)
    cache.close()
    assert cache.folder is None
    cached = 3 if room > 3 * (4 * D + RECORD_DTYPE.itemsize) else 0
    assert shelf(tmp_path).missing(every) == every[cached:]
    assert_holds(shelf(tmp_path), every[:cached])


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = VectorCache(tmp_path / "file" / "vectors")
    with pytest.warns(Notice, match=r"vectors .*file/vectors: .*Not a directory"):
        cache.partition(OF, D).add(TEXTS, vectors(TEXTS), [])
    assert_holds(cache.partition(OF, D), TEXTS)


def test_after_an_interrupt_between_the_files_the_rest_is_kept_well(tmp_path: Path) -> None:
    held = shelf(tmp_path)
    held.add(["a"], vectors(["a"]), [])
    assert held._files
    keys, written = held._files
    held._files = (Interrupted(), written)
    with keys, pytest.raises(KeyboardInterrupt):
        held.add(["b"], vectors(["b"]), [])
    held.add(["c"], vectors(["c"]), [])
    held.close()
    again = shelf(tmp_path)
    assert again.missing(["a", "b", "c"]) == ["b"]
    assert_holds(again, ["a", "c"])


class Interrupted(io.BytesIO):
    def write(self, content: Any, /) -> int:
        raise KeyboardInterrupt


# ---- several at once


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from gnomon.evaluate.cache import VectorCache
shelf = VectorCache(Path(sys.argv[1])).partition({"model": "m", "prompt": ""}, 5)
print("ready", flush=True)
sys.stdin.readline()
for start in range(int(sys.argv[2]), int(sys.argv[2]) + 400, 20):
    texts = [str(number) for number in range(start, start + 20)]
    shelf.add(texts, np.array([[float(text)] * 5 for text in texts], np.float32), [])
"""


@pytest.mark.slow
def test_processes_add_to_one_partition_beside_each_other(tmp_path: Path) -> None:
    """Two that share half of their texts, started at once; each writes files of its own."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path), str(start)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for start in (0, 200)
    ]
    for each in running:
        assert each.stdout and each.stdout.readline() == "ready\n"
    for each in running:
        each.communicate("go\n", timeout=60)
    assert [each.returncode for each in running] == [0, 0]
    assert len(files(tmp_path, "keys")) == 2
    texts = [str(number) for number in range(600)]
    held = shelf(tmp_path)
    assert held.missing(texts) == []
    assert np.array_equal(held.get(texts)[0], np.repeat(np.arange(600, dtype=np.float32)[:, None], 5, 1))


def test_a_reader_beside_a_writer_sees_whole_chunks(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path)
    seen: list[int] = []
    for chunk in CHUNKS:
        cache.partition(OF, D).add(chunk, vectors(chunk), [])
        seen.append(len(shelf(tmp_path)))
    cache.close()
    assert seen == [3, 4, 6]


def test_closing_is_no_end(tmp_path: Path) -> None:
    held = shelf(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for chunk in CHUNKS:
            held.add(chunk, vectors(chunk), [])
            held.close()
    assert_holds(shelf(tmp_path), [text for chunk in CHUNKS for text in chunk])

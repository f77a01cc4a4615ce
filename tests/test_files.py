"""Files and folders that are whole or not there."""

import errno
import os
from pathlib import Path

import pytest

from gnomon import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_the_old_one_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), files.atomic_file(target) as file:
        file.write(b"half")
        assert target.read_text() == "old"
        raise RuntimeError
    assert (target.read_text(), names(tmp_path)) == ("old", ["a.txt"])
    files.write_text_atomically(target, "new ü", sync=True)
    assert (target.read_text("utf-8"), names(tmp_path)) == ("new ü", ["a.txt"])


def test_several_files_come_together(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.atomic_files(tmp_path / "a", tmp_path / "b"):
        raise RuntimeError
    assert names(tmp_path) == []
    with files.atomic_files(tmp_path / "a", tmp_path / "b") as (a, b):
        a.write(b"1")
        b.write(b"2")
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"1", b"2")


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk quota is used up")]
)
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, number: int, reason: str) -> None:
    with pytest.raises(OSError, match=reason) as caught, files.atomic_file(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    assert (caught.value.errno, names(tmp_path)) == (number, [])
    assert str(tmp_path / "a") in str(caught.value)
    assert files.disk_full_reason(caught.value) == reason
    assert files.describe_os_error(OSError(number, "x")) == reason


def test_another_error_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(PermissionError) as caught, files.atomic_file(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")
    assert files.disk_full_reason(caught.value) is None
    assert "no" in files.describe_os_error(caught.value)


def test_a_draft_is_hidden_new_and_known_again(tmp_path: Path) -> None:
    one, other = files.temporary_path(tmp_path / "a.json"), files.temporary_path(tmp_path / "a.json")
    assert one != other
    assert one.name.startswith(".") and one.parent == tmp_path
    assert files.is_temporary_path(one, "a.json") and not files.is_temporary_path(one, "b.json")
    assert not files.is_temporary_path(tmp_path / ".a.json.tmp", "a.json")


def test_a_folder_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "inner" / "model"
    with pytest.raises(RuntimeError), files.atomic_folder(target) as draft:
        (draft / "a").write_text("1")
        raise RuntimeError
    assert names(target.parent) == []
    with files.atomic_folder(target) as draft:
        (draft / "a").write_text("1")
        assert not target.exists()
    assert names(target) == ["a"]
    with pytest.raises(OSError), files.atomic_folder(target) as draft:
        (draft / "b").write_text("2")
    assert (names(target), names(target.parent)) == (["a"], ["model"])
    with files.atomic_folder(target, overwrite=True) as draft:
        (draft / "b").write_text("2")
        assert names(target) == ["a"]
    assert (names(target), names(target.parent)) == (["b"], ["model"])


def test_a_tree_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_text("1")
    flushed: list[str] = []

    def fsync(handle: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{handle}").readlink()))

    monkeypatch.setattr(os, "fsync", fsync)
    files.fsync_tree(tmp_path)
    inside = {str(path) for path in (tmp_path, *tmp_path.rglob("*"))}
    assert sorted(flushed) == sorted(inside)


def test_a_damaged_cache_is_empty_and_one_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "a.json"
    assert files.read_json_cache(path) == {}
    files.write_json_cache(path, {"b": 1})
    assert (files.read_json_cache(path), names(path.parent)) == ({"b": 1}, ["a.json"])
    for damaged in ("{", "[1]", ""):
        path.write_text(damaged)
        assert files.read_json_cache(path) == {}
    (tmp_path / "file").write_text("")
    files.write_json_cache(tmp_path / "file" / "a.json", {"b": 1})
    assert (tmp_path / "file").read_text() == ""


def test_a_folder_is_filled_under_a_name_of_the_callers(tmp_path: Path) -> None:
    """What a killed process left under that name is deleted first."""
    draft, target = tmp_path / "x.draft", tmp_path / "x"
    draft.mkdir()
    (draft / "old").touch()
    with files.atomic_folder(target, draft=draft, sync=True) as folder:
        assert (folder, [*folder.iterdir()]) == (draft, [])
        (folder / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "new"]
    with pytest.raises(ZeroDivisionError), files.atomic_folder(tmp_path / "y", draft=draft):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["x"]

"""The fingerprints that are remembered are those of the files as they are."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gnomon import Encoder
from gnomon import encoder as encoder_module
from gnomon.search.fingerprint_memo import FILE_NAME, recall_fingerprint


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fingerprints that are computed from now on."""
    computed: list[str] = []
    compute = encoder_module.compute_fingerprint

    def count(*args: object) -> str:
        computed.append(compute(*args))  # type: ignore[arg-type]
        return computed[-1]

    monkeypatch.setattr(encoder_module, "compute_fingerprint", count)
    return computed


def test_files_that_did_not_change_are_hashed_once(
    golden_copy: Callable[..., Path], tmp_path: Path, hashed: list[str]
) -> None:
    folder = golden_copy("GIST-Embedding-v0")
    first = recall_fingerprint(Encoder.load(folder), tmp_path)
    again = Encoder.load(folder)
    assert recall_fingerprint(again, tmp_path) == again.fingerprint == first
    assert len(hashed) == 1
    assert again.space().fingerprint == first


@pytest.mark.parametrize("change", ["content", "time", "copy"])
def test_changed_files_are_hashed_again(
    golden_copy: Callable[..., Path], tmp_path: Path, hashed: list[str], change: str
) -> None:
    folder = golden_copy("GIST-Embedding-v0")
    first = recall_fingerprint(Encoder.load(folder), tmp_path)
    weights = folder / "model.safetensors"
    if change == "content":  # as many bytes, and the same times
        before = weights.stat()
        content = bytearray(weights.read_bytes())
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    if change == "time":
        os.utime(weights)
    if change == "copy":
        folder = golden_copy("GIST-Embedding-v0", "copy")
    fingerprint = recall_fingerprint(Encoder.load(folder), tmp_path)
    assert len(hashed) == 2
    assert (fingerprint == first) == (change != "content")


def test_a_damaged_file_and_one_that_cannot_be_written_do_no_harm(
    golden_copy: Callable[..., Path], tmp_path: Path, hashed: list[str]
) -> None:
    folder = golden_copy("GIST-Embedding-v0")
    memo = tmp_path / "memo"
    memo.mkdir()
    (memo / FILE_NAME).write_text("{")
    first = recall_fingerprint(Encoder.load(folder), memo)
    (key,) = json.loads((memo / FILE_NAME).read_text())
    (memo / FILE_NAME).write_text(json.dumps({key: 5}))
    assert recall_fingerprint(Encoder.load(folder), memo) == first
    assert recall_fingerprint(Encoder.load(folder), memo / FILE_NAME) == first
    (folder / "link").symlink_to("nothing")
    assert recall_fingerprint(Encoder.load(folder), memo) == first
    assert len(hashed) == 4

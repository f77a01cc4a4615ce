"""Remembers the fingerprints of models: to hash weights and a large vocabulary takes seconds at each start."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from gnomon import __version__
from gnomon.encoder import Encoder
from gnomon.files import read_json_cache, write_json_cache
from gnomon.spec.fingerprint import canonical_json

FILE_NAME = "fingerprints.json"
MAX_ENTRIES = 100
"""Few people use more models; of more, any are forgotten."""


def recall_fingerprint(encoder: Encoder, folder: Path) -> str:
    """The fingerprint of a model. Nothing is hashed if its files have not changed since the last time.

    They have not if the path, size, inode and times (mtime, ctime) of each are the same, and the same version reads
    them the same way.

    Args:
        encoder: as `Encoder.load` gave it: with the weights of its folder.
        folder: where the fingerprints are. Nothing is raised if they cannot be read or written.
    """
    path = folder / FILE_NAME
    fingerprints = read_json_cache(path)
    try:
        key = _describe_files(encoder)
    except OSError:  # a link to nothing among the files
        return encoder.fingerprint
    known = fingerprints.get(key)
    if isinstance(known, str) and len(known) == 64:
        vars(encoder)["fingerprint"] = known  # where its cached property looks
        return known
    fingerprints = dict(list(fingerprints.items())[: MAX_ENTRIES - 1]) | {key: encoder.fingerprint}
    write_json_cache(path, fingerprints)
    return encoder.fingerprint


def _describe_files(encoder: Encoder) -> str:
    """A hash of what the fingerprint of a model depends on, without the content of its files."""
    folder = encoder.checkpoint.source.folder
    files: list[tuple[str | int, ...]] = []
    for inner, _, names in os.walk(folder):
        for name in names:
            file = Path(inner, name)
            status = file.stat()  # of what a link leads to: in the hub's cache all are links
            files.append((str(file), status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns))
    description = [__version__, canonical_json(encoder.spec), sorted(files)]
    return hashlib.sha256(json.dumps(description).encode("utf-8", "surrogatepass")).hexdigest()

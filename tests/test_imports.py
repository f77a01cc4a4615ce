"""The floors of docs/guides/architectures.md, read from the source; and what an import must not bring."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from itertools import permutations
from pathlib import Path

import pytest

import gnomon
from gnomon.install import advise_install

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src" / "gnomon"
GOLDEN = HERE.parents[1] / "shared" / "golden"

FLOORS = {
    "errors": 1,
    "batching": 1,
    "packed": 1,
    "files": 1,
    "messages": 1,
    "progress": 1,
    "read_ahead": 1,
    "metrics": 2,
    "warn": 1,
    "install": 1,
    "interrupts": 1,
    "spec": 2,
    "encode_options": 3,
    "losses": 2,
    "quantization": 2,
    "space": 2,
    "text_files": 2,
    "inputs": 2,
    "refusals": 2,
    "terminal": 2,
    "folder_lock": 2,
    "tokenizer": 3,
    "modules": 3,
    "checkpoint": 4,
    "engines": 4,
    "pipeline": 5,
    "encode_call": 6,
    "encoder": 6,
    "vector_files": 7,
    "vector_drafts": 7,
    "vector_output": 7,
    "encode_file": 7,
    "describe": 7,
    "fidelity": 7,
    "verify": 7,
    "search": 7,
    "train": 7,
    "serve": 7,
    "compat": 8,
    "integrations": 8,
    "evaluate": 8,
    "cli": 9,
    "__main__": 10,
}
"""First part of a module's name -> its floor. The package's own __init__ is the door and is checked apart."""

HEAVY = ("torch", "onnxruntime", "onnx", "openvino", "tokenizers", "huggingface_hub", "safetensors", "numpy", "tqdm")
RUNTIMES = ("torch", "onnxruntime", "onnx", "openvino", "ml_dtypes", "huggingface_hub", "mteb", "lancedb", "pyarrow")
ON_USE = {"onnxruntime", "openvino", "torch", "huggingface_hub", "tqdm", "mteb", "lancedb", "pyarrow", "ray", "pandas"}
ON_USE |= {"datasets", "sklearn", "scipy", "bm25s", "regex", "sentence_transformers"}
ON_USE |= {"langchain_core", "llama_index", "chromadb"}
"""Packages that a module may import inside a function only."""

WHOLE = {"losses", "train", "serve", "search", "evaluate", "integrations"}
"""Rooms that are imported on use as a whole, and so may import those packages at their top: extras, and the losses,
which are functions of tensors and nothing without torch."""

TORCH_FREE = (
    "recipe.schema",
    "recipe.parse",
    "recipe.checks",
    "recipe.toml",
    "model_card",
    "data.build",
    "data.dataset",
    "data.permutation",
    "data.mixture",
    "data.sampler",
    "data.collate",
    "logs",
)
"""Modules of training that do without torch."""

MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.name != "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Absolute names of what a module imports, those of its functions too; `from a import b` gives a.b."""
    tree = ast.parse(path.read_text("utf-8"))
    in_functions = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if top_only and id(node) in in_functions:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by dots; the names here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def own(path: Path) -> set[str]:
    """Modules of gnomon that a module imports."""
    known = {name_of(module) for module in MODULES}
    found: set[str] = set()
    for name in imports(path):
        top, _, inner = name.partition(".")
        if top == "gnomon" and inner != "__version__":
            while inner and inner not in known:
                inner = inner.rpartition(".")[0]
            found.add(inner)
    return found


def test_modules_import_from_lower_floors_or_their_own_room() -> None:
    """Their own floor too, for the small modules: that no circle comes of it is the next test."""
    assert len(MODULES) > 100, f"{SOURCE} is not the source"
    rooms = {name_of(path).split(".")[0] for path in MODULES}
    assert rooms <= FLOORS.keys(), f"{sorted(rooms - FLOORS.keys())} have no floor: add them to the table"
    offenders: list[str] = []
    for path in MODULES:
        room = name_of(path).split(".")[0]
        for name in sorted(own(path)):
            other = name.split(".")[0] or "encoder"  # the package itself: its public names
            if FLOORS[other] > FLOORS[room] or (other == "cli" and room not in {"cli", "__main__"}):
                offenders.append(f"{name_of(path)} (floor {FLOORS[room]}) imports {name}")
    assert not offenders, "\n".join(offenders)


def test_no_circle() -> None:
    tuple(TopologicalSorter({name_of(path): own(path) - {name_of(path), ""} for path in MODULES}).static_order())


def test_runtimes_are_imported_on_use() -> None:
    offenders: list[str] = []
    for path in MODULES:
        if name_of(path).split(".")[0] in WHOLE or name_of(path).startswith("engines.torch"):
            continue  # imported on use as a whole
        found = {name.split(".")[0] for name in imports(path, top_only=True)} & ON_USE
        offenders += [f"{name_of(path)} imports {name} at its top" for name in sorted(found)]
    assert not offenders, "\n".join(offenders)


def test_losses_are_imported_by_what_needs_torch_anyway() -> None:
    others = [path for path in MODULES if name_of(path).split(".")[0] not in {"losses", "train"}]
    offenders = [name_of(path) for path in others if any(name.startswith("losses") for name in own(path))]
    assert not offenders, f"{offenders} import losses"


FOREIGN = (
    "huggingface",
    "hugging face",
    "transformers.",
    "state_dict",
    "safetensors",
    "config.json",
    "from_pretrained",
)


def test_the_engines_know_no_foreign_word() -> None:
    engines = [path for path in MODULES if "engines" in path.parts]
    assert engines
    offenders: list[str] = []
    for path in engines:
        text = path.read_text("utf-8").lower()
        # state_dict is torch's own word for a module's parameters
        words = [word for word in FOREIGN if word in text and not (word == "state_dict" and "torch" in path.parts)]
        offenders += [f"{name_of(path)}: {word!r} belongs in checkpoint/" for word in words]
        found = sorted(name for name in imports(path) if name.startswith(("gnomon.checkpoint", "tokenizers")))
        offenders += [f"{name_of(path)} imports {name}" for name in found]
    assert not offenders, "\n".join(offenders)


def python(code: str, *arguments: object) -> str:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_importing_the_package_imports_no_runtime() -> None:
    code = f"import sys, gnomon; dir(gnomon); print([name for name in {HEAVY} if name in sys.modules])"
    assert python(code) == "[]"


@pytest.mark.slow
def test_public_names_import_no_runtime() -> None:
    code = (
        "import sys, gnomon\n"
        "for name in sorted(set(gnomon.__all__) - {'__version__'}):\n"
        "    exec(f'from gnomon import {name}')\n"
        f"    found = [runtime for runtime in {RUNTIMES[:4]} if runtime in sys.modules]\n"
        "    if found: sys.exit(f'{name} imports {found}')\n"
    )
    python(code)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_load_and_encode_import_no_torch(engine: str) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    folder = GOLDEN / "GIST-Embedding-v0"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: it is in the shared folder of the project")
    code = (
        "import sys; from gnomon import Encoder; "
        f"assert Encoder.load(sys.argv[1], engine={engine!r}).encode(['a', 'b c d']).shape == (2, 64); "
        "print([n for n in ('torch', 'transformers', 'sentence_transformers', 'pandas', 'tqdm') if n in sys.modules])"
    )
    assert python(code, folder) == "[]"


@pytest.mark.slow
def test_recipes_and_data_need_no_torch() -> None:
    """Reading, drawing and collating rows; what is wrong in a recipe is told before torch is imported."""
    names = [f"gnomon.train.{name}" for name in TORCH_FREE]
    assert python(f"import sys, {', '.join(names)}; print('torch' in sys.modules)") == "False"


@pytest.mark.slow
def test_losses_without_torch_name_the_extra() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from gnomon.errors import ExtraError\n"
        "try: import gnomon.losses\n"
        "except ExtraError as error: print(error)"
    )
    assert python(code) == f"losses need the package torch, which is not installed. {advise_install('torch')}"


@pytest.mark.slow
def test_public_names_are_the_same_in_every_order() -> None:
    """A module must not hide the function that is called like it."""
    code = (
        "import gnomon, sys, types\n"
        "for name in sys.argv[1:]:\n"
        "    assert not isinstance(getattr(gnomon, name), types.ModuleType), name\n"
        "assert not isinstance(gnomon.quantize, types.ModuleType)\n"
    )
    for names in permutations(["Encoder", "Quantized", "quantize"]):
        python(code, *names)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Encodr'"):
        gnomon.Encodr  # noqa: B018  # pyright: ignore
    assert sorted(gnomon.__all__) == dir(gnomon)
    assert all(part.isdigit() for part in gnomon.__version__.split(".")[:2])

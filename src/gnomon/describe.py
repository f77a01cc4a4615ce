"""Collects the facts of a checkpoint for `gnomon inspect`, and formats them for people. No engine is opened."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import prod
from typing import TYPE_CHECKING, Any

from gnomon.checkpoint.folder import Checkpoint
from gnomon.checkpoint.hub import to_printable
from gnomon.spec import StaticSpec, compute_fingerprint, dense_modules, model_shapes
from gnomon.terminal import wrap_text
from gnomon.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gnomon.fidelity import Fidelity  # which imports the engines

LABEL_COLUMNS = 16
"""Width of the column of names."""


def collect_facts(checkpoint: Checkpoint, fidelity: Fidelity | None = None) -> dict[str, Any]:
    """The facts of a checkpoint, ready for JSON; with those of `fidelity` if it was measured."""
    spec, source, trunk = checkpoint.spec, checkpoint.source, checkpoint.spec.trunk
    arrays = {name: checkpoint.arrays[name] for name in model_shapes(spec)}
    static = isinstance(trunk, StaticSpec)
    tokenizer = Tokenizer(checkpoint.tokenizer, spec.tokenizer)
    card = checkpoint.known_model
    return {
        "model": source.title,
        "folder": to_printable(source.folder),
        "revision": source.revision,
        "architecture": "static table" if static else checkpoint.config.get("model_type", "encoder"),
        "trunk": {"rows": trunk.vocab_size, "hidden": trunk.hidden_size}
        if static
        else {
            "layers": trunk.num_layers,
            "hidden": trunk.hidden_size,
            "heads": trunk.num_heads,
            "inner": trunk.intermediate_size,
        },
        "parameters": sum(prod(array.shape) for array in arrays.values()),
        "file_dtype": sorted({array.dtype.name for array in arrays.values()}),
        "pooling": list(spec.pooling.modes),
        "pools_prompt": spec.pooling.include_prompt,
        "dense": [
            {"name": dense.name, "in": dense.in_features, "out": dense.out_features, "activation": dense.activation}
            for dense in dense_modules(spec)
        ],
        "dim": spec.dim,
        "dims": list(spec.dims),
        "normalizes": spec.normalizes,
        "similarity": spec.similarity,
        "prompts": dict(spec.prompts),
        "query_prompt": spec.query_prompt_name(),
        "document_prompt": spec.document_prompt_name,
        "default_prompt": spec.default_prompt_name,
        "query_tasks": {task: name for task, name in spec.query_prompt_names.items() if task},
        "max_seq_length": spec.tokenizer.max_seq_length,
        "positions": None if static else trunk.max_tokens,
        "tokenizer": {
            "kind": json.loads(tokenizer.canonical_json())["model"]["type"],
            "tokens": checkpoint.tokenizer.get_vocab_size(),
            "lower_case": tokenizer.lower_cases,
        },
        "license": checkpoint.license,
        "card": card.name if card else None,
        "card_by": "--card" if checkpoint.recognised_by == "card=" else checkpoint.recognised_by,
        "assumed": list(checkpoint.warnings),
        "fingerprint": compute_fingerprint(spec, checkpoint.arrays, tokenizer.canonical_json()),
    } | ({"fidelity": asdict(fidelity)} if fidelity else {})


def format_facts(facts: Mapping[str, Any], width: int) -> Iterator[str]:
    """Yield the facts for people, in lines of at most `width` columns."""
    for name, text in _labelled_rows(facts):
        lead = f"{name + ':' if name else '':<{LABEL_COLUMNS}}"
        yield from wrap_text(lead + text, width, 99, indent=LABEL_COLUMNS, num_verbatim=LABEL_COLUMNS)


def _labelled_rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of each line. The name is "" if the line continues the one above."""
    at = f" at {facts['revision']}" if facts["revision"] else ""
    yield "model", f"{facts['model']}{at}"
    yield "folder", facts["folder"]
    yield "architecture", f"{facts['architecture']}, " + ", ".join(f"{n} {v:,}" for n, v in facts["trunk"].items())
    yield "parameters", f"{facts['parameters']:,} in {', '.join(facts['file_dtype'])}"
    yield "pooling", " + ".join(facts["pooling"]) + ("" if facts["pools_prompt"] else ", the prompt left out")
    for index, dense in enumerate(facts["dense"]):
        yield "" if index else "dense", f"{dense['name']}: {dense['in']} to {dense['out']}, {dense['activation']}"
    others = [str(dim) for dim in facts["dims"] if dim != facts["dim"]]
    yield "dims", str(facts["dim"]) + (f"; also {', '.join(others)} (--dim)" if others else "")
    yield (
        "vectors",
        f"{'of unit length' if facts['normalizes'] else 'not normalised'}; compared by {facts['similarity']}",
    )
    if not facts["prompts"]:
        yield "prompts", "none"
    for index, (name, text) in enumerate(facts["prompts"].items()):
        uses = [use for use in ("query", "document", "default") if facts[f"{use}_prompt"] == name]
        uses += [f"task {task}" for task, used in facts["query_tasks"].items() if used == name]
        yield "" if index else "prompts", f"{name} = {text!r}" + (f" (used for: {', '.join(uses)})" if uses else "")
    limit = facts["max_seq_length"]
    most = f" (of {facts['positions']} positions)" if facts["positions"] else ""
    yield "reads", f"{limit:,} tokens of a text{most}" if limit else "texts of any length"
    tokenizer = facts["tokenizer"]
    lower = ", lower-cases" if tokenizer["lower_case"] else ""
    yield "tokenizer", f"{tokenizer['kind']}, {tokenizer['tokens']:,} tokens{lower}"
    yield "licence", facts["license"] or "not stated"
    yield "card", f"{facts['card']}, known by {facts['card_by']}" if facts["card"] else "not recognised"
    for index, text in enumerate(facts["assumed"]):
        yield "" if index else "assumed", text
    yield "fingerprint", facts["fingerprint"]
    if fidelity := facts.get("fidelity"):
        when = ", measured before" if fidelity["cached"] else ""
        cosines = f"cosine {fidelity['mean']:.5f} on average, {fidelity['lowest']:.5f} at worst"
        yield "fidelity", f"{fidelity['precision']} against float32: {cosines}, over {fidelity['texts']} texts{when}"

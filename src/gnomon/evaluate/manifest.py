"""The manifest beside each result: which model, data, settings and versions it came from."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gnomon.evaluate.mteb import search as mteb_search
from gnomon.evaluate.mteb.encoder import EncodeCounters
from gnomon.evaluate.prompts import SIDE_NAMES
from gnomon.evaluate.scope import Scope, data_revision, ignores_identical_ids, is_local, task_parts
from gnomon.evaluate.systems import FUSIONS, RETRIEVAL_KINDS, System

PACKAGES = ("gnomon", "mteb", "numpy", "scikit-learn", "datasets", "onnxruntime", "openvino", "torch", "bm25s")
MANIFEST_FORMAT = 1
"""Raise it where an older result must not be taken for a new one."""


def compute_identity(system: System, task: Any, scope: Scope) -> str:
    """A hash of everything that a result depends on; a result of the same identity is not computed again."""
    parts = {
        "format": MANIFEST_FORMAT,
        "contestant": system.identity,
        "task": [task.metadata.name, task.metadata.type, [data_revision(part) for part in task_parts(task)]],
        "scope": [scope.split_of(task), scope.subsets_of(task), scope.metric_of(task)],
        "versions": [version("gnomon"), version("mteb")],
    }
    if system.method in FUSIONS and ignores_identical_ids(task):
        parts["fused without identical ids"] = True  # earlier versions fused such documents and dropped them afterwards
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def build_manifest(
    system: System,
    task: Any,
    scope: Scope,
    *,
    counters: EncodeCounters,
    alphas: Mapping[str, Sequence[float]],
    seconds: float,
) -> dict[str, Any]:
    """The manifest of one result, without its intervals.

    Args:
        alphas: {subset: the alphas that a fusion used}.
        seconds: what the whole task took.
    """
    metadata = task.metadata
    return {
        "gnomon": version("gnomon"),
        "format": MANIFEST_FORMAT,
        "identity": compute_identity(system, task, scope),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": _describe_model(system),
        "variant": ", ".join(filter(None, (system.variant, scope.variant(task)))),
        "task": {
            "name": metadata.name,
            "kind": metadata.type,
            "metric": scope.metric_of(task),
            "source": "local" if is_local(task) else "hub",
            "dataset": metadata.dataset["path"],
            "revision": data_revision(task),
        },
        "settings": system.settings | ({"alphas": dict(alphas)} if alphas else {}),
        "prompts": [asdict(counters.prompts[of]) for of in SIDE_NAMES.values() if of in counters.prompts],
        "texts": {
            "given": counters.num_texts,
            "encoded": counters.num_encoded,
            "from_cache": counters.num_cached,
            "cut": counters.num_truncated,
        },
        "protocol": {"titles": mteb_search.TITLE_RULE, "ties": mteb_search.TIE_RULE, "seed": task.seed}
        | ({"ignore_identical_ids": ignores_identical_ids(task)} if metadata.type in RETRIEVAL_KINDS else {}),
        "versions": _package_versions(),
        "seconds": {"total": round(seconds, 3), "encoding": round(counters.seconds, 3)},
    }


def _describe_model(system: System) -> dict[str, Any]:
    source = system.dense.encoder.checkpoint.source if system.dense else None
    return {
        "name": system.name,
        "method": system.method,
        "fingerprint": system.dense.fingerprint if system.dense else None,
        "revision": source.revision if source else None,
    }


def _package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions

"""Checkpoints of a run. Each is a folder that is complete or not there, whenever the process ends.

FOLDER/step-00000500/state.safetensors holds the tensors. facts.json holds everything else, and a checksum of both. No
pickle is used.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gnomon.checkpoint.weights import read_safetensors, write_safetensors
from gnomon.engines.torch.tensors import to_arrays
from gnomon.errors import CheckpointError
from gnomon.files import describe_os_error, fsync_folder, temporary_path
from gnomon.messages import list_some, shorten

UNCOMPARED_KEYS = frozenset(
    """
    model revision card output cache_dir chunk_tokens save_steps save_total_limit logging_steps report_to
    validation.steps validation.keep_best sources.*.path sources.*.streaming mixture.data_config loss.guide loss.teacher
    """.split()
)
"""Keys of a recipe that are not compared. They change no weight, or a run compares what they led to: data and models by
fingerprints, chunk_tokens by the number that None stood for.
"""

ROUNDING_KEYS = frozenset("device threads deterministic gradient_checkpointing".split())
"""Keys that change only the order in which numbers are added, and so the last digits."""

_NAME = re.compile(r"step-(\d{8,})(\.new)?")
_TENSORS, _FACTS = "state.safetensors", "facts.json"
_FORMAT = 2
"""2 since November 2026: parameters and keys of the recipe have other names."""


@dataclass(frozen=True)
class SavedState:
    step: int
    tensors: Mapping[str, Tensor]
    """By flat names: "model.*", "optimizer.*", "ema.*", and those of the objective, such as "loss.*"."""
    facts: dict[str, Any]
    """JSON. Tuples become lists."""


# ---- folders


def save(folder: Path, state: SavedState, *, keep: int, best_step: int | None = None) -> Path:
    """Write FOLDER/step-N, which replaces an older checkpoint of the same step; then remove older steps.

    Args:
        keep: how many checkpoints stay, with the new one, without the best one.
        best_step: the step of the best checkpoint so far, which stays.

    Raises:
        CheckpointError: the checkpoint cannot be written. The older ones are still there.
    """
    arrays = to_arrays(state.tensors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clean_up_drafts(folder)
        path = _write(folder, state, arrays)
    except OSError as error:
        size = sum(array.nbytes for array in arrays.values())
        raise CheckpointError(_describe_write_error(folder, state.step, size, error)) from error
    older = [step for step in checkpoints_by_step(folder) if step < state.step]
    for step in older[: max(len(older) + 1 - keep, 0)]:
        if step != best_step:
            _discard(folder / _name(step))
    return path


def checkpoints_by_step(folder: Path) -> dict[int, Path]:
    """The complete checkpoints by their step, ascending."""
    paths = folder.iterdir() if folder.is_dir() else ()
    matches = ((_NAME.fullmatch(path.name), path) for path in paths)
    numbered = sorted((int(name[1]), path) for name, path in matches if name)  # of equal steps ".new" comes last
    return {step: path for step, path in numbered if all((path / file).is_file() for file in (_TENSORS, _FACTS))}


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    return next(reversed(checkpoints_by_step(folder).values()), None)


def load(path: Path) -> SavedState:
    """Read a checkpoint; its tensors are on the CPU.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another version. OSError: it may not be read.
    """
    try:
        content = json.loads((path / _FACTS).read_text("utf-8"))
        step, facts, check = int(content["step"]), dict(content["facts"]), content["check"]
        if content["format"] != _FORMAT:
            raise CheckpointError(
                f"the checkpoint {path} is of another version of gnomon: its format is {content['format']!r}, and this "
                f"one reads {_FORMAT}. Finish the run with the version that began it, or start it again."
            )
        arrays = read_safetensors(path / _TENSORS)
        if check != _checksum(step, facts, arrays):
            raise ValueError("its checksum is not that of its content")
        return SavedState(step, {name: _tensor(array) for name, array in arrays.items()}, facts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, FileNotFoundError) as error:
        why = f"{error}".partition(";")[0] or type(error).__name__
        before = [other for other in checkpoints_by_step(path.parent).values() if other.name < path.name]
        start = f"the run goes on from {before[-1].name}" if before else "start the run again"
        raise CheckpointError(f"the checkpoint {path} is damaged ({why}); remove it, and {start}.") from error


def remove_all(folder: Path) -> None:
    """Remove all checkpoints of a folder, for a run that starts anew."""
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if _NAME.fullmatch(path.name):
            _discard(path)
    _clean_up_drafts(folder)


def select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _name(step: int) -> str:
    return f"step-{step:08}"


def _write(folder: Path, state: SavedState, arrays: Mapping[str, NDArray[Any]]) -> Path:
    draft = temporary_path(folder / _name(state.step))
    head = {"format": _FORMAT, "check": _checksum(state.step, state.facts, arrays), "step": state.step}
    try:
        draft.mkdir()
        write_safetensors(draft / _TENSORS, arrays)
        with (draft / _FACTS).open("x", encoding="utf-8") as file:
            json.dump(head | {"facts": state.facts}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(draft)
        new = folder / f"{_name(state.step)}.new"
        draft.rename(new)  # from here on it counts, before an older one of this step
        return _take_final_name(new)
    finally:
        _remove(draft)


def _take_final_name(new: Path) -> Path:
    """Rename a complete checkpoint from step-N.new to step-N."""
    path = new.with_suffix("")
    if path.exists():
        _discard(path)
    if path.exists():  # the folder holds other files
        path.rename(path.with_name(f"{path.name}.kept-{secrets.token_hex(4)}"))
    new.rename(path)
    fsync_folder(path.parent)
    return path


def _discard(path: Path) -> None:
    """Remove a checkpoint, so that a part of it never counts as one. Other files in its folder stay, and so does a
    checkpoint that cannot be removed.
    """
    renamed = temporary_path(path)
    with suppress(OSError):
        if {file.name for file in path.iterdir()} <= {_TENSORS, _FACTS}:
            path.rename(renamed)
            path = renamed
        _remove(path)


def _remove(folder: Path) -> None:
    """Remove what `_write` writes into a folder, and the folder, unless it holds something else."""
    with suppress(OSError):
        (folder / _FACTS).unlink(missing_ok=True)  # first: without it, the folder is not a checkpoint
        for path in (folder / _TENSORS, *folder.glob(f".{_TENSORS}.*.tmp")):
            path.unlink(missing_ok=True)
        folder.rmdir()


def _clean_up_drafts(folder: Path) -> None:
    """Remove or complete what a killed process left."""
    for path in folder.glob(".step-*.tmp"):
        _remove(path)
    for path in folder.glob("step-*.new"):
        _take_final_name(path)


def _describe_write_error(folder: Path, step: int, size: int, error: OSError) -> str:
    last = latest(folder)
    advice = f"resume: {last} is complete" if last else "start again: no earlier checkpoint exists"
    return (
        f"the checkpoint of step {step} ({size / 1e6:.0f} MB) was not written: {describe_os_error(error)}. Make room "
        f"in {folder}, then {advice}."
    )


def _checksum(step: int, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> int:
    """CRC-32 of everything that a checkpoint holds."""
    check = zlib.crc32(json.dumps([step, facts]).encode())
    for name, array in sorted(arrays.items()):
        check = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), check)
        check = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, check)
    return check


def _tensor(array: NDArray[Any]) -> Tensor:
    """A tensor with its own memory, since the file may be removed."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


# ---- an optimizer


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """All state of an optimizer with its step counters, named "optimizer.NAME.exp_avg" and so on.

    Args:
        names: every parameter of the optimizer, by name.
    """
    return {
        f"optimizer.{name}.{key}": tensor
        for name, parameter in names.items()
        for key, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Restore what `optimizer_tensors` returned. Learning rates stay as they are.

    Raises:
        CheckpointError: the state is of a model with other parameters.
    """
    saved: dict[str, dict[str, Tensor]] = {}
    for path, tensor in select_prefix(tensors, "optimizer.").items():
        name, _, key = path.rpartition(".")
        saved.setdefault(name, {})[key] = tensor.clone()
    name_of = {id(parameter): name for name, parameter in names.items()}
    trained = [name_of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    unknown = [name for name in saved if name not in trained or not _shapes_match(names[name], saved[name])]
    if unknown:
        raise CheckpointError(
            f"the checkpoint has the optimizer's state of {list_some(unknown, 4)}, which is not trained here in that "
            "shape. It is of another model, or of one with other frozen parameters. Resume with the recipe of the "
            "checkpoint, or start the run again."
        )
    state = {index: saved[name] for index, name in enumerate(trained) if name in saved}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _shapes_match(parameter: nn.Parameter, state: Mapping[str, Tensor]) -> bool:
    return all(tensor.ndim == 0 or tensor.shape == parameter.shape for tensor in state.values())


# ---- recipes


def compare_recipes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Differences between two recipes (`dataclasses.asdict`) with which a run cannot resume: "key: was X, is Y"."""
    return [text for key, text in _differences(saved, current) if key not in UNCOMPARED_KEYS | ROUNDING_KEYS]


def compare_rounding(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Differences between two recipes with which a run resumes, and ends with other last digits."""
    return [text for key, text in _differences(saved, current) if key in ROUNDING_KEYS]


def _differences(saved: Any, current: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """(key, with * for the number of an entry; "key: was X, is Y") of each value that differs."""
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        for key in {**saved, **current}:
            yield from _differences(saved.get(key), current.get(key), (*path, str(key)))
    elif isinstance(saved, list | tuple) and isinstance(current, list | tuple):
        if len(saved) == len(current) and any(isinstance(entry, Mapping) for entry in current):
            for index, entries in enumerate(zip(saved, current, strict=True)):
                yield from _differences(*entries, (*path, str(index)))
        elif list(saved) != list(current):
            yield _describe_difference(path, list(saved), list(current))
    elif saved != current:
        yield _describe_difference(path, saved, current)


def _describe_difference(path: tuple[str, ...], saved: Any, current: Any) -> tuple[str, str]:
    key = ".".join("*" if part.isdigit() else part for part in path)
    return key, f"{'.'.join(path)}: was {shorten(saved, 80)}, is {shorten(current, 80)}"

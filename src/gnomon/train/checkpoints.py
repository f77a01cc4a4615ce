"""Checkpoints of a run: each a folder that is complete or not there, whenever the process ends.

FOLDER/step-00000500/state.safetensors holds every tensor, facts.json all else and a checksum of both. No pickle.
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
from gnomon.files import DISK_FULL_REASONS

UNCOMPARED_KEYS = frozenset(
    """
    model revision card output cache_dir chunk_tokens save_steps save_total_limit logging_steps report_to
    validation.steps validation.keep_best sources.*.path sources.*.streaming mixture.data_config loss.guide loss.teacher
    """.split()
)
"""Keys of a recipe that change no weight, or that the run compares by what came of them: where data and models lie by
fingerprints, chunk_tokens by the number that a None stood for.
"""

ROUNDING_KEYS = frozenset("device threads deterministic gradient_checkpointing".split())
"""Keys that change the last digits alone: the order in which numbers are added."""

_NAME = re.compile(r"step-(\d{8,})(\.new)?")
_TENSORS, _FACTS = "state.safetensors", "facts.json"
_FORMAT = 1


@dataclass(frozen=True)
class SavedState:
    step: int
    tensors: Mapping[str, Tensor]
    """By flat names: "model.*", "optimizer.*", "ema.*", "loss.*", random states."""
    facts: dict[str, Any]
    """What JSON holds; tuples come back as lists."""


# ---- folders


def save(folder: Path, state: SavedState, *, keep: int, best_step: int | None = None) -> Path:
    """Write FOLDER/step-N, in place of one of the same step; then remove older ones.

    Args:
        keep: how many stay, the new one counted, and the best one not.
        keep_best: the step of the best one so far, which stays.

    Raises:
        CheckpointError: it cannot be written. Those that were there before are there still.
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
    found = ((_NAME.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
    named = sorted((int(name[1]), path) for name, path in found if name)  # of equal steps a ".new" comes last
    return {step: path for step, path in named if all((path / file).is_file() for file in (_TENSORS, _FACTS))}


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    return next(reversed(checkpoints_by_step(folder).values()), None)


def load(path: Path) -> SavedState:
    """A checkpoint, its tensors on the host.

    Raises:
        CheckpointError: it is damaged. OSError: it may not be read.
    """
    try:
        said = json.loads((path / _FACTS).read_text("utf-8"))
        step, facts, check = int(said["step"]), dict(said["facts"]), said["check"]
        if said["format"] != _FORMAT:
            raise ValueError(f"its format is {said['format']!r}, and this gnomon reads {_FORMAT}")
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
    """Remove all checkpoints, for a run that starts anew."""
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        if _NAME.fullmatch(path.name):
            _discard(path)
    _clean_up_drafts(folder)


def select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _name(step: int) -> str:
    return f"step-{step:08}"


def _write(folder: Path, state: SavedState, arrays: Mapping[str, NDArray[Any]]) -> Path:
    beside = _draft_path(folder / _name(state.step))
    said = {"format": _FORMAT, "check": _checksum(state.step, state.facts, arrays), "step": state.step}
    try:
        beside.mkdir()
        write_safetensors(beside / _TENSORS, arrays)
        with (beside / _FACTS).open("x", encoding="utf-8") as file:
            json.dump(said | {"facts": state.facts}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(beside)
        new = folder / f"{_name(state.step)}.new"
        beside.rename(new)  # it counts from here on, in front of an older one of this step
        return _take_final_name(new)
    finally:
        _remove(beside)


def _take_final_name(new: Path) -> Path:
    """Take the old one's name."""
    path = new.with_suffix("")
    if path.exists():
        _discard(path)
    if path.exists():  # a folder with other files
        path.rename(path.with_name(f"{path.name}.kept-{secrets.token_hex(4)}"))
    new.rename(path)
    fsync_folder(path.parent)
    return path


def _discard(path: Path) -> None:
    """Remove a checkpoint; at no time is a part of it taken for one. One that cannot be removed stays, and so does what
    else lies in its folder.
    """
    gone = _draft_path(path)
    with suppress(OSError):
        if {each.name for each in path.iterdir()} <= {_TENSORS, _FACTS}:
            path.rename(gone)
            path = gone
        _remove(path)


def _remove(folder: Path) -> None:
    """What `_write` writes into a folder, and the folder, unless it holds something else."""
    with suppress(OSError):
        (folder / _FACTS).unlink(missing_ok=True)  # first: it is no checkpoint from here on
        for path in (folder / _TENSORS, *folder.glob(f".{_TENSORS}.*.tmp")):
            path.unlink(missing_ok=True)
        folder.rmdir()


def _draft_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _clean_up_drafts(folder: Path) -> None:
    """What a killed process left."""
    for path in folder.glob(".step-*.tmp"):
        _remove(path)
    for path in folder.glob("step-*.new"):
        _take_final_name(path)


def fsync_folder(folder: Path) -> None:
    """What a folder holds survives a power failure too."""
    if os.name != "posix":  # others cannot
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _describe_write_error(folder: Path, step: int, size: int, error: OSError) -> str:
    why = DISK_FULL_REASONS.get(error.errno or 0, f"{error}")
    last = latest(folder)
    stays = f"{last} is whole: then resume from it" if last else "there is no earlier one: then start again"
    return (
        f"the checkpoint of step {step} ({size / 1e6:.0f} MB) was not written: {why}. Make room in {folder}; {stays}."
    )


def _checksum(step: int, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> int:
    """CRC-32 of all that a checkpoint holds."""
    check = zlib.crc32(json.dumps([step, facts]).encode())
    for name, array in sorted(arrays.items()):
        check = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), check)
        check = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, check)
    return check


def _tensor(array: NDArray[Any]) -> Tensor:
    """A tensor with memory of its own: the file may be removed."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


# ---- an optimizer


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """All state of an optimizer, step counters too: "optimizer.NAME.exp_avg" and so on.

    Args:
        names: every parameter that it has, by name.
    """
    return {
        f"optimizer.{name}.{key}": tensor
        for name, parameter in names.items()
        for key, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """The state that `optimizer_tensors` gave, by the parameters' names; learning rates stay as they are.

    Raises:
        CheckpointError: it is of a model with other parameters.
    """
    saved: dict[str, dict[str, Tensor]] = {}
    for path, tensor in select_prefix(tensors, "optimizer.").items():
        name, _, key = path.rpartition(".")
        saved.setdefault(name, {})[key] = tensor.clone()
    name_of = {id(parameter): name for name, parameter in names.items()}
    learnt = [name_of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    strange = [name for name in saved if name not in learnt or not _shapes_match(names[name], saved[name])]
    if strange:
        some = ", ".join(strange[:4]) + (f" and {len(strange) - 4} more" if len(strange) > 4 else "")
        raise CheckpointError(
            f"the checkpoint is of another model, or of one frozen otherwise: it has the optimizer's state of {some}, "
            "which is not learnt here in that shape. Resume with the recipe that it is of, or start the run again."
        )
    state = {index: saved[name] for index, name in enumerate(learnt) if name in saved}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _shapes_match(parameter: nn.Parameter, state: Mapping[str, Tensor]) -> bool:
    return all(tensor.ndim == 0 or tensor.shape == parameter.shape for tensor in state.values())


# ---- recipes


def compare_recipes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two recipes (`dataclasses.asdict`) so that a run could not go on: "key: was X, is Y"."""
    return [told for key, told in _differences(then, now) if key not in UNCOMPARED_KEYS | ROUNDING_KEYS]


def compare_rounding(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs so that a run can go on, and ends with other last digits than one that was not interrupted."""
    return [told for key, told in _differences(then, now) if key in ROUNDING_KEYS]


def _differences(then: Any, now: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """(key, with * for the number of an entry; what is told)."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in {**then, **now}:
            yield from _differences(then.get(key), now.get(key), (*place, str(key)))
    elif isinstance(then, list | tuple) and isinstance(now, list | tuple):
        if len(then) == len(now) and any(isinstance(entry, Mapping) for entry in now):
            for index, entries in enumerate(zip(then, now, strict=True)):
                yield from _differences(*entries, (*place, str(index)))
        elif list(then) != list(now):
            yield _describe_difference(place, list(then), list(now))
    elif then != now:
        yield _describe_difference(place, then, now)


def _describe_difference(place: tuple[str, ...], then: Any, now: Any) -> tuple[str, str]:
    was, is_now = (repr(value) if len(repr(value)) <= 80 else repr(value)[:79] + "…" for value in (then, now))
    key = ".".join("*" if part.isdigit() else part for part in place)
    return key, f"{'.'.join(place)}: was {was}, is {is_now}"

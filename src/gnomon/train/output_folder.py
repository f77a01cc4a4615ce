"""What runs write to OUTPUT, and how a new run replaces an earlier one. No other file is changed or removed.

    OUTPUT/              a run: recipe.toml, log.jsonl, checkpoints/, stopped/ and, once it is complete, model/
      written.sha256     the manifest: digests of recipe.toml and of the files in model/, to recognise them later
      overwrite-1/       a run with overwrite=True: all of the above, until its model is complete
      kept-1/            files that no run wrote, and that were where a run had to write

A run with overwrite=True changes nothing of the earlier run until its own model is complete. Then its folder is renamed
to NEW. This one rename decides. Any later run can repeat the steps after it (`complete_swap`), also after a kill.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import file_digest, sha256
from pathlib import Path

from gnomon.checkpoint.hub import RUN_MANIFEST, RUN_MODEL, resolve_source
from gnomon.errors import CheckpointError, GnomonError, InputError
from gnomon.files import atomic_file, describe_os_error, fsync_folder, fsync_tree, is_temporary_path
from gnomon.messages import list_some
from gnomon.train import checkpoints
from gnomon.train.data.sources import HUB, match_files
from gnomon.train.recipe.schema import Recipe
from gnomon.train.recipe.toml import read, to_toml
from gnomon.warn import warn_caller

MODEL, CHECKPOINTS, STOPPED, LOG, RECIPE = RUN_MODEL, "checkpoints", "stopped", "log.jsonl", "recipe.toml"
ENTRIES = (MODEL, CHECKPOINTS, STOPPED, LOG, RECIPE)
"""What a run writes. TensorBoard and wandb manage their own files: runs add to these and never remove them."""
MANIFEST = RUN_MANIFEST

NEW, OLD = ".gnomon-new", ".gnomon-old"
"""NEW holds a complete run while its parts move to OUTPUT; OLD holds the parts of the earlier run until the end."""
MODEL_DRAFT, RUN_DRAFT = ".model.tmp", ".gnomon-begun.tmp"
"""The model while it is written, and the folder of a run until it has its recipe."""

_NUMBERED = re.compile(r"overwrite-([1-9]\d*)")
_DRAFTS = re.compile(r"\.\.?model\.tmp(\.\w+\.tmp)?|\.(recipe\.toml|log\.jsonl|written\.sha256)(\.[0-9a-f]{8})?\.tmp")
"""Names of files and folders that are not complete, as `files.temporary_path` gives them. Earlier versions had no
digits.
"""
_CHECKPOINT = re.compile(
    r"checkpoints/\.?step-\d{8,}(\.new)?(\.[0-9a-f]{8}\.tmp)?/"
    r"(facts\.json|state\.safetensors|\.state\.safetensors\.[0-9a-f]{8}\.tmp)"
)
_ROWS = re.compile(r"stopped/step-\d{8,}-rank-\d+\.jsonl")
_DIGEST = re.compile(r"([0-9a-f]{64})  (.+)")
"""One line of written.sha256."""
_RECORD = b'{"step": '
"""How each line of log.jsonl begins."""
_EARLIER = f" Runs of early versions of gnomon have no {MANIFEST}, so their files cannot be recognised, and stay."
_MAX_LISTED = 5
"""How many files a message names."""


# ---- before a run


@contextmanager
def convert_os_errors(root: Path) -> Generator[None]:
    """
    Raises:
        InputError: inside, a file or folder of the output could not be read or changed.
    """
    try:
        yield
    except GnomonError:
        raise
    except OSError as error:
        raise InputError(
            f"output {root} cannot be used: {describe_os_error(error)}. Change its permissions, or give another output."
        ) from error


def check_inputs_outside(recipe: Recipe, root: Path) -> None:
    """
    Raises:
        InputError: a model that the run reads lies inside its output, or rows that it reads are written by a run there.
    """
    models = {"model": recipe.model, "loss.guide": recipe.loss.guide, "loss.teacher": recipe.loss.teacher}
    for key, name in models.items():
        folder = _local_model_folder(name, recipe.revision if key == "model" else None) if name is not None else None
        if folder and _inside(folder, root):
            raise InputError(
                f"{key} is {name}, which lies in the output folder {root}. A run does not read what it may replace: "
                "give another output, or copy the model to another place."
            )
    for source in recipe.sources:
        for path in source.path:
            files = [] if path.startswith(HUB) else match_files(path)
            if overlap := next((file for file in files if _is_written_to(Path(file), root)), None):
                raise InputError(
                    f"the source {overlap} is a file of the run in the output folder {root}. A run does not read what "
                    "it may replace: give another output, or copy the file to another place."
                )


def choose_run_number(recipe: Recipe, root: Path, *, resume: bool, overwrite: bool) -> int:
    """The number of the run's folder (`run_folder`): of the run to resume, or of a new one. Changes nothing.

    Raises:
        InputError: OUTPUT holds a run, or does not, contrary to `resume` and `overwrite`; files that no run wrote are
            in the way; something that has to be replaced cannot be.
    """
    runs = [*reversed(_numbers(root)), 0]
    saved = next((number for number in runs if checkpoints.latest(run_folder(root, number) / CHECKPOINTS)), None)
    if resume:
        if saved is None:
            raise InputError(f"{root / CHECKPOINTS} holds no checkpoint to go on from; leave resume=True out.")
        in_the_way = (*ENTRIES, MANIFEST) if saved else (MODEL, MANIFEST)
        foreign = [path for path in _find_conflicts(root, recipe) if path.parts[0] in in_the_way]
        log = run_folder(root, saved) / LOG
        if log.is_file() and not _is_log(log):  # the run removes lines after its checkpoint
            foreign.append(log.relative_to(root))
        _check_no_foreign_files(root, [*dict.fromkeys(foreign)])
        _check_replaceable(root)
        return saved
    holds = saved is not None or _is_non_empty(root / MODEL)
    if holds and not overwrite:
        raise InputError(
            f"{root} holds a run already. Use resume=True to continue it, overwrite=True to start anew, or another "
            "output."
        )
    foreign = _find_conflicts(root, recipe)
    if not holds and (root / CHECKPOINTS).is_dir():  # they may be a link to another disk
        foreign = [path for path in foreign if path != Path(CHECKPOINTS)]
    for number in _numbers(root):
        folder = run_folder(root, number)
        foreign += [folder.relative_to(root) / path for path in _find_foreign_files(root, folder)]
    _check_no_foreign_files(root, foreign)
    _check_replaceable(root)
    taken = [int(name[1]) for path in root.iterdir() if (name := _NUMBERED.fullmatch(path.name))]
    return 1 + max(taken, default=0) if holds else 0


def run_folder(root: Path, number: int) -> Path:
    """The folder that a run writes to; number 0 is OUTPUT itself."""
    return root / f"overwrite-{number}" if number else root


def latest_checkpoint(root: Path) -> Path | None:
    """The checkpoint that resume=True continues from."""
    folders = [run_folder(root, number) for number in (*reversed(_numbers(root)), 0)]
    return next(filter(None, (checkpoints.latest(folder / CHECKPOINTS) for folder in folders)), None)


# ---- a run begins and ends


def begin(recipe: Recipe, root: Path, number: int) -> None:
    """Prepare the folder of a run, with its recipe. The complete earlier run and the last checkpoint stay."""
    saved = [each for each in _numbers(root) if checkpoints.latest(run_folder(root, each) / CHECKPOINTS)]
    for earlier in _numbers(root):
        if earlier not in saved[-1:]:
            _remove_or_warn(root, run_folder(root, earlier))
    if number:
        draft = root / RUN_DRAFT
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        write_recipe(recipe, draft)
        draft.rename(run_folder(root, number))
        return
    checkpoints.remove_all(root / CHECKPOINTS)
    for rows in (root / STOPPED).glob("*"):
        if _ROWS.fullmatch(f"{STOPPED}/{rows.name}"):
            rows.unlink()
    write_recipe(recipe, root)


def write_recipe(recipe: Recipe, folder: Path) -> None:
    """Write FOLDER/recipe.toml, unless there is one that no run wrote."""
    target, content = folder / RECIPE, to_toml(recipe).encode()
    if os.path.lexists(target) and Path(RECIPE) not in _select_written_files(folder, [Path(RECIPE)]):
        return
    with atomic_file(target) as file:
        file.write(content)
        _add_to_manifest(folder, {RECIPE: sha256(content).hexdigest()})


def finish(root: Path, number: int, write: Callable[[Path], object]) -> Path:
    """Write the model with `write`, and replace the earlier run; returns the model's folder.

    A kill before the model is complete leaves the earlier run as it was. After a later kill, `complete_swap` does the
    rest.

    Raises:
        OSError: the model cannot be written. CheckpointError: the model is complete, and cannot take its place.
    """
    folder = run_folder(root, number)
    staged = folder if number else root / f"{NEW}.tmp"
    if not number:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
    for draft in (path for path in staged.iterdir() if _DRAFTS.fullmatch(path.name) and path.is_dir()):
        shutil.rmtree(draft)
    write(staged / MODEL_DRAFT)
    model = staged / MODEL_DRAFT
    _add_to_manifest(folder, {f"{MODEL}/{path.as_posix()}": _hash_file(model / path) for path in _files(model)})
    fsync_tree(model)  # before the earlier model is removed
    if not number:
        shutil.copyfile(folder / MANIFEST, staged / MANIFEST)
    else:
        (folder / STOPPED).mkdir(exist_ok=True)  # each part of the earlier run needs a new part
    if not _is_written_file(root, Path(RECIPE), _read_manifest(root)) and _have_same_recipe(
        root / RECIPE, staged / RECIPE
    ):
        (staged / RECIPE).unlink()  # a recipe that no run wrote stays
    staged.rename(root / NEW)
    complete_swap(root)
    for earlier in _numbers(root):
        _remove_or_warn(root, run_folder(root, earlier))
    return root / MODEL


def complete_swap(root: Path) -> None:
    """Move a complete run to its place, where a kill interrupted that, and remove what is left over.

    Raises:
        CheckpointError: the run cannot take its place.
    """
    new, old = root / NEW, root / OLD
    if (new / MANIFEST).is_file():
        try:
            _move_into_place(root)
        except OSError as error:
            model = next(filter(Path.is_dir, (new / MODEL_DRAFT, new / MODEL, root / MODEL)), new)
            raise CheckpointError(
                f"the new model is complete in {model}. It could not take its place in {root}: "
                f"{describe_os_error(error)}. Make room or change the permissions. The next command on this folder "
                "completes it."
            ) from error
    for left in (old, new):
        if left.is_dir():
            _remove_or_warn(root, left)
    with suppress(OSError):  # it holds rows
        (root / STOPPED).rmdir()
    for draft in (f"{NEW}.tmp", RUN_DRAFT):
        shutil.rmtree(root / draft, ignore_errors=True)
    for path in _list_drafts(root):
        path.unlink(missing_ok=True)


def _list_drafts(folder: Path) -> list[Path]:
    """Files of a run that a killed process has not completed."""
    names = (RECIPE, LOG, MANIFEST)
    return [
        path
        for path in folder.iterdir()
        if any(is_temporary_path(path, name) or path.name == f".{name}.tmp" for name in names)
    ]


def _move_into_place(root: Path) -> None:
    new = root / NEW
    fsync_folder(root)
    if (new / MODEL_DRAFT).is_dir():
        if os.path.lexists(new / MODEL):
            _move_aside(root, new / MODEL)
        (new / MODEL_DRAFT).rename(new / MODEL)
    (root / OLD).mkdir(exist_ok=True)
    for name in (*ENTRIES, MANIFEST):  # the manifest last: while NEW has it, this is repeated
        _swap(root, name)
    fsync_folder(root)


def _swap(root: Path, name: str) -> None:
    """Replace a part of the earlier run, which is removed later."""
    new, target, old = root / NEW / name, root / name, root / OLD / name
    if not os.path.lexists(new):
        return
    if os.path.lexists(target):
        if os.path.lexists(old):
            _move_aside(root, old)
        target.rename(old)
    new.rename(target)


# ---- what a run wrote


def _select_written_files(folder: Path, files: Iterator[Path] | list[Path]) -> list[Path]:
    """The files that the run in this folder wrote, and that did not change since. Paths are relative to the folder."""
    digests = _read_manifest(folder)
    return [path for path in files if _is_written_file(folder, path, digests)]


def _is_written_file(folder: Path, path: Path, digests: dict[str, set[str]]) -> bool:
    name, full = path.as_posix(), folder / path
    if full.is_symlink() or not full.is_file():
        return False
    if name == MANIFEST:
        return bool(digests)
    if _DRAFTS.fullmatch(path.parts[0]):
        return True
    if path.parts[0] == MODEL or name == RECIPE:
        return name in digests and _hash_file(full) in digests[name]
    if name == LOG:
        return bool(digests) and _is_log(full)
    return bool(_CHECKPOINT.fullmatch(name) or _ROWS.fullmatch(name))


def _is_log(path: Path) -> bool:
    """Whether each line is a record. The last line may be incomplete."""
    *lines, last = path.read_bytes().split(b"\n")
    torn = last.strip(b"\0")  # some file systems add zeros after a power failure
    try:
        return all("step" in json.loads(line) for line in lines) and torn[: len(_RECORD)] == _RECORD[: len(torn)]
    except (ValueError, TypeError, RecursionError):
        return False


def _find_foreign_files(root: Path, folder: Path) -> list[Path]:
    """Files that no run wrote. In OUTPUT, only the places where a run writes are searched."""
    files = list(_files(folder, (MANIFEST, *ENTRIES) if folder == root else None))
    ours = {*_select_written_files(folder, files)}
    return [path for path in files if path not in ours]


def _find_conflicts(root: Path, recipe: Recipe) -> list[Path]:
    """Files in OUTPUT that no run wrote, apart from a recipe that equals the one of this run."""
    return [
        path
        for path in _find_foreign_files(root, root)
        if path != Path(RECIPE) or not _is_recipe(root / RECIPE, recipe)
    ]


def _files(folder: Path, names: tuple[str, ...] | None = None) -> Iterator[Path]:
    """All files below a folder, relative to it. Links count as files and are not followed."""
    for path in sorted(folder.iterdir()) if names is None else (folder / name for name in names):
        if path.is_dir() and not path.is_symlink():
            yield from (Path(path.name) / inner for inner in _files(path))
        elif os.path.lexists(path):
            yield Path(path.name)


def _read_manifest(folder: Path) -> dict[str, set[str]]:
    """Path -> digests that the file had. Empty where no manifest exists, or it is a file that no run wrote."""
    digests: dict[str, set[str]] = {}
    try:
        lines = (folder / MANIFEST).read_text("utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return digests
    for line in lines:
        if (parts := _DIGEST.fullmatch(line)) is None:
            return {}
        digests.setdefault(parts[2], set()).add(parts[1])
    return digests


def _add_to_manifest(folder: Path, files: dict[str, str]) -> None:
    """Add digests of files to a run's manifest, before the files take their names."""
    digests = _read_manifest(folder)
    for name, digest in files.items():
        digests.setdefault(name, set()).add(digest)
    lines = [f"{digest}  {name}\n" for name, known in digests.items() for digest in sorted(known)]
    with atomic_file(folder / MANIFEST, sync=True) as file:
        file.write("".join(lines).encode())


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


# ---- removing


def _remove_run(root: Path, folder: Path) -> None:
    """Remove what a run wrote. Other files are moved to OUTPUT/kept-N, with a warning."""
    files = [*_files(folder)]
    ours = _select_written_files(folder, files)
    if len(ours) < len(files):
        folder = _move_aside(root, folder)
    for path in sorted(ours, key=lambda path: path.name == MANIFEST):  # last, to recognise the rest after a kill
        (folder / path).unlink(missing_ok=True)
    for inner, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # it is not empty
            Path(inner).rmdir()
    if len(ours) == len(files) and os.path.lexists(folder):  # someone added a file meanwhile
        _move_aside(root, folder)


def _remove_or_warn(root: Path, folder: Path) -> None:
    """Remove a run, and warn about what cannot be removed."""
    try:
        _remove_run(root, folder)
    except OSError as error:
        warn_caller(
            f"{folder} is left over from an earlier run and cannot be removed: {describe_os_error(error)}. It does no "
            "harm. Change the permissions, and the next command on this folder removes it."
        )


def _move_aside(root: Path, path: Path) -> Path:
    number = next(number for number in range(1, 1 << 30) if not os.path.lexists(root / f"kept-{number}"))
    moved = path.rename(root / f"kept-{number}")
    warn_caller(f"{moved} holds files that no run wrote, and that were where a run had to write.")
    return moved


# ---- what a run reads


def _local_model_folder(name: str, revision: str | None) -> Path | None:
    """The folder of a model, if it is on this machine."""
    with suppress(GnomonError):
        return resolve_source(name, revision=revision, local_files_only=True).folder
    return None


def _inside(path: Path, root: Path) -> bool:
    """Whether a path is a folder or lies in it, whatever links, capitals or mounts the names use."""
    real = path.resolve()
    return any(each.exists() and root.exists() and each.samefile(root) for each in (real, *real.parents))


def _is_written_to(file: Path, root: Path) -> bool:
    folders = [root, *(run_folder(root, number) for number in _numbers(root))]
    return any(_inside(file.expanduser(), folder / name) for folder in folders for name in ENTRIES)


def _is_recipe(path: Path, recipe: Recipe) -> bool:
    """Whether a file holds this recipe, perhaps in another form."""
    with suppress(InputError, OSError):
        return replace(read(path), output=recipe.output) == recipe
    return False


def _have_same_recipe(path: Path, other: Path) -> bool:
    """Whether two files hold the same recipe, perhaps in another form."""
    with suppress(InputError, OSError):
        return _is_recipe(path, read(other))
    return False


def _numbers(root: Path) -> list[int]:
    """The numbers of the folders of runs with overwrite=True, ascending."""
    matches = ((_NUMBERED.fullmatch(path.name), path) for path in (root.iterdir() if root.is_dir() else ()))
    return sorted(int(name[1]) for name, path in matches if name and (path / MANIFEST).is_file())


def _is_non_empty(path: Path) -> bool:
    return os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir()))


def _check_no_foreign_files(root: Path, foreign_files: list[Path]) -> None:
    if not foreign_files:
        return
    checkpoints_path = root / CHECKPOINTS
    if Path(CHECKPOINTS) in foreign_files and checkpoints_path.is_symlink():
        raise InputError(
            f"{checkpoints_path} is a link to {checkpoints_path.readlink()}. A run writes its checkpoints through the "
            "link, but does not remove those of another run there. Remove the link, and the folder that it leads to if "
            "you do not need it; or give another output, which may have such a link, too."
        )
    names = list_some([path.as_posix() for path in foreign_files], _MAX_LISTED)
    earlier = "" if os.path.lexists(root / MANIFEST) or not (root / LOG).is_file() else _EARLIER
    raise InputError(
        f"{root} has files where a run writes, which no run wrote or which changed since: {names}. A run removes only "
        f"what runs wrote.{earlier} Move the files to another place, or give another output."
    )


def _check_replaceable(root: Path) -> None:
    """
    Raises:
        InputError: a folder in which a run has to write, or that it has to move or remove, may not be written to.
    """
    walks = (os.walk(root / part) for part in (*ENTRIES, OLD))
    inside = (Path(folder) / name for walk in walks for folder, names, _ in walk for name in names)
    for folder in (root, *(root / part for part in (*ENTRIES, OLD)), *inside):
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(
                f"output {root} cannot be written to: {folder} is read-only. Change its permissions, or give another "
                "output."
            )

"""What a test that is not marked `slow` must not do: start a process, or import mteb."""

import ast
import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.exec"}
"""Python's audit events of new processes."""

_guarded: list[str] = []
"""The test, or the module of tests, that is guarded now."""
_start, _import = BaseProcess.start, builtins.__import__


def _refuse(what: str) -> None:
    name = _guarded.pop()  # what runs on the way out, say a fixture's end, may do it
    pytest.fail(f"{name} {what}, so it is slow: mark it with pytest.mark.slow.", pytrace=True)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _guarded and event in STARTS and not _asks_the_system():
        _refuse(f"starts a process ({event})")
    if _guarded and event == "import" and _is_mteb(args[0]):
        _refuse("imports mteb")


def _asks_the_system() -> bool:
    """Whether Python's own `platform` or `ctypes.util` starts the process: torch for CUDA looks for libraries so."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") in ("platform", "ctypes.util"):
            return True
        frame = frame.f_back
    return False


def _is_mteb(name: str) -> bool:
    return name.partition(".")[0] == "mteb"


def _start_process(process: BaseProcess) -> None:
    """Python audits those of multiprocessing only where it forks."""
    if _guarded:
        _refuse("starts a process (multiprocessing)")
    _start(process)


def _import_again(name: str, *args: Any, **options: Any) -> Any:
    """Python does not audit an import of what another test has imported."""
    if _guarded and _is_mteb(name):
        _refuse("imports mteb")
    return _import(name, *args, **options)


sys.addaudithook(_audit)  # stays as long as Python runs


@contextmanager
def guarded(name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseProcess, "start", _start_process)
        if "mteb" in sys.modules:
            patch.setattr(builtins, "__import__", _import_again)
        before, _guarded[:] = _guarded[:], [name]
        try:
            yield
        finally:
            _guarded[:] = before


def is_slow(module: Path) -> bool:
    """Whether all tests of a module are marked slow: known without an import of it."""
    text = module.read_text("utf-8")
    if "\npytestmark = " not in text:
        return False
    marks = [ast.unparse(node) for node in ast.parse(text).body if isinstance(node, ast.Assign)]
    return any(mark.startswith("pytestmark = ") and "pytest.mark.slow" in mark for mark in marks)

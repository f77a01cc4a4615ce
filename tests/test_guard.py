"""What marks tests as slow: the guard fails those that should be marked, and modules are known without an import."""

import ctypes.util
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guard import guarded, is_slow

WAYS: dict[str, Callable[[], Any]] = {
    "subprocess": lambda: subprocess.run([sys.executable, "-c", ""]),
    "fork": os.fork,
    "system": lambda: os.system("true"),
    "multiprocessing": multiprocessing.get_context("spawn").Process(target=print).start,
    "mteb": lambda: __import__("mteb.no_such_module"),
    "mteb again": lambda: __import__("mteb"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_makes_a_test_slow_fails_it(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "mteb again":
        monkeypatch.setitem(sys.modules, "mteb", sys)
    message = "^this test (imports mteb|starts a process.*), so it is slow: mark it with pytest.mark.slow.$"
    with pytest.raises(pytest.fail.Exception, match=message), guarded("this test"):
        WAYS[way]()


def test_what_python_asks_the_system_is_no_process_of_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch for CUDA does when it is imported: it looks for a library, and ldconfig lists them."""
    if not Path("/sbin/ldconfig").exists():
        pytest.skip("no ldconfig")
    started: list[object] = []
    start = subprocess.Popen.__init__

    def noted(self: Any, args: Any, *more: Any, **options: Any) -> None:
        started.append(args)
        start(self, args, *more, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", noted)
    with guarded("this test"):
        ctypes.util.find_library("no_such_library")
    assert started


@pytest.mark.parametrize(
    ("text", "slow"),
    [
        ("import pytest\n", False),
        ("import pytest\n@pytest.mark.slow\ndef test_a(): ...\n", False),
        ("import pytest\n\npytestmark = pytest.mark.slow\n", True),
        (
            "import pytest\n\npytestmark = [\n    pytest.mark.slow,\n    pytest.mark.skipif(False),\n]\n",
            True,
        ),
        ("import pytest\n\npytestmark = pytest.mark.filterwarnings('ignore')  # pytest.mark.slow\n", False),
    ],
)
def test_a_module_is_slow_by_its_mark(text: str, slow: bool, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(text)
    assert is_slow(tmp_path / "test_it.py") == slow

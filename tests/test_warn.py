"""A warning points at the first line outside this package, however it was reached."""

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gnomon.errors import Notice
from gnomon.warn import warn_caller


def inside(name: str, code: str, **known: Any) -> Any:
    """`f` of a module of this name, whose file is called like it."""
    module = {"__name__": name, **known}
    exec(compile(code, f"{name}.py", "exec"), module)
    return module["f"]


DIRECT = "def f(*args):\n    g(*args)"
DEEP = "def f(*args):\n    h(*args)\ndef h(*args):\n    return [g(*args) for _ in [0]]"
LAZY = "def f(*args):\n    list(h(*args))\ndef h(*args):\n    g(*args)\n    yield"


def collect_warnings(run: Callable[[], object]) -> Iterator[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        run()
    return iter(messages)


def test_a_call_from_here_points_here() -> None:
    (warning,) = collect_warnings(lambda: warn_caller("look"))
    assert (warning.filename, warning.category, str(warning.message)) == (__file__, Notice, "look")
    assert warning.lineno == test_a_call_from_here_points_here.__code__.co_firstlineno + 1


@pytest.mark.parametrize("code", [DIRECT, DEEP, LAZY])
@pytest.mark.parametrize("name", ["gnomon", "gnomon.pipeline", "gnomon.engines.torch.engine"])
def test_frames_of_the_package_are_passed_over(name: str, code: str) -> None:
    inner = inside("gnomon.inner", code, g=warn_caller)
    outer = inside(name, code, g=inner)
    (warning,) = collect_warnings(lambda: outer("look"))
    assert warning.filename == __file__
    assert warning.lineno == test_frames_of_the_package_are_passed_over.__code__.co_firstlineno + 5


@pytest.mark.parametrize("name", ["gnomonic", "gnomon_tools.notices", "mine.gnomon", "__main__"])
def test_the_nearest_line_outside_is_the_callers(name: str) -> None:
    """Names that only look like ours are not ours; frames further out are not looked at."""
    user = inside(name, DIRECT, g=inside("gnomon.inner", DEEP, g=warn_caller))
    (warning,) = collect_warnings(lambda: inside("gnomon.outer", DIRECT, g=user)("look"))
    assert (warning.filename, warning.lineno) == (f"{name}.py", 2)


def test_a_frame_without_a_name_is_outside() -> None:
    (warning,) = collect_warnings(lambda: exec(compile("g('look')", "typed.py", "exec"), {"g": warn_caller}))
    assert warning.filename == "typed.py"


def test_a_warning_may_be_an_error_and_nothing_else_is_lost() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        with pytest.raises(Notice, match="look"):
            warn_caller("look")


@pytest.mark.slow
def test_a_stack_of_our_frames_alone_is_no_error() -> None:
    code = "__name__ = 'gnomon.cli'\nfrom gnomon.warn import warn_caller\nwarn_caller('look')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("Notice: look")) == (0, 1)

"""Shared by all tests: where the golden folders are, writable copies of them, what "the same vector" means, which
examples property tests draw, and what only tests marked `slow` may do.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from uuid import uuid4

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: no test asks the network
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported
# read when numpy and torch are imported, here and in child processes. The models of most tests are tiny, and tests run
# beside each other: a second thread would wait longer than it helps
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a process of pytest-xdist, with its children, stays on one core: several with a thread per core each hinder each other
if (worker := os.environ.get("PYTEST_XDIST_WORKER", "")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

import pytest
from goldens import GOLDEN, NAMES, assert_same, require
from guard import guarded, is_slow
from hypothesis import HealthCheck, is_hypothesis_test, settings

# No limit of time anywhere: a busy machine is no fault.
_UNTIMED: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("same", derandomize=True, database=None, **_UNTIMED)
"""The default: the same examples in every run, on every machine, in CI as by hand."""
settings.register_profile("random", derandomize=False, **_UNTIMED)
"""Other examples in every run, or those of `--hypothesis-seed`. What fails is kept in .hypothesis and tried first."""
settings.load_profile("same")


EXAMPLES_OF_FAST_TESTS = 10
"""Of each property, where slow tests are left out; the others try them all."""


def _is_fast(config: pytest.Config) -> bool:
    """Whether slow tests are left out, as `pytest` does by itself."""
    return config.option.markexpr == "not slow"


def pytest_addoption(parser: pytest.Parser) -> None:
    times = "Let each property test try N times as many examples."
    parser.addoption("--times-examples", type=int, default=1, metavar="N", help=times)


def pytest_configure(config: pytest.Config) -> None:
    """A seed would change nothing in the profile that has none."""
    if config.getoption("--hypothesis-seed") is not None:
        settings.load_profile("random")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that set their own number of examples, or of health checks, get these beside the profile's."""
    times, most = config.getoption("--times-examples"), EXAMPLES_OF_FAST_TESTS if _is_fast(config) else sys.maxsize
    for test in {item.function for item in items if isinstance(item, pytest.Function) and is_hypothesis_test(item.obj)}:
        own: settings = test._hypothesis_internal_use_settings  # where hypothesis' own plugin for pytest reads them
        test._hypothesis_internal_use_settings = settings(
            own,
            max_examples=min(own.max_examples * times, most),
            suppress_health_check={*own.suppress_health_check, HealthCheck.too_slow},
        )


# ---- slow tests


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where slow tests are left out, a module of slow tests is not even imported, unless it is named: mteb alone takes
    seconds.
    """
    named = {Path(arg.partition("::")[0]).resolve() for arg in config.args}
    left_out = _is_fast(config) and collection_path.suffix == ".py" and collection_path not in named
    return True if left_out and is_slow(collection_path) else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Imports of a module of tests are guarded, unless all its tests are slow."""
    if not isinstance(collector, pytest.Module) or is_slow(collector.path):
        return (yield)
    with guarded(collector.nodeid):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    if item.get_closest_marker("slow"):
        return (yield)
    with guarded(item.nodeid):
        return (yield)


@pytest.fixture(autouse=True)
def cache_of_searches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for each test's cached vectors, in place of the user's; it does not exist yet."""
    folder = tmp_path_factory.getbasetemp() / "caches" / uuid4().hex
    monkeypatch.setenv("GNOMON_CACHE_DIR", str(folder))  # for the command line
    monkeypatch.setattr("gnomon.search.cache.cache_folder", lambda: folder)
    return folder


def _golden(name: str) -> Path:
    require()
    return GOLDEN / name


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest) -> Path:
    """Each golden folder, to read."""
    return _golden(request.param)


@pytest.fixture(scope="session")
def golden_folder() -> Callable[[str], Path]:
    """A golden folder by name, to read."""
    return _golden


@pytest.fixture
def golden_copy(tmp_path: Path) -> Callable[..., Path]:
    """A golden folder's model by name, to change; `to` is the name of the copy, for models that are known by it."""

    def copy(name: str, to: str | None = None) -> Path:
        kept_back = shutil.ignore_patterns("expected.npz", "texts.json")
        return shutil.copytree(_golden(name), tmp_path / (to or name), ignore=kept_back)

    return copy


@pytest.fixture(scope="session")
def edit_json() -> Callable[..., dict[str, Any]]:
    """Set keys of a JSON file (made where it is missing), and drop some; returns what it then holds."""

    def edit(path: Path, changes: dict[str, Any] | None = None, *, drop: tuple[str, ...] = ()) -> dict[str, Any]:
        content = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        content = {key: value for key, value in (content | (changes or {})).items() if key not in drop}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), "utf-8")
        return content

    return edit


@pytest.fixture(scope="session")
def assert_near() -> Callable[..., None]:
    """What "the same vectors" means: `goldens.assert_same`."""
    return assert_same

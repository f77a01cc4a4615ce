"""Worker processes: the vectors of one device, whatever becomes of a worker.

B: texts; T: tokens.
"""

import _thread
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import GIST, GOLDEN, NAMES, STELLA, assert_same, load

from gnomon import Encoder
from gnomon.engines import process_pool
from gnomon.engines.process_pool import ProcessPoolEngine
from gnomon.engines.protocol import Engine, Failure
from gnomon.engines.select import EngineOptions, available_cores, open_engine
from gnomon.engines.static import StaticEngine
from gnomon.errors import InputError, WorkerError
from gnomon.packed import Packed, pack
from gnomon.pipeline import EncodePipeline
from gnomon.spec import ModelSpec, PoolingSpec, StaticSpec, TokenizerSpec, TrunkSpec

LONG = "water boils at one hundred degrees, ice melts at none, " * 12
TEXTS = ["The library opens at nine.", "", "quick sort", "Привет, 南瓜 ❤️", "quick sort", LONG, "a paragraph " * 12]
TEXTS += [f"{number} and {number * number}" for number in range(40)]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::gnomon.errors.Notice")]
if os.name == "nt":
    pytest.skip("signals and fork of POSIX", allow_module_level=True)

FAKES = '''
"""Engines that workers open in these tests."""
import os
import signal
import sys
import threading
import time
from pathlib import Path
import numpy as np
from gnomon import Encoder
from gnomon.batching import FULL_PADDING, NO_PADDING
from gnomon.engines.protocol import Engine
from gnomon.packed import split_per_text

BREAK, KILL, LEAVE, PRINT, MEET, RELEASE, HANG = 101, 102, 103, 104, 105, 106, 107


class Fake(Engine):
    """A text's vector is the sum of its ids, the tokens to skip, and the process; some ids do harm."""

    name, identity, padding = "fake", "a fake", NO_PADDING

    def __init__(self, folder):
        self.folder = Path(folder)

    def budget(self, tokens):
        return tokens

    def pool(self, packed):
        texts = split_per_text(packed.ids_T, packed)
        for token in packed.ids_T.tolist():
            getattr(self, f"on_{token}", int)()
        skips = [0] * len(texts) if packed.skip_B is None else packed.skip_B
        return np.array([[ids_T.sum(), skip, os.getpid()] for ids_T, skip in zip(texts, skips)], np.float32)

    def states(self, packed):
        return self.pool(packed)

    def on_101(self):
        raise ValueError("it broke\\nin two lines")

    def on_102(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def on_103(self):
        print("what went wrong", file=sys.stderr, flush=True)
        os._exit(3)

    def on_104(self):
        print("a library speaks", flush=True)
        os.write(1, b"and its compiled part")

    def on_107(self):
        """Hangs, and takes no request to end."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.alarm(120)
        with (self.folder / "hangs").open("wb", buffering=0) as fifo:
            fifo.write(b"x")
            while True:
                time.sleep(60)

    def on_105(self):
        signal.alarm(30)  # ends this process where nobody comes
        (self.folder / "fifo").read_bytes()
        signal.alarm(0)

    def on_106(self):
        signal.alarm(30)
        (self.folder / "fifo").write_bytes(b"")
        signal.alarm(0)


def refuse():
    raise ValueError("there is no such table")


def leave():
    raise SystemExit(4)


def after_death(folder):
    """Opens twice, then not until the file is away."""
    marks = [Path(folder, name) for name in ("one", "two")]
    for mark in marks:
        if not mark.exists():
            mark.touch()
            return Fake(folder)
    if Path(folder, "broken").exists():
        raise ValueError("the disk is gone")
    return Fake(folder)


class Deadly(Engine):
    """A model that dies of one text, as long as the file is there."""

    name, identity, padding = "deadly", "a deadly one", FULL_PADDING

    def __init__(self, folder, ids, how, flag):
        self.engine = Encoder.load(folder, device="cpu", threads=1).engine
        self.ids, self.how, self.flag = ids, how, Path(flag)

    def budget(self, tokens):
        return 40

    def pool(self, packed):
        if self.flag.exists() and self.ids in [ids_T.tolist() for ids_T in split_per_text(packed.ids_T, packed)]:
            if self.how == "signal":
                self.flag.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("it overflowed")
        return self.engine.pool(packed)
'''


@pytest.fixture(scope="module", autouse=True)
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module of fake engines, which workers find too."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "gnomon_test_fakes.py").write_text(FAKES)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import gnomon_test_fakes  # pyright: ignore[reportMissingImports]

        yield gnomon_test_fakes
    sys.modules.pop("gnomon_test_fakes", None)


@pytest.fixture
def two(fakes: Any, tmp_path: Path) -> ProcessPoolEngine:
    return ProcessPoolEngine([("left", partial(fakes.Fake, tmp_path)), ("right", partial(fakes.Fake, tmp_path))])


@pytest.fixture(scope="module")
def gist() -> Iterator[Encoder]:
    load(GIST)
    yield Encoder.load(GOLDEN / GIST, device=["cpu", "cpu"])


def of(*ids: int) -> Packed:
    """A batch of one text."""
    return pack([np.array(ids)])


def processes(engine: Engine) -> list[int]:
    assert isinstance(engine, ProcessPoolEngine)
    return [worker.process.pid for worker in engine._worker_pool().workers]


def assert_gone(pid: int) -> None:
    """No process, not even one that has ended and that nobody asked about."""
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# ---- the vectors of one device


@pytest.mark.parametrize(("name", "engine"), [*((name, "auto") for name in NAMES), (STELLA, "torch")])
def test_several_workers_give_the_vectors_of_one_device(name: str, engine: str) -> None:
    one = load(name, engine)
    encoder = Encoder.load(GOLDEN / name, device=["cpu", "cpu"], engine=engine, threads=1)
    assert encoder.engine.name == f"2 workers: {one.engine.name}, {one.engine.name}"
    assert encoder.engine.identity == one.engine.identity
    assert encoder.engine.padding == one.engine.padding
    assert len(set(processes(encoder.engine))) == 2
    assert_same(encoder.encode(TEXTS), one.encode(TEXTS))
    assert_same(encoder.encode_query(TEXTS, on_truncate="mean"), one.encode_query(TEXTS, on_truncate="mean"))
    for dim, vectors_BD in encoder.encode_dims(TEXTS).items():
        assert_same(vectors_BD, one.encode(TEXTS, dim=dim))
    assert_same(np.concatenate(encoder.encode_tokens(TEXTS)), np.concatenate(one.encode_tokens(TEXTS)))
    assert_same(encoder.encode("quick sort"), one.encode("quick sort"))
    assert encoder.fingerprint == one.fingerprint


def test_devices_may_be_a_str_with_commas() -> None:
    encoder = Encoder.load(GOLDEN / GIST, device="cpu, cpu", threads=1)
    assert len(processes(encoder.engine)) == 2
    assert_same(encoder.encode(TEXTS), load(GIST).encode(TEXTS))


def test_results_come_in_order_from_workers_that_run_side_by_side(two: ProcessPoolEngine, tmp_path: Path) -> None:
    """The first batch ends only after the third has begun, on the other worker."""
    os.mkfifo(tmp_path / "fifo")
    batches = [of(105), of(1), of(106), *(of(number, number) for number in range(2, 9))]
    batches = [replace(packed, skip_B=np.array([5])) for packed in batches]
    found = [pooled_BD[0].tolist() for pooled_BD in two.pool_batches(batches)]  # pyright: ignore
    assert [row[0] for row in found] == [105, 1, 106, *(2 * number for number in range(2, 9))]
    assert {row[1] for row in found} == {5}
    assert {row[2] for row in found} == set(processes(two))
    assert found[1][2] == found[2][2] != found[0][2]


def test_batches_are_taken_a_few_ahead_and_no_more(two: ProcessPoolEngine) -> None:
    taken: list[int] = []

    def batches() -> Iterator[Packed]:
        for number in range(12):
            taken.append(number)
            yield of(number)

    results = two.pool_batches(batches())
    assert taken == []
    for number in range(12):
        assert next(results)[0][0] == number  # pyright: ignore
        assert len(taken) == min(number + process_pool.BATCHES_PER_WORKER * 2, 12)
    assert next(results, None) is None


def test_what_is_left_half_way_leaves_the_engine_whole(two: ProcessPoolEngine) -> None:
    results = two.pool_batches(of(number) for number in range(20))
    assert next(results)[0][0] == 0  # pyright: ignore
    results.close()  # pyright: ignore
    assert [row[0][0] for row in two.pool_batches(of(number) for number in range(20, 40))] == [*range(20, 40)]


def test_an_error_of_the_batches_reaches_the_caller(two: ProcessPoolEngine) -> None:
    def batches() -> Iterator[Packed]:
        yield of(1)
        raise KeyError("no such text")

    with pytest.raises(KeyError, match="no such text"):
        list(two.pool_batches(batches()))
    assert two.pool(of(3))[0][0] == 3


def test_calls_beside_pool_each(two: ProcessPoolEngine) -> None:
    assert two.budget(2000) == 1000, "each worker has its share of the tokens"
    assert two.states(of(7, 8))[0][0] == 15
    assert two.pool(pack([np.array([7])], skip_B=[2]))[0][:2].tolist() == [7, 2]
    assert "the weights are damaged" in two.explain_nonfinite(of(1))
    for call in (two.pool, two.states):
        with pytest.raises(WorkerError, match="ValueError: it broke"):
            call(of(101))


def test_threads_share_it(gist: Encoder) -> None:
    lists = [[text[at:] for text in TEXTS] for at in range(6)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda texts: gist.encode(texts, on_truncate="silent"), lists))
    for vectors_BD, texts in zip(found, lists, strict=True):
        assert_same(vectors_BD, load(GIST).encode(texts, on_truncate="silent"))


def test_what_a_library_prints_does_not_reach_the_answers(two: ProcessPoolEngine, capfd: Any) -> None:
    assert [row[0][0] for row in two.pool_batches([of(104), of(1), of(104), of(2)])] == [104, 1, 104, 2]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("threads", [None, 3])
def test_threads_are_shared_out(threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(process_pool, "ProcessPoolEngine", lambda openers: made.extend(openers))
    trunk = TrunkSpec(vocab_size=20, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8, max_positions=16)
    spec = ModelSpec(trunk, PoolingSpec(), (), TokenizerSpec(16))
    open_engine(spec, {}, EngineOptions(device="cpu,cpu,cpu", threads=threads), reopen=lambda options: options)  # pyright: ignore
    each = threads or max(1, available_cores() // 3)
    assert [device for device, _ in made] == ["cpu"] * 3
    assert [opener() for _, opener in made] == [EngineOptions("onnx", "float32", "cpu", each)] * 3
    with pytest.raises(InputError, match=r"several devices need a model that Encoder\.load read"):
        open_engine(spec, {}, EngineOptions(device="cpu,cpu"))


def test_a_static_table_needs_no_workers() -> None:
    spec = ModelSpec(StaticSpec(4, 2), PoolingSpec(), (), TokenizerSpec(None))
    engine = open_engine(spec, {"embed.tokens": np.ones((4, 2), np.float32)}, EngineOptions(device="cpu,cpu"))
    assert isinstance(engine, StaticEngine)


# ---- workers that fail


def over(engine: Engine) -> Encoder:
    """The model, with another engine under it."""
    encoder = Encoder.__new__(Encoder)
    vars(encoder).update(vars(load(GIST)))
    encoder._engine = engine
    encoder._pipeline = EncodePipeline(encoder.spec, encoder._tokenizer, engine)
    return encoder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("signal", "the worker on left was killed by signal 9|the worker on right was killed by signal 9"),
        ("error", "on left: ArithmeticError: it overflowed|on right: ArithmeticError: it overflowed"),
    ],
)
def test_a_worker_that_fails_costs_one_batch(fakes: Any, tmp_path: Path, how: str, message: str) -> None:
    flag = tmp_path / "deadly"
    flag.touch()
    bad = load(GIST).tokenize("quick sort").ids[0].tolist()
    opener = partial(fakes.Deadly, GOLDEN / GIST, bad, how, flag)
    encoder = over(ProcessPoolEngine([("left", opener), ("right", opener)]))
    before = processes(encoder.engine)
    texts = [text for text in dict.fromkeys(TEXTS) if text != LONG]
    with pytest.raises(WorkerError, match=message) as caught:
        encoder.encode(texts)
    lost, vectors_BD = caught.value.texts, caught.value.vectors
    assert texts.index("quick sort") in lost
    assert len(lost) < 12
    assert vectors_BD is not None
    assert np.isnan(vectors_BD).all(axis=1).nonzero()[0].tolist() == lost
    wanted_BD = load(GIST).encode(texts)
    kept = np.setdiff1d(range(len(texts)), lost)
    assert_same(vectors_BD[kept], wanted_BD[kept])
    flag.unlink(missing_ok=True)
    assert_same(encoder.encode(texts), wanted_BD)
    assert len(set(processes(encoder.engine)) - set(before)) == (1 if how == "signal" else 0)


def test_a_failure_says_where_and_what(two: ProcessPoolEngine) -> None:
    batches = [of(1), of(101), of(2), of(102), of(3), of(103), of(4), of(5)]
    results = list(two.pool_batches(batches))
    whys = [result.reason if isinstance(result, Failure) else int(result[0][0]) for result in results]
    assert [why for why in whys if isinstance(why, int)] == [1, 2, 3, 4, 5]
    assert [(why.replace("left", "x").replace("right", "x")) for why in whys if isinstance(why, str)] == [
        "on x: ValueError: it broke\nin two lines",
        "the worker on x was killed by signal 9",
        "the worker on x ended with code 3 (what went wrong)",
    ]
    assert [result[0][0] for result in two.pool_batches([of(6), of(7)])] == [6, 7]  # pyright: ignore


def test_a_worker_that_died_while_idle_is_started_again(two: ProcessPoolEngine) -> None:
    before = processes(two)
    for worker in two._worker_pool().workers:
        os.kill(worker.process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, worker.process.pid, os.WEXITED | os.WNOWAIT)
    assert [row[0][0] for row in two.pool_batches(of(number) for number in range(6))] == [*range(6)]  # pyright: ignore
    assert not set(processes(two)) & set(before)
    for pid in before:
        assert_gone(pid)


def test_workers_leave_ctrl_c_to_us(two: ProcessPoolEngine) -> None:
    before = processes(two)
    for pid in before:
        os.kill(pid, signal.SIGINT)
    found = [row[0].tolist() for row in two.pool_batches(of(number) for number in range(6))]  # pyright: ignore
    assert [row[0] for row in found] == [*range(6)]
    assert processes(two) == before


@pytest.mark.parametrize("call", ["pool", "states", "budget"])
def test_ctrl_c_in_a_call_spoils_no_later_answer(
    fakes: Any, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ProcessPoolEngine([("here", partial(fakes.Fake, tmp_path))])
    (worker,) = engine._worker_pool().workers
    with monkeypatch.context() as patch:

        def stopped() -> Any:
            raise KeyboardInterrupt

        patch.setattr(worker, "_receive", stopped)  # where a call of the main thread spends its time
        with pytest.raises(KeyboardInterrupt):
            getattr(engine, call)(3 if call == "budget" else of(3))
    found = engine.pool(of(4, 4))
    assert np.shape(found) == (1, 3)
    assert found[0][0] == 8


def test_a_restart_that_fails_is_told_and_tried_again(fakes: Any, tmp_path: Path) -> None:
    opener = partial(fakes.after_death, tmp_path)
    (tmp_path / "one").touch()
    engine = ProcessPoolEngine([("here", opener)])
    (tmp_path / "broken").touch()
    why = "on here: ValueError: the disk is gone"
    with pytest.raises(WorkerError, match="killed by signal 9"):
        engine.pool(of(102))
    for _ in range(2):
        with pytest.raises(WorkerError, match=why):
            engine.pool(of(1))
    (tmp_path / "broken").unlink()
    assert engine.pool(of(1))[0][0] == 1


def test_a_worker_that_cannot_open_its_engine_says_why(fakes: Any, tmp_path: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*args: Any, **how: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **how))
        return started[-1]

    fine = ("left", partial(fakes.Fake, tmp_path))
    for opener, why in (
        (fakes.refuse, "^on right: ValueError: there is no such table$"),
        (fakes.leave, "^the worker on right ended with code 4$"),
        (partial(os._exit, 5), "^the worker on right ended with code 5$"),
        (partial(os.rmdir, "/none/such"), "^on right: FileNotFoundError: "),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(process_pool.subprocess, "Popen", start)
            with pytest.raises(WorkerError, match=why) as caught:
                ProcessPoolEngine([fine, ("right", opener)])
        assert (caught.value.texts, caught.value.vectors) == ([], None)
    del caught
    gc.collect()
    assert len(started) == 8
    for process in started:
        assert_gone(process.pid)


def test_loading_says_why_a_worker_could_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a package that this process has imported before it was broken."""
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('left out')")
    load(GIST)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        WorkerError, match=r"^on cpu: the package onnxruntime is not installed; pip install onnxruntime$"
    ):
        Encoder.load(GOLDEN / GIST, device=["cpu", "cpu"])


def test_a_worker_that_cannot_even_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('a file of this name is in the way')")
    load(GIST)
    monkeypatch.syspath_prepend(tmp_path)
    message = r"^the worker on cpu ended with code 1 \(ImportError: a file of this name is in the way\)$"
    with pytest.raises(WorkerError, match=message):
        Encoder.load(GOLDEN / GIST, device=["cpu", "cpu"])


def test_files_of_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('a file of this name is in the way')")
    monkeypatch.chdir(tmp_path)
    encoder = Encoder.load(GOLDEN / GIST, device=["cpu", "cpu"])
    assert_same(encoder.encode("a"), load(GIST).encode("a"))


def test_what_is_no_str_on_the_import_path_is_passed_over(
    fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])
    assert ProcessPoolEngine([("here", partial(fakes.Fake, tmp_path))]).pool(of(3))[0][0] == 3


# ---- copies, forks, and the end


def test_a_pickled_copy_has_workers_of_its_own(gist: Encoder) -> None:
    data = pickle.dumps(gist)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert not set(processes(copy.engine)) & set(processes(gist.engine))
    assert len(processes(copy.engine)) == 2
    assert np.array_equal(copy.encode(TEXTS), gist.encode(TEXTS))


FORK = """
import os, sys, warnings
import numpy as np
from gnomon import Encoder
warnings.simplefilter("ignore")
encoder = Encoder.load(sys.argv[1], device=["cpu", "cpu"], threads=1)
texts = ["one", "two", "three " * 9, ""]
wanted = encoder.encode(texts)
pids = lambda: [worker.process.pid for worker in encoder.engine._worker_pool().workers]
before = pids()
read, write = os.pipe()
child = os.fork()
if not child:
    found = encoder.encode(texts)
    os.write(write, found.tobytes() + np.array(pids(), np.float32).tobytes())
    {end}
os.close(write)
data = np.frombuffer(b"".join(iter(lambda: os.read(read, 65536), b"")), np.float32)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(data[:-2].reshape(wanted.shape), wanted)
assert not set(data[-2:].astype(int)) & set(before), "the child used workers of its parent"
assert pids() == before
assert np.array_equal(encoder.encode(texts), wanted)
"""


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit()"])
def test_a_forked_child_has_workers_of_its_own(end: str) -> None:
    load(GIST)
    code = FORK.format(end=end)
    done = subprocess.run([sys.executable, "-c", code, GOLDEN / GIST], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FORK_AND_CLOSE = """
import gc, os, signal, sys
from gnomon import Encoder
encoder = Encoder.load(sys.argv[1], device=["cpu", "cpu"], threads=1)
read, write = os.pipe()
child = os.fork()
if not child:
    os.close(write)
    os.read(read, 1)  # lives until the parent is done
    os._exit(0)
signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
signal.alarm(5)  # nobody answers this wait
del encoder
gc.collect()
os._exit(0)
"""


def test_closing_does_not_wait_for_a_forked_child() -> None:
    load(GIST)
    command = [sys.executable, "-c", FORK_AND_CLOSE, GOLDEN / GIST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_closing_leaves_no_process_behind(fakes: Any, tmp_path: Path) -> None:
    encoder = over(
        ProcessPoolEngine([("left", partial(fakes.Fake, tmp_path)), ("right", partial(fakes.Fake, tmp_path))])
    )
    pids = processes(encoder.engine)
    with pytest.raises(WorkerError):
        encoder.engine.pool(of(102))
    encoder.engine.pool(of(1))
    pids += processes(encoder.engine)
    assert len(set(pids)) == 3 or len(set(pids)) == 2
    del encoder
    gc.collect()
    for pid in pids:
        assert_gone(pid)


def test_closing_ends_the_workers_and_the_rest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    load(GIST)
    with Encoder.load(GOLDEN / GIST, device=["cpu", "cpu"], threads=1) as encoder:
        shorter = encoder.with_max_seq_length(20)
        assert encoder.encode(TEXTS).shape == (len(TEXTS), 64)
        pids = processes(encoder.engine)
    for pid in pids:
        assert_gone(pid)
    encoder.close()
    for call in (encoder.encode, encoder.encode_query, encoder.encode_dims, encoder.encode_tokens, shorter.encode):
        with pytest.raises(InputError, match=r"was closed\. Load it again"):
            call(["a"])
    with pytest.raises(InputError, match="was closed"):
        encoder.engine.budget(100)
    assert encoder.tokenize("a b").counts == [4]
    assert (encoder.device, encoder.dtype) == ("cpu,cpu", "float32")


def test_what_runs_while_it_is_closed_fails_and_starts_nothing(two: ProcessPoolEngine, tmp_path: Path) -> None:
    """One batch is under way, others wait for a worker."""
    os.mkfifo(tmp_path / "fifo")
    started: list[int] = processes(two)
    crew = two._worker_pool()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(crew.call, "pool", of(105)) for _ in range(4)]
        with crew.changed:
            crew.changed.wait_for(lambda: len(crew.busy) == 2, 30)
        two.close()
        whys = [each.result(30).reason for each in asked]
    assert all("was closed" in why for why in whys)
    for pid in {*started, *(worker.process.pid for worker in crew.workers)}:
        assert_gone(pid)


@pytest.mark.parametrize("how", ["stopped", "deaf"])
def test_a_worker_that_does_not_end_is_killed(
    fakes: Any, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_pool, "SHUTDOWN_SECONDS", 0.05)
    os.mkfifo(tmp_path / "hangs")
    engine = ProcessPoolEngine([(name, partial(fakes.Fake, tmp_path)) for name in ("left", "right")])
    pids, crew = processes(engine), engine._worker_pool()
    if how == "stopped":
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
    else:
        asked = crew.threads.submit(partial(crew.call, "pool", of(107)))
        with (tmp_path / "hangs").open("rb") as fifo:
            assert fifo.read(1) == b"x"
    engine.close()
    for pid in pids:
        assert_gone(pid)
    if how == "deaf":
        assert "was closed" in asked.result(30).reason  # pyright: ignore


def test_a_worker_that_hangs_in_what_nobody_wants_is_killed_when_it_is_needed(
    fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_pool, "ABANDONED_CALL_SECONDS", 0.05)
    os.mkfifo(tmp_path / "hangs")
    engine = ProcessPoolEngine([("here", partial(fakes.Fake, tmp_path))])
    results = engine.pool_batches([of(1), of(107), of(2), of(3)])
    assert next(results)[0][0] == 1  # pyright: ignore
    with (tmp_path / "hangs").open("rb") as fifo:
        assert fifo.read(1) == b"x"
        results.close()  # pyright: ignore
        assert [row[0][0] for row in engine.pool_batches([of(4), of(5)])] == [4, 5]  # pyright: ignore
        assert fifo.read() == b"", "it is gone"


def test_ctrl_c_right_before_a_wait_is_noticed(fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`interrupt_main` wakes no wait, as a signal does not that comes before the wait has begun."""
    monkeypatch.setattr(process_pool, "SIGNAL_SECONDS", 0.01)
    monkeypatch.setattr(process_pool, "SHUTDOWN_SECONDS", 0.05)
    os.mkfifo(tmp_path / "hangs")
    engine = ProcessPoolEngine([("here", partial(fakes.Fake, tmp_path))])

    def interrupt() -> None:
        with (tmp_path / "hangs").open("rb") as fifo:
            assert fifo.read(1) == b"x"
            _thread.interrupt_main()
            fifo.read()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(engine.pool_batches([of(107)]))
    finally:
        signal.signal(signal.SIGINT, before)
    engine.close()
    interrupter.join()


HUNG = """
import inspect, os, signal, sys, threading, time
from dataclasses import replace
from functools import partial
from pathlib import Path
import gnomon_test_fakes as fakes
import numpy as np
from gnomon.engines import process_pool
from gnomon.packed import pack
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
process_pool.SHUTDOWN_SECONDS = 0.05
folder = Path(sys.argv[1])
engine = process_pool.ProcessPoolEngine([(name, partial(fakes.Fake, folder)) for name in ("left", "right")])
hanging = engine.pool_batches(pack([np.array([token])]) for token in (107, 1, 2, 3, 4, 5, 6, 7))
MAIN = threading.main_thread().ident

def lines_of_waiting():
    # the lines of Condition.wait that block, all inside its try
    lines, first = inspect.getsourcelines(threading.Condition.wait)
    begin = next(number for number, line in enumerate(lines) if line.strip().startswith("try:"))
    return [first + number for number, line in enumerate(lines) if number > begin and "waiter.acquire(" in line]

def waits():
    frame = sys._current_frames()[MAIN]
    return frame.f_code is threading.Condition.wait.__code__ and frame.f_lineno in LINES

LINES = lines_of_waiting()

def tell():
    # Python itself can lose a lock to a Ctrl-C that comes while it is taken, so it comes while results are waited for
    while {waits} and not waits():
        time.sleep(0)
    print(os.getpid(), flush=True)

threading.Thread(target=tell, daemon=True).start()
{then}
"""


@pytest.mark.parametrize(
    ("then", "send", "code", "error"),
    [
        ("list(hanging)", signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"),
        ("list(hanging)", signal.SIGKILL, -signal.SIGKILL, ""),
        ("list(hanging)", signal.SIGTERM, -signal.SIGTERM, ""),
        ("engine._worker_pool().threads.submit(partial(next, hanging)); sys.stdin.read()", None, 0, ""),
    ],
    ids=["Ctrl-C", "killed", "terminated", "the end"],
)
def test_a_worker_that_hangs_keeps_no_process_and_outlives_none(
    fakes: Any, tmp_path: Path, then: str, send: signal.Signals | None, code: int, error: str
) -> None:
    """The end of the pipe that the worker has open says that it is gone; it ignores a request to end."""
    os.mkfifo(tmp_path / "hangs")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    child = subprocess.Popen(
        [sys.executable, "-c", HUNG.format(then=then, waits=send is not None), tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert child.stdout
    assert int(child.stdout.readline()) == child.pid
    with (tmp_path / "hangs").open("rb") as fifo:
        assert fifo.read(1) == b"x"
        if send is not None:
            child.send_signal(send)
        errors = child.communicate(timeout=60)[1]
        assert fifo.read() == b""
    assert child.returncode == code
    assert errors.strip().rpartition("\n")[2] == error


def test_an_encoder_that_goes_takes_its_workers_with_it() -> None:
    load(GIST)
    encoder = Encoder.load(GOLDEN / GIST, device=["cpu", "cpu"], threads=1)
    encoder.encode(TEXTS)
    pids = processes(encoder.engine)
    for pid in pids:
        os.kill(pid, 0)
    del encoder
    gc.collect()
    for pid in pids:
        assert_gone(pid)


def test_the_end_of_a_script_is_quiet_and_ends_the_workers() -> None:
    load(GIST)
    code = (
        "import sys; from gnomon import Encoder\n"
        "encoder = Encoder.load(sys.argv[1], device='cpu,cpu', threads=1)\n"
        "assert encoder.encode(['a', 'b']).shape == (2, 64)\n"
        "print(*(worker.process.pid for worker in encoder.engine._worker_pool().workers))"
    )
    done = subprocess.run([sys.executable, "-c", code, GOLDEN / GIST], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    for pid in done.stdout.split():
        assert_gone(int(pid))


def test_closing_a_worker_that_died_is_quiet(fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies between the look whether it lives and the writing to it."""
    unraised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: unraised.append(error.exc_type))
    engine = ProcessPoolEngine([("here", partial(fakes.Fake, tmp_path))])
    (worker,) = engine._worker_pool().workers
    os.kill(worker.process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, worker.process.pid, os.WEXITED | os.WNOWAIT)
    with monkeypatch.context() as patch:
        patch.setattr(worker.process, "poll", lambda: None)
        with pytest.raises(WorkerError, match="the worker on here was killed by signal 9"):
            engine.pool(of(1))
    assert engine.pool(of(2))[0][0] == 2
    del engine, worker
    gc.collect()
    assert unraised == []


def test_a_worker_that_cannot_start_again_leaves_the_work_to_the_others(fakes: Any, tmp_path: Path) -> None:
    """No batch is lost to a device on which it was never tried; the next call tries that device again."""
    (tmp_path / "one").touch()
    engine = ProcessPoolEngine(
        [("here", partial(fakes.after_death, tmp_path)), ("there", partial(fakes.Fake, tmp_path))]
    )
    (tmp_path / "broken").touch()
    worker = engine._worker_pool().workers[0]
    worker.process.kill()
    worker.process.wait()
    found = list(engine.pool_batches(of(number) for number in range(1, 30)))
    assert [vectors[0][0] for vectors in found if not isinstance(vectors, Failure)] == [*range(1, 30)]
    assert list(engine._worker_pool().unavailable.values()) == ["on here: ValueError: the disk is gone"]
    assert engine.budget(100) > 0
    (tmp_path / "broken").unlink()
    assert len(list(engine.pool_batches(of(number) for number in range(1, 4)))) == 3
    assert not engine._worker_pool().unavailable


def test_a_budget_is_told_also_where_no_worker_is_left(fakes: Any, tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    engine = ProcessPoolEngine([("here", partial(fakes.after_death, tmp_path))])
    (tmp_path / "broken").touch()
    worker = engine._worker_pool().workers[0]
    worker.process.kill()
    worker.process.wait()
    assert engine.budget(100) == 1024
    assert [type(answer) for answer in engine.pool_batches([of(1), of(2)])] == [Failure, Failure]

"""Several devices: one worker process for each, batches handed to whichever is free, results in order.

A batch that fails is reported and the others go on; a worker that dies is started again. The processes are plain
children over pipes, so a script that uses them needs no `if __name__ == "__main__"`. Nothing waits for a worker without
a limit when this process ends, or closes its engine; and a worker ends when its parent is gone.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from operator import methodcaller
from queue import SimpleQueue
from typing import IO, Any

from gnomon.engines.protocol import Engine, Failure, closed_error
from gnomon.errors import GnomonError, Notice, WorkerError
from gnomon.packed import Packed, Vectors
from gnomon.warn import warn_once

BATCHES_PER_WORKER = 2
"""Batches for each worker that are taken before the oldest one's vectors are waited for."""

DEFAULT_BUDGET = 1024
"""Tokens of a batch, until a worker has reported its own budget."""

SIGNAL_SECONDS = 1.0
"""The longest wait for a free worker, or for the vectors of a batch, at once. Python misses a Ctrl-C that comes right
before a wait, until the wait ends.
"""

SHUTDOWN_SECONDS = 2.0
"""How long workers may take to end by themselves before they are killed, and then to be gone."""

ABANDONED_CALL_SECONDS = 10.0
"""How long a call waits for a worker that is busy with an abandoned call, before that worker is killed."""

PARENT_POLL_SECONDS = 1.0
"""How often a worker checks that its parent is still there."""

EngineOpener = Callable[[], Engine]

WORKER_CODE = "import sys; sys.path[:] = {path!r}; from gnomon.engines.process_pool import run_worker; run_worker()"
"""A worker imports from where its parent does, not from the folder that it is started in."""


class ProcessPoolEngine(Engine):
    """An engine over worker processes.

    Args:
        openers: for each worker, the name of its device and what opens the model's engine there (pickled).
    """

    def __init__(self, openers: Sequence[tuple[str, EngineOpener]]) -> None:
        self.openers = openers
        self._worker_pools: dict[int, _WorkerPool] = {}
        self._locks: dict[int, threading.Lock] = {}
        pool = self._worker_pool()
        self.name = f"{len(openers)} workers: {', '.join(worker.name for worker in pool.workers)}"
        self.identity = pool.workers[0].identity
        self.device, self.dtype = ",".join(device for device, _ in openers), pool.workers[0].dtype
        self.padding = pool.workers[0].padding
        self._budget = DEFAULT_BUDGET

    def budget(self, total_tokens: int) -> int:
        """A worker's own budget. If no worker can answer, the last one that was reported: no vector is lost for it."""
        answer = self._worker_pool().call("budget", total_tokens // len(self.openers))
        if not isinstance(answer, Failure):
            self._budget = answer
        return self._budget

    def pool(self, packed: Packed) -> Vectors:
        return self._call_worker("pool", packed)

    def pool_batches(self, batches: Iterable[Packed]) -> Iterator[Vectors | Failure]:
        pool = self._worker_pool()
        pool.prepare_for_call()
        pending: deque[Future[Any]] = deque()
        abandoned = threading.Event()
        try:
            for packed in batches:
                pending.append(pool.threads.submit(partial(pool.call, "pool", packed, abandoned=abandoned)))
                if len(pending) >= BATCHES_PER_WORKER * len(self.openers):
                    yield _wait_for(pending.popleft())
            while pending:
                yield _wait_for(pending.popleft())
        finally:  # Ctrl-C, or the caller has stopped
            abandoned.set()
            for future in pending:
                future.cancel()

    def states(self, packed: Packed) -> Vectors:
        return self._call_worker("states", packed)

    def explain_nonfinite(self, packed: Packed) -> str:
        return self._call_worker("explain_nonfinite", packed)

    def close(self) -> None:
        super().close()
        pool = self._worker_pools.pop(os.getpid(), None)
        if pool is not None:
            pool.close()

    def _call_worker(self, method: str, *arguments: Any) -> Any:
        pool = self._worker_pool()
        pool.prepare_for_call()
        answer = pool.call(method, *arguments)
        if isinstance(answer, Failure):
            raise WorkerError(answer.reason)
        return answer

    def _worker_pool(self) -> _WorkerPool:
        """This process's workers: after a fork, a child starts its own."""
        process = os.getpid()
        with self._locks.setdefault(process, threading.Lock()):  # one that was held during a fork stays so in the child
            self.check_open()
            if process not in self._worker_pools:
                self._worker_pools[process] = _WorkerPool(self.openers)
            return self._worker_pools[process]


class _WorkerPool:
    """The worker processes: which are free, and which cannot be started."""

    def __init__(self, openers: Sequence[tuple[str, EngineOpener]]) -> None:
        self.threads = _DaemonThreads(len(openers))
        started = [self.threads.submit(partial(_Worker, *opener)) for opener in openers]
        self.workers: list[_Worker] = [_wait_for(future) for future in started]
        self.idle = list(self.workers)
        self.busy: dict[_Worker, threading.Event | None] = {}
        self.unavailable: dict[_Worker, str] = {}
        self.closed = False
        self.changed = threading.Condition()

    def prepare_for_call(self) -> None:
        """Begin a new call. Workers that could not be started may try again. If all are busy, those that are busy with
        an abandoned call get a limit of time: they may hang.
        """
        with self.changed:
            self.idle += self.unavailable
            self.unavailable.clear()
            self.changed.notify_all()
            if not self.changed.wait_for(lambda: self.idle or not self._abandoned_workers(), ABANDONED_CALL_SECONDS):
                for worker in self._abandoned_workers():
                    worker.process.kill()

    def call(self, method: str, *arguments: Any, abandoned: threading.Event | None = None) -> Any:
        """The answer of a worker's engine, or a Failure. A worker that cannot be started leaves the work to the others.

        Args:
            abandoned: set when nobody waits for the answer any more.
        """
        while True:
            worker = self._acquire(abandoned)
            if worker is None:
                return Failure("; ".join(dict.fromkeys(self.unavailable.values())) or str(closed_error()))
            reason = None
            try:
                return worker.call(method, *arguments)
            except _CannotStartError as error:
                reason = str(error)
            finally:
                with self.changed:
                    del self.busy[worker]
                    if reason is None:
                        self.idle.append(worker)
                    else:
                        self.unavailable[worker] = reason
                    self.changed.notify_all()

    def close(self) -> None:
        """End the workers, all at once; what they were busy with fails."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        for worker in self.workers:
            worker.closed = True
        _terminate([worker.process for worker in self.workers])
        for worker in self.workers:
            worker.shutdown()
        self.threads.shutdown()

    def _acquire(self, abandoned: threading.Event | None) -> _Worker | None:
        """Wait for a free worker; None if no worker is left."""
        with self.changed:
            while not self.changed.wait_for(self._may_acquire, SIGNAL_SECONDS):
                pass
            if self.closed or not self.idle:
                return None
            worker = self.idle.pop(0)
            self.busy[worker] = abandoned
            return worker

    def _may_acquire(self) -> bool:
        """Whether a call need not wait: a worker is free, or none will be."""
        return self.closed or bool(self.idle) or len(self.unavailable) == len(self.workers)

    def _abandoned_workers(self) -> list[_Worker]:
        return [worker for worker, abandoned in self.busy.items() if abandoned is not None and abandoned.is_set()]


class _DaemonThreads:
    """Threads that make calls in turn.

    Those of concurrent.futures are waited for when the interpreter ends, and so is a worker that hangs.
    """

    def __init__(self, count: int) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        for number in range(count):
            name = f"gnomon-device_{number}"
            threading.Thread(target=_run_calls, args=(self._calls,), name=name, daemon=True).start()
        self.shutdown = weakref.finalize(self, _stop_threads, self._calls, count)
        self.shutdown.atexit = False

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future


def _run_calls(calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    while (following := calls.get()) is not None:
        future, call = following
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
        del following, future, call  # else what was called lives until the next call


def _stop_threads(calls: SimpleQueue[Any], count: int) -> None:
    for _ in range(count):
        calls.put(None)


class _CannotStartError(WorkerError):
    """A worker did not open its engine, so it has not tried the call."""


class _Worker:
    """One process with one engine."""

    def __init__(self, device: str, opener: EngineOpener) -> None:
        self.device, self.opener = device, opener
        self.closed = False
        self._start()

    def call(self, method: str, *arguments: Any) -> Any:
        """
        Raises:
            _CannotStartError: the process had ended, and another could not open its engine.
        """
        if self.process.poll() is not None:
            self.shutdown()
            self._start()
        try:
            self._send((method, arguments))
            return self._receive()
        except (EOFError, OSError, pickle.UnpicklingError):
            return Failure(self._describe_exit())
        except ValueError:
            if not self.closed:
                raise
            return Failure(self._describe_exit())  # its pipes are closed
        except BaseException:  # Ctrl-C: its answer would be taken for the next one's
            self.process.kill()
            _wait_for_exit(self.process, SHUTDOWN_SECONDS)
            raise

    def _start(self) -> None:
        """
        Raises:
            _CannotStartError: the worker could not open its engine.
        """
        if self.closed:
            raise _CannotStartError(str(closed_error()))
        self.stderr_file = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER_CODE.format(path=[path for path in sys.path if type(path) is str])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr_file,
        )
        assert self.process.stdin and self.process.stdout
        self.input, self.output = self.process.stdin, self.process.stdout
        self.shutdown = weakref.finalize(
            self, _shut_down_process, os.getpid(), self.process, self.input, self.output, self.stderr_file
        )
        if self.closed:  # while it was started: `_WorkerPool.close` may not have seen this process
            self.shutdown()
            raise _CannotStartError(str(closed_error()))
        try:
            self._send((self.device, self.opener))
            answer = self._receive()
        except (EOFError, OSError):
            raise _CannotStartError(self._describe_exit()) from None
        if isinstance(answer, Failure):
            _terminate([self.process])  # it ends by itself, so that the next call starts another
            raise _CannotStartError(answer.reason)
        self.name, self.identity, self.padding, self.dtype, messages = answer
        for message in messages:
            warn_once(message)

    def _send(self, message: object) -> None:
        pickle.dump(message, self.input, protocol=pickle.HIGHEST_PROTOCOL)
        self.input.flush()

    def _receive(self) -> Any:
        return pickle.load(self.output)

    def _describe_exit(self) -> str:
        if self.closed:
            return str(closed_error())
        if not _wait_for_exit(self.process, SHUTDOWN_SECONDS):
            _terminate([self.process])
        code = self.process.returncode
        self.stderr_file.seek(0)
        last = self.stderr_file.read().decode(errors="replace").strip().rpartition("\n")[2]
        how = f"was killed by signal {-code}" if code and code < 0 else f"ended with code {code}"
        return f"the worker on {self.device} {how}" + (f" ({last})" if last else "")


def run_worker() -> None:
    """Run a worker: open its engine, then answer calls until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; its end closes our input
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to stderr
    calls = sys.stdin.buffer
    device, opener = pickle.load(calls)

    def attempt(run: Callable[[], Any]) -> Any:
        try:
            return run()
        except GnomonError as error:
            return Failure(f"on {device}: {error}")
        except Exception as error:
            return Failure(f"on {device}: {type(error).__name__}: {error}")

    with warnings.catch_warnings(record=True) as recorded:
        engine = attempt(opener)
    messages = [str(one.message) for one in recorded if issubclass(one.category, Notice)]  # for the parent to show
    if isinstance(engine, Failure):
        _send_answer(answers, engine)
    else:
        _send_answer(answers, (engine.name, engine.identity, engine.padding, engine.dtype, messages))
    while not isinstance(engine, Failure):
        try:
            method, arguments = pickle.load(calls)
        except EOFError:
            return
        _send_answer(answers, attempt(lambda: getattr(engine, method)(*arguments)))  # noqa: B023


def _send_answer(answers: IO[bytes], message: object) -> None:
    pickle.dump(message, answers, protocol=pickle.HIGHEST_PROTOCOL)
    answers.flush()


def _exit_with_parent(parent: int) -> None:
    """End this process when its parent is gone. Its input ends too then, but a busy worker would not see that."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os._exit(0)


def _shut_down_process(owner: int, process: subprocess.Popen[bytes], *pipes: IO[bytes]) -> None:
    """End a worker and wait for it. Closing its input is not enough: a forked child of ours may hold that too."""
    if os.getpid() != owner:
        return
    _terminate([process])
    if process.returncode is None:
        return  # the thread that reads its answers holds the pipe: closing that would wait for it
    for pipe in pipes:
        with suppress(OSError):  # what was not read by a worker that died is not written
            pipe.close()


def _terminate(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes and wait for them; those that are not gone in time are killed."""
    running = [process for process in processes if process.poll() is None]
    for end in (methodcaller("terminate"), methodcaller("kill")):
        for process in running:
            end(process)
        until = time.monotonic() + SHUTDOWN_SECONDS
        running = [process for process in running if not _wait_for_exit(process, until - time.monotonic())]


def _wait_for_exit(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process ends within so many seconds."""
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return False
    return True


def _wait_for(future: Future[Any]) -> Any:
    """The result of a future. Ctrl-C ends the wait after a second at most."""
    while not future.done():
        with suppress(TimeoutError):
            return future.result(SIGNAL_SECONDS)
    return future.result()

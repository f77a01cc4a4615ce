"""Several devices: one worker process for each, batches handed to whichever is free, results in order.

A batch that fails is reported and the others go on; a worker that dies is started again. The processes are plain
children over pipes, so a script that uses them needs no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Any

from gnomon.engines import Engine, Failure, Vectors
from gnomon.errors import GnomonError, Notice, WorkerError
from gnomon.notices import tell_once
from gnomon.packed import Packed

AHEAD = 2
"""Batches for each worker that are taken before the oldest one's vectors are asked for."""

FIRST_BUDGET = 1024
"""Until a worker has told its own."""

Opener = Callable[[], Engine]

WORKER = "import sys; sys.path[:] = {path!r}; from gnomon.engines.several import work; work()"
"""It imports from where its parent does, and not from the folder that it is started in."""


class SeveralEngines(Engine):
    """An engine over worker processes.

    Args:
        openers: for each worker, the device that it is called by and what opens the model's engine there (pickled).
    """

    def __init__(self, openers: Sequence[tuple[str, Opener]]) -> None:
        self.openers = openers
        self._crews: dict[int, _Crew] = {}
        self._lock = threading.Lock()
        crew = self._crew()
        self.name = f"{len(openers)} workers: {', '.join(worker.name for worker in crew.workers)}"
        self.pads = crew.workers[0].pads
        self._budget = FIRST_BUDGET

    def budget(self, tokens: int) -> int:
        """A worker's own; where none can be asked, the last one that was told: no vector is lost for it."""
        found = self._crew().ask("budget", tokens // len(self.openers))
        if not isinstance(found, Failure):
            self._budget = found
        return self._budget

    def pool(self, packed: Packed, prompt_tokens: int = 0) -> Vectors:
        return self._whole("pool", packed, prompt_tokens)

    def pool_each(self, batches: Iterable[Packed], prompt_tokens: int = 0) -> Iterator[Vectors | Failure]:
        crew = self._crew()
        crew.recall()
        asked: deque[Future[Any]] = deque()
        for packed in batches:
            asked.append(crew.threads.submit(crew.ask, "pool", packed, prompt_tokens))
            if len(asked) >= AHEAD * len(self.openers):
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()

    def states(self, packed: Packed) -> Vectors:
        return self._whole("states", packed)

    def explain(self, packed: Packed) -> str:
        return self._whole("explain", packed)

    def _whole(self, method: str, *arguments: Any) -> Any:
        crew = self._crew()
        crew.recall()
        answer = crew.ask(method, *arguments)
        if isinstance(answer, Failure):
            raise WorkerError(answer.why)
        return answer

    def _crew(self) -> _Crew:
        """This process's workers: after a fork, a child starts its own."""
        with self._lock:
            process = os.getpid()
            if process not in self._crews:
                self._crews[process] = _Crew(self.openers)
            return self._crews[process]


class _Crew:
    """Workers: who is free, and who cannot be started."""

    def __init__(self, openers: Sequence[tuple[str, Opener]]) -> None:
        self.threads = ThreadPoolExecutor(len(openers), "gnomon-device")
        self.workers = list(self.threads.map(_Worker, *zip(*openers, strict=True)))
        self.free = list(self.workers)
        self.away: dict[_Worker, str] = {}
        self.changed = threading.Condition()

    def recall(self) -> None:
        """A new call: who could not be started may try again."""
        with self.changed:
            self.free += self.away
            self.away.clear()
            self.changed.notify_all()

    def ask(self, method: str, *arguments: Any) -> Any:
        """What a worker's engine answers, or a Failure; one that cannot be started leaves the work to the others."""
        while True:
            worker = self._take()
            if worker is None:
                return Failure("; ".join(dict.fromkeys(self.away.values())))
            why = None
            try:
                return worker.ask(method, *arguments)
            except _CannotStartError as error:
                why = str(error)
            finally:
                with self.changed:
                    if why is None:
                        self.free.append(worker)
                    else:
                        self.away[worker] = why
                    self.changed.notify_all()

    def _take(self) -> _Worker | None:
        """A free worker, waited for; None where no worker is left."""
        with self.changed:
            self.changed.wait_for(lambda: self.free or len(self.away) == len(self.workers))
            return self.free.pop(0) if self.free else None


class _CannotStartError(WorkerError):
    """A worker did not open its engine, so it has tried nothing."""


class _Worker:
    """One process with one engine."""

    def __init__(self, device: str, opener: Opener) -> None:
        self.device, self.opener = device, opener
        self._start()

    def ask(self, method: str, *arguments: Any) -> Any:
        """
        Raises:
            _CannotStartError: the process had ended, and another could not open its engine.
        """
        if self.process.poll() is not None:
            self._close()
            self._start()
        try:
            self._send((method, arguments))
            return self._receive()
        except (EOFError, OSError, pickle.UnpicklingError):
            return Failure(self._ending())
        except BaseException:  # Ctrl-C: its answer would be taken for the next one's
            self.process.kill()
            self.process.wait()
            raise

    def _start(self) -> None:
        """
        Raises:
            _CannotStartError: the worker could not open its engine.
        """
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER.format(path=[place for place in sys.path if type(place) is str])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        assert self.process.stdin and self.process.stdout
        self.input, self.output = self.process.stdin, self.process.stdout
        self._close = weakref.finalize(self, _end, self.process, self.input, self.output, self.errors)
        try:
            self._send((self.device, self.opener))
            answer = self._receive()
        except (EOFError, OSError):
            raise _CannotStartError(self._ending()) from None
        if isinstance(answer, Failure):
            self.process.wait()  # it has ended, so that the next call starts another
            raise _CannotStartError(answer.why)
        self.name, self.pads, notices = answer
        for notice in notices:
            tell_once(notice)

    def _send(self, what: object) -> None:
        pickle.dump(what, self.input, protocol=pickle.HIGHEST_PROTOCOL)
        self.input.flush()

    def _receive(self) -> Any:
        return pickle.load(self.output)

    def _ending(self) -> str:
        code = self.process.wait()
        self.errors.seek(0)
        last = self.errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"the worker on {self.device} {how}" + (f" ({last})" if last else "")


def work() -> None:
    """A worker: opens its engine, answers until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; its end closes our input
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to stderr
    asked = sys.stdin.buffer
    device, opener = pickle.load(asked)

    def attempt(run: Callable[[], Any]) -> Any:
        try:
            return run()
        except GnomonError as error:
            return Failure(f"on {device}: {error}")
        except Exception as error:
            return Failure(f"on {device}: {type(error).__name__}: {error}")

    with warnings.catch_warnings(record=True) as told:
        engine = attempt(opener)
    notices = [str(one.message) for one in told if issubclass(one.category, Notice)]  # the parent's to give
    _answer(answers, engine if isinstance(engine, Failure) else (engine.name, engine.pads, notices))
    while not isinstance(engine, Failure):
        try:
            method, arguments = pickle.load(asked)
        except EOFError:
            return
        _answer(answers, attempt(lambda: getattr(engine, method)(*arguments)))  # noqa: B023


def _answer(answers: IO[bytes], what: object) -> None:
    pickle.dump(what, answers, protocol=pickle.HIGHEST_PROTOCOL)
    answers.flush()


def _end(process: subprocess.Popen[bytes], *pipes: IO[bytes]) -> None:
    """End it and see it out. Closing its input would not do: a forked child of ours may hold that too."""
    process.terminate()
    process.wait()
    for pipe in pipes:
        with suppress(OSError):  # what was not read by a worker that died is not written
            pipe.close()

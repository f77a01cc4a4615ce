"""`TorchEngine`: the trunk on one device.

On CUDA the copies of one batch to the device run beside the computation of the one before, and nothing waits until its
vectors are needed. A batch that does not fit in memory is split in two.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gnomon.batching import NO_PADDING
from gnomon.engines.pooling import pooled_token_index, pools_one_token
from gnomon.engines.protocol import Engine, closed_error
from gnomon.engines.torch import attention as forms
from gnomon.engines.torch import budget as budgets
from gnomon.engines.torch.batch import DeviceBatch, Spans, to_device
from gnomon.engines.torch.inference import prepare_for_inference
from gnomon.engines.torch.modules import Pooling
from gnomon.engines.torch.trunk import Trunk
from gnomon.errors import DeviceMemoryError, InputError
from gnomon.packed import Ids, Packed, Vectors, slice_texts
from gnomon.spec import PoolingSpec, TrunkSpec

MAX_IN_FLIGHT = 2
"""Batches that a GPU was given and whose vectors nobody has waited for yet."""

PROBE_LENGTH = 128
"""Tokens of a text with which a budget is measured."""

Work = Callable[[Packed], Tensor]


@dataclass(frozen=True)
class _PendingVectors:
    """Values on their way from a device."""

    values: Tensor
    done: torch.cuda.Event | None

    def wait(self) -> Vectors:
        if self.done is not None:
            self.done.synchronize()
        return self.values.numpy()


class TorchEngine(Engine):
    """A trunk on one device.

    Args:
        device: "cpu", "cuda", "cuda:N" or "mps".
        dtype: "float32", "bfloat16" or "float16" ("float64" for references), of everything after the embeddings.
        threads: threads of one call on a CPU; None leaves torch's own number.
        attention: a form of `attention.py`; None for the fastest.
    """

    padding = NO_PADDING

    def __init__(
        self,
        trunk: TrunkSpec,
        pooling: PoolingSpec,
        arrays: Mapping[str, NDArray[Any]],
        *,
        device: str = "cpu",
        dtype: str = "float32",
        threads: int | None = None,
        attention: forms.Attention | None = None,
    ) -> None:
        self.torch_device, self.dtype, self.threads = _resolve_index(torch.device(device)), dtype, threads
        self.device = str(self.torch_device)
        kind: torch.dtype = getattr(torch, dtype)
        form = attention or forms.choose_attention(self.torch_device, kind, trunk.head_size)
        self.one_token = pools_one_token(pooling)
        self._trunk: Trunk | None = Trunk.from_arrays(trunk, arrays, attention=form, share=True)
        prepare_for_inference(self._trunk, device=self.torch_device, dtype=kind, one_token=self.one_token)
        self.pooling = Pooling(pooling)
        self.name = self.identity = f"torch, {self.torch_device}, {dtype}, {form.__name__} attention"
        self._budget: int | None = None
        self._process = os.getpid()
        self._copy_stream = torch.cuda.Stream(self.torch_device) if self.torch_device.type == "cuda" else None

    @property
    def trunk(self) -> Trunk:
        trunk = self._trunk
        if trunk is None:
            raise closed_error()
        return trunk

    def budget(self, total_tokens: int) -> int:
        sizes = budgets.BUDGET_CHOICES[self.torch_device.type]
        if self._budget is None and (total_tokens < sizes.min_work_to_measure or os.getpid() != self._process):
            return sizes.default
        if self._budget is None:
            self._budget = budgets.load_or_measure(self._budget_key(), self._measure_budget, budgets.cache_file())
        return self._budget

    def pool(self, packed: Packed) -> Vectors:
        return self._run_batch(self._pool, packed)

    def pool_batches(self, batches: Iterable[Packed]) -> Iterator[Vectors]:
        pending: deque[_PendingVectors] = deque()
        for packed in batches:
            started = self._start_batch(self._pool, packed)
            if started is None:  # what is under way holds memory too: let it end first
                yield from _drain(pending)
                yield self._run_batch(self._pool, packed)
                continue
            pending.append(started)
            yield from _drain(pending, max_pending=MAX_IN_FLIGHT if started.done else 0)
        yield from _drain(pending)

    def states(self, packed: Packed) -> Vectors:
        return self._run_batch(self._states, packed)

    def explain_nonfinite(self, packed: Packed) -> str:
        """The first layer whose output is not finite."""
        names: list[str] = []
        thread = threading.get_ident()  # others may run the same trunk

        def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def look(module: nn.Module, inputs: Any, output: Tensor) -> None:
                if threading.get_ident() == thread and not bool(output.isfinite().all()):
                    names.append(name)

            return look

        parts = [(name, module) for name, module in self.trunk.named_modules() if not [*module.children()]]
        hooks = [module.register_forward_hook(watch(name)) for name, module in parts]
        try:
            self.states(packed)
        finally:
            for hook in hooks:
                hook.remove()
        if not names:
            return super().explain_nonfinite(packed)
        if self.dtype == "float16":
            return f"{names[0]} goes beyond float16, whose largest number is 65,504; use dtype='bfloat16'"
        return f"{names[0]} is the first layer whose result is not finite in {self.dtype}; are its weights damaged?"

    def close(self) -> None:
        super().close()
        self._trunk = None
        if self.torch_device.type == "cuda" and os.getpid() == self._process:
            torch.cuda.empty_cache()

    def _pool(self, packed: Packed) -> Tensor:
        if not self.one_token:
            return self.pooling(self._states(packed), packed)
        rows = packed.bounds[:-1] + pooled_token_index(self.pooling.spec, packed)
        return self.trunk(*self._copy_to_device(packed, rows))

    def _states(self, packed: Packed) -> Tensor:
        return self.trunk(self._copy_to_device(packed)[0])

    def _copy_to_device(self, packed: Packed, rows: Ids | None = None) -> tuple[DeviceBatch, Tensor | None]:
        """The batch on the device; with it, `rows`, the one token of each text that is pooled, if it is one."""
        rows_B = None
        with torch.cuda.stream(self._copy_stream) if self._copy_stream else nullcontext():
            batch = DeviceBatch.from_packed(packed, self.trunk.spec, self.torch_device)
            if rows is not None:
                rows_B = to_device(torch.from_numpy(rows), self.torch_device)
        if self._copy_stream:
            computing = torch.cuda.current_stream(self.torch_device)
            computing.wait_stream(self._copy_stream)
            for tensor in (*batch.tensors, rows_B):
                if tensor is not None:
                    tensor.record_stream(computing)
        return batch, rows_B

    def _run_batch(self, work: Work, packed: Packed) -> Vectors:
        """One batch, waited for; in two halves, and these again, where it does not fit in memory.

        Raises:
            DeviceMemoryError: one text alone does not fit.
        """
        started = self._start_batch(work, packed)
        if started is not None:
            return started.wait()
        texts = len(packed.bounds) - 1
        if texts == 1:
            raise DeviceMemoryError(
                f"a text of {len(packed.ids_T):,} tokens does not fit into the memory of {self.torch_device} beside "
                "the model. Free memory there, use dtype='bfloat16', or truncate the text (a smaller max_seq_length)."
            )
        self._lower_budget(len(packed.ids_T) // 2)
        halves = slice_texts(packed, 0, texts // 2), slice_texts(packed, texts // 2, texts)
        return np.concatenate([self._run_batch(work, half) for half in halves])

    def _start_batch(self, work: Work, packed: Packed) -> _PendingVectors | None:
        """Begin a batch; None where it does not fit in memory."""
        if self.torch_device.type == "cuda" and os.getpid() != self._process:
            raise InputError("a model on a GPU cannot be used after a fork; load it in the new process.")
        try:
            with torch.inference_mode(), self._use_device(), self._use_threads():
                values = work(packed).float()
                if self.torch_device.type != "cuda":
                    return _PendingVectors(values.cpu(), None)
                arrived = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
                arrived.copy_(values, non_blocking=True)
                done = torch.cuda.Event()
                done.record(torch.cuda.current_stream(self.torch_device))
                return _PendingVectors(arrived, done)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # out here the traceback, and with it what it held on the device, is gone
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _lower_budget(self, tokens: int) -> None:
        """Later batches are of at most so many tokens, since twice as many did not fit; but not of a handful."""
        sizes = budgets.BUDGET_CHOICES[self.torch_device.type]
        self._budget = max(min(self._budget or sizes.default, tokens), sizes.candidates[0] // 8)

    def _use_device(self) -> AbstractContextManager[object]:
        """Makes the engine's GPU the current one, so that nothing touches another."""
        return torch.cuda.device(self.torch_device) if self.torch_device.type == "cuda" else nullcontext()

    @contextmanager
    def _use_threads(self) -> Generator[None]:
        """Set torch's number of threads, one for the whole process, while a batch runs.

        After a fork it is one: OpenMP's threads do not survive it, and waiting for them would take for ever.
        """
        before = torch.get_num_threads()
        threads = self.threads if os.getpid() == self._process else 1
        if threads is None or threads == before or self.torch_device.type != "cpu":
            yield
            return
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _measure_budget(self) -> int:
        sizes = budgets.BUDGET_CHOICES[self.torch_device.type]
        return budgets.measure(self._time_layer, sizes.candidates, sizes.default)

    def _time_layer(self, tokens: int) -> float | None:
        """The best of two runs of one layer over short texts; None where they do not fit."""
        spec = self.trunk.spec
        lengths_B = np.full(max(1, tokens // PROBE_LENGTH), PROBE_LENGTH)
        took: list[float] = []
        try:
            with torch.inference_mode(), self._use_device(), self._use_threads():
                spans = Spans.from_lengths(lengths_B, self.torch_device)
                x_TH = torch.ones(
                    int(lengths_B.sum()), spec.hidden_size, dtype=self.trunk.dtype, device=self.torch_device
                )
                for _ in range(3):  # the first warms up
                    start = time.perf_counter()
                    self.trunk.layers[0](x_TH, spans, None)
                    if self.torch_device.type == "cuda":
                        torch.cuda.synchronize(self.torch_device)
                    took.append(time.perf_counter() - start)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        return min(took[1:])

    def _budget_key(self) -> str:
        spec = self.trunk.spec
        sizes = f"{spec.hidden_size} x {spec.intermediate_size}, {spec.num_heads} heads"
        if self.torch_device.type == "cuda":
            device = torch.cuda.get_device_name(self.torch_device)
        else:
            cores = self.threads or torch.get_num_threads()
            device = f"{processor_name()} {torch.backends.cpu.get_cpu_capability()} {cores} threads"
        return f"{device}, torch {torch.__version__}, {self.dtype}, {sizes}"


def processor_name() -> str:
    """The processor's name, as far as the system knows it."""
    try:
        rows = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        rows = []
    named = next((row for row in rows if row.startswith("model name")), "")
    return named.partition(":")[2].strip() or platform.processor() or platform.machine()


OUT_OF_MEMORY_MESSAGES = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "bad_alloc")
"""What torch and the libraries under it say when memory is short: CUDA, cuBLAS, mps, the processor's allocators."""


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in OUT_OF_MEMORY_MESSAGES
    )


def _resolve_index(device: torch.device) -> torch.device:
    """ "cuda" means the GPU that is current now, and not whichever is current in the thread that encodes."""
    if device.type == "cuda" and device.index is None:  # pyright: ignore[reportUnnecessaryComparison]
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _drain(pending: deque[_PendingVectors], max_pending: int = 0) -> Iterator[Vectors]:
    while len(pending) > max_pending:
        yield pending.popleft().wait()

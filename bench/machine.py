"""Memory of this process and of its device. Every call to a device's own functions is here."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def resident_mib(process: int | str = "self") -> float:
    """Memory of a process now."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE / 2**20


def peak_mib() -> float:
    """Highest resident memory of this process since `reset_peak`, or since its start where that is not permitted."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def reset_peak(device: str) -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device != "cpu":
        _cuda().reset_peak_memory_stats()


def device_peak_mib(device: str) -> float | None:
    """Highest memory of tensors on the device since `reset_peak`; None on a CPU."""
    return None if device == "cpu" else _cuda().max_memory_allocated() / 2**20


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device != "cpu":
        _cuda().synchronize()


def release(device: str) -> None:
    """Give the device's unused memory back: the other contenders' processes share it."""
    if device != "cpu":
        _cuda().empty_cache()


def device_name(device: str) -> str:
    if device != "cpu":
        return _cuda().get_device_name(0)
    rows = [row for row in Path("/proc/cpuinfo").read_text().splitlines() if row.startswith("model name")]
    return rows[0].partition(":")[2].strip() if rows else "CPU"


def file_name(device_name: str) -> str:
    """For results of a device."""
    return re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-") + ".json"


def _cuda() -> Any:
    import torch

    return torch.cuda

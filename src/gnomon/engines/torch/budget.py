"""The token budget of a device: measured once, kept in a small file.

A batch that is too small leaves a device idle between kernels; one that is too large falls out of a processor's cache,
or out of memory. Where the best lies depends on the device, the sizes of the layers and the dtype, so it is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gnomon import files as cache

GOOD_ENOUGH_RATE = 0.97
"""Share of the best rate. The smallest budget that reaches it is taken, since it needs the least memory."""


class BudgetChoices(NamedTuple):
    """Budgets of one kind of device, in tokens."""

    default: int
    """Used until the budget is measured."""
    candidates: tuple[int, ...]
    min_work_to_measure: int
    """Tokens of work from which on the measurement (about a second) pays."""


BUDGET_CHOICES = {
    "cpu": BudgetChoices(1024, (512, 1024, 2048, 4096), 200_000),
    "cuda": BudgetChoices(16384, (8192, 16384, 32768, 65536, 131072), 500_000),
    "mps": BudgetChoices(4096, (2048, 4096, 8192, 16384), 200_000),
}


def measure(time_batch: Callable[[int], float | None], candidates: Sequence[int], default: int) -> int:
    """The smallest of `candidates` whose rate is nearly the best.

    Args:
        time_batch: seconds of a batch of so many tokens; None if it does not fit in memory, which ends the search.
        default: the answer if not even the first fits.
    """
    rates: dict[int, float] = {}
    for tokens in candidates:
        took = time_batch(tokens)
        if took is None:
            break
        rates[tokens] = tokens / took
    best = max(rates.values(), default=0.0)
    return next((tokens for tokens, rate in rates.items() if rate >= GOOD_ENOUGH_RATE * best), default)


def load_or_measure(key: str, measure_now: Callable[[], int], file: Path | None) -> int:
    """The budget that the file holds for a device and model of this key; else it is measured and written there.

    A file that cannot be read or written is ignored: the budget is measured again another time.
    """
    known = _read_budgets(file)
    if key in known:
        return known[key]
    budget = measure_now()
    if file:
        cache.write_json_cache(file, _read_budgets(file) | {key: budget})
    return budget


def cache_file() -> Path | None:
    """Where budgets are cached; None if the user has no home folder."""
    try:
        return Path.home() / ".cache" / "gnomon" / "token_budgets.json"
    except RuntimeError:
        return None


def _read_budgets(file: Path | None) -> dict[str, int]:
    entries = cache.read_json_cache(file) if file else {}
    return {key: value for key, value in entries.items() if type(value) is int and value > 0}

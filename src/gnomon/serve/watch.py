"""Looks at the engines: which of them computes, and which is stuck for good."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from gnomon.serve.batcher import Health, HealthState
from gnomon.serve.logs import log
from gnomon.serve.models import ServedModel
from gnomon.serve.service import Service

WATCH_SECONDS = 1.0
"""How often the engines are looked at."""

STUCK_LOOKS, PAUSE_FACTOR = 3, 3
"""The server ends when a step is stuck in so many looks in a row. A look that comes so many times too late does not
count: the whole process was paused.
"""

BADNESS: dict[HealthState, int] = {"ok": 0, "failed": 1, "closed": 2, "stuck": 3}
"""Which state counts where several engines are in different ones. A stuck one ends the server."""


def check_health(models: Iterable[ServedModel]) -> Health:
    """The worst state of the engines."""
    healths = [model.batcher.check_health() for model in models]
    return max(healths, key=lambda health: BADNESS[health.state], default=Health())


async def watch_engines(service: Service) -> None:
    """Log how the engines are, until one is stuck for good: then the requests of all of them fail."""
    reported = Health()
    num_stuck = 0
    while num_stuck < STUCK_LOOKS:
        before = time.monotonic()
        await asyncio.sleep(WATCH_SECONDS)
        was_paused = time.monotonic() - before > PAUSE_FACTOR * WATCH_SECONDS
        health = check_health(service.models)
        num_stuck = num_stuck + 1 if health.state == "stuck" and not was_paused else 0
        if health.state != reported.state:
            level = logging.INFO if health.state == "ok" else logging.ERROR
            log(level, f"the engine is {health.state}", reason=health.reason)
            reported = health
    for model in service.models:
        model.batcher.fail_all(f"the engine is stuck: {reported.reason}")
    await asyncio.sleep(WATCH_SECONDS)  # the answers go out

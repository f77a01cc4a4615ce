"""How the engines are looked at."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from gnomon.serve import watch
from gnomon.serve.batcher import Health
from gnomon.serve.logs import LOGGER
from gnomon.serve.watch import check_health, watch_engines


def make_service(*states: list[str]) -> tuple[Any, list[str]]:
    """Models whose engines are in these states, one after the other, the last one for good; and why they failed."""
    failures = list[str]()

    def make_model(waiting: list[str]) -> Any:
        def look() -> Any:
            return Health(waiting.pop(0) if len(waiting) > 1 else waiting[0], "for 9 seconds")  # pyright: ignore

        return SimpleNamespace(batcher=SimpleNamespace(check_health=look, fail_all=failures.append))

    return SimpleNamespace(models=[make_model(waiting) for waiting in states]), failures


def test_the_worst_state_counts() -> None:
    assert check_health([]).state == "ok"
    for states, worst in ((["ok", "failed"], "failed"), (["stuck", "failed"], "stuck"), (["failed", "stuck"], "stuck")):
        assert check_health(make_service(*([state] for state in states))[0].models).state == worst


def test_an_engine_that_is_stuck_for_good_ends_the_watch_and_all_requests(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "WATCH_SECONDS", 0.001)
    monkeypatch.setattr(watch, "PAUSE_FACTOR", 1e6)
    waiting = ["stuck", "stuck", "ok", "failed", "ok", "stuck"]
    service, failures = make_service(waiting, ["ok"])
    with caplog.at_level(logging.INFO, LOGGER.name):
        asyncio.run(watch_engines(service))
    assert waiting == ["stuck"]
    assert failures == ["the engine is stuck: for 9 seconds"] * 2
    logged = [record.getMessage().removeprefix("the engine is ") for record in caplog.records]
    assert logged == ["stuck", "ok", "failed", "ok", "stuck"]


def test_a_look_after_a_pause_of_the_whole_process_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "WATCH_SECONDS", 0.001)
    clock = iter(float(number) for number in range(10_000))
    paused = SimpleNamespace(monotonic=lambda: next(clock))  # each look comes a second late
    monkeypatch.setattr(watch, "time", paused)
    service, failures = make_service(["stuck"])

    async def look_for_a_while() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch_engines(service), 0.1)

    asyncio.run(look_for_a_while())
    assert failures == []

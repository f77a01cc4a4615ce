"""Progress bars: when they are shown, and what they count."""

import io
import sys

import pytest

from gnomon import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("show", "terminal", "shown"), [(None, False, False), (None, True, True), (True, False, True), (False, True, False)]
)
def test_a_bar_is_shown_as_asked_or_in_a_terminal(
    show: bool | None, terminal: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    assert progress.shows_progress(show) is shown


def test_without_stderr_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert not progress.shows_progress(None)
    with progress.progress_bar(2, "encoding", "texts") as update:
        update(1)


def test_a_bar_counts_and_stays_when_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.progress_bar(20_000, "encoding", "texts", show=True) as update:
        update(5000)
        update(15_000)
    last = screen.getvalue().rpartition("\r")[2]
    assert "encoding: 100%" in last and "20.0k/20.0k" in last and " texts/s" in last
    with progress.progress_bar(4, "encoding", "texts", show=True) as update:
        update(4)
    assert " 4/4 " in screen.getvalue().rpartition("\r")[2]


def test_short_work_in_a_terminal_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.progress_bar(2, "encoding", "texts") as update:
        update(2)
    assert screen.getvalue().strip() == ""

"""The benchmark of a source of many rows, with few."""

import sys

import pytest

from bench.process import ROOT


@pytest.mark.slow
def test_starts_are_measured_and_have_the_same_batches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    if not (ROOT.parent / "shared" / "data").is_dir():
        pytest.skip(f"{ROOT.parent / 'shared'} is not here: it is in the shared folder of the project")
    from bench.index import run

    monkeypatch.setattr(sys, "argv", ["run", "--rows", "3000"])
    run.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == [f"| {name}" for name in run.STARTS]
    assert all(float(row[1]) >= 0 and row[4] == "3,000.00" for row in rows[1:])
    assert "are the same in all" in lines[-1]

"""The command that a message gives installs the extra for the copy of gnomon that runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from gnomon import install
from gnomon.install import CPU_TORCH, advise_install, install_command


class Distribution:
    def __init__(self, text: str | None) -> None:
        self.text = text

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.text


def installed(monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None) -> None:
    text = None if origin is None else json.dumps(origin)
    monkeypatch.setattr(install, "distribution", lambda name: Distribution(text))


def test_from_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, None)
    assert install_command("parquet") == 'pip install "gnomon[parquet]"'


@pytest.mark.parametrize(("editable", "option"), [(True, "-e "), (False, "")])
def test_from_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, editable: bool, option: str) -> None:
    checkout = tmp_path / "my work"
    checkout.mkdir()
    installed(monkeypatch, {"url": checkout.as_uri(), "dir_info": {"editable": True} if editable else {}})
    assert "%20" in checkout.as_uri()
    assert install_command("train") == f'pip install {option}"{checkout}[train]"'
    checkout.rmdir()
    assert install_command("train") == 'pip install "gnomon[train]"', "the checkout is gone"


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (
            {"url": "file:///tmp/gnomon-0.1-py3-none-any.whl", "archive_info": {}},
            "gnomon[torch] @ file:///tmp/gnomon-0.1-py3-none-any.whl",
        ),
        (
            {"url": "https://example.org/gnomon.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "gnomon[torch] @ git+https://example.org/gnomon.git@abc",
        ),
    ],
)
def test_from_an_archive_or_a_repository(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any], requirement: str
) -> None:
    installed(monkeypatch, origin)
    assert install_command("torch") == f'pip install "{requirement}"'


def test_from_sources_that_are_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> None:
        raise install.PackageNotFoundError(name)

    monkeypatch.setattr(install, "distribution", missing)
    checkout = Path(__file__).resolve().parents[1]
    assert install_command("train") == f'pip install "{checkout}[train]"'
    monkeypatch.setattr(install, "__file__", str(tmp_path / "site-packages" / "gnomon" / "install.py"))
    assert install_command("train") == 'pip install "gnomon[train]"'


@pytest.mark.parametrize("extra", ["torch", "train", "evaluate", "parquet", "openvino"])
def test_the_build_of_torch_for_the_cpu_is_named(extra: str) -> None:
    assert install_command(extra) in advise_install(extra)
    assert (CPU_TORCH in advise_install(extra)) is (extra in ("torch", "train", "evaluate"))

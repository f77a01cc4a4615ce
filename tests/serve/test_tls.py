"""The certificate's files. tls/ holds two pairs of certificate and key, made by openssl for 100 years."""

import shutil
import ssl
from pathlib import Path

import pytest

from gnomon.errors import InputError
from gnomon.serve.tls import Certificate

TLS = Path(__file__).parent / "tls"


@pytest.mark.parametrize(
    ("cert", "key", "parts"),
    [
        ("a.key", "a.pem", ["--tls-cert", "a.key", "no certificate"]),
        ("a.pem", "b.pem", ["--tls-key", "b.pem", "no private key"]),
        ("a.pem", "b.key", ["b.key", "does not belong", "a.pem"]),
        ("a.pem", "a-encrypted.key", ["a-encrypted.key", "encrypted"]),
        ("none.pem", "a.key", ["none.pem", "cannot be read"]),
    ],
)
def test_the_file_that_is_wrong_is_named(cert: str, key: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Certificate(TLS / cert, TLS / key)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_a_broken_certificate(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(InputError, match=r"broken\.pem"):
        Certificate(broken, TLS / "a.key")


def test_a_change_of_the_files_is_seen_once(tmp_path: Path) -> None:
    for name in ("pem", "key"):
        shutil.copy(TLS / f"a.{name}", tmp_path / f"x.{name}")
    certificate = Certificate(tmp_path / "x.pem", tmp_path / "x.key")
    assert not certificate.take_change()
    for name in ("pem", "key"):
        shutil.copy(TLS / f"b.{name}", tmp_path / f"x.{name}")
    assert certificate.take_change()
    assert not certificate.take_change()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.load_into(context)

"""The server's certificate: whether it can be used, and whether its files have changed."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Never

from gnomon.errors import InputError


class Certificate:
    """A certificate and its private key, in two PEM files.

    Raises:
        InputError: they cannot be used; the message says which file is wrong.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self.cert, self.key = cert, key
        self.check()
        self._read = self._read_bytes()

    def check(self) -> None:
        """
        Raises:
            InputError: a file cannot be read, or holds no certificate or no key, or the key belongs to another one.
        """
        for option, file, mark, noun in (
            ("--tls-cert", self.cert, b"-----BEGIN CERTIFICATE-----", "certificate"),
            ("--tls-key", self.key, b"PRIVATE KEY-----", "private key"),
        ):
            try:
                data = file.read_bytes()
            except OSError as error:
                raise InputError(f"{option} {file} cannot be read: {error.strerror}. Correct it.") from error
            if mark not in data:
                raise InputError(f"{option} {file} has no {noun} in it. It must be a PEM file with one. Correct it.")
        try:
            self.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise InputError(
                    f"the key of --tls-key {self.key} does not belong to the certificate of --tls-cert {self.cert}. "
                    "Give the key that it was made with."
                ) from error
            raise InputError(
                f"--tls-cert {self.cert} and --tls-key {self.key} cannot be used: {error.reason or error}. Both must "
                "be PEM files. Correct them."
            ) from error

    def load_into(self, context: ssl.SSLContext) -> None:
        """Let a context serve the files as they are now; its next connections have them."""
        context.load_cert_chain(self.cert, self.key, self._refuse_password)

    def take_change(self) -> bool:
        """Whether the files are others than at the start or at the last call."""
        before, self._read = self._read, self._read_bytes()
        return self._read != before

    def _read_bytes(self) -> tuple[bytes, bytes]:
        try:
            return self.cert.read_bytes(), self.key.read_bytes()
        except OSError as error:
            raise InputError(f"{error.filename} cannot be read: {error.strerror}. Correct it.") from error

    def _refuse_password(self) -> Never:
        raise InputError(
            f"the key of --tls-key {self.key} is encrypted. The server has no password for it. Write it without one: "
            "openssl pkey -in KEY -out NEW."
        )

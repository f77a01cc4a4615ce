"""API keys: from options and from a file, compared in constant time."""

from __future__ import annotations

from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

from gnomon.serve.exchange import Exchange
from gnomon.serve.key_file import read_key_file
from gnomon.serve.requests import RequestError

KEY_HEADERS = ("authorization", "api-key", "x-api-key")
"""OpenAI and most others; Azure; some proxies."""


class ApiKeys:
    """The keys that open a server. It holds their hashes, so that no dump of it shows a key.

    Args:
        keys: from the command line or the environment.
        file: as `read_key_file` reads it; `reload` reads it again.

    Raises:
        InputError: as `read_key_file`.
    """

    def __init__(self, keys: tuple[str, ...] = (), file: Path | None = None) -> None:
        self._own, self._file = [_hash(key) for key in keys], file
        self._hashes: list[bytes] = []
        self.reload()

    def reload(self) -> None:
        """Read the file again; the keys stay as they are where that fails.

        Raises:
            InputError: as `read_key_file`.
        """
        self._hashes = [*self._own, *([_hash(key) for key in read_key_file(self._file)] if self._file else [])]

    def __len__(self) -> int:
        return len(self._hashes)

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def check(self, exchange: Exchange) -> str:
        """The name of the request's key, for logs: the first 8 digits of its SHA-256; "" where no key is needed.

        Raises:
            RequestError: a key is needed, and the request has none of them.
        """
        if not self._hashes:
            return ""
        sent = _read_key(exchange)
        digest = _hash(sent)
        # all of them, so that the time does not depend on the key
        matches = [compare_digest(digest, each) for each in self._hashes]
        if not sent or not any(matches):
            raise RequestError(
                "the API key is missing or wrong. Send it as 'Authorization: Bearer KEY'.",
                "unauthorized",
                code="invalid_api_key",
            )
        return digest.hex()[:8]


def _read_key(exchange: Exchange) -> str:
    """The key that a request sends: as a bearer token, bare, or in the header of Azure."""
    for name in KEY_HEADERS:
        value = (exchange.header(name) or "").strip()
        scheme, _, rest = value.partition(" ")
        value = rest.strip() if scheme.lower() == "bearer" else value
        if value:
            return value
    return ""


def _hash(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()

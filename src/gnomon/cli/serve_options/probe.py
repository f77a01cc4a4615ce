"""Asks a running server whether it is ready, for health checks of containers."""

from __future__ import annotations

import http.client
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from gnomon.errors import InputError

TIMEOUT = 2.0
"""Seconds."""
PATH = "/ready"
UNSPECIFIED = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""An address of "every interface" -> one that can be connected to."""
LOCAL = ("127.0.0.1", "::1", "localhost")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def probe_server(url: str) -> tuple[bool, str]:
    """Whether the server at this address answers with 200, and a line that says what it answered.

    Raises:
        InputError: not an address.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(
            f"--probe {url!r} is not an address ({error}). Give one such as http://127.0.0.1:7997."
        ) from error
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"--probe {url!r} is not an address. Give one such as http://127.0.0.1:7997.")
    path = parts.path if parts.path not in ("", "/") else PATH
    address = f"{parts.scheme}://{parts.netloc}{path}"
    if parts.scheme == "http":
        return _request(http.client.HTTPConnection(host, port, timeout=TIMEOUT), path, address)
    context = ssl.create_default_context()
    if host in LOCAL:  # certificates are made for the name that clients use
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return _request(http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context), path, address)


def probe_socket(path: Path) -> tuple[bool, str]:
    """The same of a server on a unix socket."""
    return _request(_UnixConnection(path, TIMEOUT), PATH, str(path))


def local_url(host: str, port: int, *, has_tls: bool) -> str:
    """The address at which a server with these options is reached from its own machine."""
    host = UNSPECIFIED.get(host, host)
    return f"{'https' if has_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}{PATH}"


def _request(connection: http.client.HTTPConnection, path: str, address: str) -> tuple[bool, str]:
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (http.client.BadStatusLine, ConnectionResetError):  # a server of TLS writes an alert, or just hangs up
        return False, f"not ready: {address} takes connections, and does not answer in HTTP.{_suggest_https(address)}"
    except (OSError, http.client.HTTPException) as error:
        return False, f"not ready: {address} does not answer ({error or type(error).__name__})"
    finally:
        connection.close()
    if path != PATH:  # only PATH says whether a server is ready
        return status == 200, f"{address} answered {status}"
    return status == 200, f"{'ready' if status == 200 else 'not ready'}: {address} answered {status}"


def _suggest_https(address: str) -> str:
    """What to ask instead, where the address is one of HTTP."""
    secure = address.replace("http://", "https://", 1)
    return f" Is it HTTPS? Then: --probe {secure}" if secure != address else ""

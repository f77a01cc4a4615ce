"""One request at a time over HTTP, as an operator with curl sends it."""

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

JSON_HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Address:
    """Where a server listens: a port, or a unix socket."""

    host: str = "127.0.0.1"
    port: int = 7997
    uds: Path | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    """Names in lower case; the last value of a name that is repeated."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Client:
    """One connection, kept between requests and opened again when the server has closed it."""

    def __init__(self, address: Address, *, timeout: float = 60.0, headers: dict[str, str] | None = None) -> None:
        self.headers = headers or {}
        if address.uds:
            self.connection: http.client.HTTPConnection = _UnixConnection(address.uds, timeout)
        else:
            self.connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    def get(self, path: str, **headers: str) -> Response:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> Response:
        """A body of bytes or text is sent as it is, anything else as JSON."""
        return self.send("POST", path, body, {**JSON_HEADERS, **(headers or {})})

    def send(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Response:
        """
        Raises:
            OSError, http.client.HTTPException: no answer came.
        """
        data = body if body is None or isinstance(body, bytes | str) else json.dumps(body)
        data = data.encode() if isinstance(data, str) else data
        try:
            self.connection.request(method, path, data, {**self.headers, **(headers or {})})
            answer = self.connection.getresponse()
            return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        except (OSError, http.client.HTTPException):
            self.connection.close()
            raise


def post(address: Address, path: str, body: object, headers: dict[str, str] | None = None) -> Response:
    with Client(address) as client:
        return client.post(path, body, headers)


def get(address: Address, path: str) -> Response:
    with Client(address) as client:
        return client.get(path)

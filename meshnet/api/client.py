"""A thin client of an Engine API socket for commands: standard library only, so that it starts at once."""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from meshnet.errors import ConflictError, MeshnetError, NotFoundError

TIMEOUT = 30.0  # s that an answer may take from a server that answers others meanwhile
PATIENCE, GREETING = 4.0, 1.0  # s until it is asked whether it answers anything, and that it gets for that
HUNG = 504
PIECE = 64 * 1024
GRPC = re.compile(r"^rpc error: code = \w+ desc = ")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float = TIMEOUT) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class SilentError(MeshnetError):
    """Nobody answers at the socket (status 503), or somebody is there who answers nothing (504)."""


class EngineClient:
    """Requests to the engine or the manager behind the socket at `path`.

    Each method returns the decoded JSON (None for an empty answer) and raises MeshnetError with the server's message:
    NotFoundError for 404, ConflictError for 409. SilentError with status 503 says that nobody is there, and with 504,
    after five seconds, that somebody is who answers nothing, like a process that is stopped. `query` values that are
    dicts are sent as JSON (`filters`).
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, None, query)

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        return self._ask("POST", path, body, query)

    def delete(self, path: str, **query: Any) -> Any:
        return self._ask("DELETE", path, None, query)

    def stream(self, path: str, framed: bool = True, **query: Any) -> Iterator[tuple[int, bytes]]:
        """What a GET gives as it comes, without end if the server has none: number of the stream (1 or 2) and bytes.

        `framed`: in the Engine's frames; else as it is, all on stream 1 (the log of a container with a terminal).
        """
        connection, response = self._begin("GET", path, None, query)
        try:
            if connection.sock is not None:
                connection.sock.settimeout(None)
            yield from frames(response.read) if framed else _raw(response)
        except (OSError, http.client.HTTPException) as error:
            raise SilentError(f"the stream from {self._path} broke off: {error}", 503) from error
        finally:
            response.close()
            connection.close()

    def taken(self, path: str, body: Any) -> tuple[socket.socket, bytes]:
        """A POST whose connection is taken over: the socket, and what came behind the answer's head."""
        connection = _Connection(self._path)
        try:
            connection.connect()
            data = json.dumps(body).encode()
            head = f"POST {quote(path)} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            form = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sock.sendall((head + form).encode() + data)
            return _upgraded(connection.sock)
        except OSError as error:
            connection.close()
            raise SilentError(f"no engine answers at {self._path}: {error}; is it running?", 503) from error
        except MeshnetError:
            connection.close()
            raise

    def _ask(self, method: str, path: str, body: Any, query: Mapping[str, Any]) -> Any:
        connection, response = self._begin(method, path, body, query)
        try:
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise SilentError(f"no engine answers at {self._path}: {error}; is it running?", 503) from error
        finally:
            connection.close()
        return json.loads(text) if text else None

    def _begin(
        self, method: str, path: str, body: Any, query: Mapping[str, Any]
    ) -> tuple[_Connection, http.client.HTTPResponse]:
        """A request and its answer, of which the head has come. Raises MeshnetError for a refusal, SilentError."""
        connection = _Connection(self._path)
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, _url(path, query), data, headers)
            self._await_answer(connection)
            response = connection.getresponse()
            refused = response.read() if response.status >= 400 else None
        except (BlockingIOError, TimeoutError) as error:
            connection.close()
            raise SilentError(f"the engine at {self._path} does not answer: it is stopped or hangs", HUNG) from error
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise SilentError(f"no engine answers at {self._path}: {error}; is it running?", 503) from error
        if refused is not None:
            connection.close()
            raise _refusal(response.status, refused)
        return connection, response

    def _await_answer(self, connection: _Connection) -> None:
        """Returns when an answer begins. TimeoutError if the server does not even greet, or after `TIMEOUT`."""
        deadline = time.monotonic() + TIMEOUT
        answers = select.poll()
        answers.register(connection.sock, select.POLLIN)
        while not answers.poll(PATIENCE * 1000):
            if time.monotonic() > deadline or not self._greets():
                raise TimeoutError

    def _greets(self) -> bool:
        """Whether the server answers a request that needs no work, whatever the answer is."""
        connection = _Connection(self._path, GREETING)
        try:
            connection.request("GET", "/_ping")
            connection.getresponse()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True


def frames(read: Callable[[int], bytes]) -> Iterator[tuple[int, bytes]]:
    """The Engine's frames, as `read(n)` gives their bytes: one of stream number, three of zeros, four of length."""
    while len(head := read(8)) == 8:
        number, length = struct.unpack(">BxxxL", head)
        while length > 0 and (piece := read(min(length, PIECE))):
            yield number, piece
            length -= len(piece)


def _raw(response: http.client.HTTPResponse) -> Iterator[tuple[int, bytes]]:
    while piece := response.read1(PIECE):
        yield 1, piece


def _upgraded(taken: socket.socket) -> tuple[socket.socket, bytes]:
    """The head of an answer read off the socket. Raises MeshnetError if it is a refusal."""
    found = b""
    while b"\r\n\r\n" not in found:
        piece = taken.recv(PIECE)
        if not piece or len(found) > PIECE:
            raise OSError("the connection was closed")
        found += piece
    head, _, rest = found.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status >= 400:
        while piece := taken.recv(PIECE) if b"}" not in rest else b"":
            rest += piece
        raise _refusal(status, rest)
    taken.settimeout(None)
    return taken, rest


def _url(path: str, query: Mapping[str, Any]) -> str:
    given = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in query.items()}
    return quote(path) + ("?" + urlencode(given) if given else "")


def _refusal(status: int, text: bytes) -> MeshnetError:
    """The server's message without the gRPC wrapping that Swarm's own errors have."""
    try:
        message = GRPC.sub("", str(json.loads(text)["message"]))
    except (ValueError, KeyError, TypeError):
        message = f"the engine answered {status}: {text[:200].decode(errors='replace')}"
    if status == 404:
        return NotFoundError(message)
    return ConflictError(message) if status == 409 else MeshnetError(message, status)

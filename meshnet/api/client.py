"""A thin client of an Engine API socket for commands: standard library only, so that it starts at once."""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from meshnet.errors import ConflictError, MeshnetError, NotFoundError

TIMEOUT = 30.0  # s that an answer may take from a server that answers others meanwhile
PATIENCE, GREETING = 4.0, 1.0  # s until it is asked whether it answers anything, and that it gets for that
HUNG = 504
GRPC = re.compile(r"^rpc error: code = \w+ desc = ")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float = TIMEOUT) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class EngineClient:
    """Requests to the manager behind the socket at `path`.

    Each method returns the decoded JSON (None for an empty answer) and raises MeshnetError with the server's message:
    NotFoundError for 404, ConflictError for 409. Status 503 says that nobody is there, and 504, after five seconds,
    that somebody is who answers nothing, like a process that is stopped. `query` values that are dicts are sent as
    JSON (`filters`).
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, None, query)

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        return self._ask("POST", path, body, query)

    def delete(self, path: str, **query: Any) -> Any:
        return self._ask("DELETE", path, None, query)

    def _ask(self, method: str, path: str, body: Any, query: Mapping[str, Any]) -> Any:
        connection = _Connection(self._path)
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, _url(path, query), data, headers)
            self._await_answer(connection)
            response = connection.getresponse()
            status, text = response.status, response.read()
        except (BlockingIOError, TimeoutError) as error:
            raise MeshnetError(f"the manager at {self._path} does not answer: it is stopped or hangs", HUNG) from error
        except (OSError, http.client.HTTPException) as error:
            raise MeshnetError(f"no manager answers at {self._path}: {error}; is it running?", 503) from error
        finally:
            connection.close()
        if status >= 400:
            raise _refusal(status, text)
        return json.loads(text) if text else None

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


def _url(path: str, query: Mapping[str, Any]) -> str:
    given = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in query.items()}
    return quote(path) + ("?" + urlencode(given) if given else "")


def _refusal(status: int, text: bytes) -> MeshnetError:
    """The server's message without the gRPC wrapping that Swarm's own errors have."""
    try:
        message = GRPC.sub("", str(json.loads(text)["message"]))
    except (ValueError, KeyError, TypeError):
        message = f"the manager answered {status}: {text[:200].decode(errors='replace')}"
    if status == 404:
        return NotFoundError(message)
    return ConflictError(message) if status == 409 else MeshnetError(message, status)

"""The built-in images' programs behave on the wire as what they stand for."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshnet.sandbox import programs
from meshnet.testing.waiting import wait_until

Start = Callable[..., int]
PLACE = Path(str(programs.__file__)).parent


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a program on a free port of loopback and returns the port; each must end by SIGTERM with 0."""
    running = []

    def run(name: str, *arguments: str, **env: str) -> int:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        command = [sys.executable, "-I", "-S", "-E", str(PLACE / f"{name}.py"), *arguments]
        running.append(
            subprocess.Popen(
                command, env={**env, "PORT": str(port)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )

        def open_() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(open_, 10, what=f"{name} listens")
        return port

    yield run
    for child in running:
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0


def get(port: int, path: str, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body, dict(response.headers)


def test_a_web_server_serves_its_document_root(start: Start, tmp_path: Path) -> None:
    """Files with their type, directories by their index, nothing above the root; an empty root shows its own page."""
    port = start("web", "httpd", str(tmp_path))
    assert get(port, "/") == (200, "<html><body><h1>It works!</h1></body></html>\n", get(port, "/")[2])
    (tmp_path / "index.html").write_text("mine")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a b.txt").write_text("x" * 300000)
    assert get(port, "/")[:2] == (200, "mine")
    status, body, headers = get(port, "/sub/a%20b.txt")
    assert (status, len(body), headers["Content-Type"]) == (200, 300000, "text/plain")
    assert (headers["Server"], get(port, "/", "HEAD")[1]) == ("Apache", "")
    assert get(port, "/sub")[0] == 301
    assert get(port, "/sub/")[0] == 403
    assert get(port, "/nosuch")[0] == 404
    assert get(port, "/../../etc/passwd")[0] == 400
    assert get(port, "/%2e%2e/%2e%2e/etc/passwd")[0] == 400
    assert get(port, "/", "DELETE")[0] == 405


def test_connections_are_kept_and_pipelined(start: Start, tmp_path: Path) -> None:
    """Two requests in one packet are answered in order, also when the first answer is a file; garbage is refused."""
    (tmp_path / "a").write_text("first")
    port = start("web", "nginx", str(tmp_path))
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b"first") < answer.index(b"Welcome to nginx!")
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"\x16\x03\x01 garbage\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")


def talk(port: int, text: bytes, size: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(text)
        answer = b""
        while len(answer) < size and (data := client.recv(4096)):
            answer += data
        return answer


def test_redis(start: Start) -> None:
    """PING, strings, counters and lists in both forms of a request; mistakes are errors, not the end."""
    port = start("redis")
    asked = b"PING\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n5\r\nINCR a\r\nGET a\r\nGET none\r\nNOPE\r\nLPUSH a 1\r\n"
    told = b"+PONG\r\n+OK\r\n:6\r\n$1\r\n6\r\n$-1\r\n-ERR unknown command 'NOPE'\r\n-WRONGTYPE "
    assert talk(port, asked, len(told)).startswith(told)
    asked = b"RPUSH l a b c\r\nLRANGE l 0 -1\r\nINCR x y z\r\nSET s t\r\nINCR s\r\nQUIT\r\n"
    told = b":3\r\n*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n:1\r\n+OK\r\n"
    told += b"-ERR value is not an integer or out of range\r\n+OK\r\n"
    assert talk(port, asked, len(told)) == told
    assert talk(port, b"*1\r\n$-5\r\n", 10).startswith(b"-ERR Protocol error")


def test_mysql(start: Start) -> None:
    """Greets as version 10 of the protocol, takes a login, answers ping and `select 1`."""
    port = start("mysql", MYSQL_ROOT_PASSWORD="x")
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        greeting = client.recv(4096)
        assert greeting[4:5] == b"\x0a"
        assert b"mysql_native_password" in greeting
        client.sendall(b"\x05\x00\x00\x01login")
        assert client.recv(4096)[3:5] == b"\x02\x00"
        client.sendall(b"\x01\x00\x00\x00\x0e")
        assert client.recv(4096)[3:5] == b"\x01\x00"
        client.sendall(b"\x09\x00\x00\x00\x03select 1")
        assert b"\x011" in client.recv(4096)


def test_mysql_wants_a_password() -> None:
    """Without a word about root's password it ends at once and says why, as its image does."""
    command = [sys.executable, "-I", "-S", "-E", str(PLACE / "mysql.py")]
    done = subprocess.run(command, env={"PORT": "1"}, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 1
    assert "MYSQL_ROOT_PASSWORD" in done.stderr
    assert os.linesep in done.stderr

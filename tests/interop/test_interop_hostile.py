"""Clients of a node's engine that misbehave: they leave nothing behind, and hold nobody else up."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import PATIENCE, Docker, eventually

from meshnet.lab import processes
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = {"nodes": {"docker-0": {"role": "manager"}}}
HEAD = "Host: docker\r\nConnection: close\r\n"
UPGRADE = "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
LIMIT = 4 * 2**20
SOON = 1.0  # s within which another client is answered
TRIES = 5  # a machine that stands still delays one answer, a client that holds others up each of them
SEVERAL = 5


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Docker:
    return Docker(lab, "docker-0")


@pytest.fixture(scope="module")
def talker(node: Docker) -> Iterator[str]:
    """A container that writes all the time, with an input that stays open."""
    script = "while :; do echo line; sleep 0.02; done"
    yield node.out("run", "-d", "-i", "--name", "talker", "alpine", "sh", "-c", script)
    node.out("rm", "-f", "talker")


@contextlib.contextmanager
def connected(node: Docker) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(node.socket))
        yield client


def asked(node: Docker, method: str, path: str, body: Any = None) -> Any:
    """A request of a client that behaves."""
    data = b"" if body is None else json.dumps(body).encode()
    with connected(node) as client:
        head = f"{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def held(lab: LabUnderTest, node: Docker, talker: str) -> tuple[int, int, int, int]:
    """What the agent and its manager hold: descriptors, threads, children, and groups below the container's."""
    pids = [pid for role in ("agent", "manager") for pid in processes.pids(lab.name, node.node, role)]
    descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    tasks = sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids)
    children = 0
    for path in (path for pid in pids for path in glob.glob(f"/proc/{pid}/task/*/children")):
        with contextlib.suppress(OSError):  # the thread has ended
            children += len(Path(path).read_text().split())
    init = int(node.out("inspect", "--format", "{{.State.Pid}}", talker))
    line = next(line for line in Path(f"/proc/{init}/cgroup").read_text().splitlines() if line.startswith("0::"))
    group = next(
        root / line[3:].lstrip("/")
        for root in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
        if (root / line[3:].lstrip("/") / "cgroup.procs").exists()
    )
    return descriptors, tasks, children, len(list(group.glob("*/")))


@contextlib.contextmanager
def leaves_nothing(lab: LabUnderTest, node: Docker, talker: str) -> Iterator[None]:
    """What is done inside has left nothing behind in the end; threads of a pool may stay."""
    node.out("ps")
    before = held(lab, node, talker)
    yield

    def as_before() -> bool:
        now = held(lab, node, talker)
        return now[0] <= before[0] and now[2] <= before[2] and now[3] <= before[3]

    try:
        eventually(lab, as_before, "nothing is left")
    except AssertionError as error:
        raise AssertionError(f"{before} before, {held(lab, node, talker)} now") from error


def answered_soon(node: Docker) -> None:
    took: list[float] = []
    while not took or took[-1] >= SOON:
        assert len(took) < TRIES, f"each answer is late: {took} s"
        begun = time.monotonic()
        asked(node, "GET", "/containers/json")
        took.append(time.monotonic() - begun)


def _exec(node: Docker, talker: str, tty: bool) -> str:
    asks = {"Cmd": ["sh", "-c", "while :; do echo more; sleep 0.02; done"], "AttachStdout": True, "AttachStdin": True}
    ident = asked(node, "POST", f"/containers/{talker}/exec", {**asks, "Tty": tty})["Id"]
    body = json.dumps({"Tty": tty})
    head = f"POST /exec/{ident}/start HTTP/1.1\r\n{UPGRADE}Content-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}"


STREAMS: dict[str, Callable[[Docker, str], str]] = {
    "logs": lambda node, talker: f"GET /containers/{talker}/logs?follow=1&stdout=1 HTTP/1.1\r\n{HEAD}\r\n",
    "events": lambda node, talker: f"GET /events HTTP/1.1\r\n{HEAD}\r\n",
    "attach": lambda node, talker: (
        f"POST /containers/{talker}/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\n{UPGRADE}\r\n"
    ),
    "exec": lambda node, talker: _exec(node, talker, False),
    "exec on a terminal": lambda node, talker: _exec(node, talker, True),
    "stats": lambda node, talker: f"GET /containers/{talker}/stats HTTP/1.1\r\n{HEAD}\r\n",
    "cp": lambda node, talker: f"GET /containers/{talker}/archive?path=/usr HTTP/1.1\r\n{HEAD}\r\n",
    "wait": lambda node, talker: f"POST /containers/{talker}/wait HTTP/1.1\r\n{HEAD}\r\n",
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("end", ["closes", "resets in the middle", "stops reading"])
def test_a_client_that_goes_away(lab: LabUnderTest, node: Docker, talker: str, name: str, end: str) -> None:
    """In the middle of a stream: descriptors, processes and groups are as before, and others are answered meanwhile."""
    with leaves_nothing(lab, node, talker), contextlib.ExitStack() as stack:
        for _ in range(SEVERAL):
            request = STREAMS[name](node, talker)
            client = stack.enter_context(connected(node))
            if end == "stops reading":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(request.encode())
            if end == "closes":
                assert client.recv(1)
                client.shutdown(socket.SHUT_RDWR)
                client.close()
            elif end == "resets in the middle":
                assert client.recv(64)
                client.close()  # with unread bytes: the other side meets a reset
            answered_soon(node)
    assert node.out("inspect", "--format", "{{.State.Running}}", talker) == "true"
    assert "Traceback" not in processes.log_path(lab.name, node.node, "agent").read_text()


def test_a_body_over_the_limit(lab: LabUnderTest, node: Docker, talker: str) -> None:
    """It is refused with 413 and not kept, announced or in pieces; routes that pass on to the manager do the same."""
    with leaves_nothing(lab, node, talker):
        for path in ("/containers/create", f"/containers/{talker}/exec", "/services/create", "/volumes/create"):
            for coding in (f"Content-Length: {LIMIT + 1}", "Transfer-Encoding: chunked"):
                with connected(node) as client:
                    client.sendall(f"POST {path} HTTP/1.1\r\n{HEAD}{coding}\r\n\r\n".encode())
                    sent = b"[" + b" " * (LIMIT + 2)
                    piece = b"%x\r\n%s\r\n0\r\n\r\n" % (len(sent), sent) if "chunked" in coding else sent[: LIMIT + 1]
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        client.sendall(piece)
                    assert b" 413 " in client.recv(4096).partition(b"\r\n")[0], path
            answered_soon(node)


def test_slow_clients(lab: LabUnderTest, node: Docker, talker: str) -> None:
    """Many that send a request byte by byte, or half of a body, hold nobody up, and go without a trace."""
    with leaves_nothing(lab, node, talker), contextlib.ExitStack() as stack:
        for number in range(40):
            client = stack.enter_context(connected(node))
            begun = f"POST /containers/create HTTP/1.1\r\n{HEAD}Content-Length: 100\r\n\r\n{{"
            client.sendall(begun[: 5 + number * 2].encode() if number % 2 else begun.encode())
        for _ in range(5):
            answered_soon(node)


def test_an_upload_that_breaks_off(lab: LabUnderTest, node: Docker, talker: str) -> None:
    """An archive that is half sent is not kept, nor an image made of it."""
    uploads = node.socket.parent / "uploads"
    before = node.out("images", "-q")
    with leaves_nothing(lab, node, talker):
        for path in ("/images/load", "/images/create?fromSrc=-&repo=half"):
            with connected(node) as client:
                client.sendall(
                    f"POST {path} HTTP/1.1\r\n{HEAD}Content-Length: 10000000\r\n\r\n".encode() + bytes(70000)
                )
                eventually(lab, lambda: any(uploads.glob("*")), "it arrives")
                answered_soon(node)
            eventually(lab, lambda: not list(uploads.glob("*")), "it is gone")
    assert node.out("images", "-q") == before

"""Talks to services from wherever it was started, as a test says on stdin: one JSON line in, one out.

A program of its own, since a socket belongs to the network namespace and to the cgroup of whoever makes it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from pulse import LATE, Pulse

PATIENCE = 8.0  # s, far beyond anything that works
IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_DO, IP_MTU = 10, 0, 2, 14
REQUEST = b"GET / HTTP/1.1\r\nHost: whoami\r\n\r\n"

opened: dict[str, socket.socket] = {}
loads: dict[str, Load] = {}
pulse = Pulse()


# Client ports that the kernel gives nobody by itself, if the caller asks for such.
OWN_PORTS = random.sample(range(10_000, 32_000), 10_000) if "own-ports" in sys.argv else []


def tcp(host: str, port: int, patience: float = PATIENCE) -> socket.socket:
    """A connection, or OSError."""
    while OWN_PORTS:
        sock = socket.socket()
        sock.settimeout(patience)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("", OWN_PORTS.pop()))
            sock.connect((host, port))
        except OSError as error:
            sock.close()
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise
        else:
            return sock
    return socket.create_connection((host, port), patience)


def answer(sock: socket.socket) -> list[str]:
    """Sends a request and reads who answered: [hostname, the client's address as the backend saw it]."""
    sock.sendall(REQUEST)
    data = b""
    while not data.endswith(b"\n") or data.count(b"\n") < 7:
        piece = sock.recv(4096)
        if not piece:
            raise ConnectionResetError(errno.ECONNRESET, "ended without an answer")
        data += piece
    return said(data.partition(b"\r\n\r\n")[2])


def said(text: bytes) -> list[str]:
    """What whoami says: [hostname, address]."""
    lines = text.decode().split("\n")
    return [lines[0].removeprefix("I'm "), lines[1]]


def name_of(error: OSError) -> str:
    """A word for an error."""
    if isinstance(error, TimeoutError):
        return "ETIMEDOUT"
    return errno.errorcode.get(error.errno or 0, str(error))


class Stream:
    """A TCP connection to whoami."""

    def __init__(self, to: tuple[str, int]) -> None:
        self.sock = tcp(*to)

    def ask(self) -> str:
        return answer(self.sock)[0]


class Datagrams:
    """A UDP socket that asks whoami, connected or not. A datagram or its answer is lost after a fifth of a second."""

    def __init__(self, to: tuple[str, int], connected: bool) -> None:
        self.to, self.number = to, 0
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.settimeout(0.2)
        self.connected = connected
        if connected:
            self.sock.connect(to)

    def ask(self) -> str:
        self.number += 1
        data = str(self.number).encode()
        self.sock.send(data) if self.connected else self.sock.sendto(data, self.to)
        while True:
            text, source = self.sock.recvfrom(2048)
            name, _, rest = text.split(b"\n", 2)
            if rest == data and source == self.to:  # not the late answer to an earlier one
                return name.decode().removeprefix("I'm ")


class Longest:
    """The longest of many times, less those in which the machine stood still; in s, by the monotonic clock."""

    def __init__(self) -> None:
        self.short = 0.0
        self.long: list[tuple[float, float]] = []

    def add(self, begin: float, end: float) -> None:
        if end - begin < LATE:
            self.short = max(self.short, end - begin)
        else:
            self.long.append((begin, end))

    def moved(self) -> float:
        return max([self.short, *(pulse.moved(*one) for one in self.long)])


class Load:
    """One request after the other until it is told to stop, each with a socket of its own, or all with one (`keep`).

    `kind`: `tcp`, `udp`, or `connected` for connected UDP sockets.
    """

    def __init__(self, host: str, port: int, keep: bool, kind: str) -> None:
        self.to = (host, port)
        self.keep = keep
        self.kind = kind
        self.answers: dict[str, int] = {}
        self.errors: list[str] = []
        # Times (begin, end): of requests, from the begin of the first one that failed to the end of the last one, and
        # without an answer.
        self.requests = Longest()
        self.failing = (0.0, 0.0)
        self.silence = Longest()
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        asked: Stream | Datagrams | None = None
        last = time.monotonic()
        while not self.ending.is_set():
            begin = time.monotonic()
            try:
                asked = asked or self.open()
                name = asked.ask()
                self.answers[name] = self.answers.get(name, 0) + 1
                now = time.monotonic()
                self.silence.add(last, now)
                last = now
            except OSError as error:
                self.failing = (self.failing[0] or begin, time.monotonic())
                self.errors.append(f"{name_of(error)} after {time.monotonic() - begin:.3f} s")
                if self.kind == "tcp" and asked is not None:  # a UDP socket goes on
                    asked.sock.close()
                    asked = None
            self.requests.add(begin, time.monotonic())
            if not self.keep and asked is not None:
                asked.sock.close()
                asked = None
            self.ending.wait(0.004)  # a client among others, not a flood
        if asked is not None:
            asked.sock.close()

    def open(self) -> Stream | Datagrams:
        return Stream(self.to) if self.kind == "tcp" else Datagrams(self.to, self.kind == "connected")

    def seen(self) -> dict[str, Any]:
        return {"answers": dict(self.answers), "errors": list(self.errors)}

    def measured(self) -> dict[str, float]:
        return {
            "slowest": self.requests.moved(),
            "failing": pulse.moved(*self.failing),
            "longest": self.silence.moved(),
        }


def ask(host: str, port: int, count: int = 1, patience: float = PATIENCE) -> list[list[str]]:
    """`count` connections, one request each, that are over on both sides then; an error is ["", its name]."""
    found = []
    for _ in range(count):
        try:
            with tcp(host, port, patience) as sock:
                found.append(answer(sock))
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(4096):
                        pass
        except OSError as error:
            found.append(["", name_of(error)])
    return found


def reuse(hosts: list[str], port: int, source_port: int, count: int) -> list[Any]:
    """`count` connections from one port, to one host after the other; the server ends each: [slowest, errors]."""
    requests, errors = Longest(), []
    for number in range(count):
        begin = time.monotonic()
        try:
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.settimeout(PATIENCE)
                sock.bind(("", source_port))
                sock.connect((hosts[number % len(hosts)], port))
                sock.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                while sock.recv(4096):
                    pass
        except OSError as error:
            errors.append(name_of(error))
        requests.add(begin, time.monotonic())
    return [requests.moved(), errors]


def start(name: str, host: str, port: int, keep: bool = False, kind: str = "tcp") -> None:
    loads[name] = Load(host, port, keep, kind)


def look(name: str) -> dict[str, Any]:
    return loads[name].seen()


def stop(name: str) -> dict[str, Any]:
    load = loads.pop(name)
    load.ending.set()
    load.thread.join()
    return load.seen() | load.measured()


def dial(name: str, host: str, port: int) -> list[str]:
    """Opens a connection and keeps it; [own address, peer's address as the kernel names it]."""
    opened[name] = tcp(host, port)
    return [opened[name].getsockname()[0], opened[name].getpeername()[0]]


def use(name: str) -> list[str]:
    """A request on a kept connection; an error is ["", its name]."""
    try:
        return answer(opened[name])
    except OSError as error:
        return ["", name_of(error)]


def hang_up(name: str) -> None:
    opened.pop(name).close()


def echo(host: str, port: int, size: int) -> str:
    """Sends `size` bytes and takes them back at the same time; "" if they came back whole, else what was wrong."""
    data = hashlib.shake_128(b"meshnet").digest(size)
    back = hashlib.sha256()
    sent = got = 0
    try:
        with tcp(host, port) as sock:
            while got < size:
                readable, writable, _ = select.select([sock], [sock] if sent < size else [], [], PATIENCE)
                if not readable and not writable:
                    return f"stuck after {sent} bytes out and {got} back"
                if writable:
                    sent += sock.send(data[sent : sent + 65536])
                if readable:
                    piece = sock.recv(65536)
                    if not piece:
                        return f"ended after {got} of {size} bytes"
                    back.update(piece)
                    got += len(piece)
    except OSError as error:
        return f"{name_of(error)} after {sent} bytes out and {got} back"
    return "" if back.digest() == hashlib.sha256(data).digest() else "other bytes came back"


def udp(
    host: str, port: int, count: int = 1, size: int = 5, connected: bool = False, df: bool = False, fresh: bool = True
) -> list[list[Any]]:
    """Datagrams to whoami: [hostname, client's address as seen, answer's source, bytes that came back] each.

    `fresh`: a socket for each. An error is ["", its name].
    """
    found: list[list[Any]] = []
    with contextlib.ExitStack() as stack:
        sock = None
        for number in range(count):
            if sock is None or fresh:
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO if df else IP_PMTUDISC_DONT)
                sock.settimeout(PATIENCE)
                if connected:
                    sock.connect((host, port))
            data = hashlib.shake_128(bytes([number % 251])).digest(size)
            try:
                sock.send(data) if connected else sock.sendto(data, (host, port))
                text, source = sock.recvfrom(65536)
                first, second, rest = text.split(b"\n", 2)
                same = len(rest) if rest == data else -1
                found.append([first.decode().removeprefix("I'm "), second.decode(), source[0], same])
            except OSError as error:
                found.append(["", name_of(error)])
    return found


def path_mtu(host: str, port: int, size: int) -> list[Any]:
    """Sends a datagram of `size` bytes with DF until it is refused, at most ten times: [error, path MTU then]."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sock.settimeout(0.2)
        sock.connect((host, port))
        for _ in range(10):
            try:
                sock.send(bytes(size))
                sock.recv(65536)
                return ["", sock.getsockopt(socket.IPPROTO_IP, IP_MTU)]
            except TimeoutError:
                continue
            except OSError as error:
                return [name_of(error), sock.getsockopt(socket.IPPROTO_IP, IP_MTU)]
    return ["silence", 0]


OPERATIONS = (ask, reuse, start, look, stop, dial, use, hang_up, echo, udp, path_mtu)


def main() -> None:
    operations: dict[str, Any] = {operation.__name__: operation for operation in OPERATIONS}
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            result = ["ok", operations[name](**arguments)]
        except OSError as error:
            result = ["error", name_of(error)]
        print(json.dumps(result), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()

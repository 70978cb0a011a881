"""One epoll loop for the small servers beside this file: a connection is an object with `take` and `more`.

Like `whoami`, they import nothing that is not compiled into the interpreter: a lab runs hundreds of them.
"""

import _signal  # type: ignore[import-not-found]  # signal's C half
import _socket
import os
import select
import sys
import time

CHUNK = 65536
BACKLOG = 262144  # bytes of answers that wait for a slow client; no more requests are read until they are taken
IDLE = 75.0  # s without a byte after which a connection makes room when there are too many
MOST = 4096  # connections
AGAIN = (BlockingIOError, InterruptedError)


class Connection:
    """`take(data)` gets what arrived, and puts answers into `unsent`; `more()` is asked when `unsent` is empty."""

    def __init__(self, sock: _socket.socket, client: str) -> None:
        self.sock = sock
        self.client = client
        self.unsent = b""
        self.closing = False
        self.used = time.monotonic()
        self.mask = select.EPOLLIN

    def take(self, data: bytes) -> None:
        """What a kind of server does with what arrives: each kind has its own."""
        raise NotImplementedError

    def greet(self) -> None:
        """Called once, before anything arrives."""

    def more(self) -> bytes:
        """What is to be sent next of a long answer; nothing at its end."""
        return b""

    def drop(self) -> None:
        """Called when the connection is over."""

    def step(self, readable: bool) -> bool:
        """Reads and writes what can be; False once the connection is over."""
        self.used = time.monotonic()
        if readable and len(self.unsent) < BACKLOG:
            try:
                data = self.sock.recv(CHUNK)
            except AGAIN:
                data = None
            if data == b"":
                return False
            if data and not self.closing:
                self.take(data)
        for _ in range(16):  # then others have their turn
            if not self.unsent:
                self.unsent = self.more()
            if not self.unsent:
                return not self.closing
            try:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
            except AGAIN:
                return True
        return True


def listen(port: int) -> _socket.socket:
    """A listening socket for both IP versions, or for IPv4 where the kernel has no IPv6."""
    try:
        sock = _socket.socket(_socket.AF_INET6, _socket.SOCK_STREAM)
        sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 0)
        host = "::"
    except OSError:
        sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        host = "0.0.0.0"
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    sock.setblocking(False)
    sock.bind((host, port))
    sock.listen(1024)
    return sock


class Server:
    """Serves `make(socket, client)` on a port until SIGTERM, SIGINT or SIGQUIT."""

    def __init__(self, port: int, make: object) -> None:
        self.listening = listen(port)
        self.make = make
        self.connections: dict[int, Connection] = {}
        self.poll = select.epoll()
        self.poll.register(self.listening.fileno(), select.EPOLLIN)

    def accept(self) -> None:
        for _ in range(64):
            try:
                number, peer = self.listening._accept()  # type: ignore[attr-defined]  # what socket.accept calls
            except OSError:
                return
            sock = _socket.socket(fileno=number)
            sock.setblocking(False)
            client = peer[0][7:] if peer[0].startswith("::ffff:") else peer[0]
            connection = self.make(sock, client)  # type: ignore[operator]
            self.poll.register(number, select.EPOLLIN)
            self.connections[number] = connection
            connection.greet()
            self.serve(number, 0)
            if len(self.connections) > MOST:
                oldest = min(self.connections, key=lambda one: self.connections[one].used)
                self.close(oldest)

    def serve(self, number: int, events: int) -> None:
        connection = self.connections[number]
        try:
            alive = connection.step(bool(events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR)))
        except OSError:
            alive = False
        if not alive:
            self.close(number)
            return
        mask = select.EPOLLIN if len(connection.unsent) < BACKLOG else 0
        mask |= select.EPOLLOUT if connection.unsent else 0
        if mask != connection.mask:
            connection.mask = mask
            self.poll.modify(number, mask)

    def close(self, number: int) -> None:
        self.poll.unregister(number)
        connection = self.connections.pop(number)
        connection.drop()
        connection.sock.close()

    def run(self) -> None:
        """Serves until it is told to stop; then answers what was already asked, and returns."""
        wake_in, wake_out = os.pipe()
        os.set_blocking(wake_out, False)
        told: list[int] = []
        for number in (2, 3, 15):
            _signal.signal(number, lambda got, _frame: told.append(got))
        _signal.set_wakeup_fd(wake_out)
        self.poll.register(wake_in, select.EPOLLIN)
        while not told:
            for number, events in self.poll.poll():
                if number == self.listening.fileno():
                    self.accept()
                elif number in self.connections:
                    self.serve(number, events)
        self.accept()
        for number in list(self.connections):
            self.serve(number, select.EPOLLIN)


def port_of(default: int) -> int:
    """The port from $PORT, or the usual one."""
    text = os.environ.get("PORT", str(default))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        sys.exit(f"PORT must be 1-65535, not {text!r}")
    return int(text)

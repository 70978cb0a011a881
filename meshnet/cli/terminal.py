"""This process's streams joined to a connection that was taken over: what `docker exec` does with them."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import sys
import termios
import tty as terminals
from collections.abc import Callable, Iterator
from typing import Any

from meshnet.api.client import PIECE, frames
from meshnet.errors import MeshnetError

Resize = Callable[..., object]


def check() -> None:
    """Raises MeshnetError where there is no terminal to give."""
    if not sys.stdin.isatty():
        raise MeshnetError("the input device is not a TTY; leave out -t, or -i")


def relay(taken: socket.socket, rest: bytes, interactive: bool, tty: bool, resize: Resize) -> None:
    """Passes bytes on in both directions until the other side has ended. `rest` came first; `resize` is told h and w.

    With a terminal, this one's keys go over as they are, and its size with every change.
    """
    with _raw(interactive and tty), _sized(tty, resize):
        source = _Source(taken, rest, interactive)
        if tty:
            while piece := source.read(PIECE):
                _write(1, piece)
        else:
            for number, piece in frames(source.exactly):
                _write(number, piece)


def _write(number: int, piece: bytes) -> None:
    stream = (sys.stderr if number == 2 else sys.stdout).buffer
    stream.write(piece)
    stream.flush()


class _Source:
    """What comes from the connection; while it is waited for, stdin goes the other way."""

    def __init__(self, taken: socket.socket, rest: bytes, interactive: bool) -> None:
        self._taken = taken
        self._rest = rest
        self._stdin = interactive

    def read(self, most: int) -> bytes:
        """Some bytes, up to `most`; b"" at the end."""
        while not self._rest:
            waiting: list[Any] = [self._taken, 0] if self._stdin else [self._taken]
            ready, _, _ = select.select(waiting, [], [])
            if 0 in ready:
                self._forward()
            if self._taken in ready:
                self._rest = self._receive()
                if not self._rest:
                    return b""
        found, self._rest = self._rest[:most], self._rest[most:]
        return found

    def exactly(self, count: int) -> bytes:
        """`count` bytes, or fewer at the end."""
        found = b""
        while len(found) < count and (piece := self.read(count - len(found))):
            found += piece
        return found

    def _receive(self) -> bytes:
        with contextlib.suppress(ConnectionResetError):
            return self._taken.recv(PIECE)
        return b""

    def _forward(self) -> None:
        piece = os.read(0, PIECE)
        with contextlib.suppress(OSError):  # the program has ended, and its output says so
            if piece:
                self._taken.sendall(piece)
            else:
                self._taken.shutdown(socket.SHUT_WR)
        self._stdin = bool(piece)


@contextlib.contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    before = termios.tcgetattr(0)
    terminals.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _sized(wanted: bool, resize: Resize) -> Iterator[None]:
    if not wanted or not sys.stdout.isatty():
        yield
        return

    def tell(*_: object) -> None:
        size = shutil.get_terminal_size()
        with contextlib.suppress(MeshnetError):  # the program may have ended meanwhile
            resize(h=size.lines, w=size.columns)

    before = signal.signal(signal.SIGWINCH, tell)
    tell()
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)

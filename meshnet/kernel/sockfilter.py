"""Classic BPF on a socket (SO_ATTACH_FILTER): which packets it hears at all."""

from __future__ import annotations

import ctypes
import socket
import struct

_SO_ATTACH_FILTER = 26
_INSTRUCTION = "=HBBI"  # struct sock_filter: code, jump if true, jump if false, operand


def attach(listener: socket.socket, instructions: list[tuple[int, int, int, int]]) -> None:
    """Sets a socket's filter: (code, jt, jf, k) as `tcpdump -ddd` prints them. OSError if the kernel refuses it."""
    program = b"".join(struct.pack(_INSTRUCTION, *row) for row in instructions)
    buffer = ctypes.create_string_buffer(program, len(program))
    where = struct.pack("@HP", len(instructions), ctypes.addressof(buffer))  # struct sock_fprog
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, where)

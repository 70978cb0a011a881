"""Ending TCP connections to an address that is gone: NETLINK_SOCK_DIAG's SOCK_DESTROY (Linux 4.5).

A client that only reads never learns that its peer has gone, since nothing it sends can be answered by a reset.
The kernel ends its socket as if a reset had come: ECONNABORTED. Needs CONFIG_INET_DIAG_DESTROY.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable

from meshnet.kernel.channel import Channel, Request, request

_SOCK_DIAG, _BY_FAMILY, _DESTROY = 4, 20, 21
# enum tcp states: ESTABLISHED 1, SYN_SENT 2, SYN_RECV 3, FIN_WAIT 4 and 5, CLOSE_WAIT 8, LAST_ACK 9, CLOSING 11
_CONNECTED = sum(1 << state for state in (1, 2, 3, 4, 5, 8, 9, 11))
_ID_AT, _ID_SIZE, _DESTINATION_AT = 4, 48, 24
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL})


def destroy_connections(addresses: Iterable[str]) -> int:
    """Ends every TCP connection to one of `addresses` in the calling thread's namespace; returns how many.

    Sockets of both families count: an IPv4 address is also looked for as its IPv4-mapped form. A kernel that
    cannot do it ends none. OSError otherwise.
    """
    wanted = {_packed(address) for address in addresses}
    return _end(lambda family, ident: _destination(family, ident) in wanted) if wanted else 0


def destroy_all() -> int:
    """Ends every TCP connection of the calling thread's namespace; returns how many. OSError as above.

    A socket whose process was killed goes on by itself while its peer does not answer, for minutes, and keeps its
    namespace alive.
    """
    return _end(lambda _family, _ident: True)


def _end(chosen: Callable[[int, bytes], bool]) -> int:
    ended = 0
    with Channel(_SOCK_DIAG) as channel:
        for family in (socket.AF_INET, socket.AF_INET6):
            found = [_destroy(family, ident) for ident in _connections(channel, family) if chosen(family, ident)]
            refused = channel.try_send(found)
            for _, error in refused:
                if error.errno not in _UNSUPPORTED:
                    raise error
            ended += len(found) - len(refused)
    return ended


def _connections(channel: Channel, family: int) -> list[bytes]:
    """The `struct inet_diag_sockid` of every connected TCP socket."""
    body = _body(family, _CONNECTED, bytes(_ID_SIZE))
    return channel.dump(_BY_FAMILY, body, "TCP sockets", lambda found: found[_ID_AT : _ID_AT + _ID_SIZE])


def _destroy(family: int, ident: bytes) -> Request:
    return request(_DESTROY, 0, _body(family, 0xFFFFFFFF, ident), "end a TCP connection")


def _body(family: int, states: int, ident: bytes) -> bytes:
    return struct.pack("=BBxxI", family, socket.IPPROTO_TCP, states) + ident


def _destination(family: int, ident: bytes) -> bytes:
    raw = ident[_DESTINATION_AT - _ID_AT : _DESTINATION_AT - _ID_AT + 16]
    return raw if family == socket.AF_INET6 else _mapped(raw[:4])


def _packed(address: str) -> bytes:
    packed = ipaddress.ip_address(address).packed
    return packed if len(packed) == 16 else _mapped(packed)


def _mapped(packed: bytes) -> bytes:
    return bytes(10) + b"\xff\xff" + packed

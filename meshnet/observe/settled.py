"""Which of what the kernel frees as dropped was received: what ends connections, and has nothing left to deliver.

The kernel calls every packet dropped that it frees without handing it on, also one that has done its work:

- A FIN that arrives after the program closed its socket waits in the socket's queue, acknowledged, until the kernel
  clears that away. Data never waits there: whoever sends some to a closed socket is reset (tcp_abort_on_data).
- A FIN or RST for a socket of which only TIME_WAIT is left ends or confirms that (net/ipv4/tcp_minisocks.c).

Older kernels have no name for the first reason. A bare ACK is not among them, since the overflow of an accept queue
drops such, in older kernels without a reason; nor is anything with SYN or with data.
"""

from __future__ import annotations

from meshnet.observe.packet_line import tcp

_UNNAMED = "not_specified"
_FIN, _SYN, _RST = 1, 2, 4


def is_settled(reason: str, function: str, data: bytes, protocol: int, length: int) -> bool:
    """Whether a packet that the kernel's `function` freed for `reason` was received.

    `data` is the packet from its IP header on, `protocol` its EtherType; `length` is what of it was left to handle
    there, in bytes.
    """
    found = tcp(data, protocol)
    if found is None:
        return False
    flags, head = found
    if flags & _SYN or not flags & (_FIN | _RST):
        return False
    if function == "sk_stream_kill_queues":
        return reason in ("queue_purge", _UNNAMED) and length == 0
    return function == "tcp_v4_rcv" and reason == _UNNAMED and length == head

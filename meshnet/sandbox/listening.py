"""Whether a task has opened the ports that its service promises: what the kernel says of its sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from pathlib import Path

LISTEN, UNCONNECTED = "0A", "07"  # states of TCP and UDP sockets in /proc/net (kernel: net/tcp_states.h)
_FIRST_PAUSE, _LAST_PAUSE = 0.005, 0.1  # s between looks


def open_ports(pid: int) -> set[tuple[str, int]]:
    """(protocol, port) of every listening TCP and every unconnected UDP socket in the namespace of process `pid`."""
    found = set()
    for name, protocol, state in (("tcp", "tcp", LISTEN), ("udp", "udp", UNCONNECTED)):
        for suffix in ("", "6"):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/net/{name}{suffix}").read_text().splitlines()[1:]:
                    fields = line.split()
                    if fields[3] == state:
                        found.add((protocol, int(fields[1].rpartition(":")[2], 16)))
    return found


async def wait_listening(pid: int, ports: Collection[tuple[str, int]], timeout: float) -> bool:
    """Waits until every one of `ports` is open, at most `timeout` seconds; False if they are not."""
    if not ports:
        return True  # the kernel walks through the sockets of all namespaces to say what is open in one
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + timeout, _FIRST_PAUSE
    while not set(ports) <= open_ports(pid):
        if loop.time() + pause > deadline:
            return False
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LAST_PAUSE)
    return True

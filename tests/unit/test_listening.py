"""The kernel's tables tell which ports a process's namespace has open."""

import asyncio
import os
import socket

from meshnet.sandbox.listening import open_ports, wait_listening


def test_open_ports_of_both_protocols_are_seen() -> None:
    """A listening TCP and a bound UDP socket are open ports; a bound TCP socket that does not listen is not."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as idle:
        for each in (tcp, udp, idle):
            each.bind(("127.0.0.1", 0))
        tcp.listen()
        found = open_ports(os.getpid())
        assert ("tcp", tcp.getsockname()[1]) in found
        assert ("udp", udp.getsockname()[1]) in found
        assert ("tcp", idle.getsockname()[1]) not in found


def test_waiting_ends_when_the_port_opens_or_time_is_up() -> None:
    """The wait sees a port that opens later, and gives up on one that does not."""

    async def scenario() -> None:
        with socket.socket() as late:
            late.bind(("127.0.0.1", 0))
            wanted = {("tcp", late.getsockname()[1])}
            assert not await wait_listening(os.getpid(), wanted, 0.02)
            asyncio.get_running_loop().call_soon(late.listen)
            assert await wait_listening(os.getpid(), wanted, 5)

    asyncio.run(scenario())

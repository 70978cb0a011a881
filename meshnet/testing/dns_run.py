"""The two name servers of a task behind one function: the program on lo, and user space for what it leaves.

    with KernelNames() as kernel:
        result = kernel.answer(query, zone, "udp", random.Random(0))

takes and gives what `meshnet.dns.answer.answer` does. The program is the real one, run by BPF_PROG_TEST_RUN.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from meshnet.agent.zones import plain_names
from meshnet.datapath.ebpf.names import entries, zone_key
from meshnet.datapath.rows import ZoneRow
from meshnet.dns import RESOLVER_ADDRESS
from meshnet.dns.answer import OUTCOMES, TTL, Drop, Forward, Reply, Shuffler, Transport, answer
from meshnet.dns.zone import Zone
from meshnet.kernel import bpfbuild, bpfload
from meshnet.kernel.bpf import ensure_bpffs

_HEADERS = 42  # Ethernet, IPv4, UDP
_TEST_ZONE = 0  # a test run has no filter, and so no class


class KernelNames:
    """The program `lo_steer` with the names of one zone; it is loaded once and may be used for many zones."""

    def __init__(self) -> None:
        ensure_bpffs()
        self.pins = Path(f"/sys/fs/bpf/meshnet_names_{os.getpid()}")
        self.objects = bpfload.load([path for path in bpfbuild.objects() if path.stem == "lo"], self.pins)
        self.program, self.names = self.objects.progs["lo_steer"], self.objects.maps["names"]
        self.taken = 0  # queries that the program answered
        self._zone: Zone | None = None

    def __enter__(self) -> KernelNames:
        return self

    def __exit__(self, *_: object) -> None:
        self.objects.close()
        bpfload.unload(self.pins)

    def answer(self, message: bytes, zone: Zone, transport: Transport, rng: Shuffler) -> Reply | Forward | Drop:
        """As `meshnet.dns.answer.answer`: the program's answer where it has one, else that of user space."""
        data = self.ask(message, zone) if transport == "udp" else None
        if data is None:
            return answer(message, zone, transport, rng)
        self.taken += 1
        return Reply(data, OUTCOMES[data[3] & 15])

    def ask(self, message: bytes, zone: Zone) -> bytes | None:
        """The program's answer to a datagram, None if it leaves it to user space.

        AssertionError: the answer's headers are wrong, or the query changed though it was left alone.
        """
        self._fill(zone)
        done = self.program.test_run(query_frame(message))
        assert done.retval == 0, done
        source, destination = struct.unpack_from("!2H", done.data, 34)
        if destination != 4000:
            assert (source, done.data[_HEADERS:]) == (4000, message), done.data.hex()
            return None
        assert done.data[:_HEADERS] == _reply_headers(len(done.data) - _HEADERS), done.data.hex()
        return done.data[_HEADERS:]

    def _fill(self, zone: Zone) -> None:
        if zone is self._zone:
            return
        row = ZoneRow((), (), TTL, plain_names(zone))
        wanted, _ = entries((row,), {zone_key(row): _TEST_ZONE}, self.names.max_entries)
        self.names.discard(list(self.names.keys()))
        self.names.update(wanted)
        self._zone = zone


def query_frame(message: bytes, source: str = "127.0.0.1") -> bytes:
    """A datagram from port 4000 of `source` to 127.0.0.11:53, as a frame on lo."""
    return bytes(12) + b"\x08\0" + _headers(len(message), source, RESOLVER_ADDRESS, 4000, 53) + message


def _reply_headers(length: int) -> bytes:
    return bytes(12) + b"\x08\0" + _headers(length, RESOLVER_ADDRESS, "127.0.0.1", 53, 4000)


def _headers(length: int, source: str, destination: str, source_port: int, port: int) -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + length, 7, 0x4000, 64, 17, 0)
    total: int = sum(struct.unpack("!10H", head + addresses))
    checksum = 0xFFFF - (total % 0xFFFF or 0xFFFF)
    udp = struct.pack("!4H", source_port, port, 8 + length, 0)
    return b"".join((head[:10], checksum.to_bytes(2, "big"), addresses, udp))

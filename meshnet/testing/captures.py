"""Captures: scapy packets from any interface of any namespace, from before the block to after it.

    with capture(lab.node("docker-0")) as underlay, capture(interface(lab, "whoami.1", "demo")) as task:
        ...
    underlay.one(vxlan(vni=4097, inner=tcp(dport=80, flags="S!A")))
    task.one(tcp(dport=80, flags="S!A"))

There is no race. The packet socket is opened in the namespace, filtered and bound before the block begins, and the
kernel puts each packet into it as the packet goes by. So what has been answered when the block ends has been
captured at every hop; after the block the socket is emptied and closed. For what nobody answers, `wait` inside it.
"""

from __future__ import annotations

import errno
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from meshnet.errors import MeshnetError
from meshnet.kernel import netns, sockfilter
from meshnet.testing.checksums import wrong_checksums
from meshnet.testing.frames import VXLAN_PORT, decode
from meshnet.testing.lines import line
from meshnet.testing.waiting import wait_until
from meshnet.testing.wires import Interface

if TYPE_CHECKING:
    from meshnet.testing.labs import Host

_ETH_P_ALL = 0x0003
_SO_RCVBUFFORCE = 33
_SOL_PACKET, _PACKET_AUXDATA, _PACKET_STATISTICS = 263, 8, 6
_CSUM_NOT_READY, _VLAN_VALID = 1 << 3, 1 << 4  # TP_STATUS_*
_AUXDATA = "=IIIHHHH"  # struct tpacket_auxdata
_ROOM = 16 << 20  # bytes that fit between two looks
_LONGEST = 1 << 18
_SHOWN = 40  # packets that a failure lists


@dataclass(frozen=True, slots=True)
class Seen:
    """A packet that went by. `outgoing`: the namespace itself sent it through this interface.

    `unfinished`: its TCP or UDP checksum is left to the device (see `wrong_checksums`).
    """

    packet: Any
    outgoing: bool
    unfinished: bool


class Capture:
    """What went by one interface. As a sequence, the scapy packets in their order; `seen` says more of each."""

    def __init__(
        self,
        space: str,
        device: str,
        label: str,
        only: Callable[[Any], object] | str | None,
        vxlan_port: int,
    ) -> None:
        self.label = label
        self.seen: list[Seen] = []
        self._only = only if callable(only) else None
        self._vxlan_port = vxlan_port
        program = _compiled(only) if isinstance(only, str) else []
        self._socket: socket.socket | None = netns.socket_in(space, socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._open(self._socket, device, program)
        except OSError as error:
            self._socket.close()
            if error.errno == errno.ENODEV:
                raise MeshnetError(f"{label}: there is no such interface") from None
            raise

    def _open(self, listener: socket.socket, device: str, program: list[tuple[int, int, int, int]]) -> None:
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        listener.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        if program:
            sockfilter.attach(listener, program)
        listener.setblocking(False)
        # Created for no protocol, it hears nothing before it is bound: nothing comes past the filter.
        listener.bind((device, _ETH_P_ALL))

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes what has come and ends. AssertionError if the socket had no room for all of it."""
        if self._socket is None:
            return
        self._drain()
        listener, self._socket = self._socket, None
        with listener:
            lost = struct.unpack("=II", listener.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1]
        if lost:
            raise AssertionError(f"{self.label}: {lost} packets did not fit into the capture; filter it")

    def _drain(self) -> None:
        while self._socket is not None:
            try:
                data, extra, _, where = self._socket.recvmsg(_LONGEST, socket.CMSG_SPACE(20))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENETDOWN:
                    continue
                raise
            status, tci, tpid = _auxiliary(extra)
            if status & _VLAN_VALID:
                data = data[:12] + struct.pack("!HH", tpid or 0x8100, tci) + data[12:]
            packet = decode(data, self._vxlan_port)
            if self._only is None or self._only(packet):
                self.seen.append(Seen(packet, where[2] == socket.PACKET_OUTGOING, bool(status & _CSUM_NOT_READY)))

    @property
    def packets(self) -> list[Any]:
        """The scapy packets so far."""
        self._drain()
        return [one.packet for one in self.seen]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.packets)

    def __len__(self) -> int:
        return len(self.packets)

    def all(self, match: Callable[[Any], object]) -> list[Any]:
        """The packets that match."""
        return [packet for packet in self.packets if match(packet)]

    def first(self, match: Callable[[Any], object]) -> Any:
        """The first packet that matches. AssertionError with all that was seen if there is none."""
        found = self.all(match)
        self._require(found, f"expected {match}", match)
        return found[0]

    def one(self, match: Callable[[Any], object]) -> Any:
        """The only packet that matches. AssertionError with all that was seen if there is none, or several."""
        found = self.all(match)
        self._require(len(found) == 1, f"expected one {match}, found {len(found)}", match)
        return found[0]

    def none(self, match: Callable[[Any], object]) -> None:
        """Asserts that no packet matches."""
        self._require(not self.all(match), f"expected no {match}", match)

    def only(self, match: Callable[[Any], object]) -> None:
        """Asserts that every packet matches, and that there is one."""
        packets = self.packets
        self._require(packets and all(map(match, packets)), f"expected only {match}", match)

    def wait(self, match: Callable[[Any], object], count: int = 1, timeout: float = 20.0) -> list[Any]:
        """Waits until `count` packets match and returns all that do; `timeout` in seconds."""
        try:
            return wait_until(lambda: found if len(found := self.all(match)) >= count else [], timeout)
        except AssertionError:
            raise AssertionError(
                self._failure(f"expected {count} x {match} within {timeout} s, found {len(self.all(match))}", match)
            ) from None

    def checksums(self) -> None:
        """Asserts that every checksum of every packet is right, outside and inside of tunnels."""
        self._drain()
        wrong = [
            f"{line(one.packet)}: {', '.join(found)}"
            for one in self.seen
            if (found := wrong_checksums(one.packet, one.unfinished))
        ]
        if wrong:
            raise AssertionError("\n  ".join([f"{self.label}: wrong checksums", *wrong]))

    def __str__(self) -> str:
        return self._failure("a capture")

    def _require(self, holds: object, expected: str, match: Callable[[Any], object]) -> None:
        # No assert: pytest would add the sizes of lists to a text that is complete.
        if not holds:
            raise AssertionError(self._failure(expected, match))

    def _failure(self, expected: str, match: Callable[[Any], object] | None = None) -> str:
        packets = self.packets
        rows = [f"{self.label}: {expected}; seen {len(packets) or 'nothing'}"]
        for one in self.seen[:_SHOWN]:
            problems = match.problems(one.packet) if match is not None and hasattr(match, "problems") else []
            near = f"   ({', '.join(problems)})" if problems else ""
            rows.append(f"  {'out' if one.outgoing else 'in '} {line(one.packet)}{near}")
        if len(packets) > _SHOWN:
            rows.append(f"  ... and {len(packets) - _SHOWN} more")
        return "\n".join(rows)


def capture(
    where: Host | Interface | str,
    device: str = "",
    only: Callable[[Any], object] | str | None = None,
    vxlan_port: int = VXLAN_PORT,
) -> Capture:
    """A capture that has begun; use it as a context manager.

    `where`: a host of a lab, an `interface(...)`, or the name of a namespace. `device`: by default the interface's,
    else eth0. `only`: a matcher or a function of a scapy packet, or a text in the language of pcap-filter(7), which the
    kernel applies. `vxlan_port`: where VXLAN is decoded. Raises MeshnetError for an interface that does not
    exist and for a filter that tcpdump does not understand, FileNotFoundError for a namespace.
    """
    if isinstance(where, str):
        space, name, device = where, where, device or "eth0"
    elif isinstance(where, Interface):
        space, device = where.netns, device or where.device
        name = space
    else:
        space, name, device = where.netns, where.name, device or "eth0"
    return Capture(space, device, f"{name} {device}", only, vxlan_port)


def _auxiliary(extra: list[tuple[int, int, bytes]]) -> tuple[int, int, int]:
    for level, kind, data in extra:
        if level == _SOL_PACKET and kind == _PACKET_AUXDATA:
            status, _, _, _, _, tci, tpid = struct.unpack(_AUXDATA, data[:20])
            return status, tci, tpid
    return 0, 0, 0


def _compiled(text: str) -> list[tuple[int, int, int, int]]:
    """A filter in words as instructions. Raises MeshnetError."""
    tcpdump = shutil.which("tcpdump", path="/usr/bin:/usr/sbin:/sbin:/bin")
    if tcpdump is None:
        raise MeshnetError("a filter in words needs tcpdump: apt-get install tcpdump; or give a function")
    command = [tcpdump, "-y", "EN10MB", "-s", str(_LONGEST), "-ddd", text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeshnetError(f"the filter {text!r}: {done.stderr.strip().splitlines()[-1].removeprefix('tcpdump: ')}")
    rows = [tuple(map(int, row.split())) for row in done.stdout.splitlines()[1:]]
    return [(code, true, false, operand) for code, true, false, operand in rows]

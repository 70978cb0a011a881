"""What rtnetlink dumps say, as plain values.

Decoded here by hand rather than by pyroute2: an agent looks at hundreds of links at each reconcile, and its lazily
decoded attribute objects cost 0.3 ms a link against 0.01 ms. References: rtnetlink(7), linux/if_link.h,
linux/rtnetlink.h, linux/fib_rules.h, linux/pkt_cls.h.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from meshnet.kernel.attributes import attributes


def _u32(data: bytes | None, default: int = 0) -> int:
    if data is None or len(data) < 4:
        return default
    value: int = struct.unpack_from("=I", data)[0]
    return value


def _text(data: bytes | None) -> str:
    return "" if data is None else data.rstrip(b"\0").decode(errors="replace")


def _mac(data: bytes | None) -> str:
    return "" if data is None else ":".join(f"{byte:02x}" for byte in data)


def _address(data: bytes | None) -> str:
    if data is None or len(data) not in (4, 16):
        return ""
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. `kind` is "" for a physical one; `peer` is the index of a veth's other end, in whatever
    namespace that is; `vni` and `port` are a VXLAN device's."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    alias: str
    kind: str
    master: int
    peer: int
    peer_elsewhere: bool
    quiet: bool
    external: bool = False
    vni: int = 0
    port: int = 0

    @classmethod
    def decode(cls, data: bytes) -> Link:
        """From the payload of RTM_NEWLINK."""
        _, _, index, flags, _ = struct.unpack_from("=BxHiII", data)
        found = attributes(data, 16)
        info = attributes(found.get(18, b""))
        kind = _text(info.get(1))
        special = attributes(info.get(2, b"")) if kind == "vxlan" else {}
        port: int = struct.unpack("!H", special.get(15, b"\0\0"))[0]
        inet6 = attributes(attributes(found.get(26, b"")).get(socket.AF_INET6, b""))
        return cls(
            index=index,
            name=_text(found.get(3)),
            mac=_mac(found.get(1)),
            mtu=_u32(found.get(4)),
            up=bool(flags & 1),
            alias=_text(found.get(20)),
            kind=kind,
            master=_u32(found.get(10)),
            peer=_u32(found.get(5)),
            peer_elsewhere=37 in found,
            quiet=not inet6 or inet6.get(8, b"\0")[:1] == b"\1",
            external=special.get(25, b"\0") != b"\0",
            vni=_u32(special.get(1)),
            port=port,
        )


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a device."""

    index: int
    address: str
    prefix: int

    @classmethod
    def decode(cls, data: bytes) -> Address:
        """From the payload of RTM_NEWADDR."""
        _, prefix, _, _, index = struct.unpack_from("=BBBBI", data)
        found = attributes(data, 8)
        return cls(index, _address(found.get(2, found.get(1))), prefix)


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route. `destination` is `address/length` or `default`, `via` "" without a gateway."""

    destination: str
    index: int
    via: str
    table: int
    metric: int
    protocol: int  # 2 kernel, 4 static ...
    kind: int  # 1 unicast, 2 local, 3 broadcast ...
    source: str = ""

    @classmethod
    def decode(cls, data: bytes) -> Route:
        """From the payload of RTM_NEWROUTE."""
        _, length, _, _, table, protocol, _, kind, _ = struct.unpack_from("=BBBBBBBBI", data)
        found = attributes(data, 12)
        return cls(
            destination=f"{_address(found.get(1)) or '0.0.0.0'}/{length}" if length else "default",
            index=_u32(found.get(4)),
            via=_address(found.get(5)),
            table=_u32(found.get(15), table),
            metric=_u32(found.get(6)),
            protocol=protocol,
            kind=kind,
            source=_address(found.get(7)),
        )


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour, or with `mac` and `address` (the VTEP) an entry of a VXLAN device."""

    index: int
    address: str
    mac: str
    permanent: bool

    @classmethod
    def decode(cls, data: bytes) -> Neighbour:
        """From the payload of RTM_NEWNEIGH."""
        _, index, state, _, _ = struct.unpack_from("=B3xiHBB", data)
        found = attributes(data, 12)
        return cls(index, _address(found.get(1)), _mac(found.get(2)), bool(state & 0x80))


@dataclass(frozen=True, slots=True)
class Rule:
    """A routing rule `[not] [iif IIF] [fwmark MARK] lookup TABLE`; `invert` is the `not`."""

    table: int
    priority: int
    iif: str = ""
    mark: int = 0
    invert: bool = False

    @classmethod
    def decode(cls, data: bytes) -> Rule:
        """From the payload of RTM_NEWRULE."""
        table, flags = struct.unpack_from("=4xB3xI", data)
        found = attributes(data, 12)
        return cls(
            table=_u32(found.get(15), table),
            priority=_u32(found.get(6)),
            iif=_text(found.get(3)),
            mark=_u32(found.get(10)),
            invert=bool(flags & 2),
        )


@dataclass(frozen=True, slots=True)
class Filter:
    """A BPF program on a device. `program` is its id, as BPF_OBJ_GET_INFO_BY_FD tells it; `parent` INGRESS or
    EGRESS; `classid` what the program finds in tc_classid."""

    index: int
    parent: int
    priority: int
    handle: int
    name: str
    program: int
    classid: int = 0

    @classmethod
    def decode(cls, data: bytes) -> Filter | None:
        """From the payload of RTM_NEWTFILTER; None for other filters than BPF, and for the head of a chain."""
        _, index, handle, parent, info = struct.unpack_from("=B3xiIII", data)
        found = attributes(data, 20)
        options = attributes(found.get(2, b""))
        if _text(found.get(1)) != "bpf" or 11 not in options:
            return None
        place = (index, parent, info >> 16, handle)
        return cls(*place, _text(options.get(7)), _u32(options.get(11)), _u32(options.get(3)))

"""The structures of bpf/types.h and bpf/socket.c in Python: one class each, same fields in the same order.

Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d. Ports and others that C calls `__be16` are 2 bytes in network order;
all other numbers are in host order. A test compares every class with the type information of the compiled objects.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Any, ClassVar, Self

NO_ADDRESS = bytes(16)
_MAPPED = bytes(10) + b"\xff\xff"  # what an IPv4 address has in front of it

CONFIG_DIRECT_RETURN = 1
INTERFACE_OUTSIDE, INTERFACE_INGRESS, INTERFACE_NODE_LOCAL = 1, 2, 4
LOCAL, REMOTE, VIP, REMOVED, GATEWAY = 1, 2, 3, 4, 5
ENDPOINT_NODE_LOCAL, ENDPOINT_IPVS, ENDPOINT_CLOSED, ENDPOINT_LEAVING = 1, 2, 4, 8
PEER_IPVS = 1
NETWORK_INTERNAL = 1
FEW_BACKENDS = 16
PROTOCOLS = {"tcp": 6, "udp": 17}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}


class Packed:
    """Base of the structures: `FORMAT` has one item per field, and `x` where C has a field that is unused."""

    FORMAT: ClassVar[str]
    __slots__ = ()

    def pack(self) -> bytes:
        """The structure as the kernel keeps it. struct.error if a field does not fit."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]  # each layout is a dataclass
        return struct.pack(self.FORMAT, *(getattr(self, field.name) for field in fields))

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """The opposite of `pack`. struct.error if the length is wrong."""
        values: tuple[Any, ...] = struct.unpack(cls.FORMAT, raw)
        return cls(*values)

    @classmethod
    def of(cls, *values: Any) -> bytes:
        """What a structure with these values, one for each field, packs to; without making one."""
        return struct.pack(cls.FORMAT, *values)


@dataclass(frozen=True, slots=True)
class Config(Packed):
    FORMAT: ClassVar[str] = "=Q16s16sIIIII2sH6sBx"
    node_cookie: int = 0
    address: bytes = NO_ADDRESS
    ingress_address: bytes = NO_ADDRESS
    ingress_vni: int = 0
    underlay: int = 0
    vxlan: int = 0
    flags: int = 0
    mark: int = 0
    vxlan_port: bytes = bytes(2)
    ingress_mtu: int = 0
    underlay_mac: bytes = bytes(6)
    underlay_prefix: int = 0


@dataclass(frozen=True, slots=True)
class Interface(Packed):
    FORMAT: ClassVar[str] = "=16sIIH6s"
    ip: bytes = NO_ADDRESS
    vni: int = 0
    flags: int = 0
    mtu: int = 0
    mac: bytes = bytes(6)


@dataclass(frozen=True, slots=True)
class EndpointKey(Packed):
    FORMAT: ClassVar[str] = "=16sI"
    ip: bytes = NO_ADDRESS
    vni: int = 0


@dataclass(frozen=True, slots=True)
class Endpoint(Packed):
    FORMAT: ClassVar[str] = "=16sIBB6s4x"
    via: bytes = NO_ADDRESS
    ifindex: int = 0
    kind: int = 0
    flags: int = 0
    mac: bytes = bytes(6)


@dataclass(frozen=True, slots=True)
class Network(Packed):
    FORMAT: ClassVar[str] = "=II"
    flags: int = 0
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class SubnetKey(Packed):
    FORMAT: ClassVar[str] = "=I16s"
    prefix: int = 0
    address: bytes = NO_ADDRESS


@dataclass(frozen=True, slots=True)
class Service(Packed):
    """`few` are addresses, one after the other, and zeros."""

    FORMAT: ClassVar[str] = "=IIII2s2x256s"
    vni: int = 0
    set: int = 0
    count: int = 0
    turn: int = 0
    target_port: bytes = bytes(2)
    few: bytes = bytes(16 * FEW_BACKENDS)


@dataclass(frozen=True, slots=True)
class PublishedKey(Packed):
    FORMAT: ClassVar[str] = "=2sBx"
    port: bytes = bytes(2)
    protocol: int = 0


@dataclass(frozen=True, slots=True)
class BackendKey(Packed):
    FORMAT: ClassVar[str] = "=II"
    set: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True)
class Peer(Packed):
    FORMAT: ClassVar[str] = "=I"
    flags: int = 0


@dataclass(frozen=True, slots=True)
class AttachedKey(Packed):
    FORMAT: ClassVar[str] = "=QI4x"
    cookie: int = 0
    vni: int = 0


@dataclass(frozen=True, slots=True)
class PeerName(Packed):
    FORMAT: ClassVar[str] = "=16s2s2x"
    address: bytes = NO_ADDRESS
    port: bytes = bytes(2)


@dataclass(frozen=True, slots=True)
class SocketKey(Packed):
    """`name` is a packed PeerName."""

    FORMAT: ClassVar[str] = "=Q20s4x"
    cookie: int = 0
    name: bytes = bytes(20)


@dataclass(frozen=True, slots=True)
class ZoneKey(Packed):
    FORMAT: ClassVar[str] = "=16s"
    networks: bytes = bytes(16)


@dataclass(frozen=True, slots=True)
class NameKey(Packed):
    """`name` is in wire form and lower case, with zeros behind it."""

    FORMAT: ClassVar[str] = "=120sI4x"
    name: bytes = bytes(120)
    zone: int = 0


@dataclass(frozen=True, slots=True)
class NameValue(Packed):
    """`records` are whole A records of 16 bytes."""

    FORMAT: ClassVar[str] = "=I4x496s"
    count: int = 0
    records: bytes = bytes(496)


def u32(value: int) -> bytes:
    """A number as map key or value, host order."""
    return struct.pack("=I", value)


def from_u32(raw: bytes) -> int:
    return int(struct.unpack("=I", raw)[0])


def be16(value: int) -> bytes:
    """A port in network order."""
    return value.to_bytes(2, "big")


def from_be16(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def address(text: str) -> bytes:
    """16 bytes of an IPv4 or IPv6 address in text; "" is the zero address. ValueError if it is none."""
    if not text:
        return NO_ADDRESS
    try:
        return _MAPPED + socket.inet_pton(socket.AF_INET, text)
    except OSError:  # IPv6, or an error that is ipaddress's to say
        packed = ipaddress.ip_address(text).packed
    return packed if len(packed) == 16 else _MAPPED + packed


def text(raw: bytes) -> str:
    """The opposite of `address`."""
    if raw[:12] == _MAPPED:
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return "" if raw == NO_ADDRESS else str(ipaddress.IPv6Address(raw))


def mac_of(address: bytes) -> bytes:
    """The MAC of an overlay address: `model.mac_of` for packed ones. ValueError if it is not IPv4."""
    if len(address) != 16 or address[:12] != _MAPPED:
        raise ValueError("only an IPv4 address has a MAC of its own")
    return b"\x02\x42" + address[12:]


def endpoint_kind(raw: bytes) -> int:
    """`kind` of a packed Endpoint."""
    return raw[20]


def mac(text: str) -> bytes:
    """6 bytes of a MAC address in text. ValueError if it is none."""
    raw = bytes.fromhex(text.replace(":", ""))
    if len(raw) != 6:
        raise ValueError(f"not a MAC address: {text}")
    return raw


def mac_text(raw: bytes) -> str:
    return raw.hex(":")


def subnet(text: str) -> bytes:
    """Key of `subnets` for a subnet in text. ValueError if it is none."""
    network = ipaddress.ip_network(text)
    bits = network.prefixlen + (96 if network.version == 4 else 0)
    return SubnetKey(bits, address(str(network.network_address))).pack()


def subnet_text(raw: bytes) -> str:
    key = SubnetKey.unpack(raw)
    base = text(key.address)
    return f"{base}/{key.prefix - (96 if ':' not in base else 0)}"

"""What a test expects of a packet, as a value that can say what it is and why a packet is something else.

    vxlan(vni=4097, src="172.17.0.2", inner=tcp(dst="10.0.1.7", dport=80, flags="S") & eth(dst="02:42:0a:00:01:07"))

`tcp`, `udp`, `icmp`, `ip`, `arp` and `eth` look at the headers that are on the wire; what is inside a tunnel is for
`vxlan(inner=...)`. A field that is not given may be anything. `&` and `~` combine; `matching` takes any function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshnet.testing.frames import VXLAN_PORT, outer, tunnelled

Problems = Callable[[Any], list[str]]


@dataclass(frozen=True, slots=True)
class Match:
    """An expectation: `text` is how it reads, `problems(packet)` says what differs (nothing: it matches)."""

    text: str
    problems: Problems

    def __call__(self, packet: Any) -> bool:
        """Whether a scapy packet is as expected."""
        return not self.problems(packet)

    def __and__(self, other: Match) -> Match:
        return Match(f"{self.text} & {other.text}", lambda packet: self.problems(packet) + other.problems(packet))

    def __invert__(self) -> Match:
        return Match(f"no {self.text}", lambda packet: [] if self.problems(packet) else [f"it is {self.text}"])

    def __str__(self) -> str:
        return self.text


def matching(predicate: Callable[[Any], object], text: str = "") -> Match:
    """What a function of a scapy packet calls true; `text` names it in failures."""
    name = text or getattr(predicate, "__name__", "a predicate")
    return Match(name, lambda packet: [] if predicate(packet) else [f"not {name}"])


def eth(**fields: Any) -> Match:
    """An Ethernet frame: `src`, `dst` (MACs as text), `type`."""
    from scapy.layers.l2 import Ether

    return _layer("eth", Ether, fields)


def arp(**fields: Any) -> Match:
    """ARP: `op` (1 asks, 2 answers), `psrc`, `pdst`, `hwsrc`, `hwdst`."""
    from scapy.layers.l2 import ARP

    return _layer("arp", ARP, fields)


def ip(**fields: Any) -> Match:
    """IPv4, whatever it carries: `src`, `dst`, `ttl`, `tos`, `id`, `flags`, `proto` ..."""
    from scapy.layers.inet import IP

    return _layer("ip", IP, fields)


def tcp(src: str = "", dst: str = "", *, flags: str = "", **fields: Any) -> Match:
    """TCP over IPv4 between these addresses: `sport`, `dport`, `seq` ...

    `flags`: letters that are all set, such as `SA`; `S` alone is also what a SYN+ACK has: write `flags="S!A"` for
    what must not be set.
    """
    from scapy.layers.inet import TCP

    found = _over_ip("tcp", TCP, src, dst, fields)
    return found if not flags else Match(f"{found.text} {flags}", lambda p: found.problems(p) + _flags(p, flags))


def udp(src: str = "", dst: str = "", **fields: Any) -> Match:
    """UDP over IPv4 between these addresses: `sport`, `dport`, `len`. A tunnel's outer header counts, too."""
    from scapy.layers.inet import UDP

    return _over_ip("udp", UDP, src, dst, fields)


def icmp(src: str = "", dst: str = "", **fields: Any) -> Match:
    """ICMP over IPv4 between these addresses: `type`, `code`, `nexthopmtu` ..."""
    from scapy.layers.inet import ICMP

    return _over_ip("icmp", ICMP, src, dst, fields)


def vxlan(
    vni: int | None = None, src: str = "", dst: str = "", inner: Match | None = None, port: int = VXLAN_PORT
) -> Match:
    """VXLAN (RFC 7348) from one tunnel address to another, with the VNI flag set, and what is inside.

    Without a UDP checksum or with a right one: `wrong_checksums` knows. `port`: the outer destination port.
    """
    from scapy.layers.vxlan import VXLAN

    around = udp(src, dst, dport=port)
    text = " ".join(
        ["vxlan", *_said({"vni": vni, "src": src, "dst": dst}), *([f"[{inner.text}]"] if inner is not None else [])]
    )

    def problems(packet: Any) -> list[str]:
        frame = tunnelled(packet)
        if frame is None:
            return ["no VXLAN"]
        head = packet[VXLAN]
        found = around.problems(packet)
        if not head.flags & 8:
            found.append("its VNI flag is not set")
        if vni is not None and head.vni != vni:
            found.append(f"vni is {head.vni}")
        if inner is not None:
            found += [f"inner: {text}" for text in inner.problems(frame)]
        return found

    return Match(text, problems)


def _over_ip(name: str, kind: Any, src: str, dst: str, fields: dict[str, Any]) -> Match:
    addresses = ip(**{key: value for key, value in (("src", src), ("dst", dst)) if value})
    layer = _layer(name, kind, fields)
    text = " ".join([name, *_said({"src": src, "dst": dst} | fields)])
    return Match(text, lambda packet: layer.problems(packet) or addresses.problems(packet))


def _layer(name: str, kind: Any, fields: dict[str, Any]) -> Match:
    known = {field.name for field in kind.fields_desc}
    unknown = set(fields) - known
    if unknown:
        raise TypeError(f"{name}() has no {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")

    def problems(packet: Any) -> list[str]:
        layer = outer(packet, kind)
        if layer is None:
            return [f"no {kind.__name__}"]
        values = {key: getattr(layer, key) for key in fields}
        return [f"{key} is {values[key]}" for key, wanted in fields.items() if values[key] != wanted]

    return Match(" ".join([name, *_said(fields)]), problems)


def _flags(packet: Any, wanted: str) -> list[str]:
    from scapy.layers.inet import TCP

    layer = outer(packet, TCP)
    if layer is None:
        return []
    yes, _, no = wanted.partition("!")
    have = str(layer.flags)
    return [] if set(yes) <= set(have) and not set(no) & set(have) else [f"flags are {have}"]


def _said(fields: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in fields.items() if value not in (None, "")]

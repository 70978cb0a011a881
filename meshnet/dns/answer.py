"""A query and a zone in, the reply's bytes out; or the word that somebody else must be asked, or nobody.

A query passes down a short chain of handlers. Each either decides, by returning what the reply says, or returns None
and leaves the query to the next; the one after the last is the upstream server. In order:
    refuse     questions that nobody here answers: other classes than IN, zone transfers
    known      a name of the zone: its records of that type, or none (NODATA)
    withheld   a service without ready tasks, and `_port._protocol` names below known names (NXDOMAIN)
So a name of the zone never leaves the node, whatever type is asked.

Replies repeat the question as it came, in its case, carry `qr ra` and the query's `rd`, are never authoritative, and
have no authority section (HAProxy's parser stumbles over one). dnslib writes the records.
"""

import struct
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from dnslib import EDNS0, RD, RR, DNSLabel
from dnslib.dns import DNSBuffer

from meshnet.dns.names import labels, parent
from meshnet.dns.query import (
    CLASS_ANY,
    CLASS_IN,
    FLAG_RECURSION_AVAILABLE,
    FLAG_RECURSION_DESIRED,
    FLAG_RESPONSE,
    FLAG_TRUNCATED,
    FORMERR,
    HEADER,
    MAX_QUERY,
    NOERROR,
    NOTIMP,
    NXDOMAIN,
    OPCODE_MASK,
    REFUSED,
    SERVFAIL,
    Query,
    QueryError,
    parse_query,
)
from meshnet.dns.zone import Zone

TTL = 5
"""Seconds that a resolver may keep an answer; Swarm's 600 outlives the tasks it speaks of."""

UDP_MINIMUM = 512
UDP_MAXIMUM = 65507
TCP_MAXIMUM = 65535
BADVERS = 16
"""An extended rcode (RFC 6891 §9): its upper bits travel in the OPT record."""

TYPE_A, TYPE_PTR, TYPE_AAAA, TYPE_SRV, TYPE_IXFR, TYPE_AXFR, TYPE_ANY = 1, 12, 28, 33, 251, 252, 255
OPT_SIZE = 11
POINTER_MAXIMUM = 0x3FFF  # how far into a message a compressed name can point

OUTCOMES = {
    NOERROR: "noerror",
    FORMERR: "formerr",
    SERVFAIL: "servfail",
    NXDOMAIN: "nxdomain",
    NOTIMP: "notimp",
    REFUSED: "refused",
    BADVERS: "badvers",
}

Transport = Literal["udp", "tcp"]


class Shuffler(Protocol):
    """The part of random.Random that an answer needs."""

    def shuffle(self, x: MutableSequence[Any], /) -> None: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """Bytes to send back; `outcome` is the rcode's name in lower case, `reason` says what was wrong with the query."""

    data: bytes
    outcome: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Forward:
    """No name of the zone: ask upstream, with this query."""

    query: Query


@dataclass(frozen=True, slots=True)
class Drop:
    """Not to be answered at all."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Record:
    name: bytes
    type: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Verdict:
    rcode: int
    answers: Sequence[_Record] = ()
    additional: Sequence[_Record] = ()


def answer(
    message: bytes, zone: Zone, transport: Transport, rng: Shuffler, most: int = UDP_MAXIMUM
) -> Reply | Forward | Drop:
    """What to do about one message that a client sent; never raises, whatever the message is.

    `message` comes without TCP's length prefix, and so does the reply. A UDP reply fits the client's EDNS payload
    size (512 bytes without EDNS) and `most` bytes; what does not fit is cut at a record's end and TC is set.
    """
    try:
        query = parse_query(message)
    except QueryError as error:
        if error.rcode is None:
            return Drop(error.reason)
        return Reply(_header_only(message, error.rcode), OUTCOMES[error.rcode], error.reason)
    if query.edns and query.edns.version:
        return Reply(failure(query, BADVERS), OUTCOMES[BADVERS], "version")
    for handler in CHAIN:
        verdict = handler(query, zone)
        if verdict:
            answers = list(verdict.answers)
            rng.shuffle(answers)
            data = _pack(query, verdict.rcode, answers, verdict.additional, reply_limit(query, transport, most))
            return Reply(data, OUTCOMES[verdict.rcode])
    return Forward(query)


def failure(query: Query, rcode: int) -> bytes:
    """A reply to `query` without records: `rcode` alone, and OPT when the query had it."""
    return _pack(query, rcode, (), (), UDP_MINIMUM)


def truncated(query: Query) -> bytes:
    """A reply to `query` without records and with TC: ask again over TCP."""
    data = bytearray(failure(query, NOERROR))
    data[2] |= FLAG_TRUNCATED >> 8
    return bytes(data)


def reply_limit(query: Query, transport: Transport, most: int = UDP_MAXIMUM) -> int:
    """The most bytes that a reply to `query` may have (RFC 6891 §6.2.3: sizes under 512 mean 512), `most` over UDP."""
    if transport == "tcp":
        return TCP_MAXIMUM
    return min(most, max(UDP_MINIMUM, query.edns.payload)) if query.edns else UDP_MINIMUM


def _refuse(query: Query, zone: Zone) -> _Verdict | None:
    if query.klass not in (CLASS_IN, CLASS_ANY) or query.type in (TYPE_AXFR, TYPE_IXFR):
        return _Verdict(REFUSED)
    return None


def _known(query: Query, zone: Zone) -> _Verdict | None:
    """The records of a name in the zone. Owner names repeat the question, so that its case comes back."""
    key = query.name.lower()
    found = [
        _Record(query.name, TYPE_AAAA if len(packed) == 16 else TYPE_A, packed)
        for packed in zone.addresses.get(key, ())
    ]
    targets = zone.services.get(key, ())
    for target in targets:
        # Equal weights that are not 0: HAProxy takes the weight for the server's, and 0 would mean no traffic.
        found.append(_Record(query.name, TYPE_SRV, struct.pack("!3H", 0, 1, target.port) + target.name))
    if pointer := zone.pointers.get(key):
        found.append(_Record(query.name, TYPE_PTR, pointer))
    if not found:
        return None
    matching = [record for record in found if query.type in (record.type, TYPE_ANY)]
    additional = [
        _Record(each.name, TYPE_AAAA if len(each.address) == 16 else TYPE_A, each.address)
        for each in (targets if matching else ())
    ]
    return _Verdict(NOERROR, matching, additional)


def _withheld(query: Query, zone: Zone) -> _Verdict | None:
    """Names that are not there now, but are not the upstream server's business."""
    name = query.name.lower()
    if name in zone.withheld:
        return _Verdict(NXDOMAIN)
    depth = 0
    while name[0] and name[1:2] == b"_":
        name, depth = parent(name), depth + 1
    if not depth or not zone.knows(name):
        return None
    # `_tcp.web` has names below it, so it exists, with nothing of its own (RFC 8020 §3.1).
    return _Verdict(NOERROR if depth == 1 else NXDOMAIN)


CHAIN: tuple[Callable[[Query, Zone], _Verdict | None], ...] = (_refuse, _known, _withheld)


class _Buffer(DNSBuffer):  # type: ignore[misc]  # dnslib has no types
    """Points to names only where 14 bits can (RFC 1035 §4.1.4); dnslib alone would tear long replies."""

    def encode_name(self, name: DNSLabel) -> None:
        known = len(self.names)
        super().encode_name(name)
        for _ in range(len(self.names) - known):
            key, offset = self.names.popitem()  # the last one first
            if offset <= POINTER_MAXIMUM:
                self.names[key] = offset
                return


def _pack(query: Query, rcode: int, answers: Sequence[_Record], additional: Sequence[_Record], limit: int) -> bytes:
    """The reply's bytes, at most `limit`. Additional records that do not fit are left out without TC (RFC 2181 §9)."""
    buffer = _Buffer()
    buffer.append(bytes(HEADER.size))
    buffer.encode_name(DNSLabel(labels(query.name)))
    buffer.pack("!2H", query.type, query.klass)
    room = limit - (OPT_SIZE if query.edns else 0)
    answered = _pack_records(buffer, answers, room)
    cut = answered < len(answers)
    added = 0 if cut else _pack_records(buffer, additional, room)
    if query.edns:
        flags = "do" if query.edns.dnssec_ok else ""
        EDNS0(udp_len=MAX_QUERY, ext_rcode=rcode >> 4, flags=flags).pack(buffer)
        added += 1
    flags_word = _reply_flags(query.flags, rcode & 0xF) | (FLAG_TRUNCATED if cut else 0)
    data = bytes(buffer.data)
    return HEADER.pack(query.identifier, flags_word, 1, answered, 0, added) + data[HEADER.size :]


def _pack_records(buffer: DNSBuffer, records: Sequence[_Record], room: int) -> int:
    """Appends whole records while the message stays within `room` bytes; how many it were."""
    for count, record in enumerate(records):
        mark = len(buffer.data)
        owner = DNSLabel(labels(record.name))
        RR(owner, record.type, CLASS_IN, TTL, RD(record.data)).pack(buffer)
        if len(buffer.data) > room:
            del buffer.data[mark:]
            buffer.offset = mark
            return count
    return len(records)


def _header_only(message: bytes, rcode: int) -> bytes:
    """A reply to a message whose question cannot be trusted."""
    identifier, flags = struct.unpack_from("!2H", message)
    return HEADER.pack(identifier, _reply_flags(flags, rcode), 0, 0, 0, 0)


def _reply_flags(flags: int, rcode: int) -> int:
    return FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | flags & (OPCODE_MASK | FLAG_RECURSION_DESIRED) | rcode

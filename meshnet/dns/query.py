"""One query read out of a datagram or a TCP message, or the reason why it is none.

The parser reads exactly what a query may contain and nothing more: one question without compression (there is
nothing before it to point to), no answers, and a few additional records of which only OPT matters (RFC 6891).
Following no pointers makes it linear in the message's size, whatever a hostile task sends.
"""

import struct
from dataclasses import dataclass

from meshnet.dns.names import LABEL_LIMIT, NAME_LIMIT

MAX_QUERY = 4096
"""The largest query taken, in bytes, and the UDP payload size that answers announce."""

MAX_ADDITIONAL = 4
"""Additional records taken in a query; real ones carry OPT, and TSIG or SIG(0)."""

FLAG_RESPONSE = 0x8000
FLAG_TRUNCATED = 0x0200
FLAG_RECURSION_DESIRED = 0x0100
FLAG_RECURSION_AVAILABLE = 0x0080
OPCODE_MASK = 0x7800
RCODE_MASK = 0x000F

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)

CLASS_IN = 1
CLASS_ANY = 255
TYPE_OPT = 41

HEADER = struct.Struct("!6H")
QUESTION_TAIL = struct.Struct("!2H")
RECORD_TAIL = struct.Struct("!2HIH")
OPTION_HEAD = struct.Struct("!2H")


class QueryError(Exception):
    """The sender's fault. `reason` is a word for a counter; `rcode` is what to say to it, None means silence."""

    def __init__(self, reason: str, rcode: int | None = FORMERR) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rcode = rcode


@dataclass(frozen=True, slots=True)
class Edns:
    """What a query's OPT record says: UDP payload size in bytes, EDNS version, and the DNSSEC-OK bit."""

    payload: int
    version: int
    dnssec_ok: bool


@dataclass(frozen=True, slots=True)
class Query:
    """A well-formed query. `name` is in wire form and in the client's own mix of upper and lower case."""

    message: bytes
    identifier: int
    flags: int
    name: bytes
    type: int
    klass: int
    edns: Edns | None

    @property
    def question(self) -> bytes:
        """The question section as the client sent it."""
        return self.name + QUESTION_TAIL.pack(self.type, self.klass)


def parse_query(message: bytes) -> Query:
    """The query in one UDP datagram or TCP message (without its length prefix).

    Raises QueryError: silence for what cannot be a query (short, oversized, a response), NOTIMP for other
    opcodes, FORMERR for the rest (RFC 1035 §4.1.1; exactly one question: RFC 9619; one OPT: RFC 6891 §6.1.1).
    """
    if len(message) < HEADER.size:
        raise QueryError("short", None)
    if len(message) > MAX_QUERY:
        raise QueryError("oversized", None)
    identifier, flags, questions, answers, authorities, additionals = HEADER.unpack_from(message)
    if flags & FLAG_RESPONSE:
        raise QueryError("response", None)
    if flags & OPCODE_MASK:
        raise QueryError("opcode", NOTIMP)
    if questions != 1:
        raise QueryError("questions")
    if answers or authorities or additionals > MAX_ADDITIONAL:
        raise QueryError("sections")
    end = _question_name_end(message)
    try:
        kind, klass = QUESTION_TAIL.unpack_from(message, end)
    except struct.error as error:
        raise QueryError("truncated") from error
    if kind == TYPE_OPT:
        raise QueryError("question")
    edns = _additional(message, end + QUESTION_TAIL.size, additionals)
    return Query(message, identifier, flags, message[HEADER.size : end], kind, klass, edns)


def _question_name_end(message: bytes) -> int:
    """The offset behind the question's name."""
    offset = HEADER.size
    while True:
        if offset >= len(message):
            raise QueryError("truncated")
        length = message[offset]
        offset += 1 + length
        if length == 0:
            break
        if length > LABEL_LIMIT:
            raise QueryError("name")
    if offset - HEADER.size > NAME_LIMIT:
        raise QueryError("name")
    return offset


def _additional(message: bytes, offset: int, count: int) -> Edns | None:
    """Walks the additional section, which must end where the message ends."""
    edns = None
    for _ in range(count):
        name_end = _record_name_end(message, offset)
        try:
            kind, klass, ttl, length = RECORD_TAIL.unpack_from(message, name_end)
        except struct.error as error:
            raise QueryError("truncated") from error
        data = name_end + RECORD_TAIL.size
        if kind == TYPE_OPT:
            if edns or message[offset]:
                raise QueryError("opt")
            _check_options(message[data : data + length], length)
            edns = Edns(klass, ttl >> 16 & 0xFF, bool(ttl & 0x8000))
        offset = data + length
    if offset != len(message):
        raise QueryError("truncated" if offset > len(message) else "trailing")
    return edns


def _record_name_end(message: bytes, offset: int) -> int:
    """The offset behind a record's name; a compression pointer ends a name and is not followed."""
    while offset < len(message):
        length = message[offset]
        if length >= 0xC0:
            return offset + 2
        if length > LABEL_LIMIT:
            raise QueryError("name")
        offset += 1 + length
        if length == 0:
            return offset
    raise QueryError("truncated")


def _check_options(data: bytes, length: int) -> None:
    """Checks that an OPT record's options fill its data exactly."""
    offset = 0
    while offset + OPTION_HEAD.size <= len(data):
        offset += OPTION_HEAD.size + OPTION_HEAD.unpack_from(data, offset)[1]
    if offset != length:
        raise QueryError("opt")

"""Messages that are no proper query: a table of faults, and noise."""

import random
import struct

import pytest
from dnslib import DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnet.dns.answer import Drop, Forward, Reply, answer
from meshnet.dns.query import FORMERR, MAX_QUERY, NOTIMP
from meshnet.dns.zone import EndpointView, NetworkView, ServiceView, build_zone

ZONE = build_zone(
    (
        NetworkView(
            "net",
            (ServiceView("s", "web", vip="10.0.0.2", ports=(("http", "tcp", 80),)),),
            (EndpointView("s", "web", 1, "t", "web.1.t", "c" * 12, "host", "10.0.0.3"),),
        ),
    )
)


def header(flags: int = 0x0100, qd: int = 1, an: int = 0, ns: int = 0, ar: int = 0) -> bytes:
    return struct.pack("!6H", 7, flags, qd, an, ns, ar)


WEB = b"\x03web\0\0\x01\0\x01"
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"
GOOD = header() + WEB

SILENT = {
    "short": GOOD[:11],
    "response": header(0x8100) + WEB,
    "oversized": GOOD + bytes(MAX_QUERY),
}
FAULTY = {
    "truncated name": ("truncated", header() + b"\x03we"),
    "no question": ("truncated", header()),
    "no type": ("truncated", GOOD[:-3]),
    "pointer in the question": ("name", header() + b"\xc0\x0c\0\x01\0\x01"),
    "label type 01": ("name", header() + b"\x43web\0\0\x01\0\x01"),
    "name of 256 octets": ("name", header() + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\x01\0\x01"),
    "two questions": ("questions", header(qd=2) + WEB + WEB),
    "no question counted": ("questions", header(qd=0)),
    "an answer": ("sections", header(an=1) + WEB + OPT),
    "an authority": ("sections", header(ns=1) + WEB + OPT),
    "many additionals": ("sections", header(ar=5) + WEB + OPT * 5),
    "bytes behind": ("trailing", GOOD + b"x"),
    "missing additional": ("truncated", header(ar=1) + WEB),
    "cut OPT": ("truncated", header(ar=1) + WEB + OPT[:-2]),
    "additional's name cut": ("truncated", header(ar=1) + WEB + b"\x05ab"),
    "additional's label type": ("name", header(ar=1) + WEB + b"\x80" + OPT[1:]),
    "two OPT": ("opt", header(ar=2) + WEB + OPT + OPT),
    "OPT with a name": ("opt", header(ar=1) + WEB + b"\x01a" + OPT),
    "OPT data behind the end": ("opt", header(ar=1) + WEB + OPT[:-1] + b"\x08"),
    "OPT option too long": ("opt", header(ar=1) + WEB + OPT[:-1] + b"\x05\0\x0a\0\x09x"),
    "OPT as a question": ("question", header() + b"\x03web\0\0\x29\0\x01"),
}


@pytest.mark.parametrize("reason", SILENT)
def test_what_cannot_be_a_query_is_dropped(reason: str) -> None:
    """Too short, too long, or a response: no answer, and a reason to count."""
    assert answer(SILENT[reason], ZONE, "udp", random.Random(0)) == Drop(reason)


@pytest.mark.parametrize("fault", FAULTY)
def test_malformed_queries_get_formerr(fault: str) -> None:
    """FORMERR with the query's identifier, a bare header, and a reason to count."""
    reason, message = FAULTY[fault]
    result = answer(message, ZONE, "udp", random.Random(0))
    assert isinstance(result, Reply)
    assert (result.outcome, result.reason, len(result.data)) == ("formerr", reason, 12)
    reply = DNSRecord.parse(result.data).header
    assert (reply.id, reply.qr, reply.rd, reply.rcode) == (7, 1, 1, FORMERR)


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 15])
def test_other_opcodes_are_not_implemented(opcode: int) -> None:
    """NOTIFY, UPDATE and the like: NOTIMP with their opcode, whatever else they carry."""
    result = answer(header(opcode << 11, ns=3) + WEB, ZONE, "udp", random.Random(0))
    assert isinstance(result, Reply)
    reply = DNSRecord.parse(result.data).header
    assert (reply.rcode, reply.opcode) == (NOTIMP, opcode)


def test_harmless_extras_are_taken() -> None:
    """OPT with options, and an additional record whose name is a pointer, are part of a good query."""
    cookie = OPT[:-1] + b"\x0c\0\x0a\0\x08" + b"c" * 8
    signature = b"\xc0\x0c\0\xfa\0\xff\0\0\0\0\0\x02xx"
    for message in (header(ar=1) + WEB + cookie, header(ar=2) + WEB + OPT + signature):
        result = answer(message, ZONE, "udp", random.Random(0))
        assert isinstance(result, Reply)
        assert result.outcome == "noerror"


def check(message: bytes) -> None:
    """Any reply is a response with the query's identifier and keeps to the UDP limit.

    Labels may hold any octets (RFC 2181 §11), which dnslib does not read, so the header is looked at by itself.
    """
    result = answer(message, ZONE, "udp", random.Random(0))
    if isinstance(result, Reply):
        identifier, flags = struct.unpack_from("!HH", result.data)
        assert (flags >> 15, identifier) == (1, struct.unpack_from("!H", message)[0])
        assert len(result.data) <= 65507
    else:
        assert isinstance(result, Drop | Forward)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_noise_never_raises(noise: bytes) -> None:
    """Arbitrary bytes are answered properly, forwarded, or dropped."""
    check(noise)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_queries_never_raise(data: st.DataObject) -> None:
    """Good queries with bytes changed, cut or repeated are answered properly, forwarded, or dropped."""
    message = bytearray(data.draw(st.sampled_from([GOOD, header(ar=1) + WEB + OPT])))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(message[: data.draw(st.integers(0, len(message)))]) * data.draw(st.integers(1, 2)))

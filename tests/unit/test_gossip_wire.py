"""memberlist's wire format: bytes of a real serf 0.9.4 agent, and bytes that are wrong in every way."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gossip_net import Net
from hypothesis import given
from hypothesis import strategies as st

from meshnet.gossip import codec, lzw
from meshnet.gossip.codec import Ack, Alive, Dead, IndirectPing, Message, Nack, Ping, Suspect, User
from meshnet.gossip.engine import Engine
from meshnet.gossip.meta import MemberMeta, decode_meta, encode_meta
from meshnet.gossip.records import Delta
from meshnet.gossip.security import Keyring
from meshnet.gossip.settings import Settings
from meshnet.gossip.stream import Compressed, NodeState, PushPull, StreamMessage, StreamParser, encode_stream
from meshnet.gossip.sync import Deltas, Seen, Settled, Vector, decode_sync, encode_sync
from meshnet.gossip.types import Record, WireError

SERF = bytes((1, 5, 2, 2, 5, 5))
SA = Alive(1, "sa", ("127.0.0.51", 17946), b"\xff\x81\xa4role\xa3web", SERF)
PY = Alive(1, "py", ("127.0.0.53", 17946), b"", SERF)
PING = Ping(2, "py", ("127.0.0.51", 17946), "sa")

# Sent by `serf agent -node=sa -bind=127.0.0.51:17946 -tag role=web`.
GOSSIP = bytes.fromhex(
    "0c16aca1ea07020045003a0486a441646472a47f000033ab496e6361726e6174696f6e01a44d657461abff81a4726f6c65a3776562a44e"
    "6f6465a27361a4506f7274cd461aa356736ea60105020205050486a441646472a47f000035ab496e6361726e6174696f6e01a44d657461"
    "c0a44e6f6465a27079a4506f7274cd461aa356736ea6010502020505"
)
DIRECT_PING = bytes.fromhex(
    "0085a44e6f6465a27079a55365714e6f02aa536f7572636541646472a47f000033aa536f757263654e6f6465a27361aa536f7572636550"
    "6f7274cd461a"
)
SUSPECT = bytes.fromhex("0c1bbfbae80383a446726f6da27361ab496e6361726e6174696f6e01a44e6f6465a27079")
DEAD = bytes.fromhex("0c3defc80e0583a446726f6da27361ab496e6361726e6174696f6e01a44e6f6465a27079")
COMPRESSED_PING = bytes.fromhex(
    "0982a4416c676f00a3427566da00a8000f0c00d0034011003a001422e5e40d9932a2e0e42935a54c9c8601544d795347ce983241c89091"
    "43ea0f0000333472f458a6e1435173c2a8ecf811ca1b39749a19d140c010a990234b9e9cb12a899b3161e4b8094327cd1b370148352943"
    "27ccaa7f8148c979c3a6cca83b65c43074083126299b38756a1865658e1b53010a081050a040cf9f22499a0450a3e8d1a44b9b3e8d3ab5"
    "2ab0b12f259ebd9973275bb770e5d22d1010"
)
PUSH_PULL = bytes.fromhex(
    "0982a4416c676f00a3427566da00d3000d0c22a5e44d1a37c34a397943a6cc9c00acaacc2923670a9d3074ca3029e3a699002587480521"
    "43460ea93f0000cc5895c4cd983072dc604cf3c64d00524dca5c5cf52f1029396fd8941975a78c18524ec2b429236a4e185250dec8a1d3"
    "cc8886521631960130caca1c37a602141020a0c05843aa8ad8e148870995344b039852cb760e37010080e9ddcbb7afdfbf80030b1e4cb8"
    "b0e1c388132b5eccb8b1e3c790234b9e4cb9b2e5cb884bb9855b26c0aa8d66e8e46c2386e21c48aaa2d4a19867735c5659e9d499e3da61"
    "a0a661000404"
)


def _messages(datagram: bytes) -> list[Message]:
    parts, dropped = codec.split_datagram(datagram)
    assert dropped is None
    return [codec.decode_message(part) for part in parts]


def _compress(data: bytes) -> bytes:
    """LZW as Go's compress/lzw writes it: least significant bits first, 8-bit literals."""
    bits = held = 0
    out = bytearray()

    def put(code: int, width: int) -> None:
        nonlocal bits, held
        bits |= code << held
        held += width
        while held >= 8:
            out.append(bits & 255)
            bits >>= 8
            held -= 8

    width, top, table, prefix = 9, 257, {}, data[:1]  # type: ignore[var-annotated]
    put(256, width)
    for byte in data[1:]:
        longer = prefix + bytes((byte,))
        if longer in table:
            prefix = longer
            continue
        put(table[prefix] if len(prefix) > 1 else prefix[0], width)
        prefix = longer[-1:]
        top += 1
        if top == 4095:
            put(256, width)
            width, top, table = 9, 257, {}
            continue
        if top == 1 << width:
            width += 1
        table[longer] = top
    put(table[prefix] if len(prefix) > 1 else prefix[0], width)
    top += 1
    if top == 1 << width and width < 12:
        width += 1
    put(257, width)
    if held:
        out.append(bits & 255)
    return bytes(out)


def test_serfs_datagrams_are_read() -> None:
    """Datagrams of a real serf agent mean what they should, with CRC, compound and compression."""
    assert _messages(GOSSIP) == [SA, PY]
    assert _messages(DIRECT_PING) == [PING]
    assert _messages(SUSPECT) == [Suspect(1, "py", "sa")]
    assert _messages(DEAD) == [Dead(1, "py", "sa")]
    assert _messages(COMPRESSED_PING) == [Ping(1, "py", PING.source, "sa"), SA, PY]


def test_what_is_written_is_byte_for_byte_serfs() -> None:
    """The same messages encode to exactly the bytes that serf sent."""
    assert codec.with_crc(codec.compound([codec.encode_message(SA), codec.encode_message(PY)])) == GOSSIP
    assert codec.encode_message(PING) == DIRECT_PING
    assert codec.with_crc(codec.encode_message(Suspect(1, "py", "sa"))) == SUSPECT
    assert codec.with_crc(codec.encode_message(Dead(1, "py", "sa"))) == DEAD


def test_serfs_push_pull_is_read() -> None:
    """The compressed state that a real serf agent sends to a joiner is understood."""
    message = _parse(PUSH_PULL)
    assert isinstance(message, PushPull)
    assert message.nodes == (NodeState(SA, "alive"),)
    assert message.join
    assert message.user.startswith(b"\x02\x86\xaaEventLTime\x01\xa6Events\xdc\x02\x00")


MESSAGES: list[Message] = [
    Ping(1, "n"),
    PING,
    IndirectPing(7, ("fd00::1", 7946), "n", True, ("10.0.0.1", 7946), "me"),
    Ack(4294967295, b"12345678"),
    Ack(0),
    Nack(3),
    Suspect(1, "ü", "b"),
    Dead(4294967295, "a", "a"),
    SA,
    User(b"\x00\xff" * 50),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_messages_survive_the_wire(message: Message) -> None:
    """Every message decodes to what was encoded."""
    assert codec.decode_message(codec.encode_message(message)) == message


@pytest.mark.parametrize("keys", [(), (b"k" * 16,), (b"k" * 32,)], ids=["plain", "aes128", "aes256"])
@pytest.mark.parametrize("label", [b"", b"blue"])
def test_streams_survive_in_pieces(keys: tuple[bytes, ...], label: bytes) -> None:
    """A stream's message comes out when its last byte came in, however it was cut, and not before."""
    keyring = Keyring(keys)
    push_pull = PushPull(True, (NodeState(SA, "alive"), NodeState(PY, "left")), b"user")
    for message in (push_pull, PING, Ack(1), User(b"x" * 300), PushPull(False, (), b"")):
        data = encode_stream(message, keyring, label, b"n" * 12)
        parser = StreamParser(keyring, label, 1 << 20)
        results = [parser.feed(data[n : n + 1]) for n in range(len(data))]
        assert results[-1] == message
        assert not any(results[:-1])


def test_both_encryption_versions_open() -> None:
    """Sealed with padding (version 0) or without, under any key of the ring; wrong keys and labels do not open."""
    old, new = b"o" * 16, b"n" * 32
    ring = Keyring((new, old))
    sealed = Keyring((old,)).seal(b"hello", b"label", b"0" * 12)
    assert ring.open(sealed, b"label") == b"hello"
    padded = bytearray(Keyring((old,)).seal(b"hello" + bytes((11,)) * 11, b"", b"0" * 12))
    padded[0] = 0
    assert ring.open(bytes(padded), b"") == b"hello"
    for keyring, extra in ((Keyring((new,)), b"label"), (ring, b"other")):
        with pytest.raises(WireError, match="undecryptable"):
            keyring.open(sealed, extra)


@pytest.mark.parametrize("size", [1, 2, 300, 1400, 5000, 200_000])
def test_lzw_is_gos(size: int) -> None:
    """What Go's encoder writes is decoded, also when its table fills and is cleared."""
    rng = random.Random(size)
    for data in (rng.randbytes(size), b"ab" * (size // 2) + b"c", bytes(size)):
        assert lzw.decode(_compress(data), len(data)) == data


def test_lzw_has_a_cap() -> None:
    """A small message cannot grow into a large one."""
    bomb = _compress(bytes(200_000))
    assert len(bomb) < 2000
    with pytest.raises(WireError, match="oversized"):
        lzw.decode(bomb, 65536)


def test_sync_messages_survive() -> None:
    """meshnet's own messages decode to what was encoded; other user messages are somebody else's."""
    record = Record("n1", 4, 9, "demo", "endpoint", "k", {"ip": "10.0.0.1"}, b"", b"\x81\xa2ip\xa810.0.0.1")
    gone = Record("n1", 4, 11, "demo", "endpoint", "old", None)
    for message in (
        Deltas("n0", (Delta("n1", 4, 8, 12, 3, (record, gone)), Delta("n2", 1, 0, 0, 0, ()))),
        Vector("n0", True, {"n1": (4, 12), "n2": (1, 0)}),
        Seen("n0", {"n1": (4, 12)}),
        Settled("n0", {"n1": (4, 12)}),
    ):
        assert decode_sync(encode_sync(message), 8192) == message
    assert decode_sync(b"\x03serf event", 8192) is None


def test_sync_bytes_stay_what_they_are() -> None:
    """The layout of meshnet's own messages, byte by byte: a change needs a new version."""
    record = Record("n1", 4, 9, "d", "e", "k", {}, b"", b"\x80")
    deltas = encode_sync(Deltas("n0", (Delta("n1", 4, 8, 9, 3, (record,)),)))
    assert deltas.hex() == "4d4e010192a26e309196a26e310408090391" + "9609a164a165a16bc40180c400"
    assert encode_sync(Vector("n0", True, {"n1": (4, 9)})).hex() == "4d4e010293a26e30c39193a26e310409"
    assert encode_sync(Seen("n0", {"n1": (4, 9)})).hex() == "4d4e010392a26e309193a26e310409"
    assert encode_sync(Settled("n0", {"n1": (4, 9)})).hex() == "4d4e010492a26e309193a26e310409"


def test_metadata_survive_and_are_bounded() -> None:
    """A node's metadata come back as they were, and ones of other software are recognised as such."""
    meta = MemberMeta("1.0", 1 << 40, 77, "manager", "10.0.0.1", "ebpf", "10.0.0.1:2377", "id", "host")
    assert decode_meta(encode_meta(meta)) == meta
    for foreign in (
        b"",
        b"\xff\x81\xa4role\xa3web",
        b"MN\x01\xc1",
        b"MN\x01\x93\x01\x02\x03",
        b"MN\x01\x81\xa1e\xa1x",
        b"MN\x01\x81\xa1e\xff",
    ):
        assert decode_meta(foreign) is None


# input of others that is wrong


def _engine(**settings: Any) -> Engine:
    net = Net(1, **settings)
    net.start(2)
    net.until(net.agree, 1)
    return net.engines["n0"]


def _dropped(engine: Engine) -> int:
    return sum(count for name, count in engine.statistics().items() if name.startswith("dropped_"))


def _bad_datagrams() -> Iterator[tuple[str, bytes]]:
    alive = codec.encode_message(SA)
    yield "truncated", b""
    yield "truncated", bytes((codec.COMPOUND, 3)) + b"\x00\x10"
    yield "truncated", bytes((codec.COMPOUND, 1)) + struct.pack("!H", 99) + alive
    yield "bad_crc", GOSSIP[:-1] + b"\x00"
    yield "bad_crc", bytes((codec.CRC, 1, 2))
    yield "malformed", alive[:-3]
    yield "malformed", bytes((codec.ALIVE,)) + b"\x93\x01\x02\x03"
    yield "malformed", bytes((codec.ALIVE, 0xDF)) + b"\xff" * 4
    yield "malformed", bytes((codec.SUSPECT,)) + codec.pack_map({"Node": "", "Incarnation": 1})
    yield "malformed", bytes((codec.SUSPECT,)) + codec.pack_map({"Node": "a", "Incarnation": -1})
    yield "malformed", bytes((codec.SUSPECT,)) + codec.pack_map({"Node": "a", "Incarnation": 1 << 40})
    yield "malformed", bytes((codec.SUSPECT,)) + codec.pack_map({"Node": b"\xff\xfe", "Incarnation": 1})
    yield "malformed", bytes((codec.ALIVE,)) + codec.pack_map({"Node": "a", "Addr": b"123", "Port": 1})
    yield "oversized", bytes((codec.ALIVE,)) + codec.pack_map({"Node": "a", "Addr": b"1234", "Meta": b"x" * 513})
    yield "oversized", bytes((codec.SUSPECT,)) + codec.pack_map({"Node": "a" * 256})
    yield "oversized", _compressed(_compress(bytes(codec.PACKET_LIMIT + 1)))
    yield "malformed", bytes((codec.COMPRESS,)) + codec.pack_map({"Algo": 1, "Buf": b""})
    yield "truncated", _compressed(b"\x00\x0d")
    yield "malformed", _compressed(b"\xff" * 20)
    yield "unknown_type", b"\x63abc"
    yield "unknown_type", bytes((codec.PUSH_PULL,)) + b"\x80"
    yield "bad_label", bytes((codec.LABEL, 3)) + b"abc" + alive
    yield "malformed", codec.encode_message(User(b"MN\x01\x01\xc1"))
    yield "malformed", codec.encode_message(User(b"MN\x01\x01\x92\xa1a\x91\x90"))
    yield "unknown_type", codec.encode_message(User(b"MN\x01\x09\x90"))
    yield "truncated", codec.encode_message(User(b"MN\x01"))
    nested = alive
    for _ in range(codec.DEPTH_LIMIT + 2):
        nested = bytes((codec.COMPOUND, 1)) + struct.pack("!H", len(nested)) + nested
    yield "oversized", nested
    many = bytes((codec.COMPOUND, 255)) + struct.pack("!255H", *[1] * 255) + b"\x63" * 255
    yield "oversized", codec.compound([many] * 5)


def _compressed(data: bytes) -> bytes:
    return bytes((codec.COMPRESS,)) + codec.pack_map({"Algo": 0, "Buf": data})


@pytest.mark.parametrize(("reason", "data"), list(_bad_datagrams()))
def test_bad_datagrams_are_counted(reason: str, data: bytes) -> None:
    """A datagram that cannot be used is counted under its reason, and nothing else happens."""
    engine = _engine()
    members = engine.members()
    engine.receive_datagram(data, ("10.0.0.9", 7946), 2000.0)
    assert engine.statistics()[f"dropped_{reason}"] >= 1
    assert engine.members() == members


def test_the_prefix_of_a_truncated_compound_is_used() -> None:
    """What is readable before the cut is processed, as memberlist does."""
    engine = _engine()
    whole = codec.compound([codec.encode_message(SA), codec.encode_message(PY)])
    engine.receive_datagram(whole[:-4], ("10.0.0.9", 7946), 2000.0)
    assert {m.name for m in engine.members()} == {"n0", "n1", "sa"}
    assert engine.statistics()["dropped_truncated"] == 1


def test_plaintext_is_refused_where_there_is_a_key() -> None:
    """A node with a key takes nothing that is not sealed with it."""
    engine = _engine(keys=(b"k" * 32,))
    for data in (codec.encode_message(SA), Keyring((b"x" * 32,)).seal(b"", b"", b"0" * 12), b"\x01" * 20):
        engine.receive_datagram(data, ("10.0.0.9", 7946), 2000.0)
    assert engine.statistics()["dropped_undecryptable"] == 3


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        ("unknown_type", b"\x63\x80"),
        ("malformed", bytes((codec.PUSH_PULL,)) + b"\x01"),
        ("oversized", bytes((codec.PUSH_PULL,)) + codec.pack_map({"Nodes": 1 << 30})),
        ("oversized", bytes((codec.USER,)) + codec.pack_map({"UserMsgLen": 1 << 31})),
        ("malformed", bytes((codec.PUSH_PULL,)) + codec.pack_map({"Nodes": 1}) + codec.pack_map({"Name": "a"})),
        ("bad_label", bytes((codec.LABEL, 1)) + b"x"),
        ("malformed", _compressed(b"\x00\x01\x02\xff")),
    ],
)
def test_bad_streams_are_counted(reason: str, data: bytes) -> None:
    """A stream that cannot be used is counted under its reason and closed."""
    engine = _engine()
    number = engine.accept_stream(("10.0.0.9", 1))
    step = engine.receive_stream(number, data, 2000.0)
    if step.inflate is not None:
        with pytest.raises(WireError):
            step.inflate()
        step = engine.resume_stream(number, None, 2000.0)
    assert step.done
    assert not step.reply
    assert engine.statistics()[f"dropped_{reason}"] == 1


def test_a_stream_without_end_is_cut() -> None:
    """A peer that sends on and on is cut off at the limit."""
    engine = _engine(stream_limit=100_000)
    number = engine.accept_stream(("10.0.0.9", 1))
    head = bytes((codec.USER,)) + codec.pack_map({"UserMsgLen": 99_999})
    steps = [engine.receive_stream(number, data, 2000.0) for data in (head, *[bytes(1000)] * 110)]
    assert steps[-1].done
    engine.stream_closed(number, "", 2000.0)
    assert engine.receive_stream(number, b"more", 2000.0).done


@given(st.binary(max_size=200))
def test_noise_never_raises(data: bytes) -> None:
    """Whatever bytes come by UDP or TCP, the engine counts them and goes on."""
    engine = Engine(Settings("n0", "10.0.0.1"), random.Random(1), random.Random(1).randbytes, 0.0)
    engine.receive_datagram(data, ("10.0.0.9", 7946), 1.0)
    number = engine.accept_stream(("10.0.0.9", 1))
    engine.receive_stream(number, data, 1.0)
    engine.stream_closed(number, "", 1.0)


def _corpus() -> list[bytes]:
    record = Record("n1", 4, 9, "demo", "endpoint", "k", {"a": 1}, b"", b"\x81\xa1a\x01")
    sync = [
        encode_sync(Deltas("n1", (Delta("n1", 4, 8, 12, 3, (record,)),))),
        encode_sync(Vector("n1", True, {"n1": (4, 12)})),
        encode_sync(Seen("n1", {"n0": (0, 0)})),
        encode_sync(Settled("n1", {"n0": (0, 0)})),
    ]
    messages = [*map(codec.encode_message, MESSAGES), *(codec.encode_message(User(body)) for body in sync)]
    return [*messages, GOSSIP, COMPRESSED_PING, codec.compound(messages), PUSH_PULL]


@pytest.mark.parametrize("seed", range(20))
def test_damaged_messages_never_raise(seed: int) -> None:
    """Real messages with flipped, cut, doubled and inserted bytes are counted or understood, never an error."""
    rng = random.Random(seed)
    net = Net(seed)
    net.start(2)
    net.until(net.agree, 1)
    engine = net.engines["n0"]
    corpus = _corpus()
    for _ in range(300):
        data = bytearray(rng.choice(corpus))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(4):
                case 0:
                    data[at : at + 1] = rng.randbytes(1)
                case 1:
                    del data[at:]
                case 2:
                    data[at:at] = data[: rng.randrange(20)]
                case _:
                    data[at:at] = rng.choice((b"\xdd\xff\xff\xff\xff", b"\xc1", b"\xcf" + b"\xff" * 8, b"\xdb\x7f"))
        engine.receive_datagram(bytes(data), ("10.0.0.2", 7946), net.now)
        number = engine.accept_stream(("10.0.0.2", 1))
        step = engine.receive_stream(number, bytes(data), net.now)
        if step.inflate is not None:
            engine.resume_stream(number, _inflated(step.inflate), net.now)
        engine.stream_closed(number, "", net.now)
        net.flush("n0")
    assert _dropped(engine) > 100
    net.run(1)


def _inflated(work: Callable[[], bytes]) -> bytes | None:
    with contextlib.suppress(WireError):
        return work()
    return None


def _parse(data: bytes) -> StreamMessage:
    parser = StreamParser(Keyring(()), b"", 1 << 20)
    message = parser.feed(data)
    assert message is not None
    return parser.inflated(message.inflate()) if isinstance(message, Compressed) else message

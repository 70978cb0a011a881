"""Domain names in wire form (RFC 1035 §3.1), the form in which this package keeps and compares them.

Wire form is unambiguous (a label may contain a dot), it is what a query carries, and `bytes.lower` folds its
case without touching the length octets, which are at most 63 and so never look like a letter.
"""

LABEL_LIMIT = 63
NAME_LIMIT = 255
_LENGTHS = [bytes([length]) for length in range(LABEL_LIMIT + 1)]
_OCTETS = [bytes([len(str(octet))]) + str(octet).encode() for octet in range(256)]  # as labels


def wire_name(text: str) -> bytes | None:
    """The wire form of a dotted name with its case kept, or None for a name that DNS cannot carry.

    DNS cannot carry empty labels, labels of more than 63 octets and names of more than 255 octets.
    """
    parts = text.rstrip(".").encode().split(b".")
    if len(parts) == 1 and 0 < len(parts[0]) <= LABEL_LIMIT:
        return b"%c%b\0" % (len(parts[0]), parts[0])
    pieces: list[bytes] = []
    for part in parts:
        if not 0 < len(part) <= LABEL_LIMIT:
            return None
        pieces += (_LENGTHS[len(part)], part)
    wire = b"".join(pieces) + b"\0"
    return wire if len(wire) <= NAME_LIMIT else None


def joined(name: bytes, suffix: bytes) -> bytes | None:
    """One wire name behind the other, or None if that is longer than DNS can carry."""
    return name[:-1] + suffix if len(name) + len(suffix) <= NAME_LIMIT + 1 else None


def reverse_name(packed: bytes) -> bytes:
    """The name of the pointer of a packed address, 4 or 16 bytes (RFC 1035 §3.5, RFC 3596 §2.5)."""
    if len(packed) == 4:
        return b"".join(_OCTETS[octet] for octet in reversed(packed)) + b"\x07in-addr\x04arpa\0"
    return b"".join(b"\1" + digit.encode() for digit in reversed(packed.hex())) + b"\x03ip6\x04arpa\0"


def labels(wire: bytes) -> tuple[bytes, ...]:
    """The labels of a well-formed wire name, without the root."""
    found = []
    offset = 0
    while wire[offset]:
        end = offset + 1 + wire[offset]
        found.append(wire[offset + 1 : end])
        offset = end
    return tuple(found)


def parent(wire: bytes) -> bytes:
    """The wire name without its first label; the root is its own parent."""
    return wire[1 + wire[0] :] if wire[0] else wire


def dotted(wire: bytes) -> str:
    """A wire name for people: dotted, without the final dot, bytes that are no text escaped."""
    return ".".join(label.decode(errors="backslashreplace") for label in labels(wire)) or "."

"""Domain names in wire form (RFC 1035 §3.1), the form in which this package keeps and compares them.

Wire form is unambiguous (a label may contain a dot), it is what a query carries, and `bytes.lower` folds its
case without touching the length octets, which are at most 63 and so never look like a letter.
"""

LABEL_LIMIT = 63
NAME_LIMIT = 255


def wire_name(text: str) -> bytes | None:
    """The wire form of a dotted name with its case kept, or None for a name that DNS cannot carry.

    DNS cannot carry empty labels, labels of more than 63 octets and names of more than 255 octets.
    """
    parts = [part.encode() for part in text.rstrip(".").split(".")]
    if any(not 0 < len(part) <= LABEL_LIMIT for part in parts):
        return None
    wire = b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
    return wire if len(wire) <= NAME_LIMIT else None


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

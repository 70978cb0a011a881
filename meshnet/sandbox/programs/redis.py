"""Answers on 6379 as redis does: RESP2, strings with expiry, counters and lists, in memory. usage: redis.py"""

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.sandbox.programs import serving
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import serving

LONGEST = 1 << 20  # bytes of a request
MOST_KEYS = 1 << 16
Value = bytes | list[bytes | None]
STORE: dict[bytes, Value] = {}
ENDS: dict[bytes, float] = {}


class WrongType(Exception):
    """The key holds another kind of value."""


def bulk(value: bytes | None) -> bytes:
    return b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value)


def array(values: list[bytes | None]) -> bytes:
    return b"*%d\r\n" % len(values) + b"".join(map(bulk, values))


def number(value: int) -> bytes:
    return b":%d\r\n" % value


def get(key: bytes) -> Value | None:
    end = ENDS.get(key)
    if end is not None and end <= time.monotonic():
        delete(key)
    return STORE.get(key)


def text(key: bytes) -> bytes | None:
    value = get(key)
    if isinstance(value, list):
        raise WrongType
    return value


def items(key: bytes) -> list[bytes | None]:
    value = get(key)
    if value is not None and not isinstance(value, list):
        raise WrongType
    return value or []


def delete(key: bytes) -> int:
    ENDS.pop(key, None)
    return int(STORE.pop(key, None) is not None)


def put(key: bytes, value: Value) -> None:
    if key not in STORE and len(STORE) >= MOST_KEYS:
        raise MemoryError
    STORE[key] = value


def ping(words: list[bytes]) -> bytes:
    return bulk(words[0]) if words else b"+PONG\r\n"


def set_(words: list[bytes]) -> bytes:
    key, value, *options = words
    upper = [option.upper() for option in options]
    there = get(key) is not None
    if (b"NX" in upper and there) or (b"XX" in upper and not there):
        return bulk(None)
    put(key, value)
    ENDS.pop(key, None)
    for name, unit in ((b"EX", 1.0), (b"PX", 0.001)):
        if name in upper:
            ENDS[key] = time.monotonic() + int(options[upper.index(name) + 1]) * unit
    return b"+OK\r\n"


def add(key: bytes, by: int) -> bytes:
    value = int(text(key) or 0) + by
    put(key, str(value).encode())
    return number(value)


def push(words: list[bytes], front: bool) -> bytes:
    key, *values = words
    found = items(key)
    found = [*reversed(values), *found] if front else [*found, *values]
    put(key, found)
    return number(len(found))


def span(words: list[bytes]) -> bytes:
    found = items(words[0])
    first, last = int(words[1]), int(words[2])
    first, last = (value + len(found) if value < 0 else value for value in (first, last))
    return array(found[max(first, 0) : last + 1])


def expire(words: list[bytes]) -> bytes:
    if get(words[0]) is None:
        return number(0)
    ENDS[words[0]] = time.monotonic() + int(words[1])
    return number(1)


def ttl(words: list[bytes]) -> bytes:
    if get(words[0]) is None:
        return number(-2)
    end = ENDS.get(words[0])
    return number(-1 if end is None else round(end - time.monotonic()))


def flush(_words: list[bytes]) -> bytes:
    STORE.clear()
    ENDS.clear()
    return b"+OK\r\n"


def info(_words: list[bytes]) -> bytes:
    return bulk(f"# Server\r\nredis_mode:standalone\r\ntcp_port:{PORT}\r\n# Keyspace\r\nkeys:{len(STORE)}\r\n".encode())


COMMANDS = {
    b"PING": (0, ping),
    b"ECHO": (1, lambda words: bulk(words[0])),
    b"SET": (2, set_),
    b"GET": (1, lambda words: bulk(text(words[0]))),
    b"DEL": (1, lambda words: number(sum(map(delete, words)))),
    b"EXISTS": (1, lambda words: number(sum(get(word) is not None for word in words))),
    b"INCR": (1, lambda words: add(words[0], 1)),
    b"DECR": (1, lambda words: add(words[0], -1)),
    b"INCRBY": (2, lambda words: add(words[0], int(words[1]))),
    b"LPUSH": (2, lambda words: push(words, True)),
    b"RPUSH": (2, lambda words: push(words, False)),
    b"LRANGE": (3, span),
    b"LLEN": (1, lambda words: number(len(items(words[0])))),
    b"KEYS": (1, lambda words: array([key for key in list(STORE) if get(key) is not None])),
    b"DBSIZE": (0, lambda words: number(len(STORE))),
    b"EXPIRE": (2, expire),
    b"TTL": (1, ttl),
    b"FLUSHALL": (0, flush),
    b"FLUSHDB": (0, flush),
    b"INFO": (0, info),
    b"SELECT": (1, lambda words: b"+OK\r\n"),
    b"COMMAND": (0, lambda words: b"*0\r\n"),
    b"CLIENT": (1, lambda words: b"+OK\r\n"),
}


def answer(words: list[bytes]) -> bytes:
    """What redis says to one command."""
    name = words[0].upper()
    least, act = COMMANDS.get(name, (0, None))
    if act is None:
        return b"-ERR unknown command '%s'\r\n" % words[0][:64].replace(b"\r", b" ").replace(b"\n", b" ")
    if len(words) - 1 < least:
        return b"-ERR wrong number of arguments for '%s' command\r\n" % name.lower()
    try:
        return act(words[1:])
    except (ValueError, IndexError):
        return b"-ERR value is not an integer or out of range\r\n"
    except WrongType:
        return b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
    except MemoryError:
        return b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"


def parsed(data: bytes) -> tuple[list[bytes], bytes] | None:
    """One command and what follows it; None if it is not whole. ValueError for what is no command."""
    line, end, rest = data.partition(b"\r\n")
    if not line.startswith(b"*"):
        line, end, rest = data.partition(b"\n")
        return (line.split(), rest) if end else None
    if not end:
        return None
    words = []
    for _ in range(_count(line[1:], 1024)):
        size, end, rest = rest.partition(b"\r\n")
        if not end:
            return None
        if not size.startswith(b"$"):
            raise ValueError
        length = _count(size[1:], LONGEST)
        if len(rest) < length + 2:
            return None
        words.append(rest[:length])
        rest = rest[length + 2 :]
    return words, rest


def _count(text_: bytes, most: int) -> int:
    value = int(text_)
    if not 0 <= value <= most:
        raise ValueError
    return value


class Redis(serving.Connection):
    """One client."""

    received = b""

    def take(self, data: bytes) -> None:
        self.received += data
        try:
            while not self.closing and (found := parsed(self.received)) is not None:
                words, self.received = found
                if words and words[0].upper() == b"QUIT":
                    self.unsent += b"+OK\r\n"
                    self.closing = True
                elif words:
                    self.unsent += answer(words)
        except ValueError:
            self.unsent += b"-ERR Protocol error\r\n"
            self.closing = True
        if len(self.received) > LONGEST * 2:
            self.closing = True


if __name__ == "__main__":
    PORT = serving.port_of(6379)
    server = serving.Server(PORT, Redis)
    os.write(1, b"* Ready to accept connections tcp\n")
    server.run()

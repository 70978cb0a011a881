"""Speaks as a MySQL server on 3306: the greeting, a login of anyone, ping, and `select` of what clients ask first.

It holds no tables: enough for health checks, for connecting clients, and for a front end to see its database answer.
As the image does, it refuses to start without a word about root's password.
"""

import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.sandbox.programs import serving
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import serving

VERSION = b"8.0.36-meshnet"
# long passwords, connect with database, protocol 4.1, transactions, secure connection, plugin auth
CAPABILITIES = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x80000
AUTOCOMMIT = 2
LONGEST = 1 << 16
COM_QUIT, COM_INIT_DB, COM_QUERY, COM_PING = 1, 2, 3, 14
SALT = b"12345678" + b"abcdefghijkl"
PLUGIN = b"mysql_native_password"


def packet(number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number & 255]) + payload


def greeting(thread: int) -> bytes:
    return (
        b"\x0a" + VERSION + b"\0" + struct.pack("<I", thread) + SALT[:8] + b"\0"
        + struct.pack("<HBHHB", CAPABILITIES & 0xFFFF, 33, AUTOCOMMIT, CAPABILITIES >> 16, len(SALT) + 1)
        + bytes(10) + SALT[8:] + b"\0" + PLUGIN + b"\0"
    )  # fmt: skip


OK = b"\0\0\0" + struct.pack("<HH", AUTOCOMMIT, 0)
END = b"\xfe" + struct.pack("<HH", 0, AUTOCOMMIT)


def text(value: bytes) -> bytes:
    """A string with its length before it (up to 250 bytes)."""
    return bytes([len(value[:250])]) + value[:250]


def rows(number: int, name: bytes, value: bytes) -> bytes:
    """A result of one column and one row."""
    column = (
        b"".join(map(text, (b"def", b"", b"", b"", name, b""))) + b"\x0c" + struct.pack("<HIBHB", 33, 250, 253, 0, 0)
    )
    parts = (b"\x01", column + b"\0\0", END, text(value), END)
    return b"".join(packet(number + index, part) for index, part in enumerate(parts))


def queried(number: int, query: bytes) -> bytes:
    """The answer to a query: to `select` of a number, a text or a variable; all else is done at once."""
    words = query.strip().rstrip(b";").split(None, 1)
    if len(words) < 2 or words[0].lower() != b"select":
        return packet(number, OK)
    what = words[1].strip()
    lower = what.lower()
    if lower.startswith(b"@@version") or lower == b"version()":
        return rows(number, what, VERSION)
    if what.isdigit() or (what[:1] == what[-1:] == b"'" and len(what) > 1):
        return rows(number, what, what.strip(b"'"))
    return rows(number, what, b"0")


class MySql(serving.Connection):
    """One client: first its login, then its commands."""

    received = b""
    known = False

    def greet(self) -> None:
        self.unsent += packet(0, greeting(1))

    def take(self, data: bytes) -> None:
        self.received += data
        while not self.closing and len(self.received) >= 4:
            size = int.from_bytes(self.received[:3], "little")
            if size > LONGEST:
                self.closing = True
                return
            if len(self.received) < size + 4:
                return
            number, payload = self.received[3], self.received[4 : size + 4]
            self.received = self.received[size + 4 :]
            self.answer(number + 1, payload)

    def answer(self, number: int, payload: bytes) -> None:
        if not self.known:
            self.known = True
            self.unsent += packet(number, OK)
            return
        command = payload[0] if payload else COM_QUIT
        if command == COM_QUIT:
            self.closing = True
        elif command == COM_QUERY:
            self.unsent += queried(number, payload[1:])
        elif command in (COM_PING, COM_INIT_DB):
            self.unsent += packet(number, OK)
        else:
            self.unsent += packet(number, b"\xff" + struct.pack("<H", 1047) + b"#08S01Unknown command")


def main() -> None:
    names = ("ROOT_PASSWORD", "ROOT_PASSWORD_FILE", "ALLOW_EMPTY_PASSWORD", "RANDOM_ROOT_PASSWORD")
    if not any(os.environ.get(f"{kind}_{name}") for kind in ("MYSQL", "MARIADB") for name in names):
        sys.exit(
            "[ERROR] [Entrypoint]: Database is uninitialized and password option is not specified\n"
            "    You need to specify one of MYSQL_ROOT_PASSWORD, MYSQL_ALLOW_EMPTY_PASSWORD and "
            "MYSQL_RANDOM_ROOT_PASSWORD"
        )
    os.makedirs("/var/lib/mysql", exist_ok=True)
    server = serving.Server(serving.port_of(3306), MySql)
    os.write(2, b"[Server] ready for connections. port: 3306\n")
    server.run()


if __name__ == "__main__":
    main()

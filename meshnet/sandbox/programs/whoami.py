"""Answers every HTTP request, and every datagram, with who it is and who asked.

`I'm <hostname>`, then the client's address, a line each; a datagram's own bytes follow in its answer. Listens on
TCP and UDP $PORT (8000), keeps connections alive, serves any number of them in one process. With $PROXY_PROTOCOL=on,
every TCP connection must begin with a header of the PROXY protocol (version 1 or 2), and its client is who that says.

Labs run hundreds of these, so it is light: no module that is not compiled into the interpreter (`socket`,
`selectors` and `signal` pull in `enum` and `re`), one epoll loop, no object per connection beyond its buffers.
"""

import _signal  # type: ignore[import-not-found]  # signal's C half
import _socket
import os
import select
import sys

LIMIT = 16384  # bytes of a request's head, and of an answer's backlog
BATCH = 64  # datagrams or connections taken per wake-up, so that neither starves the other
IPV6_RECVPKTINFO, IPV6_PKTINFO, SOL_IPV6 = 49, 50, 41
IP_PKTINFO, SOL_IP = 8, 0
NONBLOCK = 0o4000
EMFILE = 24
V1, V2 = b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"  # how the PROXY protocol's headers begin
AGAIN = (BlockingIOError, InterruptedError)
LOST = (ConnectionError, OSError)


def plain(address: str) -> str:
    """An IPv4-mapped address as IPv4 writes it."""
    return address[7:] if address.startswith("::ffff:") else address


def listen(kind: int, port: int) -> _socket.socket:
    """A socket bound to the port for both IP versions, or for IPv4 where the kernel has no IPv6."""
    try:
        sock = _socket.socket(_socket.AF_INET6, kind | NONBLOCK)
        sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 0)
        sock.setsockopt(SOL_IPV6, IPV6_RECVPKTINFO, 1)
        host = "::"
    except OSError:
        sock = _socket.socket(_socket.AF_INET, kind | NONBLOCK)
        sock.setsockopt(SOL_IP, IP_PKTINFO, 1)
        host = "0.0.0.0"
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    sock.bind((host, port))
    if kind == _socket.SOCK_STREAM:
        sock.listen(1024)
    return sock


def from_same_address(level: int, kind: int, data: bytes) -> list[tuple[int, int, bytes]]:
    """The control message that makes the answer leave from the address that was asked, by whatever interface."""
    if (level, kind) == (SOL_IPV6, IPV6_PKTINFO):
        return [(level, kind, data[:16] + bytes(4))]
    if (level, kind) == (SOL_IP, IP_PKTINFO):
        return [(level, kind, bytes(4) + data[4:8] + bytes(4))]
    return []


def announced(data: bytes) -> tuple[int, str]:
    """How long the PROXY header at the beginning is and whose connection it announces.

    (0, "") while it is not complete. "" is the proxy's own connection, such as a health check. ValueError for anything
    else: haproxy's doc/proxy-protocol.txt, sections 2.1 and 2.2.
    """
    if data[: len(V2)] == V2:
        if len(data) < 16:
            return 0, ""
        size = 16 + int.from_bytes(data[14:16], "big")
        if size > LIMIT or data[12] not in (0x20, 0x21):
            raise ValueError
        if len(data) < size:
            return 0, ""
        family = {0x10: (_socket.AF_INET, 4), 0x20: (_socket.AF_INET6, 16)}.get(data[13] & 0xF0)
        if data[12] == 0x20 or family is None:
            return size, ""
        if size < 16 + 2 * family[1] + 4:
            raise ValueError
        return size, plain(_socket.inet_ntop(family[0], data[16 : 16 + family[1]]))
    if V2.startswith(data) or V1.startswith(data):
        return 0, ""
    line, end, _ = data[:108].partition(b"\r\n")
    if not end:
        if len(data) > 107 or not data.startswith(V1):
            raise ValueError
        return 0, ""
    words = line.decode("ascii", "replace").split(" ")
    if words[:2] == ["PROXY", "UNKNOWN"]:
        return len(line) + 2, ""
    if len(words) != 6 or words[0] != "PROXY" or words[1] not in ("TCP4", "TCP6"):
        raise ValueError
    try:
        _socket.inet_pton(_socket.AF_INET if words[1] == "TCP4" else _socket.AF_INET6, words[2])
    except OSError:
        raise ValueError from None
    return len(line) + 2, plain(words[2])


class Connection:
    """One client: what it sent and was not answered yet, and what it was not able to take yet."""

    __slots__ = ("announced", "body", "client", "closing", "mask", "received", "sock", "unsent")

    def __init__(self, sock: _socket.socket, client: str) -> None:
        self.sock = sock
        self.client = client
        self.received = b""
        self.unsent = b""
        self.body = 0  # bytes of a request body still to be skipped
        self.closing = False
        self.announced = not PROXIED
        self.mask = select.EPOLLIN

    def take(self, data: bytes) -> None:
        """Adds what arrived and answers each request that is complete."""
        data = self.received + data
        if not self.announced:
            try:
                size, client = announced(data)
            except ValueError:
                self.closing = True
                return
            if not size:
                self.received = data
                return
            self.announced, self.client, data = True, client or self.client, data[size:]
        while not self.closing:
            skipped = min(self.body, len(data))
            self.body -= skipped
            data = data[skipped:]
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                if len(data) > LIMIT:
                    self.unsent += b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n"
                    self.closing = True
                break
            data = rest
            self.answer(head)
        self.received = data

    def answer(self, head: bytes) -> None:
        """Puts the answer to one request in the queue."""
        line, *fields = head.split(b"\r\n")
        words = line.split(b" ")
        headers = {}
        for field in fields:
            name, _, value = field.partition(b":")
            headers[name.strip().lower()] = value.strip().lower()
        length = headers.get(b"content-length", b"0")
        valid = len(words) == 3 and words[2].startswith(b"HTTP/1.") and length.isdigit() and len(length) < 16
        connection = headers.get(b"connection", b"")
        if words[-1] == b"HTTP/1.0":
            self.closing = connection != b"keep-alive"
        else:
            self.closing = connection == b"close"
        self.closing = self.closing or STOPPING or not valid or b"transfer-encoding" in headers
        if not valid:
            self.unsent += b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            return
        self.body = int(length)
        text = f"I'm {HOSTNAME}\n{self.client}\n".encode()
        self.unsent += b"".join(
            (
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ",
                str(len(text)).encode(),
                b"\r\nConnection: close\r\n\r\n" if self.closing else b"\r\nConnection: keep-alive\r\n\r\n",
                b"" if words[0] == b"HEAD" else text,
            )
        )

    def step(self, readable: bool) -> bool:
        """Reads and writes what can be; False once the connection is over."""
        if readable and len(self.unsent) < LIMIT:
            try:
                data = self.sock.recv(65536)
            except AGAIN:
                data = None
            if data == b"":
                return False
            if data and not self.closing:
                self.take(data)
        if self.unsent:
            try:
                sent = self.sock.send(self.unsent)
            except AGAIN:
                sent = 0
            self.unsent = self.unsent[sent:]
        return bool(self.unsent) or not self.closing


class Server:
    """The loop over the two listening sockets and the clients' connections."""

    def __init__(self, port: int) -> None:
        self.tcp = listen(_socket.SOCK_STREAM, port)
        self.udp = listen(_socket.SOCK_DGRAM, port)
        self.connections: dict[int, Connection] = {}
        self.poll = select.epoll()
        self.poll.register(self.tcp.fileno(), select.EPOLLIN)
        self.poll.register(self.udp.fileno(), select.EPOLLIN)

    def accept(self) -> None:
        for _ in range(BATCH):
            try:
                number, peer = self.tcp._accept()  # type: ignore[attr-defined]  # what socket.accept calls
            except OSError as error:
                if error.errno == EMFILE and self.connections:
                    self.close(next(iter(self.connections)))  # the oldest makes room
                return
            sock = _socket.socket(fileno=number)
            sock.setblocking(False)
            self.poll.register(number, select.EPOLLIN)
            self.connections[number] = Connection(sock, plain(peer[0]))

    def datagrams(self) -> None:
        for _ in range(BATCH):
            try:
                data, control, _, peer = self.udp.recvmsg(65536, 64)
                answer = f"I'm {HOSTNAME}\n{plain(peer[0])}\n".encode() + data
                self.udp.sendmsg([answer[:65507]], [m for c in control for m in from_same_address(*c)], 0, peer)
            except OSError:
                return

    def serve(self, number: int, events: int) -> None:
        connection = self.connections[number]
        try:
            alive = connection.step(bool(events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR)))
        except LOST:
            alive = False
        if not alive:
            self.close(number)
            return
        mask = select.EPOLLIN if len(connection.unsent) < LIMIT else 0
        mask |= select.EPOLLOUT if connection.unsent else 0
        if mask != connection.mask:
            connection.mask = mask
            self.poll.modify(number, mask)

    def close(self, number: int) -> None:
        self.poll.unregister(number)
        self.connections.pop(number).sock.close()

    def run(self, wake: int) -> None:
        """Serves until SIGTERM or SIGINT; then answers what was already asked, and returns."""
        self.poll.register(wake, select.EPOLLIN)
        while True:
            for number, events in self.poll.poll():
                if number == self.tcp.fileno():
                    self.accept()
                elif number == self.udp.fileno():
                    self.datagrams()
                elif number != wake:
                    self.serve(number, events)
            if STOPPING:
                break
        self.accept()
        for number in list(self.connections):
            self.serve(number, select.EPOLLIN)


def stop(_number: int, _frame: object) -> None:
    global STOPPING
    STOPPING = True


STOPPING = False
HOSTNAME = _socket.gethostname()
PROXIED = os.environ.get("PROXY_PROTOCOL", "") == "on"

if __name__ == "__main__":
    wake_in, wake_out = os.pipe()
    os.set_blocking(wake_out, False)
    for signal in (2, 15):
        _signal.signal(signal, stop)
    _signal.set_wakeup_fd(wake_out)
    port = os.environ.get("PORT", "8000")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        sys.exit(f"whoami: PORT must be 1-65535, not {port!r}")
    Server(int(port)).run(wake_in)

"""A web server: the files below a document root, or one built-in page. usage: web.py KIND [ROOT]

KIND is nginx, httpd, tomcat, wordpress or elasticsearch: it says which port, page and headers there are.
An empty document root shows the kind's own page, as its image does.
"""

import _socket
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.sandbox.programs import serving
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import serving

HEAD_LIMIT = 16384
TYPES = {
    "html": "text/html", "htm": "text/html", "txt": "text/plain", "css": "text/css", "js": "text/javascript",
    "json": "application/json", "png": "image/png", "jpg": "image/jpeg", "gif": "image/gif", "svg": "image/svg+xml",
}  # fmt: skip
NGINX = "<html>\n<head><title>Welcome to nginx!</title></head>\n<body><h1>Welcome to nginx!</h1></body>\n</html>\n"
HTTPD = "<html><body><h1>It works!</h1></body></html>\n"
TOMCAT = "<html><head><title>Apache Tomcat</title></head><body><h1>Apache Tomcat</h1></body></html>\n"
WORDPRESS = "<html><head><title>WordPress</title></head><body><h1>Welcome to WordPress</h1>\n<p>{}</p></body></html>\n"
KINDS = {
    "nginx": (80, "/usr/share/nginx/html", "nginx", "text/html", NGINX),
    "httpd": (80, "/usr/local/apache2/htdocs", "Apache", "text/html", HTTPD),
    "tomcat": (8080, "/usr/local/tomcat/webapps/ROOT", "Apache-Coyote/1.1", "text/html", TOMCAT),
    "wordpress": (80, "/var/www/html", "Apache", "text/html", WORDPRESS),
    "elasticsearch": (
        9200,
        "",
        "",
        "application/json",
        '{{\n  "name" : "{}",\n  "tagline" : "You Know, for Search"\n}}\n',
    ),
}
REASONS = {200: "OK", 301: "Moved Permanently", 400: "Bad Request", 403: "Forbidden", 404: "Not Found",
           405: "Method Not Allowed", 431: "Request Header Fields Too Large"}  # fmt: skip


def unquoted(path: str) -> str:
    """The path with its percent signs resolved; "" if it is not UTF-8 or holds a zero."""
    begin, *pieces = path.split("%")
    data = begin.encode()
    for piece in pieces:
        try:
            data += bytes([int(piece[:2], 16)]) + piece[2:].encode()
        except ValueError:
            return ""
    text = data.decode("utf-8", "replace")
    return "" if "\0" in text else text


def page(kind: str) -> str:
    """The page that there is without any file."""
    text = KINDS[kind][4]
    if kind == "wordpress":
        return text.format(database())
    return text.format(os.uname().nodename) if kind == "elasticsearch" else text


def database() -> str:
    """Whether the database that the environment names answers: what WordPress would say."""
    host = os.environ.get("WORDPRESS_DB_HOST", "")
    if not host:
        return "No database is set: WORDPRESS_DB_HOST is empty"
    name, _, port = host.partition(":")
    try:
        family, kind, protocol, _, address = _socket.getaddrinfo(name, int(port or 3306), 0, 1)[0]
        probe = _socket.socket(family, kind, protocol)
        try:
            probe.settimeout(1.0)
            probe.connect(address)
            greeting = probe.recv(5)
        finally:
            probe.close()
    except (OSError, ValueError):
        return f"Error establishing a database connection to {host}"
    return f"The database at {host} answers" if greeting[4:5] == b"\x0a" else f"{host} is no database"


class Web(serving.Connection):
    """One client."""

    def __init__(self, sock: _socket.socket, client: str) -> None:
        super().__init__(sock, client)
        self.received = b""
        self.skip = 0  # bytes of a request body
        self.file = -1
        self.left = 0

    def take(self, data: bytes) -> None:
        data = self.received + data
        while not self.closing and self.file < 0:
            skipped = min(self.skip, len(data))
            self.skip -= skipped
            data = data[skipped:]
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                if len(data) > HEAD_LIMIT:
                    self.closing = True
                    self.refuse(431, "GET", "-")
                break
            data = rest
            self.answer(head)
        self.received = data

    def more(self) -> bytes:
        if self.file < 0:
            return b""
        data = os.read(self.file, min(serving.CHUNK, self.left)) if self.left else b""
        self.left -= len(data)
        if not data:
            self.closing = self.closing or self.left > 0  # the file has become shorter
            self.drop()
            if self.received and not self.closing:
                self.take(b"")
                return bytes(self.unsent)
        return data

    def drop(self) -> None:
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def answer(self, head: bytes) -> None:
        line, *fields = head.decode("latin-1").split("\r\n")
        words = line.split(" ")
        headers = {}
        for field in fields:
            name, _, value = field.partition(":")
            headers[name.strip().lower()] = value.strip().lower()
        length = headers.get("content-length", "0")
        if len(words) != 3 or not words[2].startswith("HTTP/1.") or not length.isdecimal() or len(length) > 15:
            self.closing = True
            self.refuse(400, words[0], "-")
            return
        self.skip = int(length)
        connection = headers.get("connection", "")
        self.closing = connection == "close" or (words[2] == "HTTP/1.0" and connection != "keep-alive")
        self.closing = self.closing or "transfer-encoding" in headers
        if words[0] not in ("GET", "HEAD", "POST"):
            self.refuse(405, words[0], words[1])
            return
        self.find(words[0], words[1])

    def find(self, method: str, target: str) -> None:
        path = unquoted(target.partition("?")[0])
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not path.startswith("/") or ".." in parts:
            self.refuse(400, method, target)
            return
        place = os.path.join(ROOT, *parts) if ROOT else ""
        if place and os.path.isdir(place):
            index = os.path.join(place, "index.html")
            if parts and not path.endswith("/"):
                self.send(method, target, 301, "text/html", b"", f"Location: {path}/\r\n")
                return
            if not os.path.isfile(index) and parts:
                self.refuse(403, method, target)
                return
            place = index
        if place and os.path.isfile(place):
            self.send_file(method, target, place)
        elif not parts:
            self.send(method, target, 200, KINDS[KIND][3], page(KIND).encode())
        else:
            self.refuse(404, method, target)

    def send_file(self, method: str, target: str, place: str) -> None:
        try:
            file = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            self.refuse(403, method, target)
            return
        size = os.fstat(file).st_size
        kind = TYPES.get(place.rpartition(".")[2].lower(), "application/octet-stream")
        self.head(method, target, 200, kind, size)
        if method == "HEAD":
            os.close(file)
        else:
            self.file, self.left = file, size

    def refuse(self, status: int, method: str, target: str) -> None:
        text = f"<html><head><title>{status} {REASONS[status]}</title></head><body><h1>{status} {REASONS[status]}</h1>"
        self.send(method, target, status, "text/html", f"{text}</body></html>\n".encode())

    def send(self, method: str, target: str, status: int, kind: str, body: bytes, more: str = "") -> None:
        self.head(method, target, status, kind, len(body), more)
        self.unsent += b"" if method == "HEAD" else body

    def head(self, method: str, target: str, status: int, kind: str, size: int, more: str = "") -> None:
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        server = f"Server: {KINDS[KIND][2]}\r\n" if KINDS[KIND][2] else ""
        connection = "close" if self.closing else "keep-alive"
        self.unsent += (
            f"HTTP/1.1 {status} {REASONS[status]}\r\nDate: {date}\r\n{server}Content-Type: {kind}\r\n"
            f"Content-Length: {size}\r\n{more}Connection: {connection}\r\n\r\n"
        ).encode()
        shown = target[:200].encode("ascii", "replace").decode()
        at = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
        os.write(1, f'{self.client} - - [{at}] "{method[:16]} {shown} HTTP/1.1" {status} {size}\n'.encode())


if __name__ == "__main__":
    KIND = sys.argv[1]
    ROOT = sys.argv[2] if len(sys.argv) > 2 else KINDS[KIND][1]
    if ROOT and not os.path.isdir(ROOT):
        os.makedirs(ROOT)
        if KIND != "wordpress":  # its page is made anew for each request
            with open(os.path.join(ROOT, "index.html"), "w") as index_file:
                index_file.write(page(KIND))
    serving.Server(serving.port_of(KINDS[KIND][0]), Web).run()

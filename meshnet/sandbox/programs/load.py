"""Asks a URL again and again until its stdin ends, then prints what became of the requests as one line of JSON.

Its first line, once it asks, is "asking".

usage: load.py ADDRESS PORT PATH WORKERS PAUSE TIMEOUT HOST

ADDRESS may be a name, which is asked for with every connection. Each worker opens a connection for every request, and
rests PAUSE seconds after it. A request fails when it has no complete answer with a status under 500 within TIMEOUT
seconds. Runs wherever it is started, on a host or in a task, with the interpreter's own library alone.
"""

import json
import os
import re
import socket
import sys
import threading
import time

LONGEST = 4 << 20  # bytes of an answer
CHUNK = 65536
NAME = 60  # characters of what tells an answer
KINDS = 16  # kinds of failures that are told apart, and senders of answers


class Tally:
    """What the workers saw, together."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.begun = time.monotonic()
        self.times: list[float] = []
        self.answers: dict[str, int] = {}
        self.failures: dict[str, int] = {}
        self.failed: list[float] = []
        self.last = self.begun
        self.pause = 0.0

    def answered(self, who: str, spent: float) -> None:
        with self.lock:
            now = time.monotonic()
            self.times.append(spent)
            self.pause, self.last = max(self.pause, now - self.last), now
            count(self.answers, who)

    def lost(self, why: str) -> None:
        with self.lock:
            self.failed.append(time.monotonic() - self.begun)
            count(self.failures, why)

    def text(self) -> str:
        """The line of JSON; times in seconds."""
        with self.lock:
            now, times = time.monotonic(), sorted(self.times)
            return json.dumps(
                {
                    "Seconds": now - self.begun,
                    "Answered": len(times),
                    "Failed": len(self.failed),
                    "Median": times[len(times) // 2] if times else 0.0,
                    "Slowest": times[-1] if times else 0.0,
                    "Pause": max(self.pause, now - self.last),
                    "FirstFailure": self.failed[0] if self.failed else 0.0,
                    "LastFailure": self.failed[-1] if self.failed else 0.0,
                    "Failures": self.failures,
                    "Answers": self.answers,
                }
            )


def count(table: dict[str, int], key: str) -> None:
    if key not in table and len(table) >= KINDS:
        key = "others"
    table[key] = table.get(key, 0) + 1


def ask(address: str, port: int, request: bytes, timeout: float) -> str:
    """Who answered, as `sender` says. Raises OSError, or ValueError for an answer that is none."""
    deadline = time.monotonic() + timeout
    data = b""
    with socket.create_connection((address, port), timeout) as connection:
        connection.sendall(request)
        while len(data) < LONGEST:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            more = connection.recv(CHUNK)
            data += more
            if not more or complete(data):
                break
    head, end, body = data.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if not end or len(words) < 2:
        raise ValueError("no answer" if not data else "half an answer")
    if words[1][:1] == b"5":
        raise ValueError(f"status {words[1].decode('ascii', 'replace')}")
    if len(data) >= LONGEST:
        raise ValueError("an endless answer")
    if not complete(data) and (b"content-length:" in head.lower() or is_chunked(head)):
        raise ValueError("half an answer")
    if is_chunked(head):
        body = body.partition(b"\r\n")[2]  # without the first chunk's size
    return sender(words[1].decode("ascii", "replace"), body.decode("utf-8", "replace"))


def sender(status: str, body: str) -> str:
    """What tells an answer from those of others: its body's first line, or of a page the status and its first text."""
    line = body.partition("\n")[0].strip()
    if line and not line.startswith("<"):
        return line.removeprefix("I'm ")[:NAME]
    lines = (text.strip() for text in re.sub(r"<[^<>]*>", "\n", body).splitlines())
    return f"{status} {next(filter(None, lines), '(no text)').removeprefix(f'{status} ')}"[:NAME]


def complete(data: bytes) -> bool:
    """Whether as many bytes are there as the answer's head says; one that does not say ends with its connection."""
    head, end, body = data.partition(b"\r\n\r\n")
    if is_chunked(head):
        return body.endswith(b"0\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length" and end and value.strip().isdigit():
            return len(body) >= int(value)
    return False


def is_chunked(head: bytes) -> bool:
    return b"\r\ntransfer-encoding: chunked" in head.lower()


def work(
    tally: Tally, over: threading.Event, target: tuple[str, int], request: bytes, pause: float, limit: float
) -> None:
    while not over.is_set():
        begun = time.monotonic()
        try:
            tally.answered(ask(*target, request, limit), time.monotonic() - begun)
        except ValueError as error:
            tally.lost(str(error))
        except TimeoutError:
            tally.lost("timed out")
        except OSError as error:
            tally.lost((error.strerror or str(error)).lower())
        over.wait(pause)


def main() -> None:
    address, port, path, workers, pause, timeout, host = sys.argv[1:]
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    tally, over = Tally(), threading.Event()
    arguments = (tally, over, (address, int(port)), request, float(pause), float(timeout))
    threads = [threading.Thread(target=work, args=arguments) for _ in range(int(workers))]
    for thread in threads:
        thread.start()
    print("asking", flush=True)
    while os.read(0, 4096):
        pass
    over.set()
    for thread in threads:
        thread.join()
    print(tally.text(), flush=True)


if __name__ == "__main__":
    main()

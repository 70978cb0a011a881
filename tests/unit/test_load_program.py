"""What `meshnet lab load` counts as an answer: whole ones only."""

from __future__ import annotations

import socket
import threading

import pytest

from meshnet.sandbox.programs import load

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nI'm web\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nI'm web\n\r\n0\r\n\r\n"


PAGE = b"<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n<style>\nhtml { color: red }\n</style>\n"


def asked(answer: bytes) -> str:
    """What load says of a server that sends this, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return load.ask("127.0.0.1", listening.getsockname()[1], b"GET / HTTP/1.1\r\n\r\n", 5.0)
        finally:
            thread.join()


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, b"HTTP/1.0 200 OK\r\n\r\nI'm web\n"])
def test_who_answered(answer: bytes) -> None:
    """The first line of the body, however its end is told."""
    assert asked(answer) == "web"


@pytest.mark.parametrize(
    ("answer", "who"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n" + PAGE, "200 Welcome to nginx!"),
        (b"HTTP/1.0 404 Not Found\r\n\r\n<title>404 Not Found</title><h1>404 Not Found</h1>", "404 Not Found"),
        (b"HTTP/1.0 301 Moved\r\n\r\n", "301 (no text)"),
        (b"HTTP/1.0 404 Not Found\r\n\r\nnot here\n", "not here"),
    ],
)
def test_which_page_answered(answer: bytes, who: str) -> None:
    """A page is told by its status and its first text, not by its markup."""
    assert asked(answer) == who


@pytest.mark.timeout(15)
def test_a_page_that_is_no_page() -> None:
    """However long and odd the markup is, telling the answer takes no time to speak of."""
    assert load.sender("200", "<" * 400_000 + "p>x") == "200 " + "<" * (load.NAME - 4)
    assert load.sender("200", "<a" * 200_000 + ">").startswith("200 <a<a")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "no answer"),
        (b"HTTP/1.1 200", "half an answer"),
        (LENGTH[:-1], "half an answer"),
        (CHUNKED[:-5], "half an answer"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "status 503"),
    ],
)
def test_what_is_no_answer(answer: bytes, why: str) -> None:
    """Nothing, a part, and a server's error are failures."""
    with pytest.raises(ValueError, match=why):
        asked(answer)


def test_the_tally() -> None:
    """Kinds of answers are bounded, so that a server that tells another name each time fills no memory."""
    table: dict[str, int] = {}
    for number in range(100):
        load.count(table, str(number))
    assert len(table) == load.KINDS + 1
    assert table["others"] == 100 - load.KINDS

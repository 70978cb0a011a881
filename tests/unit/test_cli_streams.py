"""Streams of logs: frames, whole lines, and the words before them."""

from __future__ import annotations

import io
import struct
from datetime import UTC, datetime

import pytest

from meshnet.api.client import PIECE, frames
from meshnet.cli import human
from meshnet.cli.logs import labelled, whole_lines


def frame(stream: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(data)) + data


def test_frames() -> None:
    """Each frame gives its stream and bytes; a long one comes in pieces, one that breaks off as far as it came."""
    long = b"x" * (PIECE + 5)
    sent = frame(1, b"one\n") + frame(2, b"") + frame(2, long) + frame(1, b"broken off")[:12]
    found = list(frames(io.BytesIO(sent).read))
    assert found == [(1, b"one\n"), (2, long[:PIECE]), (2, long[PIECE:]), (1, b"brok")]


def test_whole_lines() -> None:
    """Lines of the two streams are put together apart, and what has no end yet is not shown."""
    pieces = [(1, b"a"), (2, b"er"), (1, b"b\nc\n"), (2, b"r\xff\n"), (1, b"d")]
    assert list(whole_lines(pieces)) == [(1, "ab"), (1, "c"), (2, "err\ufffd")]


@pytest.mark.parametrize(
    ("line", "timestamps", "shown"),
    [
        ("com.docker.swarm.node.id=n,com.docker.swarm.task.id=t hello you", False, "t@n    | hello you"),
        ("com.docker.swarm.task.id=t ", False, "t@    | "),
        (
            "2026-01-01T00:00:00.1Z com.docker.swarm.node.id=n,com.docker.swarm.task.id=t x",
            True,
            "2026-01-01T00:00:00.1Z t@n    | x",
        ),
    ],
)
def test_lines_of_services(line: str, timestamps: bool, shown: str) -> None:
    """A line of a service's log says of which task it is, behind the time if that was asked."""
    assert labelled(line, lambda task, node: f"{task}@{node}", timestamps) == shown


@pytest.mark.parametrize(
    ("nanoseconds", "said"),
    [(0, "0s"), (5 * 10**9, "5s"), (65 * 10**9, "1m5s"), (3600 * 10**9, "1h0m0s"), (5 * 10**8, "500ms")],
)
def test_times_as_go_writes_them(nanoseconds: int, said: str) -> None:
    """Durations in `inspect --pretty` are written as docker writes them."""
    assert human.go_duration(nanoseconds) == said


def test_sizes_as_docker_writes_them() -> None:
    """Memory in units of 1024, images in units of 1000."""
    assert [human.size(number) for number in (0, 50 * 2**20, 25276514304)] == ["0B", "50MiB", "23.54GiB"]
    assert [human.decimal_size(number) for number in (0, 12_345_678, 1_500)] == ["0B", "12.3MB", "1.5kB"]
    assert human.ago(datetime.now(UTC).isoformat()) == "less than a second ago"

"""conmon's log file, read back as the lines that a task wrote."""

from __future__ import annotations

from pathlib import Path

from meshnet.sandbox.logs import LogLine, parse, read

ENTRIES = b"""\
2026-11-20T13:00:44.100000001+00:00 stdout F one
2026-11-20T13:00:45.200000000+00:00 stderr P half of
2026-11-20T13:00:45.300000000+00:00 stdout F two  with spaces
2026-11-20T13:00:45.400000000+00:00 stderr F  a line
2026-11-20T13:00:46.500000000+00:00 stdout F@
""".replace(b"@", b" ")


def test_lines_come_back_as_they_were_written() -> None:
    """Streams and times are kept, partial entries are joined per stream, spaces and empty lines survive."""
    assert list(parse(ENTRIES.splitlines(keepends=True))) == [
        LogLine("2026-11-20T13:00:44.100000001+00:00", "stdout", "one"),
        LogLine("2026-11-20T13:00:45.300000000+00:00", "stdout", "two  with spaces"),
        LogLine("2026-11-20T13:00:45.200000000+00:00", "stderr", "half of a line"),
        LogLine("2026-11-20T13:00:46.500000000+00:00", "stdout", ""),
    ]


def test_a_torn_file_is_read_as_far_as_it_goes() -> None:
    """What is no entry is skipped, bad UTF-8 is replaced, an unfinished line is given as it is."""
    lines = [b"cut off\n", b"t stdout X no\n", b"t stdout F \xff\n", b"t stdout P tail"]
    assert [line.text for line in parse(lines)] == ["\ufffd", "tail"]


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    """A line longer than the bound comes in pieces."""
    texts = [line.text for line in parse([b"t stdout P " + b"x" * 40000 + b"\n"] * 4)]
    assert [len(text) for text in texts] == [80000, 80000]


def test_tail_and_since(tmp_path: Path) -> None:
    """The last lines, or those from a time on; no file means no lines."""
    path = tmp_path / "log"
    assert read(path) == []
    path.write_bytes(ENTRIES)
    assert [line.text for line in read(path, tail=1)] == [""]
    assert [line.text for line in read(path, since=1795179645.25)] == ["two  with spaces", ""]

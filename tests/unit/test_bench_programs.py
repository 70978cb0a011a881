"""What `meshnet bench programs` makes of counters."""

from __future__ import annotations

from meshnet.bench.programs import Measured, Share, lines


def test_report_adds_up() -> None:
    """A line per path and operation: all programs together, and each one's runs and nanoseconds, under its table."""
    shares = (Share("a", "uplink", 6.02, 400), Share("a", "endpoint", 4.0, 125))
    found = [Measured("Ports", "local", "connect", shares), Measured("Ports", "floor: local", "connect", shares[1:])]
    assert list(lines(found)) == [
        "",
        "Ports",
        "local         CONNECT    2.91 us  a uplink 6.0 x 400 ns, a endpoint 4.0 x 125 ns",
        "floor: local  CONNECT    0.50 us  a endpoint 4.0 x 125 ns",
    ]

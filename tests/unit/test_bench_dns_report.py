"""What `meshnet bench dns` makes of what its client says."""

from __future__ import annotations

from meshnet.bench import dns
from meshnet.dns.query import parse_query


def test_client_is_read() -> None:
    """Rates are answers per second, waits are nanoseconds, losses add up, and a round ends with its line."""
    samples = dns.Samples()
    assert not samples.read("rate 0 kernel 5000 50000000 0\n")
    assert not samples.read("wait 0 kernel 10000 50000000 4000 9000\n")
    assert not samples.read("rate 1 kernel 2500 50000000 3\n")
    assert samples.read("round 0\n")
    assert samples.rates == {"kernel": [100_000.0, 50_000.0]}
    assert (samples.p50, samples.p99, samples.lost) == ({"kernel": [4000]}, {"kernel": [9000]}, {"kernel": 3})
    assert samples.rounds == 1


def test_questions_are_queries() -> None:
    """Every name is asked for, with A, and services with AAAA too."""
    zone = dns.names()
    parsed = [parse_query(b"\0\0" + query) for query in dns.queries(zone)]
    assert len({(query.name, query.type) for query in parsed}) == len(parsed) == len(zone) + dns.SERVICES


def result(kernel: float, dnsmasq: float, others: float = 0.1) -> dict[str, object]:
    samples = dns.Samples()
    for number in range(20):
        for server, rate in (("kernel", kernel), ("dnsmasq", dnsmasq)):
            samples.read(f"rate {number} {server} {rate:.0f} 1000000000 0\n")
            samples.read(f"wait {number} {server} 100 1000000000 {1e9 / rate:.0f} 20000\n")
    return dns.summary(
        samples, ("kernel", "dnsmasq"), {"dnslib": "not there: get it"}, {"others": others, "stolen": 0.01}
    )


def test_report_tells_aims() -> None:
    """A table for people: ratios, aims that are reached or not, and what was left out and why."""
    text = "\n".join(dns.lines(result(200_000, 100_000)))
    assert "200,000 (200,000-200,000)" in text
    assert "2.0 times " in text
    assert "5.0 us" in text
    assert "left out: dnslib, a bare loop: not there: get it" in text
    text = "\n".join(dns.lines(result(100_000, 100_000)))
    assert "1.0 times!" in text
    assert "10.0 us!" in text
    assert "UNDER PRESSURE" not in text


def test_report_tells_pressure() -> None:
    """What others had of the machine stands over the numbers when it was much."""
    found = result(200_000, 100_000, others=0.3)
    assert dns.disturbed(found)
    assert "UNDER PRESSURE: others had 30% of the machine's CPU time" in "\n".join(dns.lines(found))

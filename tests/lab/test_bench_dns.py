"""`meshnet bench dns` on this machine."""

from __future__ import annotations

import os
import shutil

import pytest

from meshnet.bench import dns
from meshnet.kernel import netns

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc: apt-get install gcc libc6-dev"),
    pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang"),
]


def test_servers_are_compared() -> None:
    """Every server that is here answers every question rightly, the program on lo fastest, and nothing is left."""
    for _ in range(3):  # what is slower by itself is so each time
        found = dns.run(1, lambda text: None)
        servers = found["servers"]
        assert isinstance(servers, dict)
        assert {*servers, *found["missing"]} == set(dns.TITLES)  # type: ignore[misc]
        faster = [name for name, row in servers.items() if name != dns.KERNEL and row["kernel_times"][1] <= 1]
        if not faster:
            break
    assert faster == []
    assert netns.names(f"mn-bench{os.getpid()}") == []


def test_aims() -> None:
    """The program on lo answers 1.5 times as fast as dnsmasq and 8 times as fast as dnslib, within 8 us."""
    if shutil.which("dnsmasq", path=os.environ.get("PATH", "") + ":/usr/sbin") is None:
        pytest.skip("needs dnsmasq: apt-get install dnsmasq-base")
    found = dns.run(3, lambda text: None)
    if why := dns.disturbed(found):
        pytest.skip(f"the machine is too busy to judge: {why}; run it again when it is quiet")
    servers = found["servers"]
    assert isinstance(servers, dict)
    for name, times in dns.FASTER.items():
        assert servers[name]["kernel_times"][1] >= times, f"{name}: {servers[name]}"
    assert servers[dns.KERNEL]["p50_us"][1] < dns.SOON, servers[dns.KERNEL]

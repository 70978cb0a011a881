"""The real HAProxy and our resolver, by the configurations that we write, with more names than most have."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshnet.dns import RESOLVER_ADDRESS
from meshnet.dns.query import MAX_QUERY
from meshnet.dns.server import Resolver
from meshnet.dns.zone import EndpointView, NetworkView, ServiceView, Zone, build_zone
from meshnet.errors import MeshnetError
from meshnet.kernel import netns
from meshnet.lab import packages
from meshnet.lab.haproxy import DNS, Wanted, ask, config, rows
from meshnet.model import EndpointSpec, PortConfig, Service, ServiceEndpoint, ServiceSpec
from meshnet.testing.waiting import wait_until

HAPROXY = packages.PLACE / "haproxy/usr/sbin/haproxy"
LIBRARIES = f"{packages.PLACE}/haproxy/usr/lib/{os.uname().machine}-linux-gnu"
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root"),
    pytest.mark.skipif(
        not HAPROXY.exists(), reason="Debian's haproxy is not here; get it with: meshnet lab get labs/haproxy"
    ),
]
PORTS = (PortConfig("", "tcp", 8000, 8080),)
WEB = Service(
    spec=ServiceSpec(name="web", endpoint_spec=EndpointSpec(ports=PORTS)), endpoint=ServiceEndpoint(ports=PORTS)
)


def addresses(count: int) -> list[str]:
    return [f"10.0.{n >> 8}.{n & 255}" for n in range(3, 3 + count)]


def zone(count: int) -> Zone:
    """The zone of a network with one service of so many tasks, with SRV records of its port inside and outside."""
    view = ServiceView("s", "web", vip="10.0.0.2", ports=(("", "tcp", 8000), ("8080", "tcp", 8000)))
    tasks = tuple(
        EndpointView("s", "web", n, f"t{n}", f"web.{n}.t{n}", f"{n:012x}", "", address)
        for n, address in enumerate(addresses(count))
    )
    return build_zone((NetworkView("net", (view,), tasks),))


@contextmanager
def resolving(space: str, served: Zone, most: dict[str, int]) -> Iterator[Resolver]:
    """Our resolver at 127.0.0.11:53 of a namespace, in a thread of its own."""
    udp, tcp = (netns.socket_in(space, socket.AF_INET, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
    for one in (udp, tcp):
        one.bind((RESOLVER_ADDRESS, 53))
    resolver = Resolver(udp, tcp, served, (), **most)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(resolver.start(), loop).result(5)
        yield resolver
    finally:
        asyncio.run_coroutine_threadsafe(resolver.stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def proxy(space: str, file: Path) -> Iterator[None]:
    words = [str(HAPROXY), "-db", "-f", str(file)]
    env = {**os.environ, "LD_LIBRARY_PATH": LIBRARIES}
    log = file.with_suffix(".log").open("w")
    process = netns.run_in(space, lambda: subprocess.Popen(words, env=env, stdout=log, stderr=log))
    try:
        yield
    finally:
        process.kill()
        process.wait()
        log.close()


def known(path: str) -> set[str]:
    """The addresses of HAProxy's servers."""
    with contextlib.suppress(MeshnetError):
        return {row["addr"].partition(":")[0] for row in rows(ask(path, "show stat")) if row["type"] == "2"}
    return set()


@pytest.mark.parametrize(
    ("wanted", "most", "transport"),
    [
        (Wanted(DNS, slots=1000), {}, "udp"),
        (Wanted(DNS, slots=1000, srv=True), {}, "udp"),
        (Wanted(DNS, slots=1000, resolver=53), {"most": MAX_QUERY}, "tcp"),
    ],
    ids=["addresses", "SRV records", "outside"],
)
def test_every_task_becomes_a_server(
    namespaces: Callable[..., str], tmp_path: Path, wanted: Wanted, most: dict[str, int], transport: str
) -> None:
    """With a thousand tasks HAProxy knows each of them, and follows when most of them go."""
    space, path, file = namespaces("names"), str(tmp_path / "stats"), tmp_path / "haproxy.cfg"
    text = config(WEB, [("a", RESOLVER_ADDRESS)], wanted, 0)
    file.write_text(text.replace(wanted.socket, path))
    with resolving(space, zone(1000), most) as resolver, proxy(space, file):
        wait_until(lambda: known(path) == set(addresses(1000)), 20, interval=0.2, what="a thousand servers")
        resolver.set_zone(zone(10))
        wait_until(lambda: known(path) == set(addresses(10)), 20, interval=0.2, what="ten servers")
        assert resolver.statistics()[f"queries_{transport}"] > 1

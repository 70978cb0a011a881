"""`meshnet bench dns`: what a name server of a task answers in a second, and how long one answer takes.

Four servers, each on `lo` of a namespace of its own: the program on lo, meshnet's name server in user space (steered to
by that program), dnsmasq, and the least that a server with dnslib does. One client in C (dnsq.c) asks all of them the
same names: 100 services, their five tasks each, and AAAA. Servers take turns in slices of 50 ms; numbers are medians
over rounds by the wall clock, ratios are of the same round.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from meshnet import names as places
from meshnet.agent.zones import plain_names
from meshnet.bench import machine, prober
from meshnet.bench import statistics as spreads
from meshnet.bench.world import World, world
from meshnet.datapath.ebpf.names import Names
from meshnet.datapath.rows import ZoneRow
from meshnet.dns import RESOLVER_ADDRESS
from meshnet.dns.answer import TTL
from meshnet.dns.names import wire_name
from meshnet.dns.zone import Zone
from meshnet.errors import MeshnetError
from meshnet.kernel import bpfbuild, bpfload, netns, tc
from meshnet.kernel.bpf import Objects
from meshnet.kernel.netlink import Netlink

SECONDS = 20.0
WINDOW, SLICE_NS = 100, 50_000_000
SERVICES, TASKS = 100, 5
KERNEL, USER, DNSMASQ, DNSLIB = "kernel", "user", "dnsmasq", "dnslib"
TITLES = {
    KERNEL: "meshnet, the program on lo",
    USER: "meshnet, user space",
    DNSMASQ: "dnsmasq",
    DNSLIB: "dnslib, a bare loop",
}
FASTER = {DNSLIB: 8.0, DNSMASQ: 1.5}  # how many times the program on lo should be as fast as these
SOON = 8.0  # us, its median answer should take at most
MAX_OTHERS, MAX_STOLEN = 0.2, 0.05  # shares of the machine's CPU time; with more, numbers need care
_GET = "dnsmasq is not installed: apt-get install dnsmasq-base"
_STARTING = 10.0  # s that a server gets


@dataclass(slots=True)
class Samples:
    """By server, one number per round: answers per second, and ns of the median and of the 99th percentile wait."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    p50: dict[str, list[float]] = field(default_factory=dict)
    p99: dict[str, list[float]] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    rounds: int = 0

    def read(self, line: str) -> bool:
        """Takes in one line of the client; whether a round is over."""
        kind, _, *words = line.split()
        if kind == "round":
            self.rounds += 1
            return True
        server, count, took, *more = words[0], *map(int, words[1:])
        if kind == "rate":
            self.rates.setdefault(server, []).append(count / took * 1e9)
            self.lost[server] = self.lost.get(server, 0) + more[0]
        else:
            self.p50.setdefault(server, []).append(more[0])
            self.p99.setdefault(server, []).append(more[1])
        return False


def run(seconds: float, progress: Callable[[str], object]) -> dict[str, object]:
    """The whole measurement as plain data, see `summary`. MeshnetError without root, a compiler or programs."""
    missing = {} if _dnsmasq() else {DNSMASQ: _GET}
    servers = [server for server in TITLES if server not in missing]
    zone = names()
    with world() as made, contextlib.ExitStack() as stack:
        made.make(servers)
        leaf = made.group() / "dns"
        leaf.mkdir(parents=True)
        progress("starting the name servers")
        _attach(made, zone, stack)
        for server in servers:
            if server != KERNEL:
                stack.enter_context(_serve(made, server, zone, leaf))
        before = machine.work(leaf)
        samples = _measure(made, servers, zone, seconds, progress, leaf)
        pressure = _pressure(before, machine.work(leaf))
    return summary(samples, servers, missing, pressure)


def _pressure(before: machine.Work, after: machine.Work) -> dict[str, float]:
    """Shares of the machine's CPU time that went to others than client and servers, and to the hypervisor's."""
    whole = max(after.at - before.at, 0.001) * (os.cpu_count() or 1)
    others = (after.busy - before.busy) - (after.own - before.own)
    return {"others": max(0.0, round(others / whole, 3)), "stolen": round((after.stolen - before.stolen) / whole, 3)}


def disturbed(result: Mapping[str, object]) -> str:
    """What else the machine did, if that was so much that the numbers need care; else nothing."""
    pressure = result["pressure"]
    assert isinstance(pressure, dict)
    if pressure["others"] <= MAX_OTHERS and pressure["stolen"] <= MAX_STOLEN:
        return ""
    return f"others had {pressure['others']:.0%} of the machine's CPU time, the hypervisor {pressure['stolen']:.0%}"


def names() -> dict[str, list[str]]:
    """What is asked for: names and addresses as a lab of this size would have them."""
    found = {f"service{n}": [f"10.0.1.{n + 2}"] for n in range(SERVICES)}
    tasks = {f"tasks.service{n}": [f"10.0.{2 + i}.{n + 2}" for i in range(TASKS)] for n in range(SERVICES)}
    return found | tasks


def queries(zone: Mapping[str, Sequence[str]]) -> list[bytes]:
    """Questions without identifiers: A of every name, and AAAA of every service, as programs ask for both."""
    asked = [(name, kind) for name in zone for kind in (1, 28) if kind == 1 or not name.startswith("tasks.")]
    head = struct.pack("!5H", 0x0100, 1, 0, 0, 0)
    return [head + (wire_name(name) or b"") + struct.pack("!2H", kind, 1) for name, kind in asked]


def _dnsmasq() -> str | None:
    return shutil.which("dnsmasq", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _attach(made: World, zone: Mapping[str, Sequence[str]], stack: contextlib.ExitStack) -> None:
    """The program on lo of both namespaces of meshnet: with names, and without any."""
    pins = Path(places.pin_dir(made.name, "dns"))
    paths = [path for path in bpfbuild.objects() if path.stem == "lo"]
    objects: Objects = stack.enter_context(bpfload.load(paths, pins))
    addresses = {wire_name(name) or b"": tuple(ip_address(ip).packed for ip in ips) for name, ips in zone.items()}
    row = ZoneRow(("dns",), (KERNEL,), TTL, plain_names(Zone(addresses)))
    written = Names()
    written.withdraw((row,), objects.maps)
    written.publish(objects.maps)
    for label in (KERNEL, USER):
        with Netlink(made.space(label)) as netlink:
            tc.attach(1, tc.EGRESS, objects.progs["lo_steer"], netlink, written.zone_numbers().get(label, 0))


@contextlib.contextmanager
def _serve(made: World, server: str, zone: Mapping[str, Sequence[str]], leaf: Path) -> Iterator[None]:
    """A server's process in its namespace, from the moment that it answers."""
    if server == DNSMASQ:
        command = [_dnsmasq() or "", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]
        command += ["--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file=", "--user=root", "--log-facility=-"]
        command += [f"--local-ttl={TTL}", "--local=/#/", "--cache-size=1000"]
    else:
        command = [sys.executable, "-m", "meshnet.bench.dns_server", "meshnet" if server == USER else "dnslib"]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with contextlib.ExitStack() as stack:
        if server == DNSMASQ:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="meshnet-bench-"))
            command += [f"--addn-hosts={_hosts(Path(folder), zone)}"]
        process = netns.run_in(made.space(server), lambda: _start(command, environment))
        stack.callback(_end, process)
        (leaf / "cgroup.procs").write_text(str(process.pid))
        if server != DNSMASQ:
            assert process.stdin is not None
            process.stdin.write(json.dumps(zone) + "\n")
            process.stdin.flush()
        if not _answers(made.space(server), process, RESOLVER_ADDRESS if server == USER else "127.0.0.1"):
            raise MeshnetError(f"{TITLES[server]} did not start: {_last_words(process)}")
        yield


def _hosts(folder: Path, zone: Mapping[str, Sequence[str]]) -> Path:
    file = folder / "hosts"
    file.write_text("".join(f"{ip} {name}\n" for name, ips in zone.items() for ip in ips))
    return file


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        text=True,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _last_words(process: subprocess.Popen[str]) -> str:
    process.kill()
    process.wait()
    said = process.stderr.read().strip() if process.stderr is not None else ""
    return said[-300:] or "no reason given"


def _answers(space: str, process: subprocess.Popen[str], address: str) -> bool:
    """Waits until a server has an answer; whether it came to have one."""
    query = b"\0\1" + queries(names())[0]
    deadline = time.monotonic() + _STARTING
    with netns.socket_in(space, socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((address, 53))
        client.settimeout(0.05)
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                client.send(query)
                if client.recv(512)[3] & 15 == 0:
                    return True
    return False


def _measure(
    made: World,
    servers: Sequence[str],
    zone: Mapping[str, Sequence[str]],
    seconds: float,
    progress: Callable[[str], object],
    leaf: Path,
) -> Samples:
    lines = [f"slice {SLICE_NS}", f"window {WINDOW}", *(f"query {query.hex()}" for query in queries(zone))]
    for server in servers:
        at = RESOLVER_ADDRESS if server in (KERNEL, USER) else "127.0.0.1"
        lines.append(f"server {server} {made.path(server)} {at}")
    samples = Samples()
    client = subprocess.Popen(
        [prober.build(Path(__file__).with_name("dnsq.c"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    try:
        (leaf / "cgroup.procs").write_text(str(client.pid))
        client.stdin.write("\n".join(lines) + "\n")
        client.stdin.close()
        end = time.monotonic() + seconds
        for line in client.stdout:
            if samples.read(line):
                progress(f"{samples.rounds} rounds, {max(0.0, end - time.monotonic()):.0f} s to go")
                if time.monotonic() > end and samples.rounds >= spreads.ENOUGH:
                    return samples
        raise MeshnetError(f"the client stopped: {_last_words(client)}")
    finally:
        _end(client)


def summary(
    samples: Samples, servers: Sequence[str], missing: Mapping[str, str], pressure: Mapping[str, float]
) -> dict[str, object]:
    """What was measured as plain data: quartiles by server. `missing`: why a server is not there. `pressure`: what
    others had of the machine meanwhile."""
    found = {}
    for server in servers:
        rate = samples.rates[server]
        ratio = [mine / other for mine, other in zip(samples.rates[KERNEL], rate, strict=True)]
        found[server] = {
            "title": TITLES[server],
            "rate": _quartiles(rate),
            "kernel_times": _quartiles(ratio),
            "p50_us": _quartiles([wait / 1000 for wait in samples.p50[server]]),
            "p99_us": _quartiles([wait / 1000 for wait in samples.p99[server]]),
            "lost": samples.lost[server],
        }
    return {
        "machine": machine.about() | {"method": _METHOD},
        "rounds": samples.rounds,
        "servers": found,
        "missing": missing,
        "pressure": pressure,
    }


def _quartiles(values: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return [round(value, 3) for value in statistics.quantiles(values, n=4, method="inclusive")]


_METHOD = (
    f"One client asks {SERVICES} services, their {TASKS} tasks each and AAAA, of servers that take turns in slices of "
    f"{SLICE_NS // 1_000_000} ms: with {WINDOW} questions on their way for the rate, with one for the wait. "
    "Medians over rounds by the wall clock; ratios are of the same round. Client and server share the machine's CPUs."
)


def lines(result: Mapping[str, object]) -> Iterator[str]:
    """The result for a terminal."""
    servers = result["servers"]
    missing = result["missing"]
    about = result["machine"]
    assert isinstance(servers, dict)
    assert isinstance(missing, dict)
    assert isinstance(about, dict)
    yield f"DNS in a task, {result['rounds']} rounds"
    if why := disturbed(result):
        yield f"UNDER PRESSURE: {why}"
    yield f"{'':30}{'ANSWERS/S':26}{'ON LO AGAINST IT':18}{'WAIT P50':12}WAIT P99"
    for server, row in servers.items():
        low, median, high = row["rate"]
        times = (
            "1" if server == KERNEL else f"{row['kernel_times'][1]:.1f} times" + _aim(server, row["kernel_times"][1])
        )
        rate = f"{median:,.0f} ({low:,.0f}-{high:,.0f})"
        wait = f"{row['p50_us'][1]:.1f} us" + ("!" if server == KERNEL and row["p50_us"][1] > SOON else "")
        yield f"{row['title']:30}{rate:26}{times:18}{wait:12}{row['p99_us'][1]:.0f} us"
        if row["lost"]:
            yield f"  {row['lost']} questions were lost"
    for server, reason in missing.items():
        yield f"  left out: {TITLES[server]}: {reason}"
    aims = ", ".join(f"{times:g} times {name}" for name, times in FASTER.items())
    yield f"Aims for the program on lo: {aims}, p50 under {SOON:g} us; ! marks one that is missed."
    yield f"{about['processor']}, Linux {about['kernel']}. {about['method']}"


def _aim(server: str, times: float) -> str:
    return "!" if server in FASTER and times < FASTER[server] else ""

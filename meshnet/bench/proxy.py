"""HAProxy in the middle of a path, where it is installed: one process and one thread, on the prober's CPU."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from meshnet.bench import mesh, peers
from meshnet.bench.paths import Missing, Way, quietly
from meshnet.bench.world import World
from meshnet.errors import MeshnetError
from meshnet.kernel import netns

MISSING = Missing("HAProxy", "haproxy is not installed", quietly("haproxy"))
_PATIENCE = 5.0  # seconds until it listens
# place -> namespace, port there, backend, port there
_PLACES = {
    "vip-remote": ("client", 7201, mesh.demo("remote"), 7202),
    "vip-local": ("client", 7211, mesh.demo("local"), 7212),
    "published": ("m1", 8105, peers.BRIDGED["m2t"][1], 7203),
}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running HAProxy: where it listens, in which port its server answers, and its process."""

    address: str
    port: int
    server_port: int
    process: int

    def way(self, client: str, server: str) -> Way:
        """The path through it. It does not carry UDP."""
        return Way(client, server, self.address, self.port, self.server_port, "rbc", self.process)


def installed() -> str:
    """Where the program is, "" if it is not installed."""
    return shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin") or ""


@contextlib.contextmanager
def proxies(world: World, cpu: int) -> Iterator[Mapping[str, Proxy]]:
    """Runs one HAProxy for each table that has a row for it; none where it is not installed."""
    program = installed()
    running: list[subprocess.Popen[bytes]] = []
    found: dict[str, Proxy] = {}
    try:
        for place, (label, port, backend, server_port) in _PLACES.items() if program else ():
            address = "127.0.0.1" if label == "client" else peers.UNDERLAY[label]
            process = _start(world, label, program, _settings(port, backend, server_port), cpu)
            running.append(process)
            _wait(world, label, process, port)
            found[place] = Proxy(address, port, server_port, process.pid)
        yield found
    finally:
        for process in running:
            process.kill()
            process.wait()


def _settings(port: int, backend: str, server_port: int) -> str:
    return f"""global
  maxconn 100
  nbthread 1
defaults
  mode tcp
  timeout connect 2s
  timeout client 1m
  timeout server 1m
listen bench
  bind 0.0.0.0:{port}
  server one {backend}:{server_port}
"""


def _start(world: World, label: str, program: str, settings: str, cpu: int) -> subprocess.Popen[bytes]:
    read, write = os.pipe()
    os.write(write, settings.encode())
    os.close(write)
    command = [program, "-db", "-q", "-f", f"/dev/fd/{read}"]
    try:
        # A process started by a thread begins in that thread's network namespace.
        process = netns.run_in(
            world.space(label),
            lambda: subprocess.Popen(
                command, pass_fds=[read], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ),
        )
    finally:
        os.close(read)
    os.sched_setaffinity(process.pid, {cpu})
    group = world.group() / "proxies"
    group.mkdir(parents=True, exist_ok=True)
    Path(group, "cgroup.procs").write_text(str(process.pid))
    return process


def _wait(world: World, label: str, process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with netns.socket_in(world.space(label), socket.AF_INET, socket.SOCK_STREAM) as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    process.kill()
    raise MeshnetError(f"HAProxy does not listen on port {port} in {world.space(label)}")

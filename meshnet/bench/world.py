"""The namespaces of a benchmark: made from `ip` and `nft` as a person would, named `mn-<world>-...`, and removed at the
end. A world that a killed benchmark left behind is removed by the next one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from meshnet import names
from meshnet.datapath.ebpf.datapath import remove_pins
from meshnet.errors import MeshnetError
from meshnet.kernel import netns, nft, sysctl
from meshnet.kernel.bpf import cgroup2_root

_PREFIX = "bench"
_PATIENCE = 2.0  # seconds, for a killed process to be gone
_PACKAGES = {"ip": "iproute2", "bridge": "iproute2", "ipvsadm": "ipvsadm"}
_NAME = re.compile(rf"mn-{_PREFIX}(\d+)(-|$)")
# Settings that keep what one slice did out of the next: no window that shrinks while another path is measured, no
# pacing and no probes by timers that run on somebody else's clock. And no bridge asks the firewall for each packet, as
# br_netfilter has it by default. And no closed connection waits: each would keep its port for a minute, and after some
# ten thousand connections the kernel's search for one that is free takes longer than all the rest.
_QUIET = {
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/ipv4/tcp_congestion_control": "reno",
    "net/ipv4/tcp_early_retrans": "0",
    "net/ipv4/tcp_slow_start_after_idle": "0",
    "net/ipv4/tcp_no_metrics_save": "1",
    "net/ipv4/ip_local_port_range": "10000\t64999",
    "net/ipv4/tcp_max_tw_buckets": "0",
}


class World:
    """Named namespaces on one underlay. `name` is the lab's name as far as the data path is concerned."""

    def __init__(self) -> None:
        self.name = f"{_PREFIX}{os.getpid()}"

    def space(self, label: str) -> str:
        """The name of a namespace of this world."""
        return f"mn-{self.name}-{label}"

    def path(self, label: str) -> str:
        """Where it is mounted."""
        return netns.path(self.space(label))

    def group(self) -> Path:
        """The cgroup2 group above everything of this world."""
        return cgroup2_root() / "meshnet" / self.name

    def make(self, labels: Iterable[str]) -> None:
        """Makes namespaces with `lo` up. Raises MeshnetError without root."""
        if os.geteuid() != 0:
            raise MeshnetError("a benchmark makes network namespaces: run it as root")
        labels = list(labels)
        netns.create_all(self.space(label) for label in labels)
        for label in labels:
            sysctl.ensure(_QUIET, self.space(label), missing_ok=True)

    def ip(self, label: str, *commands: str) -> None:
        """Runs `ip` commands in a namespace, in one go. {label} in a command is the name of that namespace.

        MeshnetError with what `ip` said.
        """
        self._batch("ip", label, commands)

    def bridge(self, label: str, *commands: str) -> None:
        """The same for `bridge` commands."""
        self._batch("bridge", label, commands)

    def _batch(self, program: str, label: str, commands: Iterable[str]) -> None:
        text = "\n".join(re.sub(r"\{(\w+)\}", lambda found: self.space(found[1]), line) for line in commands)
        self.run(label, [program, "-batch", "-"], text + "\n")

    def run(self, label: str, command: Sequence[str], text: str) -> None:
        """Runs a program in a namespace with this text to read. MeshnetError with the first thing it complained of."""

        def work() -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

        try:
            done = netns.run_in(self.space(label), work)
        except FileNotFoundError:
            raise MeshnetError(
                f"the {command[0]} program is missing: apt-get install {_PACKAGES[command[0]]}"
            ) from None
        if done.returncode:
            reason = (done.stderr.strip() or "no reason given").splitlines()[0]
            raise MeshnetError(f"{command[0]} refused a command in {self.space(label)}: {reason}")

    def nft(self, label: str, ruleset: str) -> None:
        """Applies nft rules in a namespace."""
        nft.apply(ruleset, self.space(label))

    def sysctl(self, label: str, **values: str) -> None:
        """Sets kernel settings of a namespace; `__` in a name stands for `/`."""
        wanted = {key.replace("__", "/"): value for key, value in values.items()}
        sysctl.ensure(wanted, self.space(label), missing_ok=True)

    def close(self) -> None:
        """Removes the namespaces and everything of this name."""
        _remove(self.name)


@contextlib.contextmanager
def world() -> Iterator[World]:
    """A world that is gone at the end, also after Ctrl-C; what dead ones left is removed first."""
    sweep()
    made = World()
    try:
        yield made
    finally:
        made.close()


def sweep() -> list[str]:
    """Removes the worlds whose process has ended; returns their names."""
    groups = [f"mn-{each.name}" for each in (cgroup2_root() / "meshnet").glob(f"{_PREFIX}*")]
    matches = [match for name in (*netns.names(f"mn-{_PREFIX}"), *groups) if (match := _NAME.match(name))]
    found = {f"{_PREFIX}{match[1]}": match[1] for match in matches}
    dead = sorted(name for name, pid in found.items() if not Path(f"/proc/{pid}").exists())
    for name in dead:
        _remove(name)
    return dead


def _remove(name: str) -> None:
    group = cgroup2_root() / "meshnet" / name
    inside = [each.name for each in group.iterdir() if each.is_dir()] if group.is_dir() else []
    if inside:
        (group / "cgroup.kill").write_text("1")  # the prober and proxies of a benchmark that was killed
    for space in netns.names(f"mn-{name}"):
        if space == f"mn-{name}" or space.startswith(f"mn-{name}-"):
            netns.delete(space)
    pins = Path(names.BPFFS) / "meshnet" / name
    for each in pins.iterdir() if pins.is_dir() else ():
        remove_pins(name, each.name)
    for folder in (*(group / each for each in inside), group, group.parent):
        _remove_group(folder)


def _remove_group(folder: Path) -> None:
    """Removes a group that is empty, or will be: its last process may still be on its way out."""
    deadline = time.monotonic() + _PATIENCE
    while folder.is_dir() and time.monotonic() < deadline:
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or any(each.is_dir() for each in folder.iterdir()):
                return  # another lab's
            time.sleep(0.002)

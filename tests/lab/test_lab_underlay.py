"""What a lab makes on this machine before any agent runs, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshnet import names
from meshnet.errors import ConflictError, MeshnetError
from meshnet.kernel import netns, sysctl
from meshnet.kernel.netlink import Netlink
from meshnet.lab import cgroups, impair, leftovers, state, topology
from meshnet.lab.down import down
from meshnet.lab.enter import run_on_host
from meshnet.lab.spec import Lab, LabClient, LabLink, LabNode
from meshnet.testing.waiting import wait_until

pytestmark = pytest.mark.root
Make = Callable[[Lab], Lab]


def lab_named(name: str, **more: object) -> Lab:
    nodes = (LabNode("docker-0", "172.17.0.2", "manager"), LabNode("a-rather-long-name", "172.17.0.3"))
    clients = (LabClient("client", "172.17.0.10"),)
    return Lab(name, "/", "172.17.0.0/16", 1400, nodes, clients, **more)  # type: ignore[arg-type]


@pytest.fixture
def make() -> Iterator[Make]:
    """Wires labs; takes all of them down and asserts that nothing is left."""
    made: list[str] = []

    def wire(lab: Lab) -> Lab:
        made.append(lab.name)
        state.claim(lab)
        topology.create(lab)
        return lab

    yield wire
    for name in made:
        down(name)
    for name in made:
        assert leftovers.find(name) == []


def test_the_underlay_speaks_no_ipv6(make: Make) -> None:
    """No device of the underlay gets an IPv6 address, so no host hears multicast that it would have to drop."""
    lab = make(lab_named(f"v{os.getpid()}"))

    def addresses(space: str) -> list[str]:
        with Netlink(space) as inside:
            wait_until(lambda: all(link.up for link in inside.links()))
            return [one.address for one in inside.addresses(socket.AF_INET6)]

    assert {address for space in topology.namespaces(lab) for address in addresses(space)} <= {"::1"}


def test_the_underlay_is_no_firewalls_business(make: Make) -> None:
    """Frames that cross the lab's bridge are not shown to netfilter, where the kernel would do so by default."""
    lab = make(lab_named(f"u{os.getpid()}"))
    key = "net/bridge/bridge-nf-call-iptables"
    try:
        shown = sysctl.get(key, names.underlay_netns(lab.name))
    except FileNotFoundError:
        pytest.skip("this kernel has no bridge netfilter (CONFIG_BRIDGE_NETFILTER): nothing to turn off")
    assert shown == "0"


def test_hosts_reach_one_another(make: Make) -> None:
    """Nodes and clients are on one underlay with their addresses, the lab's MTU and the lab's marks."""
    lab = make(lab_named(f"u{os.getpid()}"))
    done = run_on_host(lab, "client", ["ping", "-c", "1", "-W", "10", "172.17.0.3"])
    assert done.returncode == 0, done
    with Netlink(names.node_netns(lab.name, "docker-0")) as link:
        eth0 = link.link("eth0")
    assert eth0 is not None
    assert (eth0.mtu, eth0.mac) == (1400, "02:42:ac:11:00:02")
    assert eth0.alias == f"meshnet:{lab.name}:docker-0:underlay:eth0"
    with Netlink(names.underlay_netns(lab.name)) as underlay:
        marks = {one.alias for one in underlay.links() if one.name != "lo"}
    assert all(mark.startswith(f"meshnet:{lab.name}:") for mark in marks), marks


def test_two_labs_with_the_same_nodes(make: Make) -> None:
    """Two labs with the same node names and subnet live side by side, and each reaches only its own."""
    one, other = make(lab_named(f"a{os.getpid()}")), make(lab_named(f"b{os.getpid()}"))
    topology.plug(one, "docker-0", False)
    ping = ["ping", "-c", "1", "172.17.0.2", "-W"]
    assert run_on_host(one, "client", [*ping, "1"]).returncode != 0
    assert run_on_host(other, "client", [*ping, "10"]).returncode == 0
    assert (topology.is_plugged(one, "docker-0"), topology.is_plugged(other, "docker-0")) == (False, True)
    down(one.name)
    assert run_on_host(other, "client", [*ping, "10"]).returncode == 0


def test_a_lab_is_claimed_once(make: Make) -> None:
    """A second claim of a lab is refused with what to do, and changes nothing."""
    lab = make(lab_named(f"c{os.getpid()}"))
    with pytest.raises(ConflictError, match=f"is up already; take it down with: meshnet lab down {lab.name}"):
        state.claim(lab)
    assert state.load(lab.name) == lab


def test_down_ends_what_runs_in_a_lab(make: Make) -> None:
    """Processes on a node end with the lab, also those that ignore signals and those that forked away."""
    lab = make(lab_named(f"d{os.getpid()}"))
    marker = f"sleep 98766.{os.getpid()}"
    run_on_host(lab, "docker-0", ["sh", "-c", f"trap '' TERM HUP; setsid {marker} >/dev/null 2>&1 </dev/null & exit 0"])
    assert cgroups.populated(cgroups.path(lab.name, "docker-0"))
    down(lab.name)
    found = subprocess.run(["pgrep", "-fx", marker], capture_output=True, text=True, check=False)
    assert found.stdout == ""


@pytest.mark.parametrize("damage", ["nothing", "file", "directory"])
def test_down_after_damage(make: Make, damage: str) -> None:
    """down removes everything also when the lab's file is damaged or its directory is gone."""
    lab = make(lab_named(f"e{os.getpid()}"))
    path = Path(names.lab_dir(lab.name))
    if damage == "file":
        (path / state.FILE).write_text("{")
    if damage == "directory":
        subprocess.run(["rm", "-rf", str(path)], check=True)
    down(lab.name)
    down(lab.name)
    assert netns.names(f"mn-{lab.name}") == []


def test_a_neighbour_with_a_longer_name_is_left_alone(make: Make) -> None:
    """Taking down lab `x` leaves lab `x-y` alone, although its namespaces begin with the same letters."""
    short, longer = lab_named(f"f{os.getpid()}"), lab_named(f"f{os.getpid()}-docker-1")
    make(short)
    make(longer)
    Path(names.lab_dir(short.name), state.FILE).write_text("damaged")
    down(short.name)
    assert all(netns.exists(namespace) for namespace in topology.namespaces(longer))
    assert run_on_host(longer, "client", ["ping", "-c", "1", "-W", "10", "172.17.0.2"]).returncode == 0


def test_rate_is_bounded(make: Make) -> None:
    """A link's rate becomes a token bucket at its ends."""
    lab = lab_named(f"g{os.getpid()}", links=(LabLink("client", rate=10_000_000),))
    impair.check(lab)
    make(lab)
    impair.apply(lab)
    shown = run_on_host(lab, "client", ["tc", "qdisc", "show", "dev", "eth0"]).stdout
    assert "tbf" in shown
    assert "10Mbit" in shown


def test_delay_needs_netem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delay on a kernel without netem is refused with the reason and what to do, before anything is made."""
    slow = lab_named("x", links=(LabLink("client", delay=10**7),))
    monkeypatch.setattr(impair, "_NETEM_PROBE", ("nosuchqdisc",))
    with pytest.raises(MeshnetError, match=r"need the kernel's netem \(CONFIG_NET_SCH_NETEM\), which is not here"):
        impair.check(slow)


def test_exec_becomes_the_command(make: Make) -> None:
    """`meshnet lab exec` passes input and output through and ends as the command ends, also by a signal."""
    lab = make(lab_named(f"h{os.getpid()}"))
    base = [sys.executable, "-m", "meshnet.cli", "lab", "exec", "--lab", lab.name, "docker-0"]
    script = "read x; echo got $x; ip -4 -o addr show eth0; echo oops >&2; exit 7"
    done = subprocess.run(
        [*base, "--", "sh", "-c", script], input="hello\n", capture_output=True, text=True, check=False
    )
    assert done.returncode == 7
    assert done.stdout.startswith("got hello\n")
    assert "172.17.0.2/16" in done.stdout
    assert done.stderr == "oops\n"
    with subprocess.Popen([*base, "sleep", "100"]) as process:
        group = cgroups.path(lab.name, "docker-0", "exec")
        wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
        assert process.pid in cgroups.processes(group)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM

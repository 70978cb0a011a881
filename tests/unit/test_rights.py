"""What a container may beyond or below the usual, and what it may use at most."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshnet.errors import MeshnetError
from meshnet.sandbox import limits, rights
from meshnet.sandbox.spec import Limits, Ulimit


def test_capabilities_are_added_and_dropped() -> None:
    """Any spelling names one; ALL drops every one, and what is added by name is there all the same."""
    assert rights.capabilities((), ()) == rights.USUAL
    assert set(rights.capabilities(("net_admin", "CAP_SYS_NICE"), ("MKNOD",))) == {
        *rights.USUAL,
        "CAP_NET_ADMIN",
        "CAP_SYS_NICE",
    } - {"CAP_MKNOD"}
    assert rights.capabilities(("chown",), ("ALL",)) == ("CAP_CHOWN",)


@pytest.mark.parametrize("name", ["ALL", "SYS_ADMIN", "cap_bpf", "DAC_READ_SEARCH", "SYS_MODULE"])
def test_capabilities_that_reach_the_machine_are_refused(name: str) -> None:
    """They are named, with those that can be had; dropping them is fine."""
    with pytest.raises(MeshnetError, match=r"is not given.*NET_ADMIN") as refusal:
        rights.capabilities((name,), ())
    assert refusal.value.status == 501
    rights.capabilities((), (name,))


def test_unknown_capabilities_are_refused() -> None:
    """As Docker says it, when they are dropped too."""
    for add, drop in ((("FLY",), ()), ((), ("FLY",))):
        with pytest.raises(MeshnetError, match=r'^unknown capability: "CAP_FLY"$'):
            rights.capabilities(add, drop)


@pytest.mark.parametrize(
    "limit", [Ulimit("files", 1, 1), Ulimit("nofile", 2, 1), Ulimit("core", -1, 5), Ulimit("core", -2, 5)]
)
def test_impossible_ulimits_are_refused(limit: Ulimit) -> None:
    """An unknown name, and a soft limit above the hard one."""
    with pytest.raises(MeshnetError, match="ulimit"):
        rights.check_ulimits((limit,))


def test_ulimits_without_a_bound() -> None:
    """-1 is the kernel's RLIM_INFINITY."""
    rights.check_ulimits((Ulimit("core", -1, -1), Ulimit("nofile", 5, -1)))
    assert rights.rlimits((Ulimit("core", 0, -1),)) == [{"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1}]


@pytest.mark.parametrize("name", ["vm.swappiness", "kernel.panic", "fs.file-max", "kernel/core_pattern", "network.x"])
def test_the_machines_sysctls_are_refused(name: str) -> None:
    """Only what the kernel keeps per namespace can be set, and nothing of the node's own network."""
    with pytest.raises(MeshnetError, match="is not in a separate kernel namespace"):
        rights.check_sysctls({name: "1"})
    own = {"net.ipv4.ip_forward": "1"}
    rights.check_sysctls({**own, "kernel.shmmax": "9", "fs.mqueue.msg_max": "9"})
    with pytest.raises(MeshnetError, match="host network namespace"):
        rights.check_sysctls(own, own_network=False)


def _tree(root: Path, there: str, passed: str) -> Path:
    """A cgroup tree as files, with three groups of meshnet's below its root."""
    group = root / "meshnet" / "lab" / "node" / "task"
    group.parent.mkdir(parents=True)
    (root / "cgroup.controllers").write_text(there)
    (root / "cgroup.subtree_control").write_text(passed)
    return group


def test_limits_are_set_where_the_machine_passes_them_on(tmp_path: Path) -> None:
    """The groups above pass the controllers on, and the kernel's files say what is allowed."""
    group = _tree(tmp_path, "cpu memory pids", "cpu memory pids")
    limits.apply(Limits(64 << 20, 1_500_000_000, 9), group, tmp_path)
    found = {path.name: path.read_text() for path in group.iterdir()}
    assert found == {"memory.max": str(64 << 20), "cpu.max": "150000 100000", "pids.max": "9"}
    assert (group.parent / "cgroup.subtree_control").exists()
    assert (tmp_path / "cgroup.subtree_control").read_text() == "cpu memory pids"
    assert limits.missing(tmp_path) == {}


def test_limits_that_cannot_be_set_are_said(tmp_path: Path) -> None:
    """What no controller serves, and what the root does not pass on, is named with its fix; the rest is applied."""
    group = _tree(tmp_path, "cpu pids", "pids")
    wanted = Limits(64 << 20, 10**9, 9)
    memory, cpu = limits.warnings(wanted, tmp_path)
    assert memory.startswith("no memory limit is applied: cgroup2 has no memory controller here")
    assert cpu.endswith(f"echo +cpu > {tmp_path}/cgroup.subtree_control")
    assert limits.warnings(Limits(pids=5), tmp_path) == []
    limits.apply(wanted, group, tmp_path)
    assert {path.name for path in group.iterdir()} == {"pids.max"}

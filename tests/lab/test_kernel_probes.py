"""nftables, sysctls and the probes of what the kernel can do."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from meshnet.errors import MeshnetError
from meshnet.kernel import capabilities, nft, sysctl
from meshnet.kernel.netlink import Netlink

pytestmark = pytest.mark.root
Make = Callable[..., str]

TABLE = """table ip meshnet {
  chain forward {
    type filter hook forward priority filter; policy accept;
    oifname "mnt*" drop
  }
}"""


def test_a_ruleset_is_all_or_nothing(namespaces: Make) -> None:
    """A table is applied whole, replaced without remains, listed and deleted; a bad one changes nothing."""
    name = namespaces()
    assert nft.listing(netns=name) == ""
    nft.replace(TABLE, name)
    assert 'oifname "mnt*" drop' in nft.listing(netns=name)
    nft.replace(TABLE.replace("drop", "accept"), name)
    assert nft.listing(netns=name).count("oifname") == 1
    with pytest.raises(MeshnetError, match="nft refused the ruleset"):
        nft.replace(TABLE.replace("drop", "drop\n nonsense here"), name)
    assert 'oifname "mnt*" accept' in nft.listing(netns=name)
    assert nft.delete(netns=name)
    assert not nft.delete(netns=name)
    assert nft.listing(netns=name) == ""


def test_a_changed_table_shows(namespaces: Make) -> None:
    """The fingerprint stays while others change their tables, and moves when a rule of ours goes."""
    name = namespaces()
    assert nft.fingerprint(netns=name) == ""
    nft.replace(TABLE, name)
    before = nft.fingerprint(netns=name)
    assert before
    for other in ("other", "meshnet-other"):
        nft.apply(f"add table ip {other}\nadd chain ip {other} c {{ type filter hook input priority 0; }}", name)
    assert nft.fingerprint(netns=name) == before
    nft.apply("flush chain ip meshnet forward", name)
    assert nft.fingerprint(netns=name) not in ("", before)


def test_sysctls_are_of_the_namespace(namespaces: Make) -> None:
    """A setting is written only where it differs, in its namespace and in no other."""
    one, other = namespaces(), namespaces()
    key = "net/ipv4/ip_local_reserved_ports"
    assert sysctl.ensure({key: "4789,7946"}, one) == {key: ""}
    assert sysctl.ensure({key: "4789,7946"}, one) == {}
    assert sysctl.get(key, one) == "4789,7946"
    assert sysctl.get(key, other) == ""
    with pytest.raises(FileNotFoundError):
        sysctl.get("net/ipv4/nosuch", one)


def test_probes_say_what_to_do_and_leave_nothing() -> None:
    """Each probe that fails names a fix, what this test suite itself uses is found to work, and nothing stays."""

    found = {probe.name: probe for probe in capabilities.probes()}
    with Netlink() as netlink:
        assert [link.name for link in netlink.links() if link.name.startswith("probe")] == []
    assert nft.listing("meshnet-probe") == ""
    for name in ("root", "kernel", "namespaces", "veth", "bridge", "vxlan", "clsact", "nftables", "bpf", "cgroup2"):
        assert found[name].works, found[name]
    for probe in found.values():
        assert probe.works or probe.fix, probe
    assert {"netem", "IPVS", "ESP", "BTF", "BPF JIT", "bpffs", "OCI runtime"} <= set(found)


def test_probes_without_root() -> None:
    """Without root the probes end with the fix instead of an exception."""
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            found = {probe.name: probe for probe in capabilities.probes()}
            os._exit(0 if not found["root"].works and "run as root" in found["root"].fix else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

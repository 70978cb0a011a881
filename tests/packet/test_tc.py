"""Programs on devices by clsact and tcx, in a namespace of the test's own."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshnet.kernel import bpf, bpfbuild, bpfload, netns, tc, tcx
from meshnet.kernel.bpf import Objects
from meshnet.kernel.netlink import Netlink

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang"),
]

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int take(struct __sk_buff *skb) { return skb->len ? 0 : 2; }
SEC("tc") int drop(struct __sk_buff *skb) { return skb->len ? 2 : 0; }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture
def objects(tmp_path: Path) -> Iterator[Objects]:
    source = tmp_path / "tc.c"
    source.write_text(SOURCE)
    bpfbuild.compile_object(shutil.which("clang") or "clang", source, tmp_path / "tc.o")
    directory = Path(f"/sys/fs/bpf/meshnet_test_{os.getpid()}")
    with bpfload.load([tmp_path / "tc.o"], directory) as loaded:
        yield loaded
    bpfload.unload(directory)


def _reaches(within: float = 10) -> bool:
    """Whether a datagram over loopback arrives `within` so many seconds: a busy kernel delivers it later."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(within)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", receiver.getsockname())
        try:
            return receiver.recv(1) == b"x"
        except TimeoutError:
            return False


def _attach_and_detach(objects: Objects, netlink: Netlink) -> None:
    lo = socket.if_nametoindex("lo")
    take, drop = objects.progs["take"], objects.progs["drop"]
    assert tc.attached(lo, tc.EGRESS, netlink) is None
    assert tc.attach(lo, tc.EGRESS, take, netlink)
    assert not tc.attach(lo, tc.EGRESS, take, netlink)
    assert tc.attach(lo, tc.INGRESS, take, netlink)
    assert _reaches()
    assert tc.attach(lo, tc.EGRESS, drop, netlink)
    found = tc.attached(lo, tc.EGRESS, netlink)
    assert found is not None
    assert (found.name, found.program) == ("drop", drop.id)
    assert not _reaches(0.2)
    assert tc.detach(lo, tc.EGRESS, netlink)
    assert not tc.detach(lo, tc.EGRESS, netlink)
    assert tc.attached(lo, tc.INGRESS, netlink) is not None
    assert _reaches()
    assert tc.detach(lo, tc.INGRESS, netlink)
    with pytest.raises(OSError, match="No such device"):
        tc.attach(4711, tc.INGRESS, take, netlink)


def test_attach_replace_detach(objects: Objects, namespaces: Callable[..., str]) -> None:
    """A program is attached once, replaced in place, seen by id, and taken away with its qdisc."""

    def inside() -> None:
        with Netlink() as netlink:
            _attach_and_detach(objects, netlink)

    netns.run_in(namespaces(), inside)


@pytest.mark.parametrize("has_tcx", [True, False], ids=["tcx", "clsact"])
def test_ingress(
    objects: Objects, namespaces: Callable[..., str], monkeypatch: pytest.MonkeyPatch, has_tcx: bool
) -> None:
    """A program at ingress is attached once, replaced in place by one of its name, and taken away, also where the
    kernel has no tcx."""
    if has_tcx and not tcx.works():
        pytest.skip("this kernel has no tcx: needs 6.6")
    monkeypatch.setattr(tcx, "works", lambda: has_tcx)

    def inside() -> None:
        lo = socket.if_nametoindex("lo")
        drop = objects.progs["drop"]
        with Netlink() as netlink:
            assert tcx.attach(lo, drop, netlink)
            assert not tcx.attach(lo, drop, netlink)
            assert not _reaches(0.2)
            assert (tc.attached(lo, tc.INGRESS, netlink) is None) == has_tcx
            assert tcx.detach(lo, "drop", netlink)
            assert not tcx.detach(lo, "drop", netlink)
            assert _reaches()
            with pytest.raises(OSError, match="No such device"):
                tcx.attach(4711, drop, netlink)

    netns.run_in(namespaces(), inside)


def test_ingress_takes_over(objects: Objects, namespaces: Callable[..., str]) -> None:
    """What clsact held is taken over: a program that an older meshnet attached does not run a second time."""
    if not tcx.works():
        pytest.skip("this kernel has no tcx: needs 6.6")

    def inside() -> None:
        lo = socket.if_nametoindex("lo")
        with Netlink() as netlink:
            assert tc.attach(lo, tc.INGRESS, objects.progs["drop"], netlink)
            assert tcx.attach(lo, objects.progs["take"], netlink)
            assert tc.attached(lo, tc.INGRESS, netlink) is None
            assert bpf.tcx_programs(lo) == [objects.progs["take"].id]
            assert _reaches()

    netns.run_in(namespaces(), inside)

"""Programs on devices by clsact, in a namespace of the test's own."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshnet.kernel import bpfbuild, bpfload, netns, tc
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


def _reaches() -> bool:
    """Whether a datagram over loopback arrives."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(0.2)
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
    assert not _reaches()
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

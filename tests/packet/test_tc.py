"""Programs on devices by clsact, and TCP connections ended by the kernel, in namespaces of the test's own."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshnet.kernel import bpfbuild, bpfload, netns, sockdiag, tc
from meshnet.kernel.bpf import Objects, ensure_bpffs

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root"),
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
    ensure_bpffs()
    directory = Path(f"/sys/fs/bpf/meshnet_test_{os.getpid()}")
    with bpfload.load([tmp_path / "tc.o"], directory) as loaded:
        yield loaded
    bpfload.unload(directory)


@pytest.fixture
def space(namespaces: Callable[..., str]) -> str:
    return namespaces()


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


def test_attach_replace_detach(objects: Objects, space: str) -> None:
    """A program is attached once, replaced in place, seen by id, and taken away with its qdisc."""

    def inside() -> None:
        lo = socket.if_nametoindex("lo")
        take, drop = objects.progs["take"], objects.progs["drop"]
        assert tc.attached(lo, tc.EGRESS) is None
        assert tc.attach(lo, tc.EGRESS, take)
        assert not tc.attach(lo, tc.EGRESS, take)
        assert tc.attach(lo, tc.INGRESS, take)
        assert _reaches()
        assert tc.attach(lo, tc.EGRESS, drop)
        assert tc.attached(lo, tc.EGRESS) == tc.Attached("drop", drop.id)
        assert not _reaches()
        assert tc.detach(lo, tc.EGRESS)
        assert not tc.detach(lo, tc.EGRESS)
        assert tc.attached(lo, tc.INGRESS) == tc.Attached("take", take.id)
        assert _reaches()
        assert tc.detach(lo, tc.INGRESS)
        with pytest.raises(OSError, match="No such device"):
            tc.attach(4711, tc.INGRESS, take)

    netns.run_in(space, inside)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_connections_to_a_gone_address_end(space: str, family: socket.AddressFamily) -> None:
    """A reader blocked on a connection to the address gets ECONNABORTED; connections elsewhere stay."""

    def inside() -> None:
        prefix = "" if family == socket.AF_INET else "::ffff:"
        with socket.create_server(("127.0.0.2", 0)) as gone, socket.create_server(("127.0.0.3", 0)) as stays:
            idle, other = socket.socket(family), socket.socket(family)
            with idle, other:
                idle.settimeout(5)
                other.settimeout(5)
                idle.connect((prefix + "127.0.0.2", gone.getsockname()[1]))
                other.connect((prefix + "127.0.0.3", stays.getsockname()[1]))
                peer = stays.accept()[0]
                assert sockdiag.destroy_connections(["127.0.0.2"]) == 1
                with pytest.raises(ConnectionAbortedError):
                    idle.recv(1)
                with peer:
                    peer.send(b"y")
                    assert other.recv(1) == b"y"
        assert sockdiag.destroy_connections([]) == 0

    netns.run_in(space, inside)

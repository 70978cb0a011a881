"""Bringing a lab up: first everything that could be wrong is looked at, then it is made; a failure undoes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

from meshnet import names
from meshnet.errors import ConflictError, MeshnetError
from meshnet.kernel import netns
from meshnet.lab import impair, state, topology
from meshnet.lab.down import down
from meshnet.lab.spec import Lab

# A tool that a node needs, and the Debian package that brings it.
TOOLS = {"nft": "nftables", "bpftool": "bpftool", "conmon": "conmon", "crun": "crun", "tc": "iproute2"}
_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"

Report = Callable[[str], None]


def check(lab: Lab) -> None:
    """Raises MeshnetError for whatever keeps the lab from starting here. Changes nothing."""
    if os.geteuid() != 0:
        raise MeshnetError("a lab needs root (namespaces, eBPF); run it with sudo")
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool, path=_PATH) is None})
    if missing:
        raise MeshnetError(f"missing tools; run: apt-get install {' '.join(missing)}")
    if os.path.isdir(names.lab_dir(lab.name)):
        raise ConflictError(f"the lab {lab.name} is up already; take it down with: meshnet lab down {lab.name}")
    for namespace in topology.namespaces(lab):
        if netns.exists(namespace):
            raise ConflictError(
                f"the network namespace {namespace} exists already, and is no part of this lab; "
                "give the lab another name, or remove it with: ip netns del " + namespace
            )
    impair.check(lab)


def up(lab: Lab, report: Report = lambda _: None) -> None:
    """Makes the lab and returns when it works; `report` hears what is being done.

    Raises MeshnetError; then nothing of the lab is left.
    """
    check(lab)
    state.claim(lab)
    try:
        report(f"wiring {len(lab.nodes)} nodes and {len(lab.clients)} clients to {lab.subnet}")
        topology.create(lab)
        impair.apply(lab)
    except BaseException:
        down(lab.name)
        raise

"""Where the programs sit: `endpoint` behind every task, `uplink` on the underlay, `overlay` on the fallback device,
`lo_steer` on every task's loopback, the socket programs on the node's cgroup.

Attaching is idempotent and replaces without a gap, so that an agent which starts with newer programs swaps them
under running traffic.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path

from meshnet import names
from meshnet.datapath.base import NodeContext
from meshnet.datapath.ebpf.tables import Facts
from meshnet.datapath.rows import Plan
from meshnet.errors import MeshnetError
from meshnet.kernel import bpf, netns, tc, tcx
from meshnet.kernel.bpf import Objects, Program
from meshnet.kernel.netlink import Netlink

_GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.ENOENT})
_LOOPBACK = 1  # the first device of every namespace


class Attachments:
    """What this process attached in sandboxes, so that they are entered once each and not at every change."""

    def __init__(self, context: NodeContext, space: str | None = None) -> None:
        self._context = context
        self._space = space  # the node's namespace, by default the caller's
        self._steered: dict[str, tuple[int, int, int]] = {}  # path -> (inode, program id, zone)
        self._attached: set[tuple[int, str]] = set()  # index of a device, and program

    def attach(
        self,
        plan: Plan,
        facts: Facts,
        objects: Objects,
        netlink: Netlink,
        zones: Mapping[str, int],
        look: bool = True,
    ) -> int:
        """Puts every program where the plan wants it; how many places changed. A device that went away is skipped.

        `zones`: the number of what a sandbox can look up, by path, where its lo answers itself. Without `look`, what
        this process attached is believed to be there.
        """
        ports = [facts.ports.get(row.port, 0) for row in plan.endpoints] + [facts.node_port]
        places = [(index, "endpoint") for index in ports] + [(facts.underlay, "uplink"), (facts.vxlan, "overlay")]

        unknown = places if look else [place for place in places if place not in self._attached]

        def devices() -> int:
            return sum(_attach(index, objects.progs[name], netlink) for index, name in unknown if index)

        changed = netns.run_maybe_in(self._space, devices) if unknown else 0
        self._attached = set(places)
        changed += self._steer({row.netns: zones.get(row.netns, 0) for row in plan.endpoints}, objects, look)
        return changed + (self._hook(objects) if look else 0)

    def _steer(self, sandboxes: Mapping[str, int], objects: Objects, look: bool) -> int:
        """DNS: the program on egress of each sandbox's lo, with the number of its zone."""
        program = objects.progs["lo_steer"]
        changed = 0
        steered: dict[str, tuple[int, int, int]] = {}
        for path, zone in sandboxes.items():
            known = self._steered.get(path)
            if not look and known is not None and known[1:] == (program.id, zone):
                steered[path] = known
                continue
            try:
                here = (os.stat(path).st_ino, program.id, zone)
                if self._steered.get(path) != here:
                    with Netlink(path) as inside:
                        changed += tc.attach(_LOOPBACK, tc.EGRESS, program, inside, zone)
            except OSError as error:
                if error.errno not in _GONE | {errno.EINVAL}:  # EINVAL: a plain file, its namespace is gone
                    raise
                continue
            steered[path] = here
        self._steered = steered
        return changed

    def _hook(self, objects: Objects) -> int:
        """The socket programs. Without cgroup2 there are none: VIPs are then translated per packet."""
        group = self.cgroup()
        if group is None:
            return 0
        group.mkdir(parents=True, exist_ok=True)
        return sum(bpf.attach_cgroup(group, hook, objects.progs[f"meshnet_{hook}"]) for hook in bpf.CGROUP_HOOKS)

    def cgroup(self) -> Path | None:
        """The node's group in the file system, None without cgroup2."""
        try:
            return bpf.cgroup2_root() / names.cgroup(self._context.lab, self._context.node)
        except MeshnetError:
            return None

    def detach(self, netlink: Netlink) -> None:
        """Takes the programs off what outlives the data path: the underlay device and the cgroup."""
        link = netlink.link(self._context.underlay)
        if link is not None:
            index = link.index
            netns.run_maybe_in(self._space, lambda: tcx.detach(index, "uplink", netlink))
        group = self.cgroup()
        if group is not None:
            for hook in bpf.CGROUP_HOOKS:
                bpf.detach_cgroup(group, hook, f"meshnet_{hook}")
        with contextlib.suppress(OSError):  # in use by processes, or never made
            if group is not None:
                group.rmdir()


def _attach(index: int, program: Program, netlink: Netlink) -> bool:
    try:
        return tcx.attach(index, program, netlink)
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise

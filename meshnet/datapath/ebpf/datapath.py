"""The eBPF data path of one node: links, maps and programs brought to what a plan says.

The order of an apply: names that changed are left to the tasks' name servers, links that the plan wants are made
(those it no longer wants stay for now), the maps are written without a gap, names are published, programs are
attached, sockets to removed addresses are told, links nobody wants go. Maps and
programs are pinned and stay when the process ends; the next one adopts them by the same apply.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, TypeVar

from meshnet import names
from meshnet.datapath import links
from meshnet.datapath.base import Capability, NodeContext
from meshnet.datapath.ebpf import layout, moves, observe, reasons, tables, writer
from meshnet.datapath.ebpf import names as zone_names
from meshnet.datapath.ebpf.attach import Attachments
from meshnet.datapath.ebpf.names import Names
from meshnet.datapath.ebpf.tables import Tables
from meshnet.datapath.rows import Changes, Plan
from meshnet.datapath.wiring import Wired, Wiring
from meshnet.errors import MeshnetError
from meshnet.kernel import bpfbuild, bpfload, capabilities, netns, sockdiag
from meshnet.kernel.bpf import Objects
from meshnet.kernel.netlink import Netlink

_LOG = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
_NOTHING = Plan(node="", address="")


class Ebpf:
    """`map_sizes`: entries by map name, where the defaults of bpf/meshnet.h do not do. `space` (a name or path of a
    network namespace) is for tests; by default the node's namespace is the caller's."""

    kind = "ebpf"

    def __init__(
        self, context: NodeContext, map_sizes: Mapping[str, int] | None = None, space: str | None = None
    ) -> None:
        self._context = context
        self._sizes = dict(map_sizes or {})
        self._space = space
        self._lock = asyncio.Lock()
        self._pins = Path(names.pin_dir(context.lab, context.node))
        self._objects: Objects | None = None
        self._wiring: Wiring | None = None
        self._netlink: Netlink | None = None
        self._attachments = Attachments(context, space)
        self._plan = _NOTHING
        self._names = Names()
        self._held: Tables | None = None  # what the maps hold; None: not known
        self._links: tuple[tuple[object, ...], links.Links] | None = None
        self._last_set = 0
        self.failed: Mapping[str, str] = {}

    def capabilities(self) -> list[Capability]:
        """What of this data path works on this machine, with the fix for what does not."""
        return [Capability(probe.name, probe.works, probe.detail, probe.fix) for probe in capabilities.probes()]

    async def prepare(self) -> None:
        """Loads the programs, or finds those that are loaded. MeshnetError if this kernel refuses them."""
        async with self._lock:
            try:
                await _in_thread(self._open)
            except OSError as error:
                raise MeshnetError(f"the kernel of node {self._context.node} refused a change: {error}") from error

    async def apply(self, plan: Plan) -> Changes:
        """Brings the kernel to `plan`; a plan that was applied before is verified in every part.

        MeshnetError: no underlay device, programs or requests that the kernel refuses, or a map that is full; in the
        last case everything else is done all the same. A sandbox that cannot be wired (its task may just have ended)
        is left out and named in `failed`.
        """
        async with self._lock:
            try:
                return await _in_thread(self._apply, plan)
            except OSError as error:
                raise MeshnetError(f"the kernel of node {self._context.node} refused a change: {error}") from error

    async def observe(self) -> Plan:
        """The plan that the kernel holds now; names come from the last plan that this object applied."""
        async with self._lock:
            return await _in_thread(self._observe)

    def statistics(self) -> dict[str, int]:
        """Counters by name: what happened (`arp_answered` ...) and drops as `drop.<reason>`, since the maps were made.

        `names_left_to_user_space` is a level: names that only the tasks' name servers answer. Empty before the first
        apply.
        """
        if self._objects is None:
            return {}
        known = reasons.read(bpfbuild.source_dir())
        found = _counters(self._objects, "events", list(known.events))
        found["names_left_to_user_space"] = self._names.left
        return found | _counters(self._objects, "drops", [f"drop.{name}" for name in list(known.drops)[1:]], first=1)

    def meanings(self) -> dict[str, str]:
        """The texts beside the counters' names in bpf/reasons.h."""
        known = reasons.read(bpfbuild.source_dir())
        left = {"names_left_to_user_space": "names that only the tasks' name servers answer"}
        return {**known.events, **left, **{f"drop.{name}": text for name, text in known.drops.items()}}

    async def close(self) -> None:
        """Lets go of file descriptors. Kernel state stays: packets go on while no agent runs."""
        async with self._lock:
            self._close()

    async def destroy(self) -> None:
        """Removes everything this node's data path put into the kernel."""
        async with self._lock:
            await _in_thread(self._destroy)

    def _open(self) -> tuple[Objects, Wiring, Netlink]:
        if self._objects is None:
            self._objects = bpfload.load(bpfbuild.objects(), self._pins, self._sizes)
        if self._netlink is None:
            self._netlink = Netlink(self._space)
        if self._wiring is None:
            self._wiring = Wiring(self._context, self._space)
        return self._objects, self._wiring, self._netlink

    def _apply(self, plan: Plan) -> Changes:
        objects, wiring, netlink = self._open()
        before = self._plan
        if plan == before:
            self._names.forget()
        withdrawn = self._names.withdraw(plan.zones, objects.maps)
        kept = {row.port for row in plan.endpoints}
        going = tuple(row for row in before.endpoints if row.port not in kept)
        standing = dataclasses.replace(plan, endpoints=(*plan.endpoints, *going)) if going else plan
        wired = wiring.apply(self._links_of(standing), full=plan == before or before is _NOTHING)
        facts = self._facts(wired, plan.address)
        current = _read(objects) if wired.looked or self._held is None else self._held
        self._held = None
        wanted = tables.tables(plan, facts, current, self._last_set)
        report = writer.write(objects.maps, current, wanted)
        self._held = None if report.errors else wanted
        self._last_set = max(self._last_set, *_sets(wanted), 0)
        self._plan = plan
        answered = self._names.publish(objects.maps)
        attached = self._attachments.attach(plan, facts, objects, netlink, self._names.zone_numbers(), wired.looked)
        if wired.looked:
            self._drop_other_layouts()
        self._tell_sockets(before, plan, current, wanted, objects)
        added, removed = Counter(wired.changes.added), Counter(wired.changes.removed)
        if going:
            last = wiring.apply(self._links_of(plan), full=False)
            added, removed = added + Counter(last.changes.added), removed + Counter(last.changes.removed)
            wired = last
        self._complain(wired)
        if report.errors:
            raise MeshnetError("; ".join(report.errors))
        added += Counter(report.added) + Counter(programs=attached, names=answered)
        return Changes(dict(added), dict(removed + Counter(report.removed) + Counter(names=withdrawn)))

    def _links_of(self, plan: Plan) -> links.Links:
        """The links that a plan needs: the same as before where nothing changed that they are made of."""
        basis = (plan.networks, plan.endpoints, plan.published)
        if self._links is None or self._links[0] != basis:
            self._links = basis, links.desired(plan, self._context)
        return self._links[1]

    def _drop_other_layouts(self) -> None:
        """Pins of an older or newer version of meshnet, whose programs have just been replaced everywhere."""
        for other in self._pins.parent.iterdir():
            if other != self._pins:
                bpfload.unload(other)

    def _facts(self, wired: Wired, address: str) -> tables.Facts:
        if not wired.underlay:
            name, node = self._context.underlay, self._context.node
            raise MeshnetError(f"node {node} has no device {name}: name its underlay device")
        return tables.Facts(
            node_cookie=wired.node_cookie,
            underlay=wired.underlay,
            underlay_mac=layout.mac(wired.underlay_mac),
            underlay_prefix=wired.underlay_prefixes.get(address, 0),
            vxlan=wired.fallback,
            node_port=wired.node_port,
            ports=wired.ports,
            cookies=wired.cookies,
            vxlan_port=self._context.vxlan_port,
        )

    def _complain(self, wired: Wired) -> None:
        for line in set(wired.failed.values()) - set(self.failed.values()):
            _LOG.warning("%s", line)
        self.failed = wired.failed

    def _tell_sockets(self, before: Plan, plan: Plan, current: Tables, wanted: Tables, objects: Objects) -> None:
        everything, removed = moves.gone(current["endpoints"], wanted["endpoints"])
        moves.forget(objects.maps, {ip for _, ip in everything})
        for vni in {vni for vni, _ in removed}:
            addresses = [ip for where, ip in removed if where == vni]
            spaces: set[str | None] = {row.netns for row in plan.endpoints if row.vni == vni}
            if vni == plan.ingress_vni:
                spaces.add(self._space)
            for space in spaces:
                with contextlib.suppress(FileNotFoundError):  # the sandbox went meanwhile
                    netns.run_maybe_in(space, functools.partial(sockdiag.destroy_connections, addresses))

    def _observe(self) -> Plan:
        objects, _, netlink = self._open()
        ports = {link.index: link.name for link in netlink.links()}
        found = observe.observed(_read(objects), ports, self._plan)
        lookups = zone_names.observed(objects.maps["names"].items(), objects.maps["zones"].items(), self._plan)
        return dataclasses.replace(found, zones=lookups)

    def _close(self) -> None:
        for opened in (self._objects, self._wiring, self._netlink):
            if opened is not None:
                opened.close()
        self._objects = self._wiring = self._netlink = self._held = None
        self._names = Names()

    def _destroy(self) -> None:
        wiring = self._wiring or Wiring(self._context, self._space)
        netlink = self._netlink or Netlink(self._space)
        self._wiring, self._netlink = wiring, netlink
        wiring.destroy()
        self._attachments.detach(netlink)
        self._close()
        remove_pins(self._context.lab, self._context.node)
        self._plan = _NOTHING


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs `work` in a thread to its end, also if the caller is cancelled: half a change must not meet `close`."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def remove_pins(lab: str, node: str) -> bool:
    """Removes a node's pins of every layout version, and directories that this leaves empty; whether there were any.

    Needs nothing of the node to be alive, so that a lab is taken down after a crash too.
    """
    directory = Path(names.pin_dir(lab, node)).parent
    found = bpfload.unload(directory)
    for parent in (directory.parent, directory.parent.parent):
        with contextlib.suppress(OSError):  # another node's or lab's are in it
            parent.rmdir()
    return found


def _read(objects: Objects) -> Tables:
    return {name: objects.maps[name].items() for name in tables.NAMES}


def _sets(wanted: Tables) -> list[int]:
    return [layout.Service.unpack(value).set for name in ("services", "published") for value in wanted[name].values()]


def _counters(objects: Objects, name: str, titles: list[str], first: int = 0) -> dict[str, int]:
    counters = objects.maps[name]
    return {
        title: sum(struct.unpack("=Q", value)[0] for value in counters.percpu(layout.u32(index)))
        for index, title in enumerate(titles, first)
    }

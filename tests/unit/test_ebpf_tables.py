"""Plans become map contents: pure, repeatable, and switched over without a gap."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from meshnet.datapath.ebpf import layout, observe, reasons, tables, writer
from meshnet.datapath.rows import (
    EndpointRow,
    NetworkRow,
    PeerRow,
    Plan,
    PublishedRow,
    RemoteRow,
    RemovedRow,
    ServiceRow,
)

FACTS = tables.Facts(
    node_cookie=77,
    underlay=2,
    underlay_mac=b"\x02\0\0\0\0\1",
    vxlan=3,
    node_port=9,
    ports={"mnta": 11, "mntb": 12},
    cookies={"/run/netns/a": 1001, "/run/netns/b": 1002},
)
PLAN = Plan(
    node="n1",
    address="172.17.0.2",
    addresses=("172.17.0.2", "192.0.2.1"),
    ingress_vni=4096,
    networks=(
        NetworkRow(4096, "i", "ingress", "10.0.0.0/24", "10.0.0.1", 1450, ingress=True, node_address="10.0.0.2"),
        NetworkRow(4097, "d", "demo", "10.0.1.0/24", "10.0.1.1", 1450),
    ),
    endpoints=(
        EndpointRow(4096, "10.0.0.5", "02:42:0a:00:00:05", "t1", "/run/netns/a", "eth0", "mnta", True),
        EndpointRow(4097, "10.0.1.5", "02:42:0a:00:01:05", "t1", "/run/netns/a", "eth1", "mntb"),
    ),
    remotes=(RemoteRow(4097, "10.0.1.6", "02:42:0a:00:01:06", "172.17.0.3"),),
    peers=(PeerRow("172.17.0.3", "ipvs"), PeerRow("172.17.0.4")),
    services=(ServiceRow("s1", 4097, "10.0.1.2", ("10.0.1.5", "10.0.1.6")),),
    published=(PublishedRow("s1", "tcp", 8000, 80, ("10.0.0.5",)),),
    removed=(RemovedRow(4097, "10.0.1.7", "10.0.1.2"),),
)


MANY = tuple(f"10.0.1.{number}" for number in range(20, 37))  # more than a service has in its own entry


def endpoint(made: tables.Tables, ip: str, vni: int) -> layout.Endpoint:
    return layout.Endpoint.unpack(made["endpoints"][layout.EndpointKey(layout.address(ip), vni).pack()])


def service(made: tables.Tables, vip: str) -> layout.Service:
    return layout.Service.unpack(made["services"][layout.address(vip)])


def with_backends(*backends: str) -> Plan:
    return dataclasses.replace(PLAN, services=(ServiceRow("s1", 4097, "10.0.1.2", backends),))


def test_addresses_and_ports_are_in_network_order() -> None:
    """An IPv4 address is stored IPv4-mapped, a port big-endian, and both come back as they went in."""
    assert layout.address("10.0.1.2") == bytes.fromhex("00000000000000000000ffff0a000102")
    assert layout.text(layout.address("10.0.1.2")) == "10.0.1.2"
    assert layout.text(layout.address("fd00::1")) == "fd00::1"
    assert layout.text(layout.address("")) == ""
    assert layout.be16(8000) == b"\x1f\x40"
    assert layout.from_be16(layout.be16(53)) == 53
    assert layout.subnet_text(layout.subnet("10.0.1.0/24")) == "10.0.1.0/24"
    assert layout.mac_text(layout.mac("02:42:0a:00:00:05")) == "02:42:0a:00:00:05"
    with pytest.raises(ValueError, match="not a MAC"):
        layout.mac("02:42")


def test_every_kind_of_address_is_an_endpoint() -> None:
    """Local, remote, VIP, gateway, the node's own and removed addresses each get their record."""
    made = tables.tables(PLAN, FACTS, {})
    assert endpoint(made, "10.0.1.5", 4097) == layout.Endpoint(
        ifindex=12, kind=layout.LOCAL, mac=b"\x02\x42\x0a\0\x01\x05"
    )
    remote = endpoint(made, "10.0.1.6", 4097)
    assert (remote.kind, layout.text(remote.via), remote.flags) == (
        layout.REMOTE,
        "172.17.0.3",
        layout.ENDPOINT_IPVS,
    )
    assert endpoint(made, "10.0.1.2", 4097).kind == layout.VIP
    assert endpoint(made, "10.0.1.1", 4097).kind == layout.GATEWAY
    own = endpoint(made, "10.0.0.2", 4096)
    assert (own.kind, own.ifindex, own.flags) == (layout.LOCAL, 9, layout.ENDPOINT_NODE_LOCAL)
    removed = endpoint(made, "10.0.1.7", 4097)
    assert (removed.kind, layout.text(removed.via)) == (layout.REMOVED, "10.0.1.2")


def test_interfaces_say_what_may_leave() -> None:
    """The way out and the ingress network are flags of the interface; the node's own interface is marked."""
    made = tables.tables(PLAN, FACTS, {})["interfaces"]
    flags = {layout.from_u32(key): layout.Interface.unpack(value).flags for key, value in made.items()}
    assert flags == {
        11: layout.INTERFACE_OUTSIDE | layout.INTERFACE_INGRESS,
        12: 0,
        9: layout.INTERFACE_INGRESS | layout.INTERFACE_NODE_LOCAL,
    }


def test_internal_network_is_no_way_out() -> None:
    """An interface on an internal network never lets packets out, whatever its row says."""
    networks = tuple(dataclasses.replace(network, internal=True) for network in PLAN.networks)
    made = tables.tables(dataclasses.replace(PLAN, networks=networks), FACTS, {})["interfaces"]
    assert not layout.Interface.unpack(made[layout.u32(11)]).flags & layout.INTERFACE_OUTSIDE


def test_services_lead_to_their_backends_in_turn() -> None:
    """A VIP leads to its backends in the plan's order; a published port has the target port too."""
    made = tables.tables(PLAN, FACTS, {})
    vip = service(made, "10.0.1.2")
    found = tables.backends_of(vip, made["backends"])
    assert found is not None
    assert [layout.text(raw) for raw in found] == ["10.0.1.5", "10.0.1.6"]
    (raw,) = made["published"].values()
    port = layout.Service.unpack(raw)
    assert (port.vni, layout.from_be16(port.target_port), port.count) == (4096, 80, 1)
    assert list(made["published"]) == [b"\x1f\x40\x06\x00"]
    assert port.turn != vip.turn


@pytest.mark.parametrize(("count", "stored"), [(0, 0), (1, 0), (16, 0), (17, 17), (40, 40)])
def test_few_backends_are_in_the_service_itself(count: int, stored: int) -> None:
    """Up to sixteen need no entry but the service's; all of more are in a set of their own."""
    backends = tuple(f"10.0.1.{10 + number}" for number in range(count))
    made = tables.tables(with_backends(*backends), FACTS, {})
    assert len(made["backends"]) == stored
    vip = service(made, "10.0.1.2")
    found = tables.backends_of(vip, made["backends"])
    assert found is not None
    assert tuple(map(layout.text, found)) == backends
    assert (vip.set > 0) == (stored > 0)


def test_same_plan_gives_the_same_contents() -> None:
    """Computed again from what the maps hold, nothing differs: a restart changes nothing."""
    for plan in (PLAN, with_backends(*MANY)):
        first = tables.tables(plan, FACTS, {})
        assert tables.tables(plan, FACTS, first) == first


def test_changed_backends_get_a_new_set() -> None:
    """Other backends are another set, the place in `turns` stays, and a set that is gone is not used again."""
    first = tables.tables(with_backends(*MANY), FACTS, {})
    second = tables.tables(with_backends(*MANY[1:], "10.0.1.6"), FACTS, first)
    before, after = service(first, "10.0.1.2"), service(second, "10.0.1.2")
    assert after.turn == before.turn
    assert after.set not in {layout.BackendKey.unpack(key).set for key in first["backends"]}
    third = tables.tables(with_backends(*MANY), FACTS, second, last_set=40)
    assert service(third, "10.0.1.2").set == 41
    assert service(tables.tables(with_backends(), FACTS, third), "10.0.1.2").count == 0


def test_incomplete_set_is_written_again() -> None:
    """A set that an interrupted apply left incomplete is replaced, not kept."""
    first = tables.tables(with_backends(*MANY), FACTS, {})
    half = {name: dict(table) for name, table in first.items()}
    half["backends"].pop(next(iter(half["backends"])))
    again = tables.tables(with_backends(*MANY), FACTS, half)
    found = tables.backends_of(service(again, "10.0.1.2"), again["backends"])
    assert found is not None
    assert len(found) == len(MANY)


def test_unknown_ports_and_namespaces_are_left_out() -> None:
    """An endpoint whose interface or namespace is not there yet has no record: it comes with the next apply."""
    made = tables.tables(PLAN, dataclasses.replace(FACTS, ports={}, cookies={}, node_port=0), {})
    assert made["interfaces"] == {}
    assert made["attached"] == {}
    assert layout.EndpointKey(layout.address("10.0.1.5"), 4097).pack() not in made["endpoints"]


def test_a_closed_task_says_so_on_each_network() -> None:
    """Every address of a task that is about to be stopped carries the flag; those of others do not."""
    made = tables.tables(dataclasses.replace(PLAN, closed=("t1",)), FACTS, {})
    assert [endpoint(made, *place).flags for place in (("10.0.0.5", 4096), ("10.0.1.5", 4097), ("10.0.1.6", 4097))] == [
        layout.ENDPOINT_CLOSED,
        layout.ENDPOINT_CLOSED,
        layout.ENDPOINT_IPVS,
    ]


def test_what_the_maps_hold_is_the_plan() -> None:
    """Read back, the maps give the plan that was applied; without a known plan only the names are missing."""
    networks = (PLAN.networks[0], dataclasses.replace(PLAN.networks[1], internal=True))
    remotes = tuple(dataclasses.replace(row, leaving=True) for row in PLAN.remotes)
    plan = dataclasses.replace(PLAN, networks=networks, remotes=remotes, direct_return=True, closed=("t1",))
    made = tables.tables(plan, FACTS, {})
    ports = {11: "mnta", 12: "mntb", 9: "mning0"}
    assert observe.observed(made, ports, plan) == plan
    blank = observe.observed(made, ports, Plan("", ""))
    assert [(row.vip, row.backends) for row in blank.services] == [("10.0.1.2", ("10.0.1.5", "10.0.1.6"))]
    assert blank.networks[1] == dataclasses.replace(networks[1], id="", name="")
    assert observe.observed({name: {} for name in tables.NAMES}, {}, Plan("", "")) == Plan("", "")


class FakeMap:
    """A map that remembers in a shared list what was done to it, in order."""

    def __init__(self, name: str, log: list[tuple[str, str]], max_entries: int = 1000) -> None:
        self.name, self.log, self.max_entries = name, log, max_entries
        self.content: dict[bytes, bytes] = {}

    def put(self, entries: Mapping[bytes, bytes]) -> dict[bytes, int]:
        refused = {}
        for key, value in entries.items():
            if key not in self.content and len(self.content) >= self.max_entries:
                refused[key] = errno.E2BIG
                continue
            self.content[key] = value
            self.log.append(("set", self.name))
        return refused

    def discard(self, keys: Iterable[bytes]) -> int:
        wanted = list(keys)
        self.log += [("delete", self.name)] * len(wanted)
        return sum(self.content.pop(key, None) is not None for key in wanted)


class Kernel:
    """Fake maps for every table."""

    def __init__(self, **sizes: int) -> None:
        self.log: list[tuple[str, str]] = []
        self.maps = {name: FakeMap(name, self.log, sizes.get(name, 1000)) for name in (*tables.NAMES, "turns")}

    def current(self) -> tables.Tables:
        return {name: dict(self.maps[name].content) for name in tables.NAMES}

    def apply(self, plan: Plan) -> writer.Report:
        current = self.current()
        self.log.clear()
        return writer.write(self.maps, current, tables.tables(plan, FACTS, current))


def test_backends_change_without_a_gap() -> None:
    """The new set is written, then the service is switched, then the old set goes."""
    kernel = Kernel()
    kernel.apply(with_backends(*MANY))
    report = kernel.apply(with_backends(*MANY[::-1]))
    assert kernel.log == [("set", "backends")] * 17 + [("set", "services")] + [("delete", "backends")] * 17
    assert report.added == {"backends": 17, "services": 1}
    assert report.removed == {"backends": 17}
    kernel.apply(with_backends("10.0.1.6"))
    assert kernel.log == [("set", "services")] + [("delete", "backends")] * 17
    kernel.apply(with_backends("10.0.1.5"))
    assert kernel.log == [("set", "services")]


def test_removal_comes_last() -> None:
    """A backend that goes leaves its service first; then its address becomes a tombstone."""
    kernel = Kernel()
    kernel.apply(PLAN)
    gone = dataclasses.replace(
        with_backends("10.0.1.5"), remotes=(), removed=(RemovedRow(4097, "10.0.1.6", "10.0.1.2"), *PLAN.removed)
    )
    kernel.apply(gone)
    changes = [entry for entry in kernel.log if entry[1] in ("services", "endpoints")]
    assert changes == [("set", "services"), ("set", "endpoints")]


def test_unchanged_plan_touches_nothing() -> None:
    """Applying the same plan again writes nothing."""
    kernel = Kernel()
    assert kernel.apply(PLAN).added["endpoints"] == 8
    report = kernel.apply(PLAN)
    assert (kernel.log, report.added, report.removed) == ([], {}, {})


def test_full_map_is_reported_and_the_rest_is_done() -> None:
    """No insert fails silently: the full map is named with what to do, and other maps are still written."""
    kernel = Kernel(endpoints=3)
    report = kernel.apply(PLAN)
    assert report.errors == [
        "map endpoints is full (3 entries): raise its size under maps: in lab.yml (map_sizes in an agent's settings)"
    ]
    assert kernel.maps["services"].content


def test_service_keeps_its_old_backends_if_the_new_do_not_fit() -> None:
    """A set that cannot be written whole is not switched to; the old one keeps serving."""
    kernel = Kernel(backends=20)
    kernel.apply(with_backends(*MANY))
    before = kernel.current()["services"]
    report = kernel.apply(with_backends(*MANY[::-1]))
    assert kernel.current()["services"] == before
    held = service(kernel.current(), "10.0.1.2")
    assert tables.backends_of(held, kernel.current()["backends"]) is not None
    assert "map backends is full" in report.errors[0]


def test_more_services_than_turns_are_refused() -> None:
    """A service without a place in `turns` is reported, not half entered."""
    kernel = Kernel(turns=1)
    report = kernel.apply(PLAN)
    assert "map turns is full" in report.errors[0]
    assert len(kernel.maps["services"].content) + len(kernel.maps["published"].content) == 1


def test_reasons_are_read_from_the_header() -> None:
    """The drop reasons and events have the header's names, in its order, with a meaning each."""
    found = reasons.read(Path(__file__).parents[2] / "bpf")
    assert list(found.drops)[:2] == ["none", "malformed"]
    assert "arp_answered" in found.events
    assert all(found.drops.values())
    assert all(found.events.values())


def test_neighbours_on_the_underlay() -> None:
    """The programs know who is on the underlay's own link, unless nobody else can be."""
    for prefix, wanted in ((0, 0), (24, 24), (30, 30), (31, 0), (32, 0)):
        made = tables.tables(PLAN, dataclasses.replace(FACTS, underlay_prefix=prefix), {})
        assert layout.Config.unpack(made["config"][layout.u32(0)]).underlay_prefix == wanted

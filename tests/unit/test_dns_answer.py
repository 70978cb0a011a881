"""The answers of 127.0.0.11, read back with dnslib: the same tests for user space, and for the program on lo with user
space behind it."""

import os
import random
import shutil
import sys
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from dnslib import EDNS0, QTYPE, RCODE, DNSHeader, DNSQuestion, DNSRecord

from meshnet.dns.answer import Drop, Forward, Reply, answer, failure, truncated
from meshnet.dns.query import parse_query
from meshnet.dns.zone import EndpointView, NetworkView, ServiceView, Zone, build_zone, listing
from meshnet.testing.dns_run import KernelNames

NO_KERNEL = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("clang") is None,
    reason="needs root and clang (apt-get install clang)",
)
TASK = "abcdefghijklmnopqrstuvwxy"


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelNames]:
    with KernelNames() as found:
        yield found


@pytest.fixture(autouse=True, params=["user space", pytest.param("kernel", marks=[pytest.mark.root, NO_KERNEL])])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who answers: `answer` is what every test here asks."""
    found = str(request.param)
    if found == "kernel":
        monkeypatch.setattr(sys.modules[__name__], "answer", request.getfixturevalue("kernel").answer)
    return found


def endpoint(service: str, slot: int, ip: str, ready: bool = True, **more: object) -> EndpointView:
    task_id = f"{TASK[:-2]}{slot:02}"
    fields: dict[str, object] = {
        "service_id": f"id-{service}",
        "service_name": service,
        "slot": slot,
        "task_id": task_id,
        "task_name": f"{service}.{slot}.{task_id}",
        "container_id": f"{slot:012x}" + "f" * 52,
        "hostname": f"{slot:012x}",
        "ip": ip,
        "ready": ready,
    }
    return EndpointView(**(fields | more))  # type: ignore[arg-type]


def service(name: str, vip: str | None = None, **more: object) -> ServiceView:
    fields: dict[str, object] = {"id": f"id-{name}", "name": name, "vip": vip, "mode": "vip" if vip else "dnsrr"}
    return ServiceView(**(fields | more))  # type: ignore[arg-type]


SHOP = NetworkView(
    "Shop",
    (
        service("Web", "10.0.1.2", aliases=("www", "shared"), ports=(("http", "tcp", 80), ("", "udp", 53))),
        service("api", aliases=("shared",), ports=(("grpc", "tcp", 9000),)),
        service("idle", "10.0.1.9", aliases=("lazy",)),
    ),
    (
        endpoint("Web", 1, "10.0.1.3"),
        endpoint("Web", 2, "10.0.1.4", aliases=("second",)),
        endpoint("Web", 3, "10.0.1.5", ready=False),
        endpoint("api", 11, "10.0.1.6", hostname="Ada"),
        endpoint("api", 12, "10.0.1.7"),
        endpoint("idle", 21, "10.0.1.8", ready=False),
    ),
)
OTHER = NetworkView(
    "other",
    (service("web", "10.0.2.2"), service("only", "10.0.2.9"), service("idle", "10.0.2.20")),
    (
        endpoint("web", 1, "10.0.2.3"),
        endpoint("only", 31, "10.0.2.10"),
        endpoint("idle", 41, "10.0.2.21"),
        endpoint("only", 0, "10.0.2.11", task_name=f"only.node1.{TASK}", container_id="c" * 64, hostname="c" * 12),
    ),
)
ZONE = build_zone((SHOP, OTHER))


def query(name: str, kind: str = "A", udp: int | None = None, **header: int) -> bytes:
    record = DNSRecord(DNSHeader(id=4711, rd=header.get("rd", 1)), q=DNSQuestion(name, getattr(QTYPE, kind)))
    if udp is not None:
        record.add_ar(EDNS0(udp_len=udp, flags="do" if header.get("do") else ""))
    return bytes(record.pack())


def ask(message: bytes, zone: Zone = ZONE, transport: str = "udp", seed: int = 0) -> DNSRecord:
    result = answer(message, zone, transport, random.Random(seed))  # type: ignore[arg-type]
    assert isinstance(result, Reply), result
    return DNSRecord.parse(result.data)


def values(name: str, kind: str = "A", zone: Zone = ZONE) -> list[str]:
    reply = ask(query(name, kind, udp=4096), zone)
    assert reply.header.rcode == RCODE.NOERROR
    return sorted(str(rr.rdata) for rr in reply.rr)


WEB, API = ["10.0.1.3", "10.0.1.4"], ["10.0.1.6", "10.0.1.7"]
NAMES = {
    "web": ["10.0.1.2"],
    "www": ["10.0.1.2"],
    "tasks.web": WEB,
    "tasks.www": WEB,
    "api": API,
    "tasks.api": API,
    "shared": ["10.0.1.2", *API],
    "tasks.shared": [*WEB, *API],
    "web.1": ["10.0.1.3"],
    "web.3": ["10.0.1.5"],
    f"web.1.{TASK[:-2]}01": ["10.0.1.3"],
    f"web.3.{TASK[:-2]}03": ["10.0.1.5"],
    "000000000001": ["10.0.1.3"],
    "ada": ["10.0.1.6"],
    "second": ["10.0.1.4"],
    "only": ["10.0.2.9"],
    f"only.node1.{TASK}": ["10.0.2.11"],
    "cccccccccccc": ["10.0.2.11"],
    "idle": ["10.0.2.20"],
}


@pytest.mark.parametrize("name", NAMES)
def test_every_form_of_name_has_its_addresses(name: str) -> None:
    """A service, its tasks, aliases, slots, full names, container ids and hostnames resolve to what they mean."""
    assert values(name) == NAMES[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_also_there_with_its_network(name: str) -> None:
    """`<name>.<network>` resolves like `<name>` on the network that the bare name comes from."""
    network = "other" if NAMES[name][0].startswith("10.0.2") else "shop"
    assert values(f"{name}.{network}") == NAMES[name]


def test_first_network_wins_and_the_network_disambiguates() -> None:
    """The same service on two networks means the first one's; `<name>.<network>` means exactly that network's."""
    assert values("web") == values("web.shop") == ["10.0.1.2"]
    assert values("web.other") == ["10.0.2.2"]
    assert values("web", zone=build_zone((OTHER, SHOP))) == ["10.0.2.2"]


def test_service_without_ready_tasks_does_not_exist() -> None:
    """A service's names appear with its first ready task; until then they are NXDOMAIN and not told to anybody."""
    zone = build_zone((SHOP,))
    for name in ("idle", "lazy", "tasks.idle", "tasks.lazy", "idle.shop", "tasks.lazy.shop"):
        reply = ask(query(name), zone)
        assert (reply.header.rcode, reply.rr) == (RCODE.NXDOMAIN, []), name
    assert values("idle.21", zone=zone) == ["10.0.1.8"]


def test_ready_task_is_preferred_for_a_slot_with_two() -> None:
    """During an update `<service>.<slot>` means the ready task of the slot, and both while neither is ready."""
    old, new = endpoint("s", 1, "10.9.0.3", ready=False), endpoint("s", 1, "10.9.0.4", task_name="s.1.new")
    assert values("s.1", zone=build_zone((NetworkView("n", (), (old, new)),))) == ["10.9.0.4"]
    starting = endpoint("s", 1, "10.9.0.4", ready=False, task_name="s.1.new")
    assert values("s.1", zone=build_zone((NetworkView("n", (), (old, starting)),))) == ["10.9.0.3", "10.9.0.4"]


def test_service_beats_a_task_of_the_same_name() -> None:
    """A task whose hostname is a service's name does not add itself to the service."""
    network = NetworkView("n", (service("db", "10.9.0.2"),), (endpoint("db", 1, "10.9.0.3", hostname="db"),))
    assert values("db", zone=build_zone((network,))) == ["10.9.0.2"]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.0.1.3", f"Web.1.{TASK[:-2]}01.Shop."),
        ("10.0.1.5", f"Web.3.{TASK[:-2]}03.Shop."),
        ("10.0.2.11", f"only.node1.{TASK}.other."),
        ("10.0.1.2", "Web.Shop."),
        ("10.0.2.2", "web.other."),
    ],
)
def test_pointers(address: str, name: str) -> None:
    """A task's address points to its full name, a VIP to its service, both with their network."""
    assert values(ip_address(address).reverse_pointer, "PTR") == [name]


def test_pointer_of_an_unknown_address_is_forwarded() -> None:
    """Gateways and addresses of no task are asked upstream, and so is the VIP of a service that is not there."""
    for address in ("10.0.1.1", "8.8.8.8", "10.0.1.9"):
        message = query(ip_address(address).reverse_pointer, "PTR")
        assert isinstance(answer(message, ZONE, "udp", random.Random(0)), Forward)


@pytest.mark.parametrize("name", ["_http._tcp.web", "_80._tcp.web", "_HTTP._tcp.tasks.WEB", "_80._tcp.www.shop"])
def test_srv_names_one_target_per_ready_task(name: str) -> None:
    """SRV lists every ready task by a short name that resolves to its address, which comes along; no authority."""
    reply = ask(query(name, "SRV", udp=4096))
    assert sorted((str(rr.rdata.target), rr.rdata.port, rr.rdata.weight) for rr in reply.rr) == [
        ("Web.1.Shop.", 80, 1),
        ("Web.2.Shop.", 80, 1),
    ]
    glue = {str(rr.rname): str(rr.rdata) for rr in reply.ar if rr.rtype == QTYPE.A}
    assert glue == {"Web.1.Shop.": "10.0.1.3", "Web.2.Shop.": "10.0.1.4"}
    assert {target: values(target) for target in glue} == {target: [ip] for target, ip in glue.items()}
    assert reply.auth == []


def test_srv_of_unnamed_and_shared_ports() -> None:
    """A port without a name goes by its number, and a shared alias lists every service that has such a port."""
    assert [rr.rdata.port for rr in ask(query("_53._udp.web", "SRV")).rr] == [53, 53]
    targets = {str(rr.rdata.target) for rr in ask(query("_grpc._tcp.shared", "SRV")).rr}
    assert targets == {"api.11.Shop.", "api.12.Shop."}


def test_srv_of_a_slot_with_two_ready_tasks() -> None:
    """Two ready tasks in one slot, and tasks without slots, get their full names: one target per task."""
    tasks = tuple(
        endpoint("s", slot, f"10.9.0.{n}", task_name=f"s.x.task{n}") for n, slot in ((3, 1), (4, 1), (5, 0), (6, 2))
    )
    zone = build_zone((NetworkView("n", (service("s", ports=(("p", "tcp", 1),)),), tasks),))
    targets = {str(rr.rdata.target) for rr in ask(query("_p._tcp.s", "SRV"), zone).rr}
    assert targets == {"s.x.task3.n.", "s.x.task4.n.", "s.x.task5.n.", "s.2.n."}


@pytest.mark.parametrize(
    ("name", "rcode"),
    [("_ftp._tcp.web", 3), ("_tcp.web", 0), ("_dmarc.www", 0), ("_x._y.idle.shop", 3), ("_80._udp.web", 3)],
)
def test_names_below_known_names_stay_here(name: str, rcode: int) -> None:
    """`_port._protocol` of a known service is answered here even when there is no such port."""
    for kind in ("SRV", "TXT"):
        reply = ask(query(name, kind))
        assert (reply.header.rcode, reply.rr) == (rcode, [])


KINDS = ("AAAA", "MX", "TXT", "SRV", "SOA", "NS", "HTTPS", "CNAME", "PTR", "CAA", "TSIG")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["web", "tasks.api", "web.1", "ADA.shop"])
def test_known_name_without_that_type_is_nodata(name: str, kind: str) -> None:
    """A known name never leaves the node: NOERROR and no records for types that it does not have."""
    reply = ask(query(name, kind))
    assert (reply.header.rcode, reply.rr, reply.auth) == (RCODE.NOERROR, [], [])


def test_any_and_other_classes_and_transfers() -> None:
    """ANY gives what there is, class ANY is taken as IN, CHAOS and zone transfers are refused, nothing leaks."""
    assert values("tasks.api", "ANY") == API
    assert ask(query("web")[:-1] + b"\xff").rr[0].rdata.data == (10, 0, 1, 2)
    for message in (query("web", "AXFR"), query("unknown.example", "IXFR"), query("version.bind", "TXT")[:-1] + b"\3"):
        assert ask(message).header.rcode == RCODE.REFUSED


@pytest.mark.parametrize("name", ["nowhere", "example.com", "foo.web", "tasks", "idle2", ".", "localhost", "shop"])
def test_unknown_names_are_forwarded(name: str) -> None:
    """What the zone does not know goes upstream as it came."""
    message = query(name)
    result = answer(message, ZONE, "udp", random.Random(0))
    assert isinstance(result, Forward)
    assert result.query.message == message


def test_case_is_ignored_and_repeated() -> None:
    """Names match whatever their case, and question and answers carry the client's spelling."""
    reply = ask(query("TaSkS.wEB"))
    assert {str(rr.rname) for rr in reply.rr} == {"TaSkS.wEB."}
    assert str(reply.q.qname) == "TaSkS.wEB."
    assert len(reply.rr) == 2


def test_a_dot_inside_a_label_is_not_a_separator() -> None:
    """The one label `tasks.web` is not the name of two labels."""
    message = query("x")[:12] + b"\x09tasks.web\0" + query("x")[-4:]
    assert isinstance(answer(message, ZONE, "udp", random.Random(0)), Forward)


def test_flags_identifier_and_ttl() -> None:
    """Replies are `qr ra`, copy `rd` and the identifier, are never authoritative, and live five seconds."""
    for rd in (0, 1):
        reply = ask(query("web", rd=rd))
        header = reply.header
        assert (header.id, header.qr, header.rd, header.ra, header.aa, header.tc) == (4711, 1, rd, 1, 0, 0)
        assert [rr.ttl for rr in reply.rr] == [5]


def test_answers_are_complete_and_shuffled(path: str) -> None:
    """Every ready task is in every answer, each task is sometimes first, and each order comes up; the program on lo
    rotates."""
    orders = {tuple(str(rr.rdata) for rr in ask(query("tasks.shared"), seed=seed).rr) for seed in range(400)}
    assert len(orders) == (24 if path == "user space" else 4)
    assert len({order[0] for order in orders}) == 4
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted([*WEB, *API]))}


def test_ipv6_addresses() -> None:
    """An IPv6 address is an AAAA record and has an ip6.arpa pointer."""
    zone = build_zone((NetworkView("n", (service("s"),), (endpoint("s", 1, "fd00::3"),)),))
    assert values("s", "AAAA", zone) == ["fd00::3"]
    assert values("s", "A", zone) == []
    assert values(ip_address("fd00::3").reverse_pointer, "PTR", zone) == [f"s.1.{TASK[:-2]}01.n."]


def big_zone(tasks: int, network: str = "n") -> Zone:
    endpoints = tuple(endpoint("big", n, f"10.8.{n >> 8}.{n & 255}") for n in range(1, tasks + 1))
    return build_zone((NetworkView(network, (service("big", ports=(("p", "tcp", 80),)),), endpoints),))


@pytest.mark.parametrize(("udp", "limit"), [(None, 512), (0, 512), (511, 512), (600, 600), (1232, 1232)])
def test_udp_keeps_to_the_clients_size_with_whole_records(udp: int | None, limit: int) -> None:
    """A UDP reply fits the announced size (512 without EDNS), is cut between records, fills the room, and has TC."""
    zone = big_zone(300)
    result = answer(query("big", udp=udp), zone, "udp", random.Random(0))
    assert isinstance(result, Reply)
    reply = DNSRecord.parse(result.data)
    assert limit - 16 < len(result.data) <= limit
    assert (reply.header.tc, reply.header.a) == (1, len(reply.rr))
    assert all(rr.rtype == QTYPE.A for rr in reply.rr)


@pytest.mark.parametrize(("transport", "udp"), [("tcp", None), ("tcp", 512), ("udp", 8192)])
def test_all_records_where_they_fit(transport: str, udp: int | None) -> None:
    """TCP, and UDP with a large enough size, carry every record."""
    reply = ask(query("big", udp=udp), big_zone(300), transport)
    assert (reply.header.tc, len(reply.rr)) == (0, 300)


@pytest.mark.parametrize(("transport", "udp"), [("tcp", None), ("udp", 65507)])
@pytest.mark.parametrize(("tasks", "name", "kind"), [(4000, "big", "A"), (1000, "_p._tcp.big", "SRV")])
def test_long_replies(tasks: int, name: str, kind: str, transport: str, udp: int | None) -> None:
    """A reply of up to 64 kB is whole and can be read, also beyond the 16 kB where no compressed name can point: each
    task once, and with SRV records their addresses."""
    reply = ask(query(name, kind, udp=udp), big_zone(tasks, "net"), transport)
    assert (reply.header.tc, len({str(rr.rdata) for rr in reply.rr})) == (0, tasks)
    addresses = {str(rr.rname): str(rr.rdata) for rr in reply.ar if rr.rtype == QTYPE.A}
    if kind == "SRV":
        assert {str(rr.rdata.target): addresses[str(rr.rdata.target)] for rr in reply.rr} == addresses
        assert len(set(addresses.values())) == tasks


def test_no_reply_outgrows_a_tcp_message() -> None:
    """Even TCP's two length octets bound a reply: 5000 tasks are cut and TC is set."""
    result = answer(query("big"), big_zone(5000), "tcp", random.Random(0))
    assert isinstance(result, Reply)
    assert len(result.data) <= 65535
    assert DNSRecord.parse(result.data).header.tc == 1


def test_missing_additional_records_are_no_truncation() -> None:
    """When all SRV records fit but not all their addresses, the addresses are left out and TC stays clear."""
    result = answer(query("_p._tcp.big", "SRV"), big_zone(14), "udp", random.Random(0))
    assert isinstance(result, Reply)
    reply = DNSRecord.parse(result.data)
    assert len(result.data) <= 512
    assert (len(reply.rr), reply.header.tc) == (14, 0)
    assert 0 <= len(reply.ar) < 14


def test_opt_is_answered_with_opt() -> None:
    """A query with EDNS gets OPT (root name, version 0, DO copied), one without gets none."""
    assert ask(query("web")).ar == []
    for do in (0, 1):
        (opt,) = ask(query("web", udp=1232, do=do)).ar
        assert (opt.rtype, opt.rname.label, opt.edns_ver, opt.edns_do) == (QTYPE.OPT, (), 0, do)
        assert opt.rclass >= 512


def test_unknown_edns_version() -> None:
    """EDNS version 1 is BADVERS: extended rcode 16 (RFC 6891 §6.1.3), with our own version and no records."""
    record = DNSRecord(DNSHeader(id=1, rd=1), q=DNSQuestion("web"))
    record.add_ar(EDNS0(udp_len=1232, version=1))
    reply = ask(bytes(record.pack()))
    (opt,) = reply.ar
    assert (reply.header.rcode, opt.ttl >> 24, opt.edns_ver, reply.rr) == (0, 1, 0, [])


def test_failure_and_truncated_replies() -> None:
    """The server's own replies carry the question, OPT when asked with it, and nothing else."""
    parsed = parse_query(query("Far.example", udp=1232))
    refused, cut = DNSRecord.parse(failure(parsed, RCODE.REFUSED)), DNSRecord.parse(truncated(parsed))
    assert (refused.header.rcode, str(refused.q.qname), len(refused.ar)) == (RCODE.REFUSED, "Far.example.", 1)
    assert (cut.header.rcode, cut.header.tc, cut.rr) == (0, 1, [])


def test_names_that_dns_cannot_carry_are_left_out() -> None:
    """Empty and overlong labels make no name, and do no harm to the others."""
    network = NetworkView(
        "n", (service("s", "10.9.0.2", aliases=("a..b", "x" * 64, "")),), (endpoint("s", 1, "10.9.0.3"),)
    )
    names = {name for name, _, _ in listing(build_zone((network,)))}
    assert {"s", "s.n", "tasks.s", "tasks.s.n"} <= names
    assert not any("x" * 64 in name or ".." in name for name in names)


def test_listing_shows_every_record() -> None:
    """`inspect dns` gets names, types and values, sorted."""
    rows = listing(ZONE)
    assert rows == tuple(sorted(rows))
    assert ("web.shop", "A", "10.0.1.2") in rows
    assert ("_http._tcp.web", "SRV", "Web.1.Shop:80") in rows
    assert ("3.1.0.10.in-addr.arpa", "PTR", f"Web.1.{TASK[:-2]}01.Shop") in rows


def test_empty_zone_knows_nothing() -> None:
    """A task without networks forwards everything."""
    assert isinstance(answer(query("web"), build_zone(()), "udp", random.Random(0)), Forward)


def test_drop_is_for_what_is_no_query() -> None:
    """Responses are never answered, so that two servers cannot keep each other busy."""
    assert answer(query("web")[:2] + b"\x80" + query("web")[3:], ZONE, "udp", random.Random(0)) == Drop("response")

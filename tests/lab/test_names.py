"""What tasks look up, and what they reach by it: VIPs, tasks, aliases, two networks, dnsrr and global services."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from places import LAB as PLACES
from places import NODES, address, at, backends, box, hostnames, settled, subnet, vip
from probes import Probe, beside, inside

from meshnet.lab.tasks import find
from meshnet.testing.labs import Host, LabUnderTest

pytestmark = pytest.mark.root
LAB = PLACES
TRANSPORTS = ("+notcp", "+tcp")


@pytest.fixture(scope="module", autouse=True)
def services(lab: LabUnderTest) -> None:
    """whoami on demo, and boxes that ask: on demo, on two networks in either order, and on none."""
    lab.network("demo")
    for name in ("one", "two"):
        lab.network(name)
        lab.service(f"web-{name}", networks=[name], aliases=["web"], constraints=at("docker-2"))
    lab.service("whoami", replicas=3, networks=["demo"], aliases=["who"], ports=["8000:8000"])
    lab.service("both", networks=["one", "two"], constraints=at("docker-1"))
    box(lab, "box", "docker-0", "demo")
    box(lab, "box-one-two", "docker-0", "one", "two")
    box(lab, "box-two-one", "docker-0", "two", "one")
    box(lab, "apart", "docker-0", "one")
    for service in ("whoami", "both", "web-one", "web-two"):
        settled(lab, service, 3 if service == "whoami" else 1, "docker-0")


def dig(host: Host, *words: str) -> tuple[str, list[str]]:
    """The rcode and the answers' data, as dig shows them, of a query to 127.0.0.11."""
    said = host.out(["dig", "@127.0.0.11", "+tries=1", "+time=10", "+noall", "+comments", "+answer", *words])
    status = re.search(r"status: (\w+)", said)
    assert status, said
    lines = [line.split(None, 4)[4] for line in said.splitlines() if line and not line.startswith(";")]
    return status[1], sorted(lines)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_service_and_its_tasks(lab: LabUnderTest, transport: str) -> None:
    """A service's name and alias, in any case, are its VIP; `tasks.` before them all of its tasks."""
    asker = lab.task("box.1")
    everyone = sorted(address(lab, f"whoami.{slot}") for slot in (1, 2, 3))
    for name in ("whoami", "who", "WhoAmI", "whoami.demo"):
        assert dig(asker, transport, name) == ("NOERROR", [vip(lab)]), name
        assert dig(asker, transport, f"tasks.{name}") == ("NOERROR", everyone), name


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_single_tasks_and_pointers(lab: LabUnderTest, transport: str) -> None:
    """A task answers to slot, full name, hostname and container id; its address and the VIP point back."""
    asker = lab.task("box.1")
    task = find(lab.spec, "whoami.2")
    ip = address(lab, "whoami.2")
    for name in ("whoami.2", task.name, task.spec.hostname, task.spec.id[:12]):
        assert dig(asker, transport, name) == ("NOERROR", [ip]), name
    assert dig(asker, transport, "-x", ip) == ("NOERROR", [f"{task.name}.demo."])
    assert dig(asker, transport, "-x", vip(lab)) == ("NOERROR", ["whoami.demo."])


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_srv(lab: LabUnderTest, transport: str) -> None:
    """SRV names the port of each task of a service, and the names that it gives can be looked up."""
    asker = lab.task("box.1")
    status, records = dig(asker, transport, "SRV", "_8000._tcp.whoami")
    fields = [record.split() for record in records]
    assert (status, len(records)) == ("NOERROR", 3)
    assert {(priority, weight, port) for priority, weight, port, _ in fields} == {("0", "1", "8000")}
    found = [dig(asker, transport, target)[1] for *_, target in fields]
    assert sorted(found) == [[address(lab, f"whoami.{slot}")] for slot in (1, 2, 3)]


def test_what_is_not_there(lab: LabUnderTest) -> None:
    """Unknown names are SERVFAIL at once without resolvers, known ones without that type NODATA; networks are apart."""
    asker = lab.task("box.1")
    for transport in TRANSPORTS:
        for name in ("nobody", "example.org", "web", "whoami.one", "docker-0"):
            assert dig(asker, transport, name) == ("SERVFAIL", []), name
        assert dig(asker, transport, "AAAA", "whoami") == ("NOERROR", [])
        assert dig(lab.task("apart.1"), transport, "whoami") == ("SERVFAIL", [])
    took: list[int] = []
    while not took or (took[-1] >= 500 and len(took) < 5):  # what waits for somebody does so each time
        said = asker.out(["dig", "@127.0.0.11", "+tries=1", "nobody"])
        milliseconds = re.search(r"Query time: (\d+) msec", said)
        assert milliseconds, said
        took.append(int(milliseconds[1]))
    assert min(took) < 500


def test_kernel_answers(lab: LabUnderTest) -> None:
    """Services and tasks are answered by the program on the task's lo; what it leaves is answered too."""
    asker = lab.task("box.1")

    def answered() -> int:
        return sum(lab.inspect(node, "statistics")["Datapath"]["name_answered"] for node in NODES)

    before = answered()
    assert dig(asker, "whoami") == ("NOERROR", [vip(lab)])
    assert dig(asker, "tasks.whoami")[0] == "NOERROR"
    assert dig(asker, "whoami", "AAAA") == ("NOERROR", [])
    assert answered() >= before + 3
    assert dig(asker, "+tcp", "whoami") == ("NOERROR", [vip(lab)])
    assert dig(asker, "whoami", "MX") == ("NOERROR", [])


def test_ordinary_programs(lab: LabUnderTest) -> None:
    """Programs that know nothing of meshnet find a service by its name, through the task's resolv.conf."""
    asker = lab.task("box.1")
    assert asker.out("getent ahostsv4 whoami").split()[0] == vip(lab)
    name, seen = asker.out("curl -s http://whoami:8000").splitlines()
    assert name.removeprefix("I'm ") in hostnames(lab)
    assert seen == address(lab, "box.1")


@pytest.mark.parametrize(("asker", "first"), [("box-one-two.1", "one"), ("box-two-one.1", "two")])
def test_one_name_on_two_networks(lab: LabUnderTest, asker: str, first: str) -> None:
    """A name that two networks have is the first network's, and `.<network>` chooses; each is reached there."""
    task = lab.task(asker)
    assert dig(task, "web") == ("NOERROR", [vip(lab, f"web-{first}", first)])
    assert dig(task, "both") == ("NOERROR", [vip(lab, "both", first)])
    assert dig(task, "tasks.both") == ("NOERROR", [address(lab, "both.1", first)])
    for network in ("one", "two"):
        assert dig(task, f"web.{network}") == ("NOERROR", [vip(lab, f"web-{network}", network)])
        assert dig(task, f"both.{network}") == ("NOERROR", [vip(lab, "both", network)])
        for place in (inside, beside):
            with place(lab, asker) as probe:
                (web,) = hostnames(lab, f"web-{network}")
                assert probe.ask(vip(lab, f"web-{network}", network)) == [(web, address(lab, asker, network))]
                (both,) = hostnames(lab, "both")
                assert probe.ask(vip(lab, "both", network)) == [(both, address(lab, asker, network))]


@pytest.mark.parametrize("place", [inside, beside], ids=["socket", "packet"])
def test_networks_are_apart(lab: LabUnderTest, place: Callable[[LabUnderTest, str], Probe]) -> None:
    """A task reaches neither the VIP nor the tasks of a network that it is not on."""
    with place(lab, "apart.1") as probe:
        for target in (vip(lab), address(lab, "whoami.1"), vip(lab, "web-two", "two")):
            assert probe.call("ask", host=target, port=8000, patience=0.5) == [["", "ETIMEDOUT"]], target


def test_dnsrr(lab: LabUnderTest) -> None:
    """A dnsrr service has no VIP: its name is all of its tasks, in changing order, and each can be reached."""
    lab.service("direct", replicas=3, networks=["demo"], endpoint_mode="dnsrr")
    asker = lab.task("box.1")
    everyone = sorted(address(lab, f"direct.{slot}") for slot in (1, 2, 3))
    lab.wait_until(lambda: dig(asker, "direct") == ("NOERROR", everyone), what="all tasks in the answer")
    assert dig(asker, "+tcp", "tasks.direct") == ("NOERROR", everyone)
    assert lab.engine.service("direct").vip(lab.engine.network("demo")["Id"]) is None
    short = ["dig", "@127.0.0.11", "+short", "direct"]
    lab.wait_until(lambda: len({asker.out(short) for _ in range(4)}) > 1, what="another order")
    with inside(lab, "box.1") as one, beside(lab, "box.1") as two:
        for ip in everyone:
            assert one.ask(ip) == two.ask(ip)
            assert one.ask(ip)[0][1] == address(lab, "box.1")
    lab.remove("direct")


def test_global(lab: LabUnderTest) -> None:
    """A global service has one task on every node, and its VIP reaches them all."""
    lab.service("everywhere", global_=True, networks=["demo"])
    tasks = lab.tasks("everywhere")
    assert sorted(task.node for task in tasks) == sorted(NODES)
    settled(lab, "everywhere", 3, "docker-0")
    with inside(lab, "box.1") as one, beside(lab, "box.1") as two:
        for probe in (one, two):
            assert {name for name, _ in probe.ask(vip(lab, "everywhere"), count=3)} == hostnames(lab, "everywhere")
    lab.remove("everywhere")


def test_a_service_without_tasks(lab: LabUnderTest) -> None:
    """A service that nobody stands behind has no name, and its VIP refuses at once on both paths."""
    lab.service("empty", networks=["demo"])
    settled(lab, "empty", 1, "docker-0")
    target = vip(lab, "empty")
    lab.scale("empty", 0)
    lab.wait_until(lambda: backends(lab, "docker-0", "empty") == [set()], what="no backends")
    assert dig(lab.task("box.1"), "empty")[0] == "NXDOMAIN"
    for place in (inside, beside):
        with place(lab, "box.1") as probe:
            assert probe.ask(target) == [("", "ECONNREFUSED")], place
    lab.remove("empty")


def test_addresses_come_from_the_networks(lab: LabUnderTest) -> None:
    """Networks have subnets of their own, that do not overlap."""
    subnets = [subnet(lab, name) for name in ("ingress", "demo", "one", "two")]
    assert not any(a.overlaps(b) for a in subnets for b in subnets if a is not b)

"""One request through each hop: what the client, the nodes' underlay devices and the task have on their interfaces.

The service runs on docker-1 (its target port is 8000, published at 9000). Rows: a VIP translated at the socket and
per packet, a published port with direct return and through the ingress node, and a node's own use; each with a
backend here and elsewhere, over TCP and UDP.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from places import CLIENT, LAB, NODES, at, box, vip
from probes import Probe, beside, inside, on

from meshnet.control.allocator import VNI_OPTION
from meshnet.model import mac_of
from meshnet.testing import Capture, Interface, Match, capture, eth, interface, tcp, udp, vxlan
from meshnet.testing.labs import LabUnderTest, bring_up, take_down

pytestmark = pytest.mark.root
TARGET, PUBLISHED = 8000, 9000
INGRESS_NODE, BACKEND_NODE, THIRD = "docker-0", "docker-1", "docker-2"
A, B, C = NODES[INGRESS_NODE], NODES[BACKEND_NODE], NODES[THIRD]
MARKED = "02:42:00:00:00:00"  # inner destination of replies through the ingress node
WAY = {"tcp": tcp, "udp": udp}


@pytest.fixture(scope="module", params=["direct", "via"])
def lab(request: pytest.FixtureRequest) -> Iterator[LabUnderTest]:
    """A lab for each way back of published connections."""
    found = bring_up({**LAB, "return": request.param}, Path("/"))
    found.network("demo")
    ports = [f"{PUBLISHED}:{TARGET}/{protocol}" for protocol in ("tcp", "udp")]
    found.service("whoami", networks=["demo"], ports=ports, constraints=at(BACKEND_NODE))
    box(found, "near", BACKEND_NODE, "demo")
    box(found, "far", INGRESS_NODE, "demo")
    yield found
    take_down(found)


@dataclass(frozen=True)
class Flow:
    """A request and its answer as they look between two addresses: TCP by its opening, UDP by its datagrams."""

    protocol: str
    client: str
    server: str
    port: int

    @property
    def request(self) -> Match:
        flags = {"flags": "S!A"} if self.protocol == "tcp" else {}
        return WAY[self.protocol](self.client, self.server, dport=self.port, **flags)

    @property
    def answer(self) -> Match:
        flags = {"flags": "SA"} if self.protocol == "tcp" else {}
        return WAY[self.protocol](self.server, self.client, sport=self.port, **flags)


@contextmanager
def listening(lab: LabUnderTest, **places: Any) -> Iterator[dict[str, Capture]]:
    """Captures of the client's underlay, of every node's, and of other places; all checksums are right."""
    places |= {"outside": lab.client(), INGRESS_NODE: lab.node(INGRESS_NODE), BACKEND_NODE: lab.node(BACKEND_NODE)}
    places[THIRD] = lab.node(THIRD)
    with ExitStack() as stack:
        captures = {
            name: stack.enter_context(capture(*(place if isinstance(place, tuple) else (place,))))
            for name, place in places.items()
        }
        yield captures
    for one in captures.values():
        one.checksums()


def ask(probe: Probe, protocol: str, host: str, port: int) -> None:
    """One request, answered from where it was asked."""
    if protocol == "tcp":
        assert probe.ask(host, port)[0][0]
    else:
        (answer,) = probe.call("udp", host=host, port=port)
        assert answer[0], answer
        assert answer[2] == host


def exchanged(seen: Capture, flow: Flow) -> None:
    """The request and its answer went by, once each."""
    seen.one(flow.request)
    seen.one(flow.answer)


def tunnelled(seen: dict[str, Capture], vni: int, source: str, target: str, inner: Match) -> None:
    """A packet went through the tunnel from one node to another, and is on both ends' wires once."""
    names = {address: name for name, address in NODES.items()}
    for node in (source, target):
        seen[names[node]].one(vxlan(vni, source, target, inner))


def untouched(seen: dict[str, Capture], *nodes: str) -> None:
    """No node sent a tunnel packet to another but gossip, and none showed a task's packet on its wire."""
    for node in nodes:
        seen[node].none(vxlan())


def vni_of(lab: LabUnderTest, network: str) -> int:
    return int(lab.engine.network(network)["Options"][VNI_OPTION])


def task(lab: LabUnderTest, name: str, network: str = "demo") -> Interface:
    return interface(lab, f"{name}.1", network)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("path", ["socket", "packet"])
@pytest.mark.parametrize("client", ["near", "far"])
def test_vip(lab: LabUnderTest, client: str, path: str, protocol: str) -> None:
    """A VIP is translated at the client's socket or at its interface, and nowhere else on the way."""
    asking, serving = task(lab, client), task(lab, "whoami")
    address = vip(lab)
    asked = Flow(protocol, asking.ip, serving.ip if path == "socket" else address, TARGET)
    served = Flow(protocol, asking.ip, serving.ip, TARGET)
    make = inside if path == "socket" else beside
    with make(lab, f"{client}.1") as probe, listening(lab, client=asking, task=serving) as seen:
        ask(probe, protocol, address, TARGET)
    exchanged(seen["client"], asked)
    exchanged(seen["task"], served)
    (request,) = seen["task"].all(served.request & eth(src=mac_of(asking.ip), dst=mac_of(serving.ip)))
    assert request["IP"].ttl == 64
    if client == "near":
        untouched(seen, *NODES)
        return
    vni = vni_of(lab, "demo")
    tunnelled(seen, vni, A, B, served.request & eth(src=mac_of(asking.ip), dst=mac_of(serving.ip)))
    tunnelled(seen, vni, B, A, served.answer & eth(src=mac_of(serving.ip), dst=mac_of(asking.ip)))
    untouched(seen, THIRD, "outside")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_published_here(lab: LabUnderTest, protocol: str) -> None:
    """A published port with its task on the asked node: translated at the uplink, and no tunnel."""
    serving = task(lab, "whoami", "ingress")
    asked, served = Flow(protocol, CLIENT, B, PUBLISHED), Flow(protocol, CLIENT, serving.ip, TARGET)
    with on(lab, "client") as probe, listening(lab, task=serving) as seen:
        ask(probe, protocol, B, PUBLISHED)
    exchanged(seen["outside"], asked)
    exchanged(seen[BACKEND_NODE], asked)
    exchanged(seen["task"], served)
    untouched(seen, *NODES)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_published_elsewhere(lab: LabUnderTest, protocol: str) -> None:
    """A published port with its task elsewhere: the request crosses unchanged and is translated there.

    The answer goes straight to the client, or through the asked node, as the lab says.
    """
    serving, vni = task(lab, "whoami", "ingress"), vni_of(lab, "ingress")
    asked, served = Flow(protocol, CLIENT, A, PUBLISHED), Flow(protocol, CLIENT, serving.ip, TARGET)
    with on(lab, "client") as probe, listening(lab, task=serving) as seen:
        ask(probe, protocol, A, PUBLISHED)
    exchanged(seen["outside"], asked)
    exchanged(seen["task"], served)
    seen[INGRESS_NODE].one(asked.request)
    tunnelled(seen, vni, A, B, asked.request & eth(dst=mac_of(serving.ip)))
    if lab.spec.direct_return:
        seen[BACKEND_NODE].one(asked.answer)
        seen[INGRESS_NODE].none(asked.answer)
        seen[INGRESS_NODE].none(vxlan(src=B))
    else:
        tunnelled(seen, vni, B, A, asked.answer & eth(dst=MARKED))
        seen[INGRESS_NODE].one(asked.answer)
        seen[BACKEND_NODE].none(asked.answer)
    untouched(seen, THIRD, "outside")


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("node", [BACKEND_NODE, THIRD])
def test_the_nodes_own_use(lab: LabUnderTest, node: str, protocol: str) -> None:
    """A node asks 127.0.0.1: translated at its socket, and sent from its ingress address, as a task would."""
    serving, vni = task(lab, "whoami", "ingress"), vni_of(lab, "ingress")
    ident = lab.engine.node(node).id
    (own,) = (e["IP"] for e in lab.inspect(node, "endpoints") if e["Owner"] == ident and not e["Task"])
    served = Flow(protocol, own, serving.ip, TARGET)
    with on(lab, node) as probe, listening(lab, own=(lab.node(node), "ing0"), task=serving) as seen:
        ask(probe, protocol, "127.0.0.1", PUBLISHED)
    exchanged(seen["own"], served)
    exchanged(seen["task"], served)
    if node == BACKEND_NODE:
        untouched(seen, *NODES)
        return
    tunnelled(seen, vni, C, B, served.request & eth(src=mac_of(own), dst=mac_of(serving.ip)))
    tunnelled(seen, vni, B, C, served.answer & eth(src=mac_of(serving.ip), dst=mac_of(own)))
    untouched(seen, INGRESS_NODE, "outside")

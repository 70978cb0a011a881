"""One program, run on one packet with a plan made by hand: no lab, no traffic."""

from collections.abc import Callable

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from meshnet.datapath.rows import EndpointRow, NetworkRow, PeerRow, Plan, RemoteRow, ServiceRow
from meshnet.model import mac_of
from meshnet.testing import Result, eth, tcp, vxlan, wrong_checksums
from meshnet.testing.bpf_run import DROP, REDIRECT

pytestmark = pytest.mark.root
CLIENT, BACKEND, VIP = "10.0.1.5", "10.0.1.7", "10.0.1.2"
HERE, THERE = "172.17.0.2", "172.17.0.3"

# A node with one task on one network, and a service behind a VIP whose backend runs on another node.
PLAN = Plan(
    node="here",
    address=HERE,
    networks=(NetworkRow(4097, "demo", "demo", "10.0.1.0/24", "10.0.1.1", 1450),),
    endpoints=(EndpointRow(4097, CLIENT, mac_of(CLIENT), "client", "", "eth0", "mntclient"),),
    remotes=(RemoteRow(4097, BACKEND, mac_of(BACKEND), THERE),),
    peers=(PeerRow(THERE),),
    services=(ServiceRow("web", 4097, VIP, (BACKEND,)),),
)


def test_a_syn_to_the_vip(bpf_run: Callable[..., Result]) -> None:
    """`endpoint` picks the backend, translates, wraps the frame in VXLAN and hands it to the underlay."""
    link = Ether(src=mac_of(CLIENT), dst=mac_of(VIP))
    syn = link / IP(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=80, flags="S")
    result = bpf_run("endpoint", syn, PLAN, port="mntclient")

    assert result.verdict == REDIRECT
    assert result.events == {"vip_connection": 1}
    inside = tcp(CLIENT, BACKEND, sport=40000, dport=80, flags="S!A") & eth(dst=mac_of(BACKEND))
    assert vxlan(4097, HERE, THERE, inside).problems(result.packet) == []
    assert wrong_checksums(result.packet) == []


def test_a_liar(bpf_run: Callable[..., Result]) -> None:
    """A task that sends from another's address is dropped, and the reason is counted."""
    lie = Ether(src=mac_of(CLIENT), dst=mac_of(BACKEND)) / IP(src="10.0.1.99", dst=BACKEND) / TCP()
    result = bpf_run("endpoint", lie, PLAN, port="mntclient")
    assert (result.verdict, result.drops) == (DROP, {"spoofed_ip": 1})

"""A request to a VIP, followed hop by hop."""

import pytest

from meshnet.testing import LabUnderTest, capture, interface, send_from, tcp, vxlan

pytestmark = pytest.mark.root
LAB = "labs/quickstart"  # a folder with a lab.yml, or the content of one as a dict


def test_a_request_to_a_vip(lab: LabUnderTest) -> None:
    """The client asks the VIP; on the wire and at the backend it is the backend's own address."""
    from scapy.layers.inet import IP, TCP

    lab.network("demo")
    lab.service("box", "alpine", "sleep", "1000", networks=["demo"], constraints=["node.hostname==docker-0"])
    lab.service("web", "whoami", networks=["demo"], constraints=["node.hostname==docker-1"])
    vip = lab.task("box.1").out("dig +short web")
    box, web = interface(lab, "box.1", "demo"), interface(lab, "web.1", "demo")

    asked = tcp(box.ip, vip, dport=8000, flags="S!A")
    served = tcp(box.ip, web.ip, dport=8000, flags="S!A")
    with capture(box) as client, capture(lab.node("docker-1")) as wire, capture(web) as backend:
        # A packet of our own is no socket's: the VIP is met by the program at the task's interface.
        send_from(box.netns, IP(dst=vip) / TCP(sport=40000, dport=8000, flags="S", seq=1000))
        client.wait(tcp(vip, box.ip, sport=8000, dport=40000, flags="SA"))  # the answer, from the VIP

    client.one(asked)
    tunnel = wire.one(vxlan(src="172.17.0.2", dst="172.17.0.3", inner=served))
    backend.one(served)
    for seen in (client, wire, backend):
        seen.checksums()
    assert tunnel["VXLAN"].vni >= 4096

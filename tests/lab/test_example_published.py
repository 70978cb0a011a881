"""A published port whose task runs on another node: both ways back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from meshnet.testing import LabUnderTest, capture, eth, interface, tcp, vxlan
from meshnet.testing.labs import bring_up, take_down

pytestmark = pytest.mark.root


@pytest.fixture(params=["direct", "via"])
def lab(request: pytest.FixtureRequest) -> Iterator[LabUnderTest]:
    """The same lab twice, with another way back. A fixture of one's own takes the place of the plugin's."""
    content = {
        "name": "ways-back",
        "return": request.param,
        "nodes": {"a": {"address": "172.17.0.2", "role": "manager"}, "b": {"address": "172.17.0.3"}},
        "clients": {"client": {"address": "172.17.0.10"}},
    }
    lab = bring_up(content, Path("/"))
    yield lab
    take_down(lab)


def test_a_remote_backend(lab: LabUnderTest) -> None:
    """The request crosses to b unchanged, the task sees the client, and the answer takes the way of the lab."""
    lab.service("web", "whoami", ports=["8080:8000"], constraints=["node.hostname==b"])
    task = interface(lab, "web.1", "ingress")
    with (
        capture(lab.client()) as client,
        capture(lab.node("a")) as a,
        capture(lab.node("b")) as b,
        capture(task) as web,
    ):
        said = lab.client().out("curl -s --retry 5 --retry-connrefused 172.17.0.2:8080")
    assert "172.17.0.10" in said  # whoami names the client that it sees

    request = tcp("172.17.0.10", "172.17.0.2", dport=8080, flags="S!A")
    answer = tcp("172.17.0.2", "172.17.0.10", sport=8080, flags="SA")
    client.one(request)
    b.one(vxlan(src="172.17.0.2", dst="172.17.0.3", inner=request & eth(dst=task.mac)))
    web.one(tcp("172.17.0.10", task.ip, dport=8000, flags="S!A"))
    if lab.spec.direct_return:
        b.one(answer)  # in a's name, straight to the client
        a.none(vxlan(src="172.17.0.3"))
    else:
        a.one(vxlan(src="172.17.0.3", inner=answer & eth(dst="02:42:00:00:00:00")))
        a.one(answer)
    client.one(answer)
    client.only(~vxlan())

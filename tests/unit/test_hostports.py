"""Ports of a node for single containers: which are asked for, and which are given."""

from __future__ import annotations

from typing import Any

import pytest

from meshnet.agent.hostports import FIRST, PortWish, choose
from meshnet.api.node.publishing import bindings_of, wishes_of
from meshnet.errors import MeshnetError


@pytest.mark.parametrize(
    ("bindings", "wishes"),
    [
        ({}, ()),
        ({"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}, (PortWish("tcp", 80, 8080, 8080),)),
        ({"80": [{"HostIp": "0.0.0.0"}]}, (PortWish("tcp", 80),)),
        ({"53/udp": [{"HostPort": "53"}, {"HostPort": "0"}]}, (PortWish("udp", 53, 53, 53), PortWish("udp", 53))),
        ({"80/tcp": [{"HostPort": "8000-8009"}]}, (PortWish("tcp", 80, 8000, 8009),)),
        ({"80/tcp": None}, ()),
    ],
)
def test_what_is_asked_for(bindings: dict[str, Any], wishes: tuple[PortWish, ...]) -> None:
    """Bindings are read as an engine reads them, and shown again."""
    assert wishes_of(bindings) == wishes
    assert wishes_of(bindings_of(wishes)) == wishes


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        ({"x": [{}]}, 'invalid port specification: "x"'),
        ({"0/tcp": [{}]}, "invalid port specification"),
        ({"70000/tcp": [{}]}, "invalid port specification"),
        ({"80/sctp": [{}]}, "publishing sctp is not served"),
        ({"80/tcp": [{"HostPort": "99999"}]}, 'invalid port specification: "99999"'),
        ({"80/tcp": [{"HostPort": "90-80"}]}, "invalid port specification"),
        ({"80/tcp": [{"HostPort": "-1"}]}, "invalid port specification"),
        ({"80/tcp": [{"HostPort": 80}]}, "HostPort: a string is needed"),
        ({"80/tcp": {"HostPort": "80"}}, "HostConfig.PortBindings.80/tcp: a list of objects is needed"),
        ({"80/tcp": [80]}, "HostConfig.PortBindings.80/tcp: a list of objects is needed"),
        ({"80/tcp": [{"HostPort": "\uff19"}]}, "invalid port specification"),
        ({"80/tcp": [{"HostIp": "127.0.0.1"}]}, "publishing on 127.0.0.1 alone is not served"),
    ],
)
def test_what_cannot_be(bindings: dict[str, Any], words: str) -> None:
    """What is no port, or an address of choice, is refused with what was asked."""
    with pytest.raises(MeshnetError, match=words):
        wishes_of(bindings)


def test_ports_that_are_given() -> None:
    """What is free, a port that is asked for before one of a range; another protocol is another port."""
    wishes = (PortWish("tcp", 1, 80, 82), PortWish("tcp", 2, 81, 81), PortWish("udp", 3, 80, 80), PortWish("tcp", 4))
    given = choose(wishes, {("tcp", 80), ("tcp", FIRST)}, "box")
    assert {(port.target_port, port.published_port) for port in given} == {(1, 82), (2, 81), (3, 80), (4, FIRST + 1)}
    with pytest.raises(MeshnetError, match=r"endpoint box: Bind for 0\.0\.0\.0:80 failed: port is already allocated"):
        choose((PortWish("tcp", 1, 80, 80),), {("tcp", 80)}, "box")
    with pytest.raises(MeshnetError, match="already allocated"):
        choose((PortWish("tcp", 1, 80, 80), PortWish("tcp", 2, 80, 80)), (), "box")

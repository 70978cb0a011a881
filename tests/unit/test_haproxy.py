"""HAProxy's configurations and statistics as text, and the PROXY protocol as whoami reads it."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from meshnet.cli.haproxy import stats
from meshnet.errors import MeshnetError
from meshnet.lab import state, tasks
from meshnet.lab.haproxy import DNS, LOSSES, Wanted, ask, config, lost, rows
from meshnet.model import EndpointSpec, PortConfig, Service, ServiceEndpoint, ServiceSpec
from meshnet.sandbox.programs import whoami

NODES = [("docker-0", "172.17.0.2"), ("docker-1", "172.17.0.3")]


def service(*ports: PortConfig) -> Service:
    return Service(
        spec=ServiceSpec(name="web", endpoint_spec=EndpointSpec(ports=ports)), endpoint=ServiceEndpoint(ports=ports)
    )


HTTP = PortConfig("", "tcp", 8000, 8080)
NAMED = PortConfig("admin", "tcp", 9000, 9090)


def test_published() -> None:
    """One server line per node with its address and the published port; PROXY and TCP where they are asked for."""
    text = config(service(HTTP), NODES, Wanted(bind="10.0.0.1:81", socket="/x.sock", proxy="send-proxy-v2"))
    assert "    server docker-0 172.17.0.2:8080 check\n    server docker-1 172.17.0.3:8080 check\n" in text
    for line in ("bind 10.0.0.1:81", "stats socket /x.sock mode 600 level admin", "balance roundrobin", "mode http"):
        assert f"    {line}\n" in text
    assert " send-proxy-v2\n" in text
    assert "resolvers" not in text
    assert "    mode tcp\n" in config(service(HTTP), NODES, Wanted(tcp=True))


@pytest.mark.parametrize(
    ("ports", "port", "srv", "asked"),
    [
        ((), 8000, False, "tasks.web:8000"),
        ((HTTP,), 0, False, "tasks.web:8000"),
        ((HTTP,), 0, True, "_8000._tcp.web"),
        ((HTTP, NAMED), 9000, True, "_admin._tcp.web"),
    ],
)
def test_by_name(ports: tuple[PortConfig, ...], port: int, srv: bool, asked: str) -> None:
    """Tasks' addresses, or SRV records by the port's name, of the resolver that is in every task."""
    text = config(service(*ports), NODES, Wanted(DNS, slots=7, srv=srv), port)
    assert f"    server-template web- 7 {asked} check resolvers swarm init-addr none" in text
    assert "    nameserver embedded 127.0.0.11:53\n    accepted_payload_size 65507\n" in text


HOST = PortConfig("", "tcp", 8000, 8081, "host")


@pytest.mark.parametrize(("port", "refused"), [(HTTP, "fall 3"), (HOST, "observe layer4 error-limit 1")])
def test_outside(port: PortConfig, refused: str) -> None:
    """Every node's resolver is asked for SRV records of the published port, by TCP, since it cuts what is long by UDP;
    one refusal says that a task has gone in host mode alone."""
    text = config(service(port, NAMED), NODES, Wanted(DNS, slots=5, resolver=53), port.published_port)
    assert (
        "    nameserver docker-0 tcp@172.17.0.2:53 maxconn 2\n    nameserver docker-1 tcp@172.17.0.3:53 maxconn 2\n"
        in text
    )
    assert "    accepted_payload_size 65535\n" in text
    assert f"    server-template web- 5 _{port.published_port}._tcp.web check resolvers swarm" in text
    assert refused in text
    assert "127.0.0.11" not in text


@pytest.mark.parametrize(
    ("ports", "port", "wanted", "said"),
    [
        ((), 0, Wanted(), "web publishes no tcp port; publish one .*, or balance over its tasks with --mode dns$"),
        ((HTTP, NAMED), 0, Wanted(), "web publishes 8080, 9090; say which with --port"),
        ((HTTP,), 81, Wanted(), "web publishes 8080; say which with --port"),
        ((), 0, Wanted(DNS), "say on which port the tasks of web listen: --port 8000"),
        (
            (),
            0,
            Wanted(DNS, srv=True),
            "web publishes no tcp port, and SRV records tell only those; say the tasks' own without --srv",
        ),
        (
            (),
            0,
            Wanted(DNS, resolver=53),
            "web publishes no tcp port; publish one .*, or run HAProxy as a task, without --outside$",
        ),
        ((HTTP, NAMED), 0, Wanted(DNS, resolver=53), "web publishes 8080, 9090; say which with --port"),
        ((HTTP,), 0, Wanted(srv=True), "they go with --mode dns"),
    ],
)
def test_what_cannot_be(ports: tuple[PortConfig, ...], port: int, wanted: Wanted, said: str) -> None:
    """A service that cannot be reached that way is refused, with what to do."""
    with pytest.raises(MeshnetError, match=said):
        config(service(*ports), NODES, wanted, port)


def test_where_no_haproxy_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket at which nobody answers is told by its path, one in a task by the task's name and its path there."""
    path = f"{tmp_path}/haproxy.sock"
    with pytest.raises(MeshnetError, match=f"no haproxy answers at {path}: No such file"):
        ask(path, "show stat")
    monkeypatch.setattr(state, "current", lambda _: None)
    monkeypatch.setattr(tasks, "find", lambda *_: SimpleNamespace(short="lb.1"))
    monkeypatch.setattr(tasks, "root", lambda _: tmp_path)
    said = "no haproxy answers at /run/haproxy.sock in lb.1: No such file"
    for words in (["--task", "lb.1"], ["--task", "lb.1", "--clear"]):
        done = CliRunner().invoke(stats, words)
        assert str(done.exception).startswith(said)


STAT = """\
# pxname,svname,status,addr,type,econ,eresp,wretr,wredis,hrsp_5xx,
web,FRONTEND,OPEN,,0,,,,,0,
web,docker-0,UP,172.17.0.2:8080,2,0,0,3,3,0,
web,docker-1,MAINT,,2,0,0,0,0,0,
web,BACKEND,UP,,1,0,1,3,3,0,

"""


def test_statistics() -> None:
    """Rows by HAProxy's own columns; what is not 0 is named by proxy, server and column."""
    table = rows(STAT)
    assert [row["svname"] for row in table] == ["FRONTEND", "docker-0", "BACKEND"]
    assert lost(table, LOSSES) == ["web/BACKEND eresp=1"]
    assert lost(table, ["wretr"]) == ["web/docker-0 wretr=3", "web/BACKEND wretr=3"]
    with pytest.raises(MeshnetError, match="no column nosuch"):
        lost(table, ["nosuch"])
    with pytest.raises(MeshnetError, match="not what haproxy answers"):
        rows("Unknown command.\n")


def v2(command: int, family: int, body: bytes) -> bytes:
    return whoami.V2 + bytes([0x20 | command, family]) + struct.pack("!H", len(body)) + body


FOUR = bytes([172, 17, 0, 10, 172, 17, 0, 2]) + struct.pack("!2H", 40000, 80)
SIX = bytes(15) + b"\1" + bytes(15) + b"\2" + struct.pack("!2H", 40000, 80)


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (b"PROXY TCP4 172.17.0.10 172.17.0.2 40000 80\r\n", "172.17.0.10"),
        (b"PROXY TCP6 ::1 ::2 40000 80\r\n", "::1"),
        (b"PROXY TCP6 ::ffff:1.2.3.4 ::2 40000 80\r\n", "1.2.3.4"),
        (b"PROXY UNKNOWN\r\n", ""),
        (v2(1, 0x11, FOUR), "172.17.0.10"),
        (v2(1, 0x11, FOUR + b"\x04\0\1x"), "172.17.0.10"),
        (v2(1, 0x21, SIX), "::1"),
        (v2(0, 0x00, b""), ""),
        (v2(1, 0x31, bytes(216)), ""),
    ],
)
def test_proxy_headers(header: bytes, client: str) -> None:
    """The client that a header announces, and its length, whatever follows; nothing as long as it is not whole."""
    assert whoami.announced(header + b"GET / HTTP/1.1\r\n") == (len(header), client)
    for size in range(len(header)):
        assert whoami.announced(header[:size]) == (0, "")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 nobody 172.17.0.2 1 2\r\n",
        b"PROXY TCP5 ::1 ::2 1 2\r\n",
        b"PROXY " + b"x" * 120,
        v2(2, 0x11, FOUR),
        v2(1, 0x11, FOUR[:8]),
        whoami.V2 + b"\x21\x11\xff\xff",
    ],
)
def test_no_proxy_headers(data: bytes) -> None:
    """What is no header, or an overlong one, is refused at once."""
    with pytest.raises(ValueError):
        whoami.announced(data)

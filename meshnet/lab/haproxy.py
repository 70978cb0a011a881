"""HAProxy in front of a service: configurations as text, and what its stats socket says.

Two ways in. `published`: HAProxy stands anywhere and asks the published port on every node, as Swarm's documentation
does; the routing mesh picks the task. `dns`: HAProxy is a task on one of the service's networks, asks 127.0.0.11 for
the tasks and balances over them itself; or it stands outside, and asks the nodes' resolvers on which nodes a published
port answers.

Connections to servers are not kept between requests (`http-server-close`): a server that is told to stop closes its
idle connections, and a request may just be on its way into one. A fresh connection never goes to a task that drains.
"""

from __future__ import annotations

import csv
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from meshnet.errors import MeshnetError
from meshnet.model import PortConfig, Service

PUBLISHED, DNS, OUTSIDE = "published", "dns", "outside"
# What tells of requests that were lost, and of connections that were tried again: haproxy's management guide, 9.1.
LOSSES = ("econ", "eresp", "hrsp_5xx")
RETRIES = ("wretr", "wredis")
SHOWN = ("pxname", "svname", "status", "addr", "scur", "stot", "hrsp_2xx", *LOSSES, *RETRIES)
_MOST = 4 << 20  # bytes of an answer
UDP_MAXIMUM, TCP_MAXIMUM = 65507, 65535  # bytes of a DNS message; the most that HAProxy takes


@dataclass(frozen=True, slots=True)
class Wanted:
    """`bind` is where HAProxy listens, `socket` its stats socket, `slots` how many tasks it has room for under `dns`.

    `proxy` is "" or the server option that tells the client's address (`send-proxy`, `send-proxy-v2`), `tcp` leaves
    HTTP alone, `srv` asks for SRV records instead of addresses. Under `dns`, HAProxy stands outside if `resolver` is
    given, the port of the nodes' resolvers, which are always asked for SRV records.
    """

    mode: str = PUBLISHED
    bind: str = ":80"
    socket: str = "/run/haproxy.sock"
    slots: int = 10
    proxy: str = ""
    tcp: bool = False
    srv: bool = False
    resolver: int = 0


def config(service: Service, nodes: Sequence[tuple[str, str]], wanted: Wanted, port: int = 0) -> str:
    """The configuration. `nodes`: name and address of each; `port`: the published one, or inside the task's own.

    Raises MeshnetError for a service that cannot be reached that way, or whose port must be named.
    """
    name = service.spec.name
    way = PUBLISHED if wanted.mode == PUBLISHED else OUTSIDE if wanted.resolver else DNS
    options = _SERVERS[PUBLISHED if way == PUBLISHED else DNS]
    if way == PUBLISHED:
        servers = _published(service, nodes, wanted, port)
    elif way == DNS:
        servers = _by_name(service, wanted, port)
    else:
        found = _published_port(service, port, "run HAProxy as a task, without --outside")
        servers = _template(name, wanted, f"_{found.published_port}._tcp.{name}")
        options = _SERVERS[PUBLISHED if found.publish_mode == "ingress" else DNS]
    resolvers = _resolvers(wanted, nodes)
    http = "" if wanted.tcp else "    option http-server-close\n"
    return f"""\
# HAProxy in front of the service {name} ({_WAYS[way]})
global
    maxconn 4096
    stats socket {wanted.socket} mode 600 level admin

defaults
    mode {"tcp" if wanted.tcp else "http"}
{http}    option redispatch 1
    retries 3
    timeout connect 1s
    timeout client 30s
    timeout server 30s
    timeout check 1s
{resolvers}
frontend {name}
    bind {wanted.bind}
    default_backend {name}

backend {name}
    balance roundrobin
    default-server {options}{" " + wanted.proxy if wanted.proxy else ""}
{servers}"""


# A node's port may lead to a task of a node that has just died, so one refusal says little of it. A task that refuses
# has ended, a moment before its name says so.
_SERVERS = {
    PUBLISHED: "inter 1s fall 3 rise 1",
    DNS: "inter 1s fall 2 rise 1 observe layer4 error-limit 1 on-error mark-down",
}
_WAYS = {
    PUBLISHED: "its published port, on every node",
    DNS: "its tasks, by their names",
    OUTSIDE: "its published port, on the nodes that they name",
}
# Tasks come and go: names are asked every second, and what is no longer answered is no server any more.
_RESOLVERS = """
resolvers swarm
{servers}    accepted_payload_size {size}
    resolve_retries 3
    timeout resolve 1s
    timeout retry 500ms
    hold valid 1s
    hold nx 0s
    hold obsolete 0s
"""


def _resolvers(wanted: Wanted, nodes: Sequence[tuple[str, str]]) -> str:
    """HAProxy (2.6) does not ask again over TCP for what UDP cut. Inside, a datagram of any length comes over lo;
    outside, it asks over TCP alone. Without `maxconn`, it begins a further connection to a dead node every few seconds.
    """
    if wanted.mode == PUBLISHED:
        return ""
    if wanted.resolver:
        asked, size = [(name, f"tcp@{address}:{wanted.resolver} maxconn 2") for name, address in nodes], TCP_MAXIMUM
    else:
        asked, size = [("embedded", "127.0.0.11:53")], UDP_MAXIMUM
    servers = "".join(f"    nameserver {name} {where}\n" for name, where in asked)
    return _RESOLVERS.format(servers=servers, size=size)


def _published(service: Service, nodes: Sequence[tuple[str, str]], wanted: Wanted, port: int) -> str:
    if wanted.srv:
        raise MeshnetError("SRV records are names: they go with --mode dns")
    number = _published_port(service, port, "balance over its tasks with --mode dns").published_port
    return "".join(f"    server {name} {address}:{number} check\n" for name, address in nodes)


def _published_port(service: Service, port: int, otherwise: str) -> PortConfig:
    """The port that is meant. Raises MeshnetError if there is none: `otherwise` is what else can be done."""
    ports = {one.published_port: one for one in service.endpoint.ports if one.protocol == "tcp"}
    if not ports:
        raise MeshnetError(
            f"{service.spec.name} publishes no tcp port; publish one (meshnet service update --publish-add 8080:80 "
            f"{service.spec.name}), or {otherwise}"
        )
    return ports[_port(port, list(ports), f"{service.spec.name} publishes")]


def _by_name(service: Service, wanted: Wanted, port: int) -> str:
    name = service.spec.name
    targets = [one for one in service.spec.endpoint_spec.ports if one.protocol == "tcp"]
    if not wanted.srv:
        number = port or (targets[0].target_port if len(targets) == 1 else 0)
        if not number:
            raise MeshnetError(f"say on which port the tasks of {name} listen: --port 8000")
        return _template(name, wanted, f"tasks.{name}:{number}")
    return _template(name, wanted, f"_{_label(name, targets, port)}._tcp.{name}")


def _label(name: str, targets: list[PortConfig], port: int) -> str:
    """How the port is called in SRV records: only what the service publishes has some."""
    numbers = [one.target_port for one in targets]
    if not numbers:
        raise MeshnetError(
            f"{name} publishes no tcp port, and SRV records tell only those; say the tasks' own without --srv, as "
            "--port 8000"
        )
    number = _port(port, numbers, f"SRV records tell published ports, and {name} publishes the tasks'")
    return next(one.name for one in targets if one.target_port == number) or str(number)


def _template(name: str, wanted: Wanted, address: str) -> str:
    options = "check resolvers swarm init-addr none resolve-prefer ipv4"
    return f"    server-template {name}- {wanted.slots} {address} {options}\n"


def _port(port: int, known: list[int], what: str) -> int:
    if not port and len(known) == 1:
        return known[0]
    if port not in known:
        raise MeshnetError(f"{what} {', '.join(map(str, known))}; say which with --port")
    return port


def ask(path: str, command: str, where: str = "") -> str:
    """What HAProxy answers to a command at its stats socket. Raises MeshnetError if nobody is there, at `where` for
    people, who know a task's path by the task's name."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5.0)
            connection.connect(path)
            connection.sendall(command.encode() + b"\n")
            parts, size = [], 0
            while (data := connection.recv(65536)) and size < _MOST:
                parts.append(data)
                size += len(data)
    except OSError as error:
        advice = "start one with what meshnet haproxy config writes, or say where its stats socket is"
        raise MeshnetError(f"no haproxy answers at {where or path}: {error.strerror or error}; {advice}") from None
    return b"".join(parts).decode(errors="replace")


def rows(text: str) -> list[dict[str, str]]:
    """The rows of `show stat`: frontends, backends and servers, by HAProxy's own column names.

    Servers of a template that stand for no task are left out. Raises MeshnetError for what is no such table.
    """
    lines = text.lstrip("# ").splitlines()
    if not lines or not lines[0].startswith("pxname,"):
        raise MeshnetError("that is not what haproxy answers to `show stat`")
    found = [dict(row) for row in csv.DictReader(lines) if row.get("svname")]
    return [row for row in found if not (row.get("addr") == "" and row.get("type") == "2")]


def lost(table: Sequence[dict[str, str]], columns: Sequence[str]) -> list[str]:
    """What of these columns is not 0, as `proxy/server column=number`. Raises MeshnetError for an unknown column."""
    found = []
    for row in table:
        for column in columns:
            if column not in row:
                raise MeshnetError(f"haproxy has no column {column}; take some of {', '.join(SHOWN[6:])}")
            if row[column] not in ("", "0"):
                found.append(f"{row['pxname']}/{row['svname']} {column}={row[column]}")
    return found

"""What a picture of a lab shows, as plain data, and the same as text for other programs to draw.

Hosts hang on the underlay, services on their networks; a published port is a way from every node into its service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshnet.lab.spec import Lab
from meshnet.model import Service, ServiceSpec

INGRESS = "ingress"


@dataclass(frozen=True, slots=True)
class Host:
    """A node (`role` manager or worker) or a client; `tasks` are the names of those that run on it."""

    name: str
    address: str
    role: str
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceBox:
    """`size` is how many tasks, in words; `ports` as docker writes them; `networks` by name, ingress among them."""

    name: str
    image: str
    size: str
    mode: str
    networks: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A lab's topology; `networks` are names, ingress first if a port is published."""

    name: str
    underlay: str
    hosts: tuple[Host, ...]
    networks: tuple[str, ...] = ()
    services: tuple[ServiceBox, ...] = ()

    @property
    def nodes(self) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts if host.role != "client")

    @property
    def clients(self) -> tuple[Host, ...]:
        return tuple(host for host in self.hosts if host.role == "client")


def picture(
    lab: Lab, services: Sequence[ServiceSpec] | None = None, tasks: Mapping[str, Sequence[str]] | None = None
) -> Picture:
    """The picture of a lab: `services` are those of its compose file unless others run, `tasks` those on each node."""
    boxes = tuple(_box(spec) for spec in (lab.services if services is None else services))
    used = dict.fromkeys(name for box in boxes for name in box.networks)
    own = [network.name for network in lab.networks]
    names = dict.fromkeys([*(name for name in used if name == INGRESS), *own, *used])
    return Picture(
        name=lab.name,
        underlay=lab.subnet,
        hosts=(
            *(Host(node.name, node.address, node.role, tuple((tasks or {}).get(node.name, ()))) for node in lab.nodes),
            *(Host(client.name, client.address, "client") for client in lab.clients),
        ),
        networks=tuple(names),
        services=boxes,
    )


def running(services: Iterable[Service], networks: Iterable[Mapping[str, Any]]) -> list[ServiceSpec]:
    """Specs of services that run, by name, with their networks' names where the engine has ids."""
    names = {str(network["Id"]): str(network["Name"]) for network in networks}
    found = []
    for service in services:
        template = service.spec.task_template
        attached = tuple(replace(one, target=names.get(one.target, one.target)) for one in template.networks)
        found.append(replace(service.spec, task_template=replace(template, networks=attached)))
    return sorted(found, key=lambda spec: spec.name)


def _box(spec: ServiceSpec) -> ServiceBox:
    ports = spec.endpoint_spec.ports
    networks = [attached.target for attached in (spec.task_template.networks or spec.networks)]
    if any(port.publish_mode == INGRESS for port in ports):
        networks.insert(0, INGRESS)
    replicated = spec.mode.replicated
    count = replicated.replicas if replicated else 0
    size = f"{count} task{'s' * (count != 1)}" if replicated else "on every node" if spec.mode.everywhere else "a job"
    return ServiceBox(
        name=spec.name,
        image=spec.task_template.container_spec.image,
        size=size,
        mode=spec.endpoint_spec.mode,
        networks=tuple(networks),
        ports=tuple(f"{port.published_port or '?'}->{port.target_port}/{port.protocol}" for port in ports),
    )


def as_data(shown: Picture) -> dict[str, Any]:
    """The picture for programs: JSON-ready, with the Engine API's kind of names."""
    return {
        "Name": shown.name,
        "Underlay": shown.underlay,
        "Nodes": [
            {"Name": host.name, "Address": host.address, "Role": host.role, "Tasks": list(host.tasks)}
            for host in shown.nodes
        ],
        "Clients": [{"Name": host.name, "Address": host.address} for host in shown.clients],
        "Networks": list(shown.networks),
        "Services": [
            {
                "Name": box.name,
                "Image": box.image,
                "Size": box.size,
                "EndpointMode": box.mode,
                "Networks": list(box.networks),
                "Ports": list(box.ports),
            }
            for box in shown.services
        ],
    }


def mermaid(shown: Picture) -> str:
    """A mermaid flowchart, which GitHub and many editors draw."""
    lines = ["flowchart TB", f'  underlay[["underlay {shown.underlay}"]]']
    for index, host in enumerate(shown.hosts):
        left, right = ("((", "))") if host.role == "client" else ("[", "]")
        lines += [f"  h{index}{left}{_quoted(_host_lines(host), '<br/>')}{right}", f"  h{index} --- underlay"]
    for index, name in enumerate(shown.networks):
        lines.append(f"  n{index}[[{_quoted([name])}]]")
        if name == INGRESS:
            lines += [f"  h{number} --- n{index}" for number, host in enumerate(shown.hosts) if host.role != "client"]
    for index, box in enumerate(shown.services):
        lines.append(f"  s{index}({_quoted(_box_lines(box), '<br/>')})")
        lines += [f"  n{shown.networks.index(name)} --- s{index}" for name in box.networks]
    return "\n".join(lines) + "\n"


def dot(shown: Picture) -> str:
    """The same for graphviz's dot."""
    lines = [f"graph {_quoted([shown.name])} {{", f'  underlay [shape=box, label="underlay {shown.underlay}"];']
    for index, host in enumerate(shown.hosts):
        shape = "ellipse" if host.role == "client" else "box3d"
        lines.append(f"  h{index} [shape={shape}, label={_quoted(_host_lines(host))}];")
        lines.append(f"  h{index} -- underlay;")
    for index, name in enumerate(shown.networks):
        lines.append(f"  n{index} [shape=box, style=rounded, label={_quoted([name])}];")
        if name == INGRESS:
            lines += [f"  h{number} -- n{index};" for number, host in enumerate(shown.hosts) if host.role != "client"]
    for index, box in enumerate(shown.services):
        lines.append(f"  s{index} [shape=component, label={_quoted(_box_lines(box))}];")
        lines += [f"  n{shown.networks.index(name)} -- s{index};" for name in box.networks]
    return "\n".join([*lines, "}"]) + "\n"


def _host_lines(host: Host) -> list[str]:
    return [host.name, host.address, *((host.role,) if host.role != "client" else ()), *host.tasks]


def _box_lines(box: ServiceBox) -> list[str]:
    mode = (box.mode,) if box.mode == "dnsrr" else ()
    return [box.name, ", ".join((box.size, *mode)), *box.ports]


def _quoted(lines: Iterable[str], gap: str = "\\n") -> str:
    return '"' + gap.join(line.replace("\\", "").replace('"', "'") for line in lines) + '"'

"""Whether nodes know what the manager knows: what a node sends to is programmed a moment after a task began to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshnet.lab.engine import Engine
    from meshnet.model import Service
    from meshnet.testing.labs import LabUnderTest


def everywhere(lab: LabUnderTest, name: str) -> bool:
    """Whether every node that is ready sends, for the service's VIPs and published ports, to exactly its tasks that
    run; and where one of its networks is, for the VIPs of the other services on it as well.

    What a node sends to is read back from its kernel. A node that does not answer knows nothing.
    """
    from meshnet.errors import MeshnetError

    wanted = _Wanted(lab.engine, name)
    try:
        return all(wanted.held(ident, lab.inspect(node, "lb")) for ident, node in wanted.nodes.items())
    except MeshnetError:
        return False


class _Wanted:
    """What nodes shall send to, as the manager sees the swarm now."""

    def __init__(self, engine: Engine, name: str) -> None:
        services, ingress = engine.services(), {one["Id"] for one in engine.networks() if one.get("Ingress")}
        self.nodes = {node.id: node.description.hostname for node in engine.nodes() if node.status.state == "ready"}
        self._service = next(service for service in services if service.spec.name == name)
        self._running: dict[str, set[str]] = {service.id: set() for service in services}
        self._networks: dict[str, set[str]] = {ident: set() for ident in self.nodes}
        for task in engine.tasks():
            if task.node_id in self.nodes and task.status.state == task.desired_state == "running":
                self._running.setdefault(task.service_id, set()).add(task.id)
                self._networks[task.node_id] |= {one.network_id for one in task.networks_attachments}
        self._vips = {service.id: _vips(service, ingress) for service in services}

    def held(self, node: str, rows: list[dict[str, Any]]) -> bool:
        """Whether a node (by id) with these rows of `inspect lb` sends to what it shall."""
        found = {
            (row["Address"], row["Port"].partition(" ")[0]): {one["Task"].rpartition(".")[2] for one in row["Backends"]}
            for row in rows
        }
        ports = [port for port in self._service.endpoint.ports if port.publish_mode == "ingress"]
        wanted = {("*", f"{port.published_port}/{port.protocol}"): self._running[self._service.id] for port in ports}
        mine = self._vips[self._service.id].keys() & self._networks[node]
        for service, vips in self._vips.items():
            wanted |= {(vips[network], ""): self._running[service] for network in mine & vips.keys()}
        return all(found.get(place) == tasks for place, tasks in wanted.items())


def _vips(service: Service, ingress: set[str]) -> dict[str, str]:
    """Network id -> VIP; the ingress network has none that is sent to."""
    return {
        one.network_id: one.addr.partition("/")[0]
        for one in service.endpoint.virtual_ips
        if one.network_id not in ingress and one.addr
    }

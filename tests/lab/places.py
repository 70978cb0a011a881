"""What tests of a whole lab share: addresses, names of tasks, and waiting until every node knows the same."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from meshnet.lab.tasks import find
from meshnet.model import Task
from meshnet.testing.labs import LabUnderTest

NODES = {"docker-0": "172.17.0.2", "docker-1": "172.17.0.3", "docker-2": "172.17.0.4"}
CLIENT = "172.17.0.10"
LAB = {
    "name": "places",
    "underlay": {"subnet": "172.17.0.0/16"},
    "nodes": {
        "docker-0": {"address": "172.17.0.2", "role": "manager"},
        "docker-1": {"address": "172.17.0.3"},
        "docker-2": {"address": "172.17.0.4"},
    },
    "clients": {"client": {"address": CLIENT}},
}


def at(node: str) -> list[str]:
    """The constraint that places a service on one node."""
    return [f"node.hostname=={node}"]


def box(lab: LabUnderTest, name: str, node: str, *networks: str) -> None:
    """A task to ask from, on one node: it sleeps."""
    lab.service(name, "alpine", "sleep", "1000000", networks=networks, constraints=at(node))


def hostnames(lab: LabUnderTest, service: str = "whoami") -> set[str]:
    """What the tasks of a service call themselves."""
    return {task.spec.hostname for task in lab.tasks(service)}


def task_of(lab: LabUnderTest, name: str) -> Task:
    """The manager's view of a running task, by `service.slot`."""
    ident = find(lab.spec, name).id
    return next(task for task in lab.engine.tasks() if task.id == ident)


def pid_of(lab: LabUnderTest, name: str) -> int:
    """The first process of a running task."""
    status = task_of(lab, name).status.container_status
    assert status is not None
    return status.pid


def address(lab: LabUnderTest, name: str, network: str = "demo") -> str:
    """A task's address on a network."""
    attached = [one.address for one in task_of(lab, name).networks_attachments]
    return next(ip for ip in attached if IPv4Address(ip) in subnet(lab, network))


def subnet(lab: LabUnderTest, network: str) -> IPv4Network:
    """A network's subnet."""
    return IPv4Network(lab.engine.network(network)["IPAM"]["Config"][0]["Subnet"])


def vip(lab: LabUnderTest, service: str = "whoami", network: str = "demo") -> str:
    """A service's VIP on a network."""
    found = lab.engine.service(service).vip(lab.engine.network(network)["Id"])
    assert found is not None
    return found


def backends(lab: LabUnderTest, node: str, service: str) -> list[set[str]]:
    """The tasks behind each VIP and published port of a service, as a node's kernel has them."""
    rows = [row for row in lab.inspect(node, "lb") if row["Service"] == service]
    return [{backend["Task"] for backend in row["Backends"]} for row in rows]


def settled(lab: LabUnderTest, service: str, replicas: int, *nodes: str) -> None:
    """Waits until exactly the tasks that run, so many, stand behind a service on every node (or on `nodes`)."""

    def holds() -> bool:
        running = {task.name for task in lab.tasks(service)}
        shown = [tasks for node in nodes or NODES for tasks in backends(lab, node, service)]
        return len(running) == replicas and all(tasks == running for tasks in shown)

    lab.wait_until(holds, what=f"{replicas} backends of {service} on every node")

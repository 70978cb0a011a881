"""Talking to a lab's manager and agents: their HTTP over unix sockets, with the model's objects.

The commands speak to a node's engine, as `docker` does (`of_node`). Bringing labs up and watching over them speaks to
the manager's own socket (`of_lab`), which is there before the agents are, and while they are gone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from meshnet import names
from meshnet.api.client import HUNG, EngineClient, SilentError
from meshnet.codec import from_json, to_json
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.lab import advice, state
from meshnet.lab.spec import Lab
from meshnet.lab.words import NAME_RULE
from meshnet.model import NetworkSpec, Node, NodeSpec, Service, ServiceSpec, Task
from meshnet.secretspec import ConfigSpec, SecretSpec

UNAVAILABLE = 503
SOCKETS = {"agent": "docker.sock", "manager": "manager.sock"}
PAUSE = 0.02
T = TypeVar("T")
Thing = TypeVar("Thing", Service, Node)
Warned = Callable[[str], object]


class Engine:
    """The Engine API of one node of a lab: that of its agent, or its manager's own."""

    def __init__(self, lab: Lab, node: str, role: str) -> None:
        self.lab = lab
        self.node_name = node
        self._role = role
        self._client = EngineClient(f"{names.node_dir(lab.name, node)}/{SOCKETS[role]}")

    def get(self, path: str, **query: Any) -> Any:
        """GET of the Engine API. Raises MeshnetError; if nobody answers, with what to do."""
        return self._said(lambda: self._client.get(path, **query))

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """POST of the Engine API. Raises MeshnetError."""
        return self._said(lambda: self._client.post(path, body, **query))

    def delete(self, path: str, **query: Any) -> Any:
        """DELETE of the Engine API. Raises MeshnetError."""
        return self._said(lambda: self._client.delete(path, **query))

    def stream(self, path: str, framed: bool = True, **query: Any) -> Iterator[tuple[int, bytes]]:
        """What a GET gives as it comes: number of the stream (1 or 2) and bytes. Raises MeshnetError."""
        return self._client.stream(path, framed, **query)

    def taken(self, path: str, body: Any) -> tuple[socket.socket, bytes]:
        """A POST whose connection is taken over: the socket, and what came first. Raises MeshnetError."""
        found: tuple[socket.socket, bytes] = self._said(lambda: self._client.taken(path, body))
        return found

    def _said(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except SilentError as error:
            if error.status == HUNG:
                raise MeshnetError(_hung(self._role, self.node_name), HUNG) from None
            if os.geteuid() != 0:
                raise MeshnetError(f"the {self._role} on {self.node_name} belongs to root; run this as root") from None
            raise MeshnetError(
                f"the {self._role} on {self.node_name} does not answer; "
                f"start it with: meshnet lab start {self.node_name}, or see: meshnet lab logs {self.node_name}",
                UNAVAILABLE,
            ) from None
        except MeshnetError as error:
            raise type(error)(advice.here(str(error), self.lab, self.node_name), error.status) from None

    def join_tokens(self) -> dict[str, str]:
        """`Worker` and `Manager`: what lets a node into the swarm in that role."""
        found: dict[str, str] = self.get("/swarm")["JoinTokens"]
        return found

    def nodes(self) -> list[Node]:
        return self._all(Node, "/nodes")

    def services(self) -> list[Service]:
        return self._all(Service, "/services")

    def tasks(self) -> list[Task]:
        return self._all(Task, "/tasks")

    def networks(self) -> list[dict[str, Any]]:
        """Networks in the Engine's own shape, which differs from that of the other objects."""
        found: list[dict[str, Any]] = self.get("/networks")
        return found

    def _all(self, kind: type[T], target: str) -> list[T]:
        return [from_json(kind, item) for item in self.get(target)]

    def service(self, name: str) -> Service:
        """A service by name, id, or the beginning of an id. Raises NotFoundError."""
        return _one(self.services(), name, "service", lambda service: service.spec.name)

    def node(self, name: str) -> Node:
        """A node by hostname, id, or the beginning of an id. Raises NotFoundError."""
        return _one(self.nodes(), name, "node", lambda node: node.description.hostname)

    def network(self, name: str) -> dict[str, Any]:
        """A network by name, id, or the beginning of an id, in the Engine's shape. Raises NotFoundError."""
        found = [one for one in self.networks() if name in (one["Name"], one["Id"])]
        found = found or [one for one in self.networks() if name and one["Id"].startswith(name)]
        if len(found) != 1:
            raise NotFoundError(f"network {name} not found" if not found else f"several networks begin with {name}")
        return found[0]

    def create_network(self, spec: NetworkSpec) -> str:
        """Creates an overlay network and returns its id."""
        if not spec.name:
            raise MeshnetError("a network needs a name")
        configs = [
            {"Subnet": one.subnet, "IPRange": one.range, "Gateway": one.gateway} for one in spec.ipam_options.configs
        ]
        body = {
            "Name": spec.name,
            "Driver": "overlay",
            "Internal": spec.internal,
            "Attachable": spec.attachable,
            "Labels": spec.labels,
            "Options": spec.options,
            "IPAM": {"Driver": "default", "Config": [{k: v for k, v in one.items() if v} for one in configs]},
        }
        return str(_explained(lambda: self.post("/networks/create", body))["Id"])

    def remove_network(self, name: str) -> None:
        """Removes a network; if something uses it, says so by the names that a person knows."""
        network = self.network(name)
        try:
            self.delete(f"/networks/{network['Id']}")
        except MeshnetError as error:
            called = {network["Id"]: network["Name"]}
            called |= {service.id: service.spec.name for service in self.services()}
            called |= {task.id: f"{called.get(task.service_id, task.service_id)}.{task.slot}" for task in self.tasks()}
            words = [called.get(word, word) for word in str(error).split(" ")]
            raise MeshnetError(" ".join(words), error.status) from None

    def create_file(self, spec: SecretSpec | ConfigSpec) -> str:
        """Creates a secret or a config and returns its id."""
        kind = "secrets" if isinstance(spec, SecretSpec) else "configs"
        return str(self.post(f"/{kind}/create", to_json(spec))["ID"])

    def update_file(self, before: dict[str, Any], spec: SecretSpec | ConfigSpec) -> None:
        """Gives a secret or a config, in the Engine's shape, other labels; refused if its data would be another."""
        kind = "secrets" if isinstance(spec, SecretSpec) else "configs"
        self.post(f"/{kind}/{before['ID']}/update", to_json(spec), version=before["Version"]["Index"])

    def create_service(self, spec: ServiceSpec, warned: Warned = lambda _: None) -> str:
        """Creates a service and returns its id; `warned` is told what of it is without effect."""
        made = _explained(lambda: self.post("/services/create", to_json(spec)))
        for warning in made.get("Warnings") or ():
            warned(warning)
        return str(made["ID"])

    def update_service(
        self, service: Service, spec: ServiceSpec, warned: Warned = lambda _: None, **query: str
    ) -> None:
        """Gives a service a new spec; refused if it changed since `service` was read. `query`: a rollback."""
        path = f"/services/{service.id}/update"
        for warning in self.post(path, to_json(spec), version=service.version.index, **query).get("Warnings") or ():
            warned(warning)

    def remove_service(self, name: str) -> None:
        self.delete(f"/services/{self.service(name).id}")

    def update_node(self, node: Node, spec: NodeSpec) -> None:
        """Gives a node a new spec; refused if it changed since `node` was read."""
        self.post(f"/nodes/{node.id}/update", to_json(spec), version=node.version.index)


def _explained(ask: Callable[[], Any]) -> Any:
    """Adds what is allowed to Swarm's words about a name, which do not say it."""
    try:
        return ask()
    except MeshnetError as error:
        if not str(error).endswith("valid as a DNS name component"):
            raise
        raise MeshnetError(f"{error}: {NAME_RULE}", error.status) from None


def _one(things: Sequence[Thing], name: str, kind: str, name_of: Callable[[Thing], str]) -> Thing:
    found = [thing for thing in things if name in (thing.id, name_of(thing))]
    found = found or [thing for thing in things if name and thing.id.startswith(name)]
    if not found:
        raise NotFoundError(f"{kind} {name} not found")
    if len(found) > 1:
        raise MeshnetError(f"several {kind}s begin with {name}; give more of the id")
    return found[0]


def check_image(lab: Lab, reference: str) -> None:
    """Raises NotFoundError, with what to do, if no node of the lab could run this image."""
    from meshnet.sandbox.images import Images

    try:
        Images(lab.images, f"{names.lab_dir(lab.name)}/images").check(reference)
    except NotFoundError as error:
        raise NotFoundError(f"{error}; see what there is with: meshnet images") from None


def of_node(lab: Lab, node: str | None = None) -> Engine:
    """The engine of a node: by default of the first manager, or of the first node while there is none.

    Raises NotFoundError for a node that the lab does not have.
    """
    if node is None:
        node = (*lab.managers, *lab.nodes)[0].name
    return Engine(lab, state.node_of(lab, node).name, "agent")


def of_lab(lab: Lab) -> Engine:
    """The manager of a lab, at its own socket. Raises MeshnetError if no node has one."""
    if not lab.managers:
        raise MeshnetError(
            f"no node of the lab {lab.name} is a swarm manager; make one with docker swarm init on a node, "
            f"after: meshnet lab env {lab.nodes[0].name}"
        )
    return Engine(lab, lab.managers[0].name, "manager")


def agent(lab: Lab, node: str, path: str) -> Any:
    """GET of an agent's own socket, such as `/inspect/lb`. Raises MeshnetError if the agent does not answer, and with
    status UNAVAILABLE if it does, but is in no swarm."""
    return _agent(lab, node, lambda client: client.get(path))


def listens(lab: Lab, node: str) -> bool:
    """Whether a node's agent serves the Engine API."""
    try:
        EngineClient(f"{names.node_dir(lab.name, node)}/docker.sock").get("/info")
    except MeshnetError:
        return False
    return True


def agents(lab: Lab, path: str, nodes: Sequence[str]) -> tuple[dict[str, Any], dict[str, MeshnetError]]:
    """GET of several agents' own sockets: node -> answer, and node -> error of those that do not answer."""
    found, silent = {}, {}
    for node in nodes:
        try:
            found[node] = agent(lab, node, path)
        except MeshnetError as error:
            silent[node] = error
    return found, silent


def stop_agent(lab: Lab, node: str) -> None:
    """Tells an agent to end its tasks in order, and then itself. Raises MeshnetError if it does not answer."""
    _agent(lab, node, lambda client: client.post("/stop"))


def _hung(role: str, node: str) -> str:
    end = "stop" if role == "manager" else "kill"  # an agent that hangs cannot end its tasks in order
    return (
        f"the {role} on {node} is there and does not answer: it is stopped or hangs; see: meshnet lab logs {node}; "
        f"restart it with: meshnet lab {end} {node}; meshnet lab start {node}"
    )


def _agent(lab: Lab, node: str, ask: Callable[[EngineClient], Any]) -> Any:
    try:
        return ask(EngineClient(f"{names.node_dir(lab.name, node)}/agent.sock"))
    except SilentError as error:
        if error.status == HUNG:
            raise MeshnetError(_hung("agent", node), HUNG) from None
        if os.geteuid() != 0:
            raise MeshnetError(f"the agent on {node} belongs to root; run this as root") from None
        raise MeshnetError(f"the agent on {node} does not answer; start it with: meshnet lab start {node}") from None
    except MeshnetError as error:
        if error.status != UNAVAILABLE:
            raise
        raise MeshnetError(
            f"{node} is in no swarm yet; let it join with what this says: meshnet swarm join-token worker", UNAVAILABLE
        ) from None

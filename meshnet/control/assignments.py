"""What one node is told: its node object, its tasks, every service and network it needs to run and reach them, and the
secrets and configs of its tasks.

A node needs the ingress network and all services that publish a port, to serve it or to say where it is served; the
networks of its tasks that have not ended; and all services on those networks, for their VIPs and names. A task is kept
from its node while it must not start (`ready`), and stays with it after it has ended until the manager forgets it, so
that its logs stay too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from meshnet.codec import compact, from_json
from meshnet.control.objects import Change, Object, kind_of
from meshnet.control.view import View, alive, networks_of, on_ingress
from meshnet.errors import MeshnetError
from meshnet.model import Assignments, Config, Network, Node, Secret, Service, Task, TaskStatus, Version
from meshnet.secretspec import SecretSpec

Told = Node | Network | Service | Task | Secret | Config
TABLES = ("tasks", "services", "networks", "secrets", "configs")
_CLASSES: dict[str, type] = {
    "node": Node,
    "tasks": Task,
    "services": Service,
    "networks": Network,
    "secrets": Secret,
    "configs": Config,
}


def assignments_of(view: View, node_id: str) -> Assignments:
    """Everything that the node must know now. Empty for an unknown node."""
    node = view.nodes.get(node_id)
    if node is None:
        return Assignments()
    tasks = {t.id: t for t in view.tasks_on.get(node_id, {}).values() if t.desired_state != "ready"}
    networks = {a.network_id for task in tasks.values() if alive(task) for a in task.networks_attachments}
    services = {task.service_id for task in tasks.values() if alive(task)}
    for network in networks:
        services |= view.services_on.get(network, set())
    if view.ingress is not None:
        networks.add(view.ingress.id)
    services |= view.on_ingress
    return Assignments(
        node=node,
        tasks=tasks,
        services={ident: _for_nodes(view.services[ident]) for ident in sorted(services) if ident in view.services},
        networks={ident: view.networks[ident] for ident in sorted(networks) if ident in view.networks},
        secrets=_secrets(view, tasks.values()),
        configs=_configs(view, tasks.values()),
    )


def _secrets(view: View, tasks: Iterable[Task]) -> dict[str, Secret]:
    """The secrets, opened, of tasks that have not ended."""
    idents = sorted({r.secret_id for task in tasks if alive(task) for r in task.spec.container_spec.secrets})
    opened = {}
    for ident in idents:
        secret = view.secrets.get(ident)
        if secret is not None and view.vault is not None:
            data = view.vault.open(secret.sealed, ident)
            opened[ident] = Secret(id=ident, spec=SecretSpec(secret.spec.name, {}, data, None, secret.spec.templating))
    return opened


def _configs(view: View, tasks: Iterable[Task]) -> dict[str, Config]:
    idents = sorted({r.config_id for task in tasks if alive(task) for r in task.spec.container_spec.configs})
    return {ident: view.configs[ident] for ident in idents if ident in view.configs}


def for_disk(assignments: Assignments) -> Assignments:
    """What an agent may keep on its disk: everything but the secrets. Tasks that need them wait for the manager."""
    return dataclasses.replace(assignments, secrets={})


@dataclass(frozen=True, slots=True)
class Delta:
    """The way from one `Assignments` to the next: objects new or changed, and ids that are gone, per table."""

    upserts: dict[str, dict[str, Told]]
    removals: dict[str, tuple[str, ...]]

    def __bool__(self) -> bool:
        return any(self.upserts.values()) or any(self.removals.values())


def diff(before: Assignments, after: Assignments) -> Delta:
    """What must be told. What the agent said of a task is not told back to it, except that its end was taken."""
    upserts: dict[str, dict[str, Told]] = {}
    removals: dict[str, tuple[str, ...]] = {}
    for table in TABLES:
        old: Mapping[str, Told] = getattr(before, table)
        new: Mapping[str, Told] = getattr(after, table)
        upserts[table] = {ident: thing for ident, thing in new.items() if _differs(old.get(ident), thing)}
        removals[table] = tuple(ident for ident in old if ident not in new)
    if after.node is not None and _differs(before.node, after.node):
        upserts["node"] = {after.node.id: after.node}
    return Delta(upserts, removals)


class Feed:
    """Follows what one node must be told without looking at everything after each change.

    A service that comes or changes, and a task on networks that are told already, are told by themselves; what may
    change which networks or services are needed (rarer) is found by comparing with `assignments_of`.
    """

    def __init__(self, view: View, node_id: str) -> None:
        self._view = view
        self._node_id = node_id
        self.told = assignments_of(view, node_id)

    def advance(self, changes: Iterable[Change]) -> Delta:
        """What to tell after the changes, which the view has already."""
        upserts: dict[str, dict[str, Told]] = {table: {} for table in TABLES}
        for before, after in self._merged(changes):
            if not self._simple(before, after, upserts):
                return self._compare(upserts)
        return Delta(upserts, {})

    def _merged(self, changes: Iterable[Change]) -> Iterable[tuple[Object | None, Object | None]]:
        """Each object that changed once: as it was before the first change, and as it is now."""
        first: dict[tuple[str, str], Object | None] = {}
        for change in changes:
            thing = change.after or change.before
            if thing is not None:
                first.setdefault((kind_of(thing), thing.id), change.before)
        return [(before, self._view.get(*key)) for key, before in first.items()]

    def _compare(self, upserts: dict[str, dict[str, Told]]) -> Delta:
        now = assignments_of(self._view, self._node_id)
        whole = diff(self.told, now)
        for table in TABLES:
            present = getattr(now, table)
            noted = {ident: thing for ident, thing in upserts[table].items() if ident in present}
            whole.upserts[table] = {**noted, **whole.upserts[table]}
        self.told = now
        return whole

    def _simple(self, before: Object | None, after: Object | None, upserts: dict[str, dict[str, Told]]) -> bool:
        """Notes a change that can be told by itself in `upserts`; True also if it does not concern the node."""
        thing = after or before
        if isinstance(thing, Task):
            return self._simple_task(before, after, upserts["tasks"])
        if isinstance(thing, Service):
            return self._simple_service(thing.id, after, upserts["services"])
        if isinstance(thing, Network):
            return thing.id not in self.told.networks and not thing.spec.ingress
        if isinstance(thing, Config):
            return thing.id not in self.told.configs
        # Of a secret a node is told nothing that can change.
        return not isinstance(thing, Node) or thing.id != self._node_id

    def _simple_service(self, ident: str, after: Object | None, upserts: dict[str, Told]) -> bool:
        known = self.told.services.get(ident)
        if not isinstance(after, Service):
            return known is None
        if known is not None:
            return not _differs(known, _for_nodes(after))
        if on_ingress(after) or any(network in self.told.networks for network in networks_of(after)):
            self.told.services[ident] = upserts[ident] = _for_nodes(after)
        return True

    def _simple_task(self, before: Object | None, after: Object | None, upserts: dict[str, Told]) -> bool:
        if not self._mine(before) and not self._mine(after):
            return True
        if not isinstance(after, Task) or not self._mine(after) or not alive(after):
            return False
        networks = {item.network_id for item in after.networks_attachments}
        secrets = {item.secret_id for item in after.spec.container_spec.secrets}
        configs = {item.config_id for item in after.spec.container_spec.configs}
        if not (secrets <= self.told.secrets.keys() and configs <= self.told.configs.keys()):
            return False
        if after.service_id not in self.told.services or not networks <= self.told.networks.keys():
            return False
        if _differs(self.told.tasks.get(after.id), after):
            upserts[after.id] = after
        self.told.tasks[after.id] = after
        return True

    def _mine(self, task: Object | None) -> bool:
        return isinstance(task, Task) and task.node_id == self._node_id and task.desired_state != "ready"


def _for_nodes(service: Service) -> Service:
    """The service without what only the manager needs: how its update goes and what it was before."""
    if service.update_status is None and not service.previous_specs:
        return service
    return dataclasses.replace(service, update_status=None, previous_specs=())


def _differs(old: Told | None, new: Told) -> bool:
    if old is new:
        return False
    return old is None or _told(old) != _told(new)


def _told(thing: Told) -> Told:
    """The object without what changes for the manager's own use."""
    if isinstance(thing, Task):
        status = TaskStatus() if alive(thing) else TaskStatus(state=thing.status.state)
        return dataclasses.replace(
            thing, version=Version(), updated_at="", status=status, running_since="", ended_at="", failures=0
        )
    if isinstance(thing, Config):
        return dataclasses.replace(
            thing, version=Version(), updated_at="", spec=dataclasses.replace(thing.spec, labels={})
        )
    return dataclasses.replace(thing, version=Version(), updated_at="")


def snapshot_line(assignments: Assignments, rev: int) -> bytes:
    """The first line of a stream: everything."""
    return _line({"type": "snapshot", "rev": rev, "assignments": compact(assignments)})


def delta_line(delta: Delta, rev: int) -> bytes:
    """A later line: what changed."""
    return _line(
        {
            "type": "delta",
            "rev": rev,
            "upserts": {table: compact(things) for table, things in delta.upserts.items() if things},
            "removals": {table: list(idents) for table, idents in delta.removals.items() if idents},
        }
    )


def bookmark_line(rev: int) -> bytes:
    """Nothing changed, and the manager is there."""
    return _line({"type": "bookmark", "rev": rev})


def trust_line(trust: dict[str, Any], rev: int) -> bytes:
    """Which CA and which keys are in force now: not an assignment, but told the same way."""
    return _line({"type": "trust", "rev": rev, "trust": trust})


def trust_of(line: bytes) -> Any:
    """What a line of a stream says of CA and keys; None for a line of another kind."""
    return json.loads(line)["trust"] if line.startswith(b'{"type":"trust"') else None


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def follow(assignments: Assignments | None, line: bytes) -> Assignments | None:
    """The assignments after one line of a stream; the same object for a bookmark.

    Raises MeshnetError for a line that is none of the three, or a delta before any snapshot.
    """
    try:
        message = json.loads(line)
        kind = message["type"]
        if kind == "snapshot":
            return from_json(Assignments, message["assignments"])
        if kind == "bookmark":
            return assignments
        if kind != "delta" or assignments is None:
            raise KeyError(kind)
        return _patched(assignments, message["upserts"], message["removals"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MeshnetError(f"the manager sent an assignment line that cannot be read: {error!r}") from error


def _patched(assignments: Assignments, upserts: dict[str, Any], removals: dict[str, Any]) -> Assignments:
    fields: dict[str, Any] = {}
    for table in TABLES:
        things = dict(getattr(assignments, table))
        for ident in removals.get(table, ()):
            things.pop(ident, None)
        for ident, data in upserts.get(table, {}).items():
            things[ident] = from_json(_CLASSES[table], data)
        fields[table] = things
    for data in upserts.get("node", {}).values():
        fields["node"] = from_json(Node, data)
    return dataclasses.replace(assignments, **fields)

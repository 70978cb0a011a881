"""All objects of the store in memory, with the indexes that decisions need.

A view is what the store held at one revision. Only `apply` changes it; everything that decides reads it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, TypeVar

from meshnet.control.objects import Cluster, Cursor, Object, SealedTrust
from meshnet.control.vault import Vault
from meshnet.ipam import number_of
from meshnet.model import TERMINAL_STATES, Config, Network, Node, Secret, Service, Task, Version

K = TypeVar("K")


class View:
    """Objects by id and by what they refer to.

    `taken` holds, per network id, the addresses in use as integers; `waiting` the tasks that need addresses or a node;
    `load` how many tasks count for a node when tasks are spread; `ingress` is that network, if there is one;
    `vault` opens the secrets. `folded` holds, per kind and name in lower case, the name that is taken: as in Swarm's
    store, and in DNS, names do not differ by case alone.
    """

    def __init__(self) -> None:
        self.rev = 0
        self.nodes: dict[str, Node] = {}
        self.networks: dict[str, Network] = {}
        self.services: dict[str, Service] = {}
        self.tasks: dict[str, Task] = {}
        self.clusters: dict[str, Cluster] = {}
        self.cursors: dict[str, Cursor] = {}
        self.secrets: dict[str, Secret] = {}
        self.configs: dict[str, Config] = {}
        self.vault: Vault | None = None
        self.trusts: dict[str, SealedTrust] = {}
        self.tasks_of: dict[str, dict[str, Task]] = defaultdict(dict)
        self.tasks_on: dict[str, dict[str, Task]] = defaultdict(dict)
        self.services_on: dict[str, set[str]] = defaultdict(set)
        self.ingress: Network | None = None
        self.published: set[str] = set()
        self.on_ingress: set[str] = set()
        self.service_named: dict[str, str] = {}
        self.network_named: dict[str, str] = {}
        self.folded: dict[tuple[str, str], str] = {}
        self.taken: dict[str, set[int]] = defaultdict(set)
        self.waiting: dict[str, Task] = {}
        self.load: Counter[str] = Counter()
        self._tables: dict[str, dict[str, Any]] = {
            "node": self.nodes,
            "network": self.networks,
            "service": self.services,
            "task": self.tasks,
            "cluster": self.clusters,
            "config": self.configs,
            "secret": self.secrets,
            "cursor": self.cursors,
            "trust": self.trusts,
        }

    def get(self, kind: str, ident: str) -> Object | None:
        return self._tables[kind].get(ident)

    def all(self) -> Iterable[Object]:
        return (thing for table in self._tables.values() for thing in table.values())

    def apply(self, kind: str, ident: str, thing: Object | None) -> Object | None:
        """Sets or, with None, removes one object. Returns what was there before."""
        table = self._tables[kind]
        before: Object | None = table.pop(ident, None)
        if before is not None:
            self._index(before, False)
        if thing is not None:
            table[ident] = thing
            self._index(thing, True)
        return before

    @property
    def cluster(self) -> Cluster | None:
        return next(iter(self.clusters.values()), None)

    def _index(self, thing: Object, present: bool) -> None:
        for network, address in addresses_of(thing):
            _put_or_discard(self.taken[network], number_of(address), present)
        if isinstance(thing, Task):
            for index, key in ((self.tasks_of, thing.service_id), (self.tasks_on, thing.node_id)):
                if present:
                    index[key][thing.id] = thing
                else:
                    index[key].pop(thing.id, None)
            if counts(thing):
                self.load[thing.node_id] += 1 if present else -1
            if present and wanted(thing) and thing.status.state in ("new", "pending"):
                self.waiting[thing.id] = thing
            else:
                self.waiting.pop(thing.id, None)
        elif isinstance(thing, Service):
            _name(self.service_named, thing.spec.name, thing.id, present)
            _name(self.folded, ("service", thing.spec.name.lower()), thing.spec.name, present)
            _put_or_discard(self.published, thing.id, present and uses_ingress(thing))
            _put_or_discard(self.on_ingress, thing.id, present and on_ingress(thing))
            for network in networks_of(thing):
                _put_or_discard(self.services_on[network], thing.id, present)
        elif isinstance(thing, Network):
            _name(self.network_named, thing.spec.name, thing.id, present)
            if thing.spec.ingress:
                self.ingress = thing if present else None
            _name(self.folded, ("network", thing.spec.name.lower()), thing.spec.name, present)


def _put_or_discard(members: set[Any], member: Any, present: bool) -> None:
    if present:
        members.add(member)
    else:
        members.discard(member)


def _name(names: dict[K, str], name: K, ident: str, present: bool) -> None:
    if present:
        names[name] = ident
    elif names.get(name) == ident:
        del names[name]


def alive(task: Task) -> bool:
    """Whether the task may still have something running: it has not ended, or nobody said so yet."""
    return task.status.state not in TERMINAL_STATES


def wanted(task: Task) -> bool:
    """Whether the manager wants the task to run, now or after its delay."""
    return task.desired_state in ("ready", "running")


def counts(task: Task) -> bool:
    """Whether the task counts for its node when tasks are spread: it is there and wanted."""
    return bool(task.node_id and task.service_id) and alive(task) and wanted(task)


def iteration_of(service: Service) -> Version | None:
    """Which run of a job a service's tasks belong to; None if it is no job."""
    return service.job_status.job_iteration if service.job_status else None


def networks_of(service: Service) -> list[str]:
    """The ids of the networks that the service's tasks are on, ingress not among them."""
    return list(dict.fromkeys(item.target for item in service.spec.task_template.networks))


def uses_ingress(service: Service) -> bool:
    """Whether a port is published on every node, so that the tasks must be on the ingress network."""
    return any(port.publish_mode == "ingress" for port in service.spec.endpoint_spec.ports)


def on_ingress(service: Service) -> bool:
    """Whether the service's tasks are on the ingress network: any port that is published leads there."""
    return bool(service.spec.endpoint_spec.ports)


def addresses_of(thing: Object) -> list[tuple[str, str]]:
    """(network id, address) of everything the object holds. A task that has ended holds nothing."""
    if isinstance(thing, Service):
        return [(vip.network_id, vip.addr) for vip in thing.endpoint.virtual_ips]
    if isinstance(thing, Network):
        return [
            (thing.id, address)
            for config in thing.ipam_options.configs
            for address in (config.gateway, *config.auxiliary_addresses.values())
            if address
        ]
    if isinstance(thing, Node):
        return [(item.network_id, address) for item in thing.attachments for address in item.addresses]
    if isinstance(thing, Task) and alive(thing):
        return [(item.network_id, address) for item in thing.networks_attachments for address in item.addresses]
    return []

"""What people and nodes may ask for, as functions of the view: each gives the changes, or refuses and changes nothing.

Refusals carry Swarm's own words where Swarm refuses the same, and the HTTP status that the Engine gives them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Iterable
from datetime import datetime

from meshnet.clusterspec import ClusterChange, ClusterSpec, RaftConfig
from meshnet.control.allocator import Ledger, give_network, give_node, give_service
from meshnet.control.confidential import check_references
from meshnet.control.defaults import same
from meshnet.control.objects import Changes, Cluster, stamp
from meshnet.control.refusals import check_version, exists, invalid, precondition
from meshnet.control.view import View, alive, wanted
from meshnet.errors import ConflictError, MeshnetError, NotFoundError
from meshnet.model import (
    SECOND,
    TERMINAL_STATES,
    IPAMConfig,
    IPAMOptions,
    JobStatus,
    ManagerStatus,
    Network,
    NetworkAttachmentConfig,
    NetworkSpec,
    Node,
    NodeDescription,
    NodeSpec,
    PortConfig,
    Service,
    ServiceMode,
    ServiceSpec,
    TaskStatus,
    UpdateStatus,
    Version,
    state_rank,
)

NewId = Callable[[], str]
INGRESS = "ingress"
WORDS = 4096  # characters of what a node says of a task
_CONTAINER_ID = re.compile("[0-9a-f]{0,64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
HOSTNAME = 253  # characters that a name has at most (RFC 1035)
KEPT_SPECS = 5
SHORTEST_HEARTBEAT = SECOND // 10


def _as(taken: str, asked: str) -> str:
    """Behind Swarm's words: under which name it exists, if that is written otherwise."""
    return "" if taken == asked else f" as {taken}; names must differ by more than case"


def start_cluster(view: View, ledger: Ledger, new_id: NewId, told: ClusterSpec = ClusterSpec()) -> Changes:  # noqa: B008 it is frozen
    """Makes the swarm, as it is told, and its ingress network if they do not exist."""
    if view.cluster is not None:
        return Changes()
    first = ledger.pools[0].partition("/")[0]
    spec = NetworkSpec(name=INGRESS, ingress=True)
    asked = dataclasses.replace(spec, ipam_options=IPAMOptions((IPAMConfig(f"{first}/{ledger.size}"),)))
    ingress = give_network(ledger, Network(id=new_id(), spec=asked))
    ledger.moved("subnet", ingress.subnet)
    return Changes((Cluster(id=new_id(), spec=told), dataclasses.replace(ingress, spec=spec), *ledger.cursors()))


def update_cluster(cluster: Cluster, change: ClusterChange) -> Cluster:
    """The swarm under a changed spec. Raises MeshnetError for what Swarm refuses."""
    if change.name not in ("", cluster.spec.name):
        raise invalid("modification of cluster name is not allowed")
    if change.encryption_config.auto_lock_managers:
        raise MeshnetError("EncryptionConfig.AutoLockManagers: managers that must be unlocked are not supported", 501)
    if 0 < change.dispatcher.heartbeat_period < SHORTEST_HEARTBEAT:
        raise invalid("Dispatcher.HeartbeatPeriod: at least 100ms is needed")
    spec, raft = cluster.spec, change.raft
    keep, limit = raft.keep_old_snapshots, change.orchestration.task_history_retention_limit
    old = spec.raft
    spec = dataclasses.replace(
        spec,
        labels=change.labels or spec.labels,
        orchestration=spec.orchestration if limit is None else change.orchestration,
        dispatcher=change.dispatcher if change.dispatcher.heartbeat_period else spec.dispatcher,
        task_defaults=change.task_defaults if change.task_defaults.log_driver else spec.task_defaults,
        raft=RaftConfig(
            raft.snapshot_interval or old.snapshot_interval,
            old.keep_old_snapshots if keep is None else keep,
            raft.log_entries_for_slow_followers or old.log_entries_for_slow_followers,
            raft.election_tick or old.election_tick,
            raft.heartbeat_tick or old.heartbeat_tick,
        ),
    )
    return dataclasses.replace(cluster, spec=spec)


def create_network(view: View, spec: NetworkSpec, ledger: Ledger, new_id: NewId) -> Changes:
    """A network with subnet, gateway and VNI. `spec` is validated."""
    if taken := view.folded.get(("network", spec.name.lower())):
        raise ConflictError(f"network with name {spec.name} already exists{_as(taken, spec.name)}")
    if spec.ingress and view.ingress is not None:
        text = f"ingress network ({view.ingress.id}) is already present"
        raise exists(text)
    network = give_network(ledger, Network(id=new_id(), spec=spec))
    return Changes((network, *ledger.cursors()))


def remove_network(view: View, network: Network) -> Changes:
    """Deletes a network that no service and no wanted task uses. A task whose service is gone is as good as unwanted:
    the orchestrator only has yet to say so."""
    users = sorted(view.services_on.get(network.id, ()))
    if not users and network.spec.ingress:
        users = sorted(view.published)
    if users:
        raise precondition(f"network {network.id} is in use by service {users[0]}")
    for task in view.tasks.values():
        if task.service_id not in view.services or not wanted(task) or not alive(task):
            continue
        if any(attachment.network_id == network.id for attachment in task.networks_attachments):
            raise precondition(f"network {network.id} is in use by task {task.id}")
    cursor = view.cursors.get(network.id)
    return Changes(drop=(network, cursor) if cursor else (network,))


def create_service(view: View, spec: ServiceSpec, ledger: Ledger, new_id: NewId) -> Changes:
    """A service with its VIPs and ports. `spec` is validated; its networks may still be names."""
    if taken := view.folded.get(("service", spec.name.lower())):
        text = f"name conflicts with an existing object: service {spec.name} already exists{_as(taken, spec.name)}"
        raise exists(text)
    spec = _resolved(view, spec)
    check_references(view, spec)
    _check_ports(view, spec.endpoint_spec.ports, "", ledger.resolver)
    job = JobStatus() if spec.mode.job else None
    service = give_service(ledger, Service(id=new_id(), spec=spec, job_status=job))
    return Changes((service, *ledger.cursors()))


def update_service(view: View, service: Service, version: int, spec: ServiceSpec, ledger: Ledger) -> Changes:
    """The service under a new spec. `version` must be that of its last change; name and mode cannot change.

    It starts an update that was paused again, also if the spec is the same.
    """
    check_version(version, service.version)
    if spec.name != service.spec.name:
        raise MeshnetError("rpc error: code = Unimplemented desc = renaming services is not supported", 501)
    if _kind(spec.mode) != _kind(service.spec.mode):
        raise MeshnetError("rpc error: code = Unimplemented desc = service mode change is not allowed", 501)
    updated = respecified(view, service, spec, ledger)
    previous = service.previous_specs
    if updated.spec != service.spec:
        previous = (service.spec, *previous)[:KEPT_SPECS]
    updated = dataclasses.replace(updated, previous_specs=previous, update_status=None)
    return Changes((_rerun(updated, service), *ledger.cursors()))


def _rerun(updated: Service, before: Service) -> Service:
    """A job whose template changed, if only by `--force`, runs again; a job has no spec to go back to."""
    if updated.job_status is None:
        return updated
    status = updated.job_status
    if not same(updated.spec.task_template, before.spec.task_template):
        status = JobStatus(Version(status.job_iteration.index + 1))
    return dataclasses.replace(updated, previous_specs=(), job_status=status)


def rollback_service(view: View, service: Service, version: int, steps: int, ledger: Ledger, now: float) -> Changes:
    """The service under the spec that it had `steps` (1 or more) updates ago; the present one becomes the previous one.

    Replicas come back too: a spec is taken whole, as Swarm does.
    """
    check_version(version, service.version)
    if not service.previous_specs:
        raise precondition(f"service {service.id} does not have a previous spec")
    if steps > len(service.previous_specs):
        raise precondition(f"service {service.id} has only {len(service.previous_specs)} previous specs")
    target = service.previous_specs[steps - 1]
    others = [spec for number, spec in enumerate(service.previous_specs, 1) if number != steps]
    updated = dataclasses.replace(
        respecified(view, service, target, ledger),
        previous_specs=(service.spec, *others)[:KEPT_SPECS],
        update_status=UpdateStatus("rollback_started", stamp(now), "", "manually requested rollback"),
    )
    return Changes((updated, *ledger.cursors()))


def respecified(view: View, service: Service, spec: ServiceSpec, ledger: Ledger) -> Service:
    """The service with another spec and the ports and VIPs for it. Raises MeshnetError if it cannot have them."""
    spec = _resolved(view, spec)
    check_references(view, spec)
    _check_ports(view, spec.endpoint_spec.ports, service.id, ledger.resolver)
    return give_service(ledger, dataclasses.replace(service, spec=spec))


def _kind(mode: ServiceMode) -> tuple[bool, bool]:
    return mode.everywhere, mode.job


def _resolved(view: View, spec: ServiceSpec) -> ServiceSpec:
    """The spec with network ids for names. Raises NotFoundError for one that does not exist."""
    networks: list[NetworkAttachmentConfig] = []
    for item in spec.task_template.networks:
        network = find_network(view, item.target)
        if network.spec.ingress:
            raise invalid(f'Service cannot be explicitly attached to the ingress network "{network.spec.name}"')
        if all(network.id != known.target for known in networks):
            networks.append(dataclasses.replace(item, target=network.id))
    template = dataclasses.replace(spec.task_template, networks=tuple(networks))
    return dataclasses.replace(spec, task_template=template)


def find_network(view: View, name: str) -> Network:
    """A network by id or name. Raises NotFoundError."""
    network = view.networks.get(name) or view.networks.get(view.network_named.get(name, ""))
    if network is None:
        raise NotFoundError(f"network {name} not found")
    return network


def _check_ports(view: View, ports: Iterable[PortConfig], service_id: str, resolver: int) -> None:
    """A published port belongs to one service; host mode and ingress mode exclude each other. That of the nodes'
    `resolver` belongs to none."""
    asked = {(port.protocol, port.published_port): port for port in ports if port.published_port}
    if not asked:
        return
    for port in asked.values():
        if port.published_port == resolver:
            raise invalid(
                f"port '{resolver}/{port.protocol}' is that of the nodes' resolvers for clients outside; "
                "publish another port"
            )
    for other in view.services.values():
        if other.id == service_id:
            continue
        for held in other.endpoint.ports:
            wanted = asked.get((held.protocol, held.published_port))
            if wanted is None or (wanted.publish_mode == "host" and held.publish_mode == "host"):
                continue
            kind = "an ingress port" if held.publish_mode == "ingress" else "a host-published port"
            raise invalid(
                f"port '{held.published_port}' is already in use by service '{other.spec.name}' ({other.id}) as {kind}"
            )


def remove_service(service: Service) -> Changes:
    """Deletes a service; its tasks follow by themselves."""
    return Changes(drop=(service,))


def update_node(node: Node, version: int, spec: NodeSpec) -> Changes:
    """The node under a new spec: labels and availability."""
    check_version(version, node.version)
    if spec.role != node.spec.role:
        if node.spec.role == "manager":
            raise precondition("attempting to demote the last manager of the swarm")
        raise MeshnetError("a swarm has one manager so far: a worker cannot be promoted", 501)
    return Changes((dataclasses.replace(node, spec=spec),))


def remove_node(view: View, node: Node, force: bool) -> Changes:
    """Deletes a node that is down, or with `force` any worker; its tasks are orphaned. It knows the gossip key."""
    if node.spec.role == "manager":
        text = "is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"
        raise precondition(f"node {node.id} {text}")
    if node.status.state == "ready" and not force:
        raise precondition(f"node {node.id} is not down and can't be removed")
    attached = [task for task in view.tasks_on.get(node.id, {}).values() if task.spec.network_attachment_spec]
    exposed = tuple(dataclasses.replace(trust, exposed=True) for trust in view.trusts.values() if not trust.exposed)
    return Changes(exposed, (node, *attached))


@dataclasses.dataclass(frozen=True, slots=True)
class Join:
    """What a node says of itself when it joins. `id` and `role` are what its certificate says, not what it says."""

    id: str = dataclasses.field(default="", metadata={"name": "ID"})
    addr: str = ""
    role: str = "worker"
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    description: NodeDescription = NodeDescription()
    availability: str = "active"


def join_node(view: View, join: Join, ledger: Ledger, new_id: NewId, manager_addr: str) -> tuple[Changes, str]:
    """The node as a member; the same one again if its id is known. `join.id` "" asks for a new one.

    It counts as ready with its first heartbeat, which an agent sends once its data path works.
    Labels given with the first join are the node's own from then on. `manager_addr` is this manager's host:port.
    Returns the changes and the node's id.
    """
    _check_join(join)
    node = view.nodes.get(join.id)
    if node is None:
        node = Node(id=join.id or new_id(), spec=NodeSpec("", join.labels, join.role, join.availability))
    host = manager_addr.rpartition(":")[0]
    leads = join.role == "manager" and host == join.addr
    joined = dataclasses.replace(
        node,
        description=dataclasses.replace(join.description, tls_info=node.description.tls_info),
        status=dataclasses.replace(node.status, addr=join.addr),
        manager_status=ManagerStatus(True, "reachable", manager_addr) if leads else node.manager_status,
    )
    joined = give_node(ledger, joined)
    return (Changes((joined, *ledger.cursors())) if joined != node else Changes()), joined.id


def _check_join(join: Join) -> None:
    """Refuses what no node says of itself: whoever has a token may send anything."""
    if not join.description.hostname or not join.addr:
        raise MeshnetError("a node that joins must say its hostname and its address")
    if len(join.description.hostname) > HOSTNAME:
        raise MeshnetError(f"Description.Hostname: at most {HOSTNAME} characters")
    try:
        ipaddress.IPv4Address(join.addr)
    except ValueError:
        raise MeshnetError(f"Addr: {join.addr[:40]!r} is no IPv4 address") from None
    if join.availability not in ("active", "pause", "drain"):
        raise MeshnetError("Availability: active, pause or drain is needed")


def report_tasks(view: View, node_id: str, statuses: dict[str, TaskStatus]) -> Changes:
    """What a node says about its tasks. A state never goes back, and a node speaks of its own tasks only."""
    put = []
    for task_id, status in statuses.items():
        task = view.tasks.get(task_id)
        if task is None or task.node_id != node_id or task.status.state in TERMINAL_STATES:
            continue
        if state_rank(status.state) < state_rank(task.status.state) or status == task.status:
            continue
        put.append(dataclasses.replace(task, status=status))
    return Changes(tuple(put))


def checked_status(status: TaskStatus, now: float) -> TaskStatus:
    """Refuses unknown states and what is no container's id; a status without a readable time gets the manager's.

    A node may be anybody's by now, and everybody who lists tasks reads its words: they are cut to `WORDS` characters,
    and what is no character is replaced.
    """
    try:
        state_rank(status.state)
    except KeyError:
        raise MeshnetError(f"State: unknown state {status.state[:40]!r}") from None
    ident = status.container_status.container_id if status.container_status is not None else ""
    if not _CONTAINER_ID.fullmatch(ident):
        raise MeshnetError(f"ContainerStatus.ContainerID: {ident[:70]!r} is no container's id")
    told = status.timestamp if _is_time(status.timestamp) else stamp(now)
    return dataclasses.replace(status, timestamp=told, message=_words(status.message), err=_words(status.err))


def _words(text: str) -> str:
    return text[:WORDS].encode("utf-8", "replace").decode()


def _is_time(text: str) -> bool:
    """Whether it is a time of RFC 3339 that every client can read."""
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text[:19])
    except ValueError:
        return False
    return True

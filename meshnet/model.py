"""What exists in a swarm, as plain data: the objects of the Docker Engine API with their own field names.

Every class here maps to and from the Engine's JSON with `meshnet.codec`: `task_template` is `TaskTemplate`,
and a field whose JSON name does not follow that rule carries it as metadata. Durations are nanoseconds as in
the Engine API (`DURATION = 10**9` is a second), times are RFC 3339 strings, addresses are strings.
Nothing in this file does I/O, reads a clock or draws a random number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SECOND = 1_000_000_000

# Task states in their only possible order (swarmkit api/types.proto). A task never goes back.
TASK_STATES = (
    "new",
    "allocated",
    "pending",
    "assigned",
    "accepted",
    "preparing",
    "ready",
    "starting",
    "running",
    "complete",
    "shutdown",
    "failed",
    "rejected",
    "remove",
    "orphaned",
)
TERMINAL_STATES = frozenset(TASK_STATES[TASK_STATES.index("complete") :])
_RANK = {state: rank for rank, state in enumerate(TASK_STATES)}


def state_rank(state: str) -> int:
    """Position of a task state in its life; later states have higher ranks. KeyError for an unknown state."""
    return _RANK[state]


def _named(name: str, default: Any = None, factory: Any = None) -> Any:
    if factory is not None:
        return field(default_factory=factory, metadata={"name": name})
    return field(default=default, metadata={"name": name})


@dataclass(frozen=True, slots=True)
class Version:
    """The store revision of an object's last change: what an update must name to be accepted."""

    index: int = 0


@dataclass(frozen=True, slots=True)
class PortConfig:
    """One published port. `published_port` 0 asks for one from 30000-32767; mode is `ingress` or `host`."""

    name: str = ""
    protocol: str = "tcp"
    target_port: int = 0
    published_port: int = 0
    publish_mode: str = "ingress"


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    mode: str = "vip"  # or dnsrr
    ports: tuple[PortConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class VirtualIP:
    network_id: str = _named("NetworkID", "")
    addr: str = ""  # with prefix length: 10.0.1.2/24


@dataclass(frozen=True, slots=True)
class ServiceEndpoint:
    """What the allocator gave a service: the ports in force and one VIP per network."""

    spec: EndpointSpec = EndpointSpec()
    ports: tuple[PortConfig, ...] = ()
    virtual_ips: tuple[VirtualIP, ...] = _named("VirtualIPs", ())


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """`test` is () to inherit, ("NONE",), ("CMD", ...) or ("CMD-SHELL", text). Durations in ns, 0 = default."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0


@dataclass(frozen=True, slots=True)
class Mount:
    type: str = "volume"
    source: str = ""
    target: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    image: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    hostname: str = ""
    env: tuple[str, ...] = ()
    dir: str = ""
    user: str = ""
    stop_signal: str = ""
    stop_grace_period: int | None = None  # ns; None means 10 s
    healthcheck: Healthcheck | None = None
    mounts: tuple[Mount, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkAttachmentConfig:
    """A network that a service's tasks join. `target` is a name as given by the user, an id once stored."""

    target: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SpreadOver:
    spread_descriptor: str = ""


@dataclass(frozen=True, slots=True)
class PlacementPreference:
    spread: SpreadOver | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    constraints: tuple[str, ...] = ()
    preferences: tuple[PlacementPreference, ...] = ()
    max_replicas: int = 0


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    condition: str = "any"
    delay: int = 5 * SECOND
    max_attempts: int = 0
    window: int = 0


@dataclass(frozen=True, slots=True)
class TaskSpec:
    container_spec: ContainerSpec = ContainerSpec()
    networks: tuple[NetworkAttachmentConfig, ...] = ()
    placement: Placement = Placement()
    restart_policy: RestartPolicy = RestartPolicy()
    force_update: int = 0


@dataclass(frozen=True, slots=True)
class Replicated:
    replicas: int = 1


@dataclass(frozen=True, slots=True)
class Global:
    """A task on every eligible node; there is nothing to say about it."""


@dataclass(frozen=True, slots=True)
class ServiceMode:
    """Exactly one of the two is set."""

    replicated: Replicated | None = None
    global_: Global | None = _named("Global")


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    task_template: TaskSpec = TaskSpec()
    mode: ServiceMode = ServiceMode(replicated=Replicated())
    endpoint_spec: EndpointSpec = EndpointSpec()


@dataclass(frozen=True, slots=True)
class Service:
    id: str = _named("ID", "")
    version: Version = Version()
    created_at: str = ""
    updated_at: str = ""
    spec: ServiceSpec = ServiceSpec()
    endpoint: ServiceEndpoint = ServiceEndpoint()

    def vip(self, network_id: str) -> str | None:
        """The service's virtual address on a network, without prefix length; None if it has none there."""
        for vip in self.endpoint.virtual_ips:
            if vip.network_id == network_id:
                return vip.addr.partition("/")[0]
        return None


@dataclass(frozen=True, slots=True)
class IPAMConfig:
    subnet: str = ""
    range: str = ""
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class IPAMOptions:
    configs: tuple[IPAMConfig, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    options: dict[str, str] = field(default_factory=dict)
    ipam_options: IPAMOptions = _named("IPAMOptions", IPAMOptions())


@dataclass(frozen=True, slots=True)
class Network:
    """An overlay network. `vni`, and the subnet and gateway in `ipam_options`, are the allocator's."""

    id: str = _named("ID", "")
    version: Version = Version()
    created_at: str = ""
    updated_at: str = ""
    spec: NetworkSpec = NetworkSpec()
    ipam_options: IPAMOptions = _named("IPAMOptions", IPAMOptions())
    vni: int = _named("VNI", 0)

    @property
    def subnet(self) -> str:
        return self.ipam_options.configs[0].subnet if self.ipam_options.configs else ""

    @property
    def gateway(self) -> str:
        return self.ipam_options.configs[0].gateway if self.ipam_options.configs else ""


@dataclass(frozen=True, slots=True)
class NetworkAttachment:
    """Addresses given to a task, or to a node, on one network; each with prefix length."""

    network_id: str = _named("NetworkID", "")
    addresses: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """The first address without its prefix length."""
        return self.addresses[0].partition("/")[0]


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    container_id: str = _named("ContainerID", "")
    pid: int = _named("PID", 0)
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class TaskStatus:
    timestamp: str = ""
    state: str = "new"
    message: str = ""
    err: str = ""
    container_status: ContainerStatus | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One instance of a service, bound to at most one node for its whole life, never reused."""

    id: str = _named("ID", "")
    version: Version = Version()
    created_at: str = ""
    updated_at: str = ""
    spec: TaskSpec = TaskSpec()
    service_id: str = _named("ServiceID", "")
    slot: int = 0  # 0 for a task of a global service
    node_id: str = _named("NodeID", "")
    status: TaskStatus = TaskStatus()
    desired_state: str = "running"
    networks_attachments: tuple[NetworkAttachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Platform:
    architecture: str = "x86_64"
    os: str = _named("OS", "linux")


@dataclass(frozen=True, slots=True)
class Resources:
    nano_cpus: int = _named("NanoCPUs", 0)
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Engine:
    engine_version: str = ""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """Which CA: its certificate (PEM), and the name and key (DER, base64) of who signs for it."""

    trust_root: str = ""
    cert_issuer_subject: str = ""
    cert_issuer_public_key: str = ""


@dataclass(frozen=True, slots=True)
class NodeDescription:
    hostname: str = ""
    platform: Platform = Platform()
    resources: Resources = Resources()
    engine: Engine = Engine()
    tls_info: TLSInfo = _named("TLSInfo", TLSInfo())


@dataclass(frozen=True, slots=True)
class NodeSpec:
    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    role: str = "worker"  # or manager
    availability: str = "active"  # or pause, drain


@dataclass(frozen=True, slots=True)
class NodeStatus:
    state: str = "unknown"  # unknown, down, ready
    message: str = ""
    addr: str = ""


@dataclass(frozen=True, slots=True)
class ManagerStatus:
    leader: bool = False
    reachability: str = "reachable"
    addr: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A member of the swarm. `attachments` are its own addresses: one on ingress, others where needed."""

    id: str = _named("ID", "")
    version: Version = Version()
    created_at: str = ""
    updated_at: str = ""
    spec: NodeSpec = NodeSpec()
    description: NodeDescription = NodeDescription()
    status: NodeStatus = NodeStatus()
    manager_status: ManagerStatus | None = None
    attachments: tuple[NetworkAttachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a node tells the others about one interface of one of its tasks (the value of a gossip record).

    `state`: `starting` (exists, answers ping, no service traffic), `ready` (a backend), `draining` (finishes
    what it has, gets nothing new).
    """

    endpoint: str = ""
    task: str = ""
    slot: int = 0
    service: str = ""
    ip: str = ""
    mac: str = ""
    hostname: str = ""
    container: str = ""
    aliases: tuple[str, ...] = ()
    state: str = "starting"


@dataclass(frozen=True, slots=True)
class Assignments:
    """Everything a manager tells one node: what it runs and what it must know to do so. Keyed by id."""

    node: Node | None = None
    tasks: dict[str, Task] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)


def mac_of(ip: str) -> str:
    """The MAC of an overlay address: 02:42 and the four octets of the IPv4 address (libnetwork's rule)."""
    return "02:42:" + ":".join(f"{int(octet):02x}" for octet in ip.split("."))


def task_name(service_name: str, task: Task) -> str:
    """Swarm's full task name: `service.slot.taskid`, or `service.nodeid.taskid` for a global service."""
    return f"{service_name}.{task.slot or task.node_id}.{task.id}"

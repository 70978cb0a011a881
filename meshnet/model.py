"""What exists in a swarm, as plain data: the objects of the Docker Engine API with their own field names.

Every class here maps to and from the Engine's JSON with `meshnet.codec`: `task_template` is `TaskTemplate`,
and a field whose JSON name does not follow that rule carries it as metadata. Durations are nanoseconds as in
the Engine API (`DURATION = 10**9` is a second), times are RFC 3339 strings, addresses are strings.
Nothing in this file does I/O, reads a clock or draws a random number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshnet.containerspec import ConfigReference as ConfigReference
from meshnet.containerspec import ContainerSpec as ContainerSpec
from meshnet.containerspec import Driver as Driver
from meshnet.containerspec import Healthcheck as Healthcheck
from meshnet.containerspec import Mount as Mount
from meshnet.containerspec import ResourceRequirements as ResourceRequirements
from meshnet.containerspec import Resources as Resources
from meshnet.containerspec import SecretReference as SecretReference
from meshnet.containerspec import Version as Version
from meshnet.containerspec import count, named
from meshnet.secretspec import Config as Config
from meshnet.secretspec import Secret as Secret

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
    network_id: str = named("NetworkID", "")
    addr: str = ""  # with prefix length: 10.0.1.2/24


@dataclass(frozen=True, slots=True)
class ServiceEndpoint:
    """What the allocator gave a service: the ports in force and one VIP per network."""

    spec: EndpointSpec = EndpointSpec()
    ports: tuple[PortConfig, ...] = ()
    virtual_ips: tuple[VirtualIP, ...] = named("VirtualIPs", ())


@dataclass(frozen=True, slots=True)
class NetworkAttachmentConfig:
    """A network that a service's tasks join. `target` is a name as given by the user, an id once stored."""

    target: str = ""
    aliases: tuple[str, ...] = ()
    driver_opts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpreadOver:
    spread_descriptor: str = named(default="", always=True)


@dataclass(frozen=True, slots=True)
class PlacementPreference:
    spread: SpreadOver | None = None


@dataclass(frozen=True, slots=True)
class Platform:
    architecture: str = ""
    os: str = named("OS", "")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where tasks may run. `platforms` are those of the image: any of them will do; none named means any."""

    constraints: tuple[str, ...] = ()
    preferences: tuple[PlacementPreference, ...] = ()
    max_replicas: int = count()
    platforms: tuple[Platform, ...] = ()


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """`condition` is any, on-failure or none. `delay` None means 5 s, `window` None or 0 all time."""

    condition: str = "any"
    delay: int | None = None
    max_attempts: int = count(always=True)
    window: int | None = None


@dataclass(frozen=True, slots=True)
class NetworkAttachmentSpec:
    """Of a task without a service: the container that a person started on attachable networks."""

    container_id: str = named("ContainerID", "", always=True)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    container_spec: ContainerSpec = ContainerSpec()
    resources: ResourceRequirements | None = None
    restart_policy: RestartPolicy | None = None
    placement: Placement = Placement()
    networks: tuple[NetworkAttachmentConfig, ...] = ()
    log_driver: Driver | None = None
    force_update: int = count(always=True)
    network_attachment_spec: NetworkAttachmentSpec | None = None


@dataclass(frozen=True, slots=True)
class Replicated:
    replicas: int = count(1, always=True)


@dataclass(frozen=True, slots=True)
class Global:
    """A task on every eligible node; there is nothing to say about it."""


@dataclass(frozen=True, slots=True)
class ReplicatedJob:
    """Tasks that run to their end, `total_completions` of them, at most `max_concurrent` at a time.

    None for the total means as many as may run at a time; None for that means 1.
    """

    max_concurrent: int | None = None
    total_completions: int | None = None


@dataclass(frozen=True, slots=True)
class GlobalJob:
    """A task that runs to its end on every eligible node."""


@dataclass(frozen=True, slots=True)
class ServiceMode:
    """Exactly one of them is set."""

    replicated: Replicated | None = None
    global_: Global | None = named("Global")
    replicated_job: ReplicatedJob | None = None
    global_job: GlobalJob | None = None

    @property
    def everywhere(self) -> bool:
        """Whether there is a task per node, and not a number of tasks."""
        return self.global_ is not None or self.global_job is not None

    @property
    def job(self) -> bool:
        """Whether tasks run to their end."""
        return self.replicated_job is not None or self.global_job is not None


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """How tasks are replaced. `parallelism` 0 is all at once, `monitor` 0 is 5 s; durations are ns."""

    parallelism: int = count(always=True)
    delay: int = count()
    failure_action: str = "pause"  # continue, rollback (of an update only)
    monitor: int = count()
    max_failure_ratio: float = named(default=0.0, always=True)
    order: str = named(default="stop-first", always=True)  # or start-first


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    name: str = named(default="", always=True)
    labels: dict[str, str] = named(factory=dict, always=True)
    task_template: TaskSpec = TaskSpec()
    mode: ServiceMode = ServiceMode(replicated=Replicated())
    update_config: UpdateConfig | None = None
    rollback_config: UpdateConfig | None = None
    networks: tuple[NetworkAttachmentConfig, ...] = ()  # an old place for the template's
    endpoint_spec: EndpointSpec = EndpointSpec()


@dataclass(frozen=True, slots=True)
class UpdateStatus:
    """Where an update stands: updating, paused, completed, rollback_started, rollback_paused, rollback_completed."""

    state: str = ""
    started_at: str = ""
    completed_at: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Which run of a job its present tasks belong to, and when that began."""

    job_iteration: Version = Version()
    last_execution: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """`previous_specs` are those that it had before, the latest first."""

    id: str = named("ID", "")
    version: Version = Version()
    created_at: str = ""
    updated_at: str = ""
    spec: ServiceSpec = ServiceSpec()
    endpoint: ServiceEndpoint = ServiceEndpoint()
    update_status: UpdateStatus | None = None
    job_status: JobStatus | None = None
    previous_specs: tuple[ServiceSpec, ...] = ()

    @property
    def previous_spec(self) -> ServiceSpec | None:
        """The spec that a rollback returns to."""
        return self.previous_specs[0] if self.previous_specs else None

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
    auxiliary_addresses: dict[str, str] = field(default_factory=dict)


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
    ipam_options: IPAMOptions = named("IPAMOptions", IPAMOptions())


@dataclass(frozen=True, slots=True)
class Network:
    """An overlay network. `vni`, and the subnet and gateway in `ipam_options`, are the allocator's."""

    id: str = named("ID", "")
    version: Version = Version()
    created_at: str = ""
    updated_at: str = ""
    spec: NetworkSpec = NetworkSpec()
    ipam_options: IPAMOptions = named("IPAMOptions", IPAMOptions())
    vni: int = named("VNI", 0)

    @property
    def subnet(self) -> str:
        return self.ipam_options.configs[0].subnet if self.ipam_options.configs else ""

    @property
    def gateway(self) -> str:
        return self.ipam_options.configs[0].gateway if self.ipam_options.configs else ""


@dataclass(frozen=True, slots=True)
class NetworkAttachment:
    """Addresses given to a task, or to a node, on one network; each with prefix length."""

    network_id: str = named("NetworkID", "")
    addresses: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """The first address without its prefix length."""
        return self.addresses[0].partition("/")[0]


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    container_id: str = named("ContainerID", "", always=True)
    pid: int = named("PID", 0, always=True)
    exit_code: int = named(default=0, always=True)


@dataclass(frozen=True, slots=True)
class TaskStatus:
    timestamp: str = ""
    state: str = "new"
    message: str = ""
    err: str = ""
    container_status: ContainerStatus | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One instance of a service, bound to at most one node for its whole life, never reused.

    `running_since` and `ended_at` are by the manager's clock, and `failures` says how many of its predecessors failed
    in a row: the manager's own, which nobody is told.
    """

    id: str = named("ID", "")
    version: Version = Version()
    created_at: str = ""
    updated_at: str = ""
    spec: TaskSpec = TaskSpec()
    service_id: str = named("ServiceID", "")
    slot: int = 0  # 0 for a task of a global service
    node_id: str = named("NodeID", "")
    status: TaskStatus = TaskStatus()
    desired_state: str = "running"
    networks_attachments: tuple[NetworkAttachment, ...] = ()
    job_iteration: Version | None = None
    running_since: str = ""
    ended_at: str = ""
    failures: int = count()


@dataclass(frozen=True, slots=True)
class Plugin:
    type: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Engine:
    engine_version: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    plugins: tuple[Plugin, ...] = ()


@dataclass(frozen=True, slots=True)
class TLSInfo:
    """Which CA: its certificate (PEM), and the name and key (DER, base64) of who signs for it."""

    trust_root: str = ""
    cert_issuer_subject: str = ""
    cert_issuer_public_key: str = ""


@dataclass(frozen=True, slots=True)
class NodeDescription:
    hostname: str = ""
    platform: Platform = Platform("x86_64", "linux")
    resources: Resources = Resources()
    engine: Engine = Engine()
    tls_info: TLSInfo = named("TLSInfo", TLSInfo())


@dataclass(frozen=True, slots=True)
class NodeSpec:
    name: str = ""
    labels: dict[str, str] = named(factory=dict, always=True)
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

    id: str = named("ID", "")
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
    secrets: dict[str, Secret] = field(default_factory=dict)
    configs: dict[str, Config] = field(default_factory=dict)


def mac_of(ip: str) -> str:
    """The MAC of an overlay address: 02:42 and the four octets of the IPv4 address (libnetwork's rule)."""
    return "02:42:" + ":".join(f"{int(octet):02x}" for octet in ip.split("."))


def task_name(service_name: str, task: Task) -> str:
    """Swarm's full task name: `service.slot.taskid`, or `service.nodeid.taskid` for a global service."""
    return f"{service_name}.{task.slot or task.node_id}.{task.id}"

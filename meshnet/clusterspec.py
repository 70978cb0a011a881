"""What a swarm as a whole is told: the Engine API's swarm spec, but for what concerns its authority (`control/trust`).

Durations are nanoseconds. What Raft is told has no effect: there is one manager, but clients send it and print it.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshnet.containerspec import Driver, count, named

SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class OrchestrationConfig:
    """How many tasks a place of a service keeps, the running one included; a negative number keeps all."""

    task_history_retention_limit: int | None = None


@dataclass(frozen=True, slots=True)
class RaftConfig:
    snapshot_interval: int = count(10_000)
    keep_old_snapshots: int | None = 0
    log_entries_for_slow_followers: int = count(500)
    election_tick: int = count(10, always=True)
    heartbeat_tick: int = count(1, always=True)


@dataclass(frozen=True, slots=True)
class DispatcherConfig:
    """How often a node says that it is there."""

    heartbeat_period: int = count()


@dataclass(frozen=True, slots=True)
class TaskDefaults:
    log_driver: Driver | None = None


@dataclass(frozen=True, slots=True)
class EncryptionConfig:
    auto_lock_managers: bool = named(default=False, always=True)


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    name: str = named(default="default", always=True)
    labels: dict[str, str] = named(factory=dict, always=True)
    orchestration: OrchestrationConfig = OrchestrationConfig(5)
    raft: RaftConfig = RaftConfig()
    dispatcher: DispatcherConfig = DispatcherConfig(5 * SECOND)
    task_defaults: TaskDefaults = TaskDefaults()
    encryption_config: EncryptionConfig = EncryptionConfig()


@dataclass(frozen=True, slots=True)
class RaftChange:
    """What may be said of Raft in an update; 0 says nothing."""

    snapshot_interval: int = count()
    keep_old_snapshots: int | None = None
    log_entries_for_slow_followers: int = count()
    election_tick: int = count()
    heartbeat_tick: int = count()


@dataclass(frozen=True, slots=True)
class ClusterChange:
    """A swarm spec as a client sends it: what it leaves out, or gives as zero, stays as it is, as in the Engine."""

    name: str = ""
    labels: dict[str, str] = named(factory=dict)
    orchestration: OrchestrationConfig = OrchestrationConfig()
    raft: RaftChange = RaftChange()
    dispatcher: DispatcherConfig = DispatcherConfig()
    task_defaults: TaskDefaults = TaskDefaults()
    encryption_config: EncryptionConfig = EncryptionConfig()

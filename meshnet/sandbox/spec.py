"""What a task's container is: everything its agent knows when it starts one, as plain data that survives on disk."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """A health check with Docker's defaults. `test` is ("CMD", ...), ("CMD-SHELL", text) or ("NONE",).

    Times are seconds.
    """

    test: tuple[str, ...]
    interval: float = 30.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0


@dataclass(frozen=True, slots=True)
class TaskMount:
    """`type` is `bind` or `volume` (`source` is a path of the machine) or `tmpfs` (`source` is ignored); `target` is
    inside. `volume` is the name of the volume; `size` (bytes) and `mode` are a tmpfs's, 0 for what is usual. `shallow`
    leaves out what is mounted below a bound directory; `options` are more words for a tmpfs, such as noexec.
    `no_copy` leaves an empty volume empty, whatever the image has at the target."""

    source: str
    target: str
    read_only: bool = False
    type: str = "bind"
    volume: str = ""
    size: int = 0
    mode: int = 0
    shallow: bool = False
    options: tuple[str, ...] = ()
    no_copy: bool = False


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A limit of the container's processes (setrlimit(2)) by its short name, such as `nofile`; -1 is no limit."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What all of the container may use at most; 0 is no limit. `memory` is in bytes, `nano_cpus` in billionths of a
    processor."""

    memory: int = 0
    nano_cpus: int = 0
    pids: int = 0


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container.

    `id` is 64 hex digits. `command` replaces the image's entry point, `args` its arguments; both may be empty.
    `netns` is the path of a wired network namespace, `cgroup` the path of the task's cgroup2 group (made if it is
    missing), `dir` the directory that is this container's alone (mode 0700). `resolv_conf` and `hosts` are whole
    file texts. `stop_grace` is in seconds, `stop_signal` a name with or without SIG, or a number; "" is SIGTERM.
    `tty` gives it a terminal, `open_stdin` a standard input that can be attached to (closed with the first one that was
    attached if `stdin_once`). `groups` are names or numbers besides those of its user. `init` runs its program below a
    small init that reaps. `shm_size` is in bytes, 0 for 64 MiB. Without `own_network` the namespace is its node's.
    """

    id: str
    name: str
    image: str
    netns: str
    cgroup: str
    dir: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    hostname: str = ""
    user: str = ""
    workdir: str = ""
    mounts: tuple[TaskMount, ...] = ()
    stop_signal: str = ""
    stop_grace: float = 10.0
    health: HealthConfig | None = None
    resolv_conf: str = ""
    hosts: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    read_only: bool = False
    init: bool = False
    groups: tuple[str, ...] = ()
    capability_add: tuple[str, ...] = ()
    capability_drop: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    sysctls: dict[str, str] = field(default_factory=dict)
    oom_score_adj: int = 0
    limits: Limits = Limits()
    shm_size: int = 0
    own_network: bool = True


def dump(spec: ContainerSpec) -> str:
    """The spec as JSON text, for the container's directory."""
    return json.dumps(dataclasses.asdict(spec))


def load(text: str) -> ContainerSpec:
    """Reads what `dump` wrote. ValueError, KeyError or TypeError if the text is not that."""
    values: dict[str, Any] = json.loads(text)
    for name in ("command", "args", "env", "groups", "capability_add", "capability_drop"):
        values[name] = tuple(values.get(name, ()))
    values["mounts"] = tuple(_mount(mount) for mount in values["mounts"])
    if values["health"] is not None:
        values["health"]["test"] = tuple(values["health"]["test"])
        values["health"] = HealthConfig(**values["health"])
    values["ulimits"] = tuple(Ulimit(**limit) for limit in values.get("ulimits", ()))
    values["limits"] = Limits(**values.get("limits", {}))
    return ContainerSpec(**values)


def _mount(values: dict[str, Any]) -> TaskMount:
    return TaskMount(**{**values, "options": tuple(values.get("options", ()))})

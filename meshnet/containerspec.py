"""What a service says about the containers of its tasks, with the Engine API's own field names.

A field that may be `None` is one whose absence the Engine tells from its zero (a pointer in its own code). `always`
marks fields that the Engine writes even when they are empty. Durations are nanoseconds, sizes bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def named(
    name: str = "", default: Any = None, factory: Any = None, always: bool = False, least: int | None = None
) -> Any:
    """A field whose JSON name does not follow from its own, that is always written, or that has a least value."""
    metadata: dict[str, Any] = {"always": always}
    if name:
        metadata["name"] = name
    if least is not None:
        metadata["least"] = least
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def count(default: int = 0, name: str = "", always: bool = False) -> Any:
    """A whole number that is not negative."""
    return named(name, default, always=always, least=0)


@dataclass(frozen=True, slots=True)
class Version:
    """The store revision of an object's last change: what an update must name to be accepted."""

    index: int = count()


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """`test` is () to inherit, ("NONE",), ("CMD", ...) or ("CMD-SHELL", text). Durations in ns, 0 = default."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0
    start_interval: int = 0


@dataclass(frozen=True, slots=True)
class BindOptions:
    propagation: str = ""  # private, rprivate, shared, rshared, slave, rslave
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


@dataclass(frozen=True, slots=True)
class Driver:
    """A volume's, a log's or a secret's driver and its options."""

    name: str = ""
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VolumeOptions:
    no_copy: bool = False
    subpath: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    driver_config: Driver | None = None


@dataclass(frozen=True, slots=True)
class TmpfsOptions:
    size_bytes: int = count()
    mode: int = count()
    options: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Mount:
    type: str = "volume"  # or bind, tmpfs
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


@dataclass(frozen=True, slots=True)
class CredentialSpec:
    config: str = ""
    file: str = ""
    registry: str = ""


@dataclass(frozen=True, slots=True)
class SELinuxContext:
    disable: bool = False
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


@dataclass(frozen=True, slots=True)
class SeccompOpts:
    mode: str = ""  # default, unconfined, custom
    profile: str = ""  # base64


@dataclass(frozen=True, slots=True)
class AppArmorOpts:
    mode: str = ""  # default, disabled


@dataclass(frozen=True, slots=True)
class Privileges:
    credential_spec: CredentialSpec | None = named(always=True)
    se_linux_context: SELinuxContext | None = named("SELinuxContext", always=True)
    seccomp: SeccompOpts | None = None
    app_armor: AppArmorOpts | None = None
    no_new_privileges: bool = False


@dataclass(frozen=True, slots=True)
class DNSConfig:
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReferenceFile:
    """Where a secret or a config appears in the container; `mode` is the file's permission bits."""

    name: str = named(default="", always=True)
    uid: str = named("UID", "0", always=True)
    gid: str = named("GID", "0", always=True)
    mode: int = count(0o444, always=True)


@dataclass(frozen=True, slots=True)
class SecretReference:
    """A secret that the container gets as a file (below /run/secrets unless the name is absolute)."""

    file: ReferenceFile | None = named(always=True)
    secret_id: str = named("SecretID", "", always=True)
    secret_name: str = named(default="", always=True)


@dataclass(frozen=True, slots=True)
class RuntimeTarget:
    """Says that a config is for the runtime (a credential spec) and not a file; there is nothing more to say."""


@dataclass(frozen=True, slots=True)
class ConfigReference:
    file: ReferenceFile | None = None
    runtime: RuntimeTarget | None = None
    config_id: str = named("ConfigID", "", always=True)
    config_name: str = named(default="", always=True)


@dataclass(frozen=True, slots=True)
class Ulimit:
    name: str = named(default="", always=True)
    hard: int = named(default=0, always=True)
    soft: int = named(default=0, always=True)


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
    groups: tuple[str, ...] = ()
    privileges: Privileges | None = None
    init: bool | None = None
    stop_signal: str = ""
    tty: bool = named("TTY", False)
    open_stdin: bool = False
    read_only: bool = False
    mounts: tuple[Mount, ...] = ()
    stop_grace_period: int | None = None  # ns; None means 10 s
    healthcheck: Healthcheck | None = None
    hosts: tuple[str, ...] = ()  # as lines of /etc/hosts: "10.0.0.9 name alias"
    dns_config: DNSConfig | None = named("DNSConfig")
    secrets: tuple[SecretReference, ...] = ()
    configs: tuple[ConfigReference, ...] = ()
    isolation: str = ""
    sysctls: dict[str, str] = field(default_factory=dict)
    capability_add: tuple[str, ...] = ()
    capability_drop: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int = 0


@dataclass(frozen=True, slots=True)
class NamedGenericResource:
    kind: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class DiscreteGenericResource:
    kind: str = ""
    value: int = count()


@dataclass(frozen=True, slots=True)
class GenericResource:
    """A countable thing of a node (`gpu=2`), or one with a name (`gpu=UUID1`). One of the two is set."""

    named_resource_spec: NamedGenericResource | None = None
    discrete_resource_spec: DiscreteGenericResource | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """What a node has, or what a task reserves. `nano_cpus` are billionths of a processor."""

    nano_cpus: int = count(name="NanoCPUs")
    memory_bytes: int = count()
    generic_resources: tuple[GenericResource, ...] = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """What a task may use at most; 0 is no limit."""

    nano_cpus: int = count(name="NanoCPUs")
    memory_bytes: int = count()
    pids: int = count()


@dataclass(frozen=True, slots=True)
class ResourceRequirements:
    limits: Limit | None = None
    reservations: Resources | None = None

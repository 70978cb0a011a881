"""What the Docker Engine and Swarm refuse about a container's part of a service's spec, in their words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address

from meshnet.agent import resolvconf
from meshnet.api import unserved
from meshnet.containerspec import (
    ConfigReference,
    ContainerSpec,
    Healthcheck,
    Limit,
    Mount,
    ResourceRequirements,
    Resources,
    SecretReference,
)
from meshnet.control.refusals import invalid
from meshnet.errors import MeshnetError
from meshnet.model import SECOND
from meshnet.sandbox import rights
from meshnet.sandbox.arguments import check_arguments, check_hostname
from meshnet.sandbox.container import signal_number
from meshnet.sandbox.spec import Ulimit

LONGEST = 2**63 - 1
LEAST_CPU = 1_000_000
LEAST_MEMORY = 4 * 2**20
MOUNTS = ("bind", "volume", "tmpfs")
PROPAGATIONS = ("", "private", "rprivate", "shared", "rshared", "slave", "rslave")


def container(spec: ContainerSpec) -> ContainerSpec:
    """The container's spec, or MeshnetError with what is wrong about it."""
    if not spec.image:
        raise invalid("ContainerSpec: image reference must be provided")
    if any(char.isspace() for char in spec.image) or spec.image.startswith("-"):
        raise invalid(f"ContainerSpec: {spec.image!r} is not a valid repository/tag")
    for entry in spec.env:
        if entry.startswith("=") or not entry:
            raise invalid(f"ContainerSpec.Env: {entry!r} is not NAME=VALUE")
    if "{{" not in spec.hostname:  # else it is judged once it is filled in
        check_hostname("ContainerSpec.Hostname", spec.hostname)
    check_arguments({f"ContainerSpec.{name}": getattr(spec, name.lower()) for name in ("Env", "Command", "Args")})
    if spec.stop_grace_period is not None:
        duration("ContainerSpec.StopGracePeriod", spec.stop_grace_period)
    if spec.healthcheck is not None:
        _health(spec.healthcheck)
    if spec.isolation not in ("", "default"):
        raise invalid(f"ContainerSpec.Isolation: {spec.isolation!r} is not had on Linux; leave it out")
    _rights(spec)
    unserved.check_container(spec)
    _mounts(spec.mounts)
    _secrets(spec.secrets)
    _configs(spec.configs)
    return replace(spec, isolation="")


def _rights(spec: ContainerSpec) -> None:
    """What its processes may, and what it is told about names."""
    try:
        rights.capabilities(spec.capability_add, spec.capability_drop)
        rights.check_ulimits(Ulimit(limit.name, limit.soft, limit.hard) for limit in spec.ulimits)
        rights.check_sysctls(spec.sysctls)
        rights.check_oom_score(spec.oom_score_adj)
        signal_number(spec.stop_signal)
        if spec.dns_config is not None:
            resolvconf.check(spec.dns_config)
    except MeshnetError as error:
        raise MeshnetError(f"ContainerSpec: {error}", error.status) from None
    for line in spec.hosts:
        address, *names = line.split() or [""]
        try:
            ip_address(address)
        except ValueError:
            names = []
        if not names:
            raise invalid(f"ContainerSpec.Hosts: {line!r} is not an address and a name")


def _mounts(mounts: Iterable[Mount]) -> None:
    seen = set()
    for mount in mounts:
        if mount.type not in MOUNTS:
            raise MeshnetError(f'invalid MountType: "{mount.type}"')
        if not mount.target.startswith("/"):
            raise invalid(f"invalid mount target, must be an absolute path: {mount.target}")
        if mount.type == "bind" and not mount.source.startswith("/"):
            raise invalid(f"invalid bind mount source, must be an absolute path: {mount.source}")
        if mount.bind_options and mount.bind_options.propagation not in PROPAGATIONS:
            raise MeshnetError(f'invalid MountPropagation: "{mount.bind_options.propagation}"')
        if mount.target in seen:
            raise invalid(f"ContainerSpec: duplicate mount point: {mount.target}")
        seen.add(mount.target)


def _health(check: Healthcheck) -> None:
    for name, value in (
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ):
        duration(f"ContainerSpec.Healthcheck.{name}", value)
        if 0 < value < SECOND // 1000:
            raise invalid(f"ContainerSpec: {name} in Healthcheck cannot be less than one millisecond")
    check_arguments({"ContainerSpec.Healthcheck.Test": check.test})
    if check.retries < 0:
        raise invalid("ContainerSpec: Retries in Healthcheck cannot be negative")
    if check.test and check.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise invalid(f"ContainerSpec.Healthcheck.Test: {check.test[0]!r} is none of NONE, CMD, CMD-SHELL")


def _secrets(references: Iterable[SecretReference]) -> None:
    targets: dict[str, str] = {}
    for reference in references:
        if not reference.secret_id or not reference.secret_name:
            raise invalid("malformed secret reference")
        if reference.file is None:
            raise invalid("malformed secret reference, no target provided")
        _target("secret", reference.file.name, reference.secret_name, targets)


def _configs(references: Iterable[ConfigReference]) -> None:
    targets: dict[str, str] = {}
    for reference in references:
        if not reference.config_id or not reference.config_name:
            raise invalid("malformed config reference")
        if reference.file is None and reference.runtime is None:
            raise invalid("malformed config reference, no target provided")
        if reference.file is not None:
            _target("config", reference.file.name, reference.config_name, targets)


def _target(kind: str, file: str, name: str, targets: dict[str, str]) -> None:
    if not file:
        raise invalid(f"malformed file {kind} reference, invalid target file name provided")
    if file in targets:
        raise invalid(f"{kind} references '{targets[file]}' and '{name}' have a conflicting target: '{file}'")
    targets[file] = name


def resources(needed: ResourceRequirements | None) -> None:
    """Refuses what is too little to run anything."""
    for part in (needed.limits, needed.reservations) if needed else ():
        if part is not None:
            _amount(part)


def _amount(part: Limit | Resources) -> None:
    if 0 < part.nano_cpus < LEAST_CPU:
        raise invalid(f"invalid cpu value {part.nano_cpus / 1e9:g}: Must be at least {LEAST_CPU / 1e9:g}")
    if 0 < part.memory_bytes < LEAST_MEMORY:
        raise invalid(f"invalid memory value {part.memory_bytes}: Must be at least 4MiB")


def duration(field: str, value: int) -> None:
    """Refuses a negative time; `value` is nanoseconds."""
    if not 0 <= value <= LONGEST:
        raise invalid(f"{field}: a duration that is not negative is needed")

"""What a service asks for that its tasks cannot have here: refused by name, or taken with a warning that says why.

A request that would change what a container may or sees is refused; one that only leaves a bound or a convenience out
is taken and warned about. What is not in the model at all is unknown to this version of the API and ignored, as the
Engine ignores it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from meshnet.agent import resolvconf
from meshnet.agent.containers import limits_of
from meshnet.containerspec import ContainerSpec, Mount, Privileges
from meshnet.errors import MeshnetError
from meshnet.model import TaskSpec
from meshnet.sandbox import limits

LOG_DRIVERS = ("", "json-file", "local")
PRIVATE = ("", "private", "rprivate")


def refused(what: str, instead: str) -> MeshnetError:
    return MeshnetError(f"{what} not served: {instead}", 501)


def check_container(spec: ContainerSpec) -> None:
    """Raises MeshnetError (501) for what cannot be had here."""
    check_mounts(spec.mounts)
    if spec.privileges is not None:
        _check_privileges(spec.privileges)
    if any(reference.runtime is not None for reference in spec.configs):
        raise refused("configs for the runtime are", "only files are made of configs")


def _check_privileges(asked: Privileges) -> None:
    if asked.credential_spec is not None and any(
        (asked.credential_spec.config, asked.credential_spec.file, asked.credential_spec.registry)
    ):
        raise refused("credential specs are", "they are for containers of Windows")
    labels = asked.se_linux_context
    if labels is not None and any((labels.user, labels.role, labels.type, labels.level)):
        raise refused("SELinux labels are", "containers run without SELinux")
    if asked.seccomp is not None and asked.seccomp.mode not in ("", "default"):
        raise refused(f"the seccomp mode {asked.seccomp.mode} is", "every container has the default profile")
    if asked.app_armor is not None and asked.app_armor.mode not in ("", "default", "disabled"):
        raise refused(f"the AppArmor mode {asked.app_armor.mode} is", "containers run without AppArmor")


def check_mounts(mounts: Iterable[Mount]) -> None:
    """Raises MeshnetError (501) for options of mounts that cannot be had here."""
    for mount in mounts:
        where = f"mount {mount.target}:"
        bind, volume, tmpfs = mount.bind_options, mount.volume_options, mount.tmpfs_options
        if bind is not None:
            if bind.propagation not in PRIVATE:
                raise refused(f"{where} the propagation {bind.propagation} is", "mounts of a container are private")
            if bind.read_only_non_recursive or bind.read_only_force_recursive:
                raise refused(f"{where} recursive read-only mounts are", "only the mount itself is read-only")
            if bind.create_mountpoint:
                raise refused(f"{where} CreateMountpoint is", "make the directory first")
        if volume is not None:
            driver = volume.driver_config
            if driver is not None and driver.name not in ("", "local"):
                raise refused(f"{where} the volume driver {driver.name} is", "volumes are of the driver local")
            if driver is not None and driver.options:
                raise refused(f"{where} options of the volume driver are", "leave out volume-opt")
            if volume.subpath:
                raise refused(f"{where} a subpath of a volume is", "mount the whole volume")
        if tmpfs is not None and tmpfs.options:
            raise refused(f"{where} options of a tmpfs are", "only its size and mode are")


def warnings(template: TaskSpec, cgroups: Path) -> list[str]:
    """What of a task is taken without effect. `cgroups` is the root of a cgroup2 tree, this machine's."""
    return list(_warnings(template, cgroups))


def _warnings(template: TaskSpec, cgroups: Path) -> Iterator[str]:
    spec = template.container_spec
    yield from limits.warnings(limits_of(template.resources), cgroups)
    driver = template.log_driver
    if driver is not None:
        yield from log_driver(driver.name, driver.options)
    if spec.healthcheck is not None and spec.healthcheck.start_interval:
        yield "Healthcheck.StartInterval is without effect: checks come at their interval from the start"
    if spec.dns_config is not None:
        yield from resolvconf.warnings(spec.dns_config)


def log_driver(name: str, options: object) -> Iterator[str]:
    """Warnings about where logs shall go."""
    if name not in LOG_DRIVERS:
        yield f"the log driver {name} is not there: logs are kept on the node, as json-file keeps them"
    elif options:
        yield "options of the log driver are without effect: the newest 2 MiB of a container's log are kept"

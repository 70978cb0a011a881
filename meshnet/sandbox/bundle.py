"""The OCI runtime's config.json for a task: what it may do, what it sees, what it runs.

A pure function of the container's spec, its image and its user. Follows the OCI runtime specification 1.0 with
Docker's defaults for capabilities, masked paths and devices. It differs where a task must not see its machine:
/sys is the network namespace's own sysfs without cgroup tree and bpffs, and a host image hides the machine's run-time
state, homes and keys.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from meshnet.errors import MeshnetError
from meshnet.sandbox import memory, rights
from meshnet.sandbox.images import PROGRAMS, HostImage, Image
from meshnet.sandbox.memory import MemoryFile
from meshnet.sandbox.seccomp import profile
from meshnet.sandbox.spec import ContainerSpec, TaskMount
from meshnet.sandbox.users import User

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# A host image shows the machine's programs, not its secrets: keys, password hashes, homes, other tenants' state.
HOST_MASKED = ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/ssh", "/etc/ssl/private")
HOST_EMPTY = {
    "/run": "mode=755,size=16m",
    "/tmp": "mode=1777,size=64m",
    "/var/tmp": "mode=1777,size=64m",
    "/root": "mode=700,size=16m",
    "/home": "mode=755,size=16m",
    "/var/lib/meshnet": "mode=700,size=4k",
}
_COMPILED = "run.oci.seccomp_bpf_data"  # crun(1)
INIT = "/sbin/docker-init"  # where a container finds its small init
SHM = 64 << 20


def argv(spec: ContainerSpec, image: Image) -> tuple[str, ...]:
    """What the task runs: `command` replaces entry point and default arguments, `args` the default arguments alone.

    Raises MeshnetError if neither the spec nor the image names a program.
    """
    words = spec.command + spec.args if spec.command else image.entrypoint + (spec.args or image.command)
    if not words:
        raise MeshnetError(f"image {spec.image}: no command given, and the image has none")
    return words


def environment(spec: ContainerSpec, image: Image, user: User) -> list[str]:
    """Image's variables, then the spec's; a spec entry without `=` removes the variable, as Docker does."""
    values: dict[str, str] = {}
    own = (PATH, f"HOSTNAME={spec.hostname}", f"HOME={user.home}", *(("TERM=xterm",) if spec.tty else ()))
    for item in (*own, *image.env, *spec.env):
        name, equals, value = item.partition("=")
        if equals:
            values[name] = value
        else:
            values.pop(name, None)
    return [f"{name}={value}" for name, value in values.items()]


def _mount(target: str, kind: str, source: str, options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options.split(",")}


def _tmpfs(target: str, options: str) -> dict[str, Any]:
    return _mount(target, "tmpfs", "tmpfs", f"nosuid,nodev,{options}")


def _bind(target: str, source: str, mode: str) -> dict[str, Any]:
    return _mount(target, "bind", source, f"bind,rprivate,{mode}")


def _task_mount(mount: TaskMount) -> dict[str, Any]:
    mode = "ro" if mount.read_only else "rw"
    if not mount.target.startswith("/") or mount.target == "/":
        raise MeshnetError(f"mount {mount.target}: the target must be an absolute path other than /")
    if mount.type == "tmpfs":
        size = f",size={mount.size}" if mount.size else ""
        more = "".join(f",{word}" for word in mount.options)
        return _tmpfs(mount.target, f"{mode},mode={mount.mode or 0o1777:o}{size}{more}")
    if mount.type not in ("bind", "volume"):
        raise MeshnetError(f"mount {mount.target}: type {mount.type} is not known; use bind, volume or tmpfs")
    if not mount.source.startswith("/"):
        raise MeshnetError(f"mount {mount.target}: the source must be an absolute path, not {mount.source!r}")
    bind = "bind" if mount.shallow else "rbind"
    return _mount(mount.target, "bind", mount.source, f"{bind},rprivate,nodev,nosuid,{mode}")


def _mounts(spec: ContainerSpec, image: Image, init: str) -> list[dict[str, Any]]:
    mounts = [
        _mount("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=64k"),
        _mount("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        _mount("/dev/shm", "tmpfs", "shm", f"nosuid,noexec,nodev,mode=1777,size={spec.shm_size or SHM}"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        _mount("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    ]
    if isinstance(image, HostImage):
        mounts += [_tmpfs(target, options) for target, options in HOST_EMPTY.items()]
        mounts.append(_bind(PROGRAMS, image.programs, "ro,nosuid,nodev"))
    if init:
        mounts.append(_bind(INIT, init, "ro,nosuid,nodev"))
    for name in ("resolv.conf", "hosts", "hostname"):
        mounts.append(_bind(f"/etc/{name}", f"{spec.dir}/{name}", "rw,nosuid,nodev,noexec"))
    return mounts + [_task_mount(mount) for mount in spec.mounts]


def _files(spec: ContainerSpec, files: Sequence[MemoryFile]) -> list[dict[str, Any]]:
    return [
        _bind(file.target, memory.source(spec.dir, index), "ro,nosuid,nodev,noexec") for index, file in enumerate(files)
    ]


def process(
    words: tuple[str, ...], env: list[str], user: User, workdir: str, spec: ContainerSpec, *, terminal: bool = False
) -> dict[str, Any]:
    """The OCI `process` object: for the container itself, and for anything run inside it later."""
    return {
        "terminal": terminal,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": list(words),
        "env": env,
        "cwd": workdir or "/",
        "noNewPrivileges": True,
        "capabilities": _capabilities(user, spec),
        "rlimits": rights.rlimits(spec.ulimits),
        "oomScoreAdj": spec.oom_score_adj,
    }


def _capabilities(user: User, spec: ContainerSpec) -> dict[str, list[str]]:
    # Only root holds them at once; another user would need a set-uid program, and those gain nothing here.
    there = list(rights.capabilities(spec.capability_add, spec.capability_drop))
    held = there if user.uid == 0 else []
    return {"bounding": there, "effective": held, "permitted": held, "inheritable": []}


def config(
    spec: ContainerSpec,
    image: Image,
    user: User,
    netns: str,
    machine: str,
    compiled: bytes = b"",
    files: Sequence[MemoryFile] = (),
    init: str = "",
) -> dict[str, Any]:
    """The whole config.json.

    `netns` is the path under which the runtime finds the network namespace, `machine` the architecture as uname
    prints it. `compiled` is the seccomp profile as crun compiled it before, which takes it 20 ms each time; a crun
    that does not know the annotation compiles the profile again. `init` is the machine's path of the small init, ""
    for none. Raises MeshnetError for a mount or a command that cannot be.
    """
    workdir = spec.workdir or image.workdir or "/"
    if not workdir.startswith("/"):
        raise MeshnetError(f"working directory {workdir!r}: an absolute path is needed")
    words = ((INIT, "--") if init else ()) + argv(spec, image)
    return {
        "ociVersion": "1.0.2",
        "process": process(words, environment(spec, image, user), user, workdir, spec, terminal=spec.tty),
        "root": {"path": "rootfs", "readonly": spec.read_only},
        "hostname": spec.hostname,
        "mounts": [*_mounts(spec, image, init), *_files(spec, files)],
        "annotations": {_COMPILED: b64encode(compiled).decode()} if compiled else {},
        "linux": {
            "namespaces": [
                *({"type": kind} for kind in ("mount", "uts", "pid", "ipc")),
                {"type": "network", "path": netns},
            ],
            "sysctl": {**(rights.SYSCTLS if spec.own_network else {}), **spec.sysctls},
            "seccomp": profile(machine),
            "maskedPaths": [*MASKED, *(HOST_MASKED if isinstance(image, HostImage) else ())],
            "readonlyPaths": list(READ_ONLY),
        },
    }

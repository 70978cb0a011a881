"""What a container may beyond or below the usual: capabilities, ulimits, sysctls (pure).

A container has no user namespace and no device filter of its own, so a capability is given only if what it allows
stays inside the container's namespaces; those that reach the machine are refused by name. A sysctl is set only if the
kernel keeps one per namespace (runc's list: `net.`, `fs.mqueue.` and System V IPC).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshnet.errors import MeshnetError
from meshnet.sandbox.spec import Ulimit

USUAL = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
INSIDE = (
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_LEASE",
    "CAP_NET_ADMIN",
    "CAP_NET_BROADCAST",
    "CAP_SYS_NICE",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RESOURCE",
)
OUTSIDE = (
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_DAC_READ_SEARCH",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_PERFMON",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_PACCT",
    "CAP_SYS_RAWIO",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
)
KNOWN = frozenset((*USUAL, *INSIDE, *OUTSIDE))
LIMITS = frozenset(
    (
        *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss"),
        *("rtprio", "rttime", "sigpending", "stack"),
    )
)
# Docker's: an unprivileged user of a container may bind any port and ping, since the namespace is its own.
SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
_IPC = frozenset(
    f"kernel.{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_NAMESPACED = ("net.", "fs.mqueue.")
_UNLIMITED = 2**64 - 1


def capability(name: str) -> str:
    """The kernel's name of a capability, `ALL` too, from any spelling of it. MeshnetError in Docker's words."""
    upper = name.upper()
    if upper == "ALL":
        return upper
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full not in KNOWN:
        raise MeshnetError(f'unknown capability: "{full}"')
    return full


def capabilities(add: Iterable[str], drop: Iterable[str]) -> tuple[str, ...]:
    """Those that a container is left with. What is dropped and added by name is there, as with Docker.

    Raises MeshnetError for one that does not exist, or that reaches the machine.
    """
    added, dropped = set(map(capability, add)), set(map(capability, drop))
    if "ALL" in added:
        raise MeshnetError(f"capability ALL is not given, name those that are needed; there are: {_words(INSIDE)}", 501)
    beyond = sorted(added.intersection(OUTSIDE))
    if beyond:
        raise MeshnetError(
            f"capability {beyond[0]} is not given, since it reaches the machine; there are: {_words(INSIDE)}", 501
        )
    kept = set() if "ALL" in dropped else set(USUAL) - dropped
    return tuple(sorted(kept | added))


def _words(names: Iterable[str]) -> str:
    return ", ".join(name.removeprefix("CAP_") for name in names)


def check_ulimits(limits: Iterable[Ulimit]) -> None:
    """MeshnetError for a limit that does not exist, or whose soft value is above its hard one (-1 is none)."""
    for limit in limits:
        if limit.name not in LIMITS:
            raise MeshnetError(f"invalid ulimit type: {limit.name}")
        if min(limit.soft, limit.hard) < -1:
            raise MeshnetError(f"ulimit {limit.name}={limit.soft}:{limit.hard}: a limit is a number, or -1 for none")
        if limit.hard != -1 and (limit.soft > limit.hard or limit.soft == -1):
            raise MeshnetError(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}"
            )


def rlimits(limits: Iterable[Ulimit]) -> list[dict[str, int | str]]:
    """As the OCI runtime takes them."""
    return [
        {
            "type": f"RLIMIT_{limit.name.upper()}",
            "soft": _UNLIMITED if limit.soft == -1 else limit.soft,
            "hard": _UNLIMITED if limit.hard == -1 else limit.hard,
        }
        for limit in limits
    ]


def check_sysctls(sysctls: Mapping[str, str], own_network: bool = True) -> None:
    """MeshnetError in runc's words for one that is the machine's and not the container's."""
    for name in sysctls:
        known = name.replace("/", ".")
        if known.startswith("net.") and not own_network:
            raise MeshnetError(f'sysctl "{name}" not allowed in host network namespace')
        if known not in _IPC and not known.startswith(_NAMESPACED):
            raise MeshnetError(f'sysctl "{name}" is not in a separate kernel namespace')


def check_oom_score(adjustment: int) -> None:
    """MeshnetError in Docker's words."""
    if not -1000 <= adjustment <= 1000:
        raise MeshnetError(f"Invalid value {adjustment}, range for oom score adj is [-1000, 1000]")

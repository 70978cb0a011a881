"""What a container may use at most, as files of its cgroup2 group, where the machine lets cgroup2 account for it.

A controller works for a container if cgroup2 has it (a version 1 hierarchy may hold it instead) and the root of the
tree passes it on (`cgroup.subtree_control`). Passing on is the machine's choice and is left to it; below the root the
groups are meshnet's own. A limit that cannot be applied is said, and the container runs without it.
"""

from __future__ import annotations

from pathlib import Path

from meshnet.sandbox.spec import Limits

PERIOD = 100_000  # us over which a share of processors is measured, as with Docker
_CONTROLLERS = {"memory": "memory", "nano_cpus": "cpu", "pids": "pids"}  # field -> controller


def _listed(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


def missing(root: Path) -> dict[str, str]:
    """What cannot be limited below the root of a cgroup2 tree: `memory`, `cpu`, `pids` -> why, and what helps."""
    there, passed = _listed(root / "cgroup.controllers"), _listed(root / "cgroup.subtree_control")
    found = {}
    for name in _CONTROLLERS.values():
        if name not in there:
            found[name] = f"cgroup2 has no {name} controller here (boot with cgroup_no_v1={name} if version 1 holds it)"
        elif name not in passed:
            found[name] = f"the {name} controller is not passed on: echo +{name} > {root}/cgroup.subtree_control"
    return found


def warnings(limits: Limits, root: Path) -> list[str]:
    """What of these limits is without effect on this machine, and why."""
    lacking = missing(root)
    return [
        f"no {word} limit is applied: {lacking[word]}"
        for field, word in _CONTROLLERS.items()
        if getattr(limits, field) and word in lacking
    ]


def apply(limits: Limits, group: Path, root: Path) -> None:
    """Sets what can be set of a container's group, which is made if it is missing, before its program runs. OSError."""
    lacking = missing(root)
    wanted = {name for field, name in _CONTROLLERS.items() if getattr(limits, field) and name not in lacking}
    group.mkdir(parents=True, exist_ok=True)
    if not wanted:
        return
    for above in reversed([path for path in group.parents if root in path.parents]):
        for name in sorted(wanted - _listed(above / "cgroup.subtree_control")):
            (above / "cgroup.subtree_control").write_text(f"+{name}")
    for name, text in _files(limits).items():
        place = group / name
        if name.partition(".")[0] in wanted and (name != "memory.swap.max" or place.exists()):
            place.write_text(text)


def _files(limits: Limits) -> dict[str, str]:
    # As much swap as memory, as Docker gives when only the memory was said.
    memory = str(limits.memory)
    return {
        "memory.max": memory,
        "memory.swap.max": memory,
        "cpu.max": f"{max(limits.nano_cpus * PERIOD // 10**9, 1000)} {PERIOD}",
        "pids.max": str(limits.pids),
    }

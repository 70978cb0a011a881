"""Removing exactly what a lab made, whatever state it was left in: also after every process was killed.

Everything a lab makes is below a name of its own: its cgroup, its pins, its directory, its namespaces. Nothing is
asked of the lab's processes, so nothing depends on them; they are killed first.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from meshnet import names
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.files import remove_tree
from meshnet.kernel import libc, netns, sockdiag
from meshnet.kernel.bpf import cgroup2_root
from meshnet.lab import cgroups, state, topology
from meshnet.lab.words import name_problem

_TASK = re.compile(r"[0-9a-z]{12}")


def resolve(what: str) -> str:
    """The name of the lab meant by `what`: a lab that is up, or the folder of one.

    Raises NotFoundError if nothing of that lab is there.
    """
    if "/" not in what and _remains(what):
        return what
    from meshnet.lab import file

    found = state.up()
    if Path(what).is_dir() and not Path(what, file.FILE).exists():
        said = f"up are: {', '.join(found)}" if found else "no lab is up"
        raise MeshnetError(f"{what}: no {file.FILE} there; give the folder or the name of a lab; {said}")
    if Path(what).exists() or file.packaged(what):
        name = file.load(what).name
        if _remains(name):
            return name
        what = name
    raise NotFoundError(f"the lab {what} is not up; {_what_is_up()}")


def meant() -> str:
    """The lab that is meant where none is named: the one in $MESHNET_LAB, else that of the current folder.

    Raises NotFoundError if nothing of it is there.
    """
    name = os.environ.get("MESHNET_LAB")
    if not name:
        return resolve(".")
    if not _remains(name):
        raise NotFoundError(f"the lab {name} ($MESHNET_LAB) is not up; {_what_is_up()}")
    return name


def _what_is_up() -> str:
    found = state.up()
    return f"up are: {', '.join(found)}" if found else "no lab is"


def _remains(name: str) -> bool:
    """Whether anything of a lab of that name is there, even if only an empty directory."""
    if name_problem(name):
        return False
    places = (names.lab_dir(name), f"{names.BPFFS}/meshnet/{name}", str(cgroups.path(name)))
    return any(os.path.isdir(place) for place in places) or netns.exists(names.underlay_netns(name))


def down(name: str) -> None:
    """Ends every process of a lab and removes all it made. Running it again, or on half a lab, does no harm.

    Raises MeshnetError if something cannot be removed.
    """
    if os.geteuid() != 0:
        raise MeshnetError("taking a lab down needs root; run it with sudo")
    state.leave(name)
    cgroups.end(cgroups.path(name))
    made = namespaces(name)
    netns.visit(made, lambda _: sockdiag.destroy_all())
    for namespace in made:
        netns.delete(namespace)
    _unmount_below(names.lab_dir(name))
    shutil.rmtree(f"{names.BPFFS}/meshnet/{name}", ignore_errors=True)
    remove_tree(names.lab_dir(name), ignore_errors=True)
    _remove_shared()


def _remove_shared() -> None:
    """What labs have in common goes with the last of them. A lab that comes up is in `names.RUN` before it makes its
    own in the other directories: then those stay, too."""
    try:
        os.rmdir(names.RUN)
    except FileNotFoundError:
        pass  # it never was
    except OSError:
        return  # other labs are in it
    for shared in (f"{names.BPFFS}/meshnet", str(cgroup2_root() / cgroups.ROOT)):
        with contextlib.suppress(OSError):  # what is no lab's is in it, or it never was
            os.rmdir(shared)


def namespaces(name: str) -> list[str]:
    """The lab's namespaces that exist: those of its hosts, and the sandboxes of its nodes' tasks.

    If its file is lost or damaged, everything called like it that no other lab claims.
    """
    underlay = names.underlay_netns(name)
    present = [one for one in netns.names(underlay) if one == underlay or one.startswith(underlay + "-")]
    others = {one for other in state.up() if other != name for one in _own(other, present)}
    return sorted((_own(name, present) or set(present)) - others)


def _own(name: str, present: list[str]) -> set[str]:
    """What of `present` a lab's own file claims."""
    try:
        lab = state.load(name)
    except MeshnetError:
        return set()
    found = set(topology.namespaces(lab)) & set(present)
    for node in lab.nodes:
        prefix = names.node_netns(name, node.name) + "-"
        found |= {one for one in present if one.startswith(prefix) and _TASK.fullmatch(one[len(prefix) :])}
    return found


def _unmount_below(directory: str) -> None:
    """Unmounts everything mounted below a directory in this mount namespace, the deepest first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4].encode().decode("unicode_escape")
        if point.startswith(directory + "/"):
            points.append(point)
    for point in sorted(points, reverse=True):
        with contextlib.suppress(OSError):
            libc.umount(point, libc.MNT_DETACH)

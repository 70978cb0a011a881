"""Which labs are up, and what they are: the resolved lab as JSON in its directory, so that no verb needs its files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from meshnet import names
from meshnet.agent.settings import AGENT_FILE, MANAGER_FILE, AgentSettings
from meshnet.errors import ConflictError, MeshnetError, NotFoundError
from meshnet.lab import spec
from meshnet.lab.spec import Lab, LabNode

FILE = "lab.json"
LEAVING = "leaving"
TRIES = 10
OUTSIDE, UNKNOWN = "no swarm", "unknown"  # roles of a bare lab's nodes, besides manager and worker


def claim(lab: Lab) -> int:
    """Takes the lab's directory, or raises ConflictError because the lab is up (or was left in the middle).

    Returns what tells this directory from a later one of the same name (`claimed`).
    """
    try:
        _make_directory(names.lab_dir(lab.name))
    except FileExistsError:
        raise ConflictError(
            f"the lab {lab.name} is up already; take it down with: meshnet lab down {lab.name}"
        ) from None
    fresh = Path(names.lab_dir(lab.name), FILE + ".new")
    fresh.write_text(json.dumps(spec.to_json(lab)))
    os.replace(fresh, fresh.with_name(FILE))
    for node in lab.nodes:
        os.mkdir(names.node_dir(lab.name, node.name), 0o700)
    return claimed(lab.name)


def _make_directory(path: str) -> None:
    """Raises FileExistsError if it is there. To look at a lab needs no root; its nodes' directories do."""
    for _ in range(TRIES):
        os.makedirs(names.RUN, mode=0o755, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the last other lab that went took the one around it away
            return os.mkdir(path, 0o755)
    raise MeshnetError(f"{names.RUN} is removed again and again")


def claimed(name: str) -> int:
    """Which directory a lab has: another number after it was taken down and brought up again, 0 without one."""
    try:
        return os.stat(names.lab_dir(name)).st_ino
    except FileNotFoundError:
        return 0


def leave(name: str) -> None:
    """Marks a lab as being taken down, for whoever is still bringing it up."""
    with contextlib.suppress(OSError):  # nothing of it may be there
        Path(names.lab_dir(name), LEAVING).touch()


def is_leaving(name: str) -> bool:
    """Whether somebody takes the lab down."""
    return Path(names.lab_dir(name), LEAVING).exists()


def is_ours(name: str, claim: int) -> bool:
    """Whether the directory that `claim` gave is there, and nobody takes it down."""
    return claimed(name) == claim and not is_leaving(name)


@contextlib.contextmanager
def turn(lab: str, node: str) -> Iterator[None]:
    """One command at a time starts what of a node does not run: two agents or managers would take each other's
    sockets away. Waits for its turn. Raises NotFoundError if the lab is gone.

    The lock is the kernel's: it ends with the command, however that ends.
    """
    try:
        directory = os.open(names.node_dir(lab, node), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"the lab {lab} is not up; {_what_is_up()}") from None
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)  # also for children, which have a descriptor of the same lock
        os.close(directory)


def up() -> list[str]:
    """Names of the labs that are up (or half up), sorted."""
    try:
        return sorted(entry.name for entry in os.scandir(names.RUN) if Path(entry.path, FILE).is_file())
    except FileNotFoundError:
        return []


def load(name: str) -> Lab:
    """The lab of that name. Raises NotFoundError if it is not up."""
    try:
        text = Path(names.lab_dir(name), FILE).read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"the lab {name} is not up; {_what_is_up()}") from None
    except PermissionError:
        raise MeshnetError(f"the lab {name} belongs to root; run this as root") from None
    try:
        return _with_roles(spec.from_json(json.loads(text)))
    except (ValueError, MeshnetError) as error:
        raise MeshnetError(f"{names.lab_dir(name)}/{FILE} is damaged ({error}); meshnet lab down {name}") from None


def all_up() -> list[Lab]:
    """The labs that are up, by name; one that is taken down meanwhile is passed over."""
    found = []
    for name in up():
        with contextlib.suppress(NotFoundError):
            found.append(load(name))
    return found


def _with_roles(lab: Lab) -> Lab:
    """The nodes of a bare lab are what was made of them by hand."""
    if not lab.bare:
        return lab
    return replace(lab, nodes=tuple(replace(node, role=_role(lab.name, node.name)) for node in lab.nodes))


def _role(lab: str, node: str) -> str:
    """Whoever has a manager is one; a worker knows where its managers are. UNKNOWN to whoever may not look."""
    directory = Path(names.node_dir(lab, node))
    if os.path.exists(directory / MANAGER_FILE):
        return "manager"
    if not os.access(directory, os.X_OK):
        return UNKNOWN
    try:
        return "worker" if AgentSettings.load(directory / AGENT_FILE).managers else OUTSIDE
    except MeshnetError:
        return OUTSIDE  # it has not been started yet


def current(name: str | None) -> Lab:
    """The lab of that name; without a name the one in $MESHNET_LAB, or the only one that is up."""
    name = name or os.environ.get("MESHNET_LAB") or None
    if name is not None:
        try:
            return load(name)
        except NotFoundError as error:
            raise NotFoundError(f"{error} (as --lab or $MESHNET_LAB says)") from None
    found = up()
    if not found:
        raise NotFoundError("no lab is up; start one with: meshnet lab up DIR")
    if len(found) > 1:
        raise MeshnetError(f"several labs are up ({', '.join(found)}); say which with --lab NAME or MESHNET_LAB=NAME")
    return load(found[0])


def node_of(lab: Lab, name: str) -> LabNode:
    """A node of the lab. Raises NotFoundError that names those there are."""
    node = lab.node(name)
    if node is None:
        have = ", ".join(node.name for node in lab.nodes)
        raise NotFoundError(f"the lab {lab.name} has no node {name}; its nodes are {have}")
    return node


def _what_is_up() -> str:
    found = up()
    return f"up are: {', '.join(found)}" if found else "none is; start one with: meshnet lab up DIR"

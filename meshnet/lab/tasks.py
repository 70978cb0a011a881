"""The tasks that run on a lab's nodes, found in their nodes' directories: no agent and no manager is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meshnet import names
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.lab import cgroups
from meshnet.lab.spec import Lab
from meshnet.sandbox.runtime import INIT_PID
from meshnet.sandbox.spec import ContainerSpec, load

LOG = "log"


@dataclass(frozen=True, slots=True)
class LabTask:
    """A task that has a container on `node`. `spec.name` is its full name, `service.slot.id`."""

    node: str
    id: str
    spec: ContainerSpec

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def service(self) -> str:
        return self.name.partition(".")[0]

    @property
    def short(self) -> str:
        """`service.slot`, or `service@node` for a task of a global service."""
        begin, _, _ = self.name.rpartition(".")
        return begin if begin.rpartition(".")[2].isdecimal() else f"{self.service}@{self.node}"

    @property
    def log(self) -> Path:
        return Path(self.spec.dir, LOG)


def all_tasks(lab: Lab) -> list[LabTask]:
    """Every task of the lab with a container, by name. Raises MeshnetError without root."""
    found = []
    for node in lab.nodes:
        root = Path(names.node_dir(lab.name, node.name))
        try:
            files = list((root / "tasks").glob("*/container/spec.json"))
            root.stat()
            next(root.iterdir(), None)
        except PermissionError:
            raise MeshnetError("tasks belong to root; run this as root") from None
        for file in files:
            try:
                found.append(LabTask(node.name, file.parent.parent.name, load(file.read_text())))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # being written, or being removed
    return sorted(found, key=lambda task: task.name)


def root(task: LabTask) -> Path:
    """Where the files that a running task sees are seen from outside. Raises NotFoundError if it has ended."""
    try:
        return Path(f"/proc/{int(Path(task.spec.dir, INIT_PID).read_text())}/root")
    except (OSError, ValueError):
        raise NotFoundError(f"the task {task.name} does not run yet, or has ended") from None


def find(lab: Lab, word: str) -> LabTask:
    """The task meant by a full name, `service.slot`, `service@node`, an id, the container's, or the beginning of one.
    Of several, one that runs: others are of a node that was killed.

    Raises NotFoundError, or MeshnetError if several are meant, or a service.
    """
    tasks = all_tasks(lab)
    service = [task.short for task in tasks if task.service == word]
    if service:
        raise MeshnetError(f"{word} is a service; its tasks are {', '.join(service)}")
    exact = [task for task in tasks if word in (task.name, task.id, task.short, f"{task.service}@{task.node}")]
    begun = [
        task for task in tasks if word and any(name.startswith(word) for name in (task.name, task.id, task.spec.id))
    ]
    found = exact or begun
    if len(found) > 1:  # a killed node keeps its tasks' directories until it is back
        found = [task for task in found if cgroups.populated(Path(task.spec.cgroup))] or found
    if not found:
        raise NotFoundError(_nothing(lab, word, tasks))
    if len(found) > 1:
        raise MeshnetError(f"several tasks are called {word}: {', '.join(task.name for task in found)}")
    return found[0]


def _nothing(lab: Lab, word: str, tasks: list[LabTask]) -> str:
    hosts = ", ".join(host.name for host in lab.hosts)
    running = ", ".join(task.short for task in tasks) or "none"
    return f"the lab {lab.name} has no node, client or task {word}; hosts are {hosts}; tasks are {running}"

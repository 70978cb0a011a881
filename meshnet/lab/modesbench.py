"""A lab for `meshnet bench vip-vs-dnsrr`: what a benchmark of services needs of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from meshnet import names
from meshnet.kernel import netns
from meshnet.lab import benchmarks, cgroups, down, nodes, tasks, up
from meshnet.lab.enter import task_command
from meshnet.lab.spec import Lab, LabNode

_SUBNET, _ADDRESS = "198.51.100.0/24", "198.51.100.{}"  # RFC 5737
_JOIN = 'echo 0 > "$0/cgroup.procs" && exec "$@"'


class Ground:
    """A swarm of a manager's node and workers. `socket`: the manager's node's Engine API; `group`: the lab's cgroup."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.nodes = [node.name for node in lab.nodes]
        self.socket = Path(names.node_dir(lab.name, self.nodes[0]), "docker.sock")
        self.group = cgroups.path(lab.name)

    def start(self, task: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Starts a program of a task's in it (`service.slot`), with pipes. Raises NotFoundError if it does not run."""
        found = tasks.find(self._lab, task)
        words = task_command(found, command, False)
        descriptor = int(words[-2].rpartition("/")[2])
        try:
            return subprocess.Popen(
                ["/bin/sh", "-c", _JOIN, found.spec.cgroup, *words],
                bufsize=0,
                pass_fds=(descriptor,),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        finally:
            os.close(descriptor)

    def beside(self, task: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Starts a program of this machine's in a task's network and group, where it is balanced like the task."""
        found = tasks.find(self._lab, task)
        words = ["/bin/sh", "-c", _JOIN, found.spec.cgroup, *command]
        return netns.run_in(
            found.spec.netns, lambda: subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )

    def kill_task(self, ident: str) -> None:
        """Kills every process of a task at once."""
        nodes.kill_task(self._lab, ident)

    def kill_node(self, name: str) -> None:
        """Cuts a node's cable and kills everything on it, like a power cut."""
        nodes.kill(self._lab, name)


@contextmanager
def ground(workers: int) -> Iterator[Ground]:
    """The lab, up; it is taken down in the end. Raises MeshnetError."""
    members = tuple(
        LabNode(f"node{number}", _ADDRESS.format(number + 1), "manager" if number == 1 else "worker")
        for number in range(1, workers + 2)
    )
    lab = Lab(benchmarks.name("modes"), benchmarks.DIRECTORY, _SUBNET, 1500, members)
    up.up(lab)
    try:
        yield Ground(lab)
    finally:
        down.down(lab.name)

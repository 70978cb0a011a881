"""Labs without files, for a benchmark to ask."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshnet import names
from meshnet.lab import benchmarks, cgroups, down, up
from meshnet.lab.spec import Lab, LabNode

_SUBNET, _ADDRESS = "198.51.100.0/24", "198.51.100.{}"  # RFC 5737
_numbers = itertools.count(1)


@contextmanager
def swarm(nodes: int) -> Iterator[tuple[Path, Path]]:
    """A swarm of so many nodes, the first its manager: that node's Engine API socket, and the lab's control group.

    The lab is taken down in the end. Raises MeshnetError.
    """
    members = tuple(
        LabNode(f"node{number}", _ADDRESS.format(number + 1), "manager" if number == 1 else "worker")
        for number in range(1, nodes + 1)
    )
    lab = Lab(benchmarks.name(next(_numbers)), benchmarks.DIRECTORY, _SUBNET, 1500, members)
    up.up(lab)
    try:
        yield Path(names.node_dir(lab.name, members[0].name), "docker.sock"), cgroups.path(lab.name)
    finally:
        down.down(lab.name)

"""Fifty nodes on one machine: everything that nodes share with one another there, they share without harm."""

from __future__ import annotations

import pytest
from places import box, vip
from probes import inside, on

from meshnet.lab import converge
from meshnet.lab.daemons import MANAGER
from meshnet.lab.processes import log_path
from meshnet.testing.labs import LabUnderTest

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]
COUNT = 50
PATIENCE = 100.0  # s for fifty tasks on a machine that is busy; about 3 on one that is not
LAB = {
    "name": "fifty",
    "underlay": {"subnet": "172.19.0.0/16"},
    "nodes": {f"n{number}": {"role": "manager"} if number == 0 else {} for number in range(COUNT)},
    "clients": {"client": {"address": "172.19.0.200"}},
}


def test_fifty_nodes(lab: LabUnderTest) -> None:
    """They are all ready and know one another; a task on each serves its name, its VIP and every node's port."""
    assert {node.status.state for node in lab.engine.nodes()} == {"ready"}
    # Nor was any lost while all of them started at once, and waited for one another's turn on the processors.
    assert "is down" not in log_path(lab.name, "n0", MANAGER).read_text()
    lab.network("demo")
    lab.service("whoami", global_=True, networks=["demo"], ports=["8000:8000"], wait=False)
    converge.wait(lab.engine, ["whoami"], lambda _: None, PATIENCE)
    box(lab, "box", "n0", "demo")

    def named() -> set[str]:
        return set(lab.task("box.1").out("dig +short +tcp tasks.whoami").split())

    # The manager knows that a task runs a moment before the other nodes do.
    lab.wait_until(lambda: len(named()) == COUNT, what="tasks.whoami to name every task")
    with inside(lab, "box.1") as probe:
        assert len({name for name, _ in probe.ask(vip(lab), count=COUNT)}) == COUNT
    with on(lab, "client") as probe:
        answers = [answer for node in lab.spec.nodes for answer in probe.ask(node.address)]
    assert {seen for _, seen in answers} == {"172.19.0.200"}
    assert "" not in {name for name, _ in answers}

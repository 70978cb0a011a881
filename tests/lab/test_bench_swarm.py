"""`meshnet bench swarm` and `meshnet bench growth` on this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

import pytest

from meshnet.bench import dockerd, growth, swarm
from meshnet.lab import swarmbench
from meshnet.lab.state import up

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc: apt-get install gcc libc6-dev"),
]
SIZE = swarm.Size(replicas=2, many=4, services=3, rounds=1)


def test_every_step_is_measured() -> None:
    """meshnet alone goes through all steps, and nothing of the lab is left."""
    with swarmbench.swarm(1) as (socket, _):
        sides = swarm.prepare({swarm.MESHNET: socket})
        swarm.measure(sides, SIZE, lambda text: None)
    found = cast("dict[str, Any]", swarm.summary(sides, SIZE, {}, 0.0))
    assert all(row[swarm.MESHNET][1] > 0 for row in found["measured"].values())
    assert not [lab for lab in up() if lab.startswith(f"bench-{os.getpid()}-")]


def test_dockerd_is_asked_the_same() -> None:
    """A real dockerd goes through all steps in its namespaces, and neither a folder nor a control group is left."""
    if lacking := dockerd.missing():
        pytest.skip(lacking)
    with dockerd.running() as socket:
        sides = swarm.prepare({swarm.DOCKERD: socket})
        swarm.measure(sides, SIZE, lambda text: None)
    assert sides[0].seconds.keys() == swarm.TITLES.keys()
    assert not list(Path(tempfile.gettempdir()).glob("meshnet-dockerd-*"))
    assert not list(Path("/sys/fs/cgroup").glob(f"*/meshnet-dockerd-{os.getpid()}"))


def test_growth_is_measured() -> None:
    """Lots of services start in both swarms, those of the small one go again, and CPU time is counted."""
    with swarmbench.swarm(1) as grows, swarmbench.swarm(1) as small:
        sides = swarm.prepare({"grows": grows[0], "small": small[0]})
        lots = [growth.Lots(sides[0], grows[1]), growth.Lots(sides[1], small[1])]
        growth.measure(lots[0], lots[1], 2 * growth.LOT, lambda text: None)
        running = lots[0].side.client.get("/tasks")
        assert len(running) == 2 * growth.LOT * growth.TASKS
        assert lots[1].side.client.get("/tasks") == []
    assert all(len(each.wall) == 2 and min(each.cpu) > 0 for each in lots)

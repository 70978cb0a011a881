"""The docker command and docker-py drive services: updates, rollbacks, jobs, secrets, placement, the swarm itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.types import EndpointSpec, NetworkAttachmentConfig, Resources, RestartPolicy, ServiceMode, UpdateConfig
from engines import Docker, client, eventually

from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = "quickstart"
CREATE = ("service", "create", "--quiet", "--no-resolve-image")
UPDATE = ("service", "update", "--quiet", "--no-resolve-image")
IDLE = ("sh", "-c", "while true; do sleep 1; done")


@pytest.fixture(scope="module")
def manager(lab: LabUnderTest) -> Docker:
    return Docker(lab, "docker-0")


@pytest.fixture(autouse=True)
def clean(manager: Docker) -> Iterator[None]:
    """Every test leaves the swarm without services."""
    yield
    services = manager.out("service", "ls", "-q").split()
    if services:
        manager.out("service", "rm", *services)


def update_status(manager: Docker, name: str) -> dict[str, Any]:
    return dict(json.loads(manager.out("service", "inspect", name, "--format", "{{json .UpdateStatus}}")) or {})


def ends(lab: LabUnderTest, manager: Docker, name: str, state: str) -> None:
    """Waits until the update is in this state: the command ends when the tasks run, which may be a moment sooner."""
    eventually(lab, lambda: update_status(manager, name).get("State") == state, f"the update is {state}")


def images(manager: Docker, name: str) -> set[str]:
    """The images of the service's tasks that run."""
    rows = manager.out("service", "ps", name, "--filter", "desired-state=running", "--format", "{{.Image}}")
    return set(rows.split())


def test_update_and_rollback(lab: LabUnderTest, manager: Docker) -> None:
    """A rolling update completes and keeps tasks spread, a rollback by hand returns to the spec before; both say so."""
    flags = ("--replicas", "3", "--update-parallelism", "2", "--update-monitor", "200ms", "--rollback-monitor", "200ms")
    manager.out(*CREATE, "--name", "web", *flags, "alpine:1", *IDLE)
    manager.out(*UPDATE, "--image", "alpine:2", "--update-order", "start-first", "web")
    ends(lab, manager, "web", "completed")
    assert images(manager, "web") == {"alpine:2"}
    rows = manager.out("service", "ps", "web", "--filter", "desired-state=running", "--format", "{{.Node}}")
    assert sorted(rows.split()) == ["docker-0", "docker-1", "docker-2"]
    manager.out("service", "rollback", "--quiet", "web")
    ends(lab, manager, "web", "rollback_completed")
    assert images(manager, "web") == {"alpine:1"}
    pretty = manager.out("service", "inspect", "--pretty", "web")
    assert "Message:\trollback completed" in pretty


def test_programs_and_images_that_are_missing(manager: Docker, lab: LabUnderTest) -> None:
    """A task whose program is not in its image has failed, in the engine's words; one without an image is rejected."""
    once = ("--detach", "--restart-max-attempts", "1", "--restart-delay", "100ms")
    manager.out(*CREATE, "--name", "noprog", *once, "alpine", "nosuchprogram")
    manager.out(*CREATE, "--name", "noimage", *once, "nosuchimage:1", "true")

    def ended(name: str, state: str, words: str, times: int) -> bool:
        shown = ("--no-trunc", "--format", "{{.CurrentState}}\t{{.Error}}")
        ends = manager.out("service", "ps", name, *shown).splitlines()
        return len([end for end in ends if end.startswith(f"{state} ") and words in end]) == times

    words = 'starting container failed: OCI runtime create failed: unable to start container process: exec: "nosuch'
    eventually(lab, lambda: ended("noprog", "Failed", words, 2), "it has failed twice")
    eventually(lab, lambda: ended("noimage", "Rejected", "No such image: nosuchimage:1", 2), "it is rejected twice")


@pytest.mark.parametrize("action", ["pause", "rollback"])
def test_a_failed_update(manager: Docker, lab: LabUnderTest, action: str) -> None:
    """An image that exists nowhere fails an update: it is paused, or the old spec comes back, and tasks go on."""
    flags = ("--replicas", "2", "--update-failure-action", action, "--rollback-monitor", "200ms")
    manager.out(*CREATE, "--name", "web", *flags, "alpine:1", *IDLE)
    manager.out(*UPDATE, "--detach", "--image", "nosuchimage:1", "web")
    expected = {"pause": "paused", "rollback": "rollback_completed"}[action]
    ends(lab, manager, "web", expected)
    if action == "pause":
        words = "update paused due to failure or early termination of task "
        assert update_status(manager, "web")["Message"].startswith(words)
        manager.out(*UPDATE, "--image", "alpine:2", "web")
        ends(lab, manager, "web", "completed")
        assert images(manager, "web") == {"alpine:2"}
    else:
        eventually(lab, lambda: images(manager, "web") == {"alpine:1"}, "the old image runs")
    errors = manager.out("service", "ps", "web", "--no-trunc", "--format", "{{.Error}}")
    assert "No such image: nosuchimage:1" in errors


def test_jobs(manager: Docker) -> None:
    """A job runs to its end as often as asked, a global one once per node; force runs it again."""
    job = ("--mode", "replicated-job", "--replicas", "3", "--max-concurrent", "2")
    manager.out(*CREATE, "--name", "job", *job, "alpine", "true")
    manager.out(*CREATE, "--name", "everywhere", "--mode", "global-job", "alpine", "true")
    counts = manager.out("service", "ls", "--format", "{{.Name}} {{.Replicas}}").splitlines()
    assert sorted(counts) == ["everywhere 0/0 (3/3 completed)", "job 0/0 (3/3 completed)"]
    before = set(manager.out("service", "ps", "-q", "job").split())
    manager.out(*UPDATE, "--force", "job")
    assert not before & set(manager.out("service", "ps", "-q", "job").split())
    refused = manager.refused("service", "create", "--mode", "global-job", "--update-delay", "1s", "alpine", "true")
    assert "update" in refused


def test_secrets_and_configs(manager: Docker, lab: LabUnderTest, tmp_path: Path) -> None:
    """A task reads its secret and its config as files; neither can be removed while it is used."""
    source = tmp_path / "password"
    source.write_text("hush\n")
    manager.out("secret", "create", "--label", "a=b", "pw", str(source))
    manager.out("config", "create", "cf", str(source))
    given = ("--secret", "pw", "--config", "source=cf,target=/etc/cf", "--constraint", "node.hostname==docker-0")
    manager.out(*CREATE, "--name", "db", *given, "alpine", *IDLE)
    assert manager.out("exec", manager.container("db.1"), "cat", "/run/secrets/pw", "/etc/cf") == "hush\nhush"
    for kind, name in (("secret", "pw"), ("config", "cf")):
        words = f"rpc error: code = InvalidArgument desc = {kind} '{name}' is in use by the following service: db"
        assert manager.refused(kind, "rm", name) == words
    assert manager.out("secret", "inspect", "pw", "--format", "{{.Spec.Labels.a}}{{.Spec.Data}}") == "b[]"
    manager.out("service", "rm", "db")
    manager.out("secret", "rm", "pw")
    manager.out("config", "rm", "cf")
    assert manager.out("secret", "ls", "-q") == ""


def test_nodes_and_the_swarm(manager: Docker, lab: LabUnderTest) -> None:
    """Labels steer tasks, drain moves them and nothing moves back; promotion is refused; the history limit is kept."""
    manager.out("node", "update", "--label-add", "disk=ssd", "docker-1")
    placed = ("--constraint", "node.labels.disk==ssd", "--replicas", "2")
    manager.out(*CREATE, "--name", "web", *placed, "alpine", *IDLE)

    def nodes() -> set[str]:
        shown = manager.out("service", "ps", "web", "--filter", "desired-state=running", "--format", "{{.Node}}")
        return set(shown.split())

    assert nodes() == {"docker-1"}
    manager.out(*UPDATE, "--constraint-rm", "node.labels.disk==ssd", "web")
    assert nodes() == {"docker-1"}, "nothing moves for a constraint that is gone"
    manager.out("node", "update", "--availability", "drain", "docker-1")
    eventually(lab, lambda: "docker-1" not in nodes(), "the tasks have moved")
    manager.out("node", "update", "--availability", "active", "--label-rm", "disk", "docker-1")
    assert "docker-1" not in nodes()
    assert manager.refused("node", "promote", "docker-1") == (
        "a swarm has one manager so far: a worker cannot be promoted"
    )
    assert "attempting to demote the last manager of the swarm" in manager.refused("node", "demote", "docker-0")
    manager.out("swarm", "update", "--task-history-limit", "2")
    assert "Task History Retention Limit: 2" in manager.out("info")
    manager.out("swarm", "update", "--task-history-limit", "5")


def test_docker_py(lab: LabUnderTest, manager: Docker) -> None:
    """docker-py creates, reads back, scales, updates and removes; refusals are of the class that it has for them."""
    engine = client(lab, "docker-0")
    network = engine.networks.create("py", driver="overlay")
    try:
        service = engine.services.create(
            "alpine:1",
            command=list(IDLE),
            name="py",
            mode=ServiceMode("replicated", 2),
            networks=[NetworkAttachmentConfig("py", aliases=["other"])],
            restart_policy=RestartPolicy("any", delay=0),
            resources=Resources(mem_limit=64 * 2**20, mem_reservation=16 * 2**20),
            update_config=UpdateConfig(parallelism=0, monitor=200_000_000, order="start-first"),
            endpoint_spec=EndpointSpec(mode="vip", ports={8180: 80}),
        )
        running = {"desired-state": "running"}

        def count(image: str) -> int:
            tasks = service.tasks(running)
            found = [task for task in tasks if task["Spec"]["ContainerSpec"]["Image"] == image]
            return sum(task["Status"]["State"] == "running" for task in found)

        eventually(lab, lambda: count("alpine:1") == 2, "two tasks run")
        warnings = service.scale(3)["Warnings"] or []  # of limits, where the machine cannot apply them
        assert all("limit is applied" in line for line in warnings)
        eventually(lab, lambda: count("alpine:1") == 3, "three tasks run")
        service.reload()
        service.update(image="alpine:2")
        eventually(lab, lambda: count("alpine:2") == 3, "three new tasks run")
        with pytest.raises(docker.errors.NotFound):
            engine.services.get("nosuch")
        with pytest.raises(docker.errors.APIError, match="name conflicts with an existing object") as refusal:
            engine.services.create("alpine", name="py")
        assert refusal.value.status_code == 409
        service.remove()
    finally:
        engine.close()
    eventually(lab, lambda: manager.run("network", "rm", network.id).returncode == 0, "the network can be removed")

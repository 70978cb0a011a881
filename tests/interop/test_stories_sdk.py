"""The stories of docs/stories once more, step by step with docker-py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from docker.models.services import Service
from docker.types import (
    EndpointSpec,
    Mount,
    Placement,
    PlacementPreference,
    Resources,
    RestartPolicy,
    RollbackConfig,
    SecretReference,
    ServiceMode,
    UpdateConfig,
)
from engines import NODES, client, eventually, sweep

from meshnet.lab import nodes, state
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = "quickstart"
ADDRESSES = ("172.17.0.2", "172.17.0.3", "172.17.0.4")
MS = 10**6  # ns
SOON = UpdateConfig(parallelism=1, delay=100 * MS, monitor=200 * MS, failure_action="pause")
BACK = RollbackConfig(parallelism=0, monitor=200 * MS)
Engines = dict[str, docker.DockerClient]


@pytest.fixture(scope="module")
def engines(lab: LabUnderTest) -> Iterator[Engines]:
    """docker-py on each node."""
    found = {node: client(lab, node) for node in NODES}
    yield found
    for one in found.values():
        one.close()


@pytest.fixture
def manager(lab: LabUnderTest, engines: Engines) -> Iterator[docker.DockerClient]:
    """docker-py on the manager; nothing is left after a story."""
    yield engines["docker-0"]
    sweep(lab)


@pytest.fixture
def wait(lab: LabUnderTest) -> Any:
    return lambda holds, what: eventually(lab, holds, what)


def replicas(count: int) -> ServiceMode:
    return ServiceMode("replicated", count)


def running(service: Service) -> list[dict[str, Any]]:
    """The service's tasks that run and shall run."""
    found = service.tasks({"desired-state": "running"})
    return [task for task in found if task["Status"]["State"] == "running"]


def spread(manager: docker.DockerClient, service: Service) -> dict[str, int]:
    """How many of its tasks run on which node."""
    names = {node.id: node.attrs["Description"]["Hostname"] for node in manager.nodes.list()}
    return dict(Counter(names[task["NodeID"]] for task in running(service)))


def images(service: Service) -> list[str]:
    return sorted(task["Spec"]["ContainerSpec"]["Image"] for task in running(service))


def node_named(manager: docker.DockerClient, hostname: str) -> Any:
    return manager.nodes.list(filters={"name": hostname})[0]


def change_node(manager: docker.DockerClient, hostname: str, **changes: Any) -> None:
    """What `docker node update` does: the node's spec with some of it changed."""
    node = node_named(manager, hostname)
    assert node.update({**node.attrs["Spec"], **changes})


def states(manager: docker.DockerClient) -> dict[str, str]:
    return {node.attrs["Description"]["Hostname"]: node.attrs["Status"]["State"] for node in manager.nodes.list()}


def update_state(service: Service) -> str:
    service.reload()
    return str(service.attrs.get("UpdateStatus", {}).get("State"))


def roll_back(manager: docker.DockerClient, service: Service) -> None:
    """docker-py has no call for it: the update's own request, with `rollback`."""
    service.reload()
    api = manager.api
    answer = api._post_json(
        api._url("/services/{0}/update", service.id),
        data=service.attrs["Spec"],
        params={"version": service.version, "rollback": "previous"},
    )
    assert answer.status_code == 200


def container_of(lab: LabUnderTest, engine: docker.DockerClient, task: str) -> Any:
    """The running container of a task such as `web.1` on a node."""
    return lab.wait_until(lambda: next(iter(engine.containers.list(filters={"name": task})), None), what=task)


def page(lab: LabUnderTest, address: str) -> str:
    return lab.client().out(f"curl -s -m 5 --retry 3 --retry-connrefused {address}:8080")


def test_a_first_service(lab: LabUnderTest, engines: Engines, manager: docker.DockerClient, wait: Any) -> None:
    """Two tasks answer on every node's port, write logs, are found by name, and are replaced when removed."""
    assert states(manager) == dict.fromkeys(NODES, "ready")
    web = manager.services.create("nginx", name="web", mode=replicas(2), endpoint_spec=EndpointSpec(ports={8080: 80}))
    wait(lambda: len(running(web)) == 2, "two tasks")
    assert all("Welcome to nginx!" in page(lab, address) for address in ADDRESSES)
    web.reload()
    port = {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"}
    assert web.attrs["Endpoint"]["Ports"] == [port]
    wait(lambda: b"172.17.0.10 - - [" in b"".join(web.logs(stdout=True, stderr=True)), "the requests in the log")

    backend = manager.networks.create("backend", driver="overlay")
    talk = manager.services.create("jwilder/whoami", name="talk", mode=replicas(2), networks=["backend"])
    here = ["node.hostname==docker-0"]
    quick = RestartPolicy("any", delay=100 * MS)
    box = manager.services.create(
        "busybox", ["sleep", "10000"], name="box", networks=["backend"], constraints=here, restart_policy=quick
    )
    wait(lambda: (len(running(talk)), len(running(box))) == (2, 1), "the tasks")
    inside = container_of(lab, manager, "box.1")
    talk.reload()
    vip = talk.attrs["Endpoint"]["VirtualIPs"][0]["Addr"].partition("/")[0]
    assert vip in inside.exec_run("nslookup talk").output.decode()
    assert inside.exec_run("nslookup tasks.talk").output.decode().count("Name:\ttasks.talk") == 2
    assert b"1 received, 0% packet loss" in inside.exec_run("ping -c 1 talk", tty=True).output
    assert inside.exec_run("curl -s talk:8000").output.startswith(b"I'm ")

    inside.remove(force=True)
    wait(lambda: running(box) and container_of(lab, manager, "box.1").id != inside.id, "another container")
    errors = [task["Status"].get("Err") for task in box.tasks()]
    assert "task: non-zero exit (137)" in errors
    for service in (web, talk, box):
        service.remove()
    lab.wait_until(lambda: not lab.tasks(), what="the end of the tasks")
    backend.remove()
    assert manager.services.list() == []


def test_scaling_draining_failing_over(
    lab: LabUnderTest, engines: Engines, manager: docker.DockerClient, wait: Any
) -> None:
    """Tasks move away from a drained node and from a dead one, and never back."""
    quick = RestartPolicy("any", delay=100 * MS)
    ports = EndpointSpec(ports={8080: 80})
    web = manager.services.create("httpd", name="web", mode=replicas(2), endpoint_spec=ports, restart_policy=quick)
    assert web.scale(6) == {"Warnings": None}
    wait(lambda: spread(manager, web) == dict.fromkeys(NODES, 2), "two tasks on each node")
    assert len(engines["docker-1"].containers.list()) == 2

    change_node(manager, "docker-1", Availability="drain")
    wait(lambda: spread(manager, web) == {"docker-0": 3, "docker-2": 3}, "a drained node")
    wait(lambda: engines["docker-1"].containers.list() == [], "no container on it")
    change_node(manager, "docker-1", Availability="active")
    assert spread(manager, web) == {"docker-0": 3, "docker-2": 3}

    nodes.kill(state.load(lab.name), "docker-2")
    wait(lambda: states(manager)["docker-2"] == "down", "the dead node is seen")
    wait(lambda: spread(manager, web) == {"docker-0": 3, "docker-1": 3}, "its tasks elsewhere")
    assert "It works!" in page(lab, ADDRESSES[1])
    nodes.start(state.load(lab.name), "docker-2")
    wait(lambda: states(manager) == dict.fromkeys(NODES, "ready"), "it is back")
    assert engines["docker-2"].containers.list() == []
    assert spread(manager, web) == {"docker-0": 3, "docker-1": 3}

    web.reload()
    web.scale(2)
    wait(lambda: spread(manager, web) == {"docker-0": 1, "docker-1": 1}, "two that are spread")
    web.remove()


def test_updates_and_rollback(lab: LabUnderTest, manager: docker.DockerClient, wait: Any) -> None:
    """An update replaces the tasks one by one; a failed one pauses or rolls back, and both leave what worked."""
    web = manager.services.create(
        "httpd:2.2.31",
        name="web",
        mode=replicas(3),
        update_config=SOON,
        rollback_config=BACK,
        endpoint_spec=EndpointSpec(ports={8080: 80}),
    )
    wait(lambda: images(web) == ["httpd:2.2.31"] * 3, "three tasks")
    web.reload()
    web.update(image="httpd:2.4.16")
    wait(lambda: update_state(web) == "completed", "the update is completed")
    assert images(web) == ["httpd:2.4.16"] * 3

    web.update(image="nosuchimage:1")
    wait(lambda: update_state(web) == "paused", "the update is paused")
    assert web.attrs["UpdateStatus"]["Message"].startswith("update paused due to failure or early termination of task ")
    assert "No such image: nosuchimage:1" in [task["Status"].get("Err") for task in web.tasks()]
    assert images(web) == ["httpd:2.4.16"] * 2
    assert "It works!" in page(lab, ADDRESSES[0])
    roll_back(manager, web)
    wait(lambda: update_state(web) == "rollback_completed", "the rollback is completed")
    wait(lambda: images(web) == ["httpd:2.4.16"] * 3, "three tasks again")

    web.reload()
    web.update(image="nosuchimage:2", update_config=UpdateConfig(1, failure_action="rollback", monitor=200 * MS))
    wait(lambda: update_state(web) == "rollback_completed", "it rolls back by itself")
    wait(lambda: images(web) == ["httpd:2.4.16"] * 3, "the old image")

    together = UpdateConfig(parallelism=2, order="start-first", monitor=200 * MS)
    web.reload()
    web.update(image="httpd:2.4.17", mode=replicas(4), update_config=together)
    wait(lambda: images(web) == ["httpd:2.4.17"] * 4, "four new tasks")
    wait(lambda: update_state(web) == "completed", "the update is completed")
    before = {task["ID"] for task in running(web)}
    assert web.force_update() == {"Warnings": None}
    wait(lambda: not before & {task["ID"] for task in running(web)}, "all tasks anew")
    wait(lambda: update_state(web) == "completed", "the update is completed")
    web.remove()


def test_labels_and_constraints(lab: LabUnderTest, manager: docker.DockerClient, wait: Any) -> None:
    """Labels decide where tasks are; a constraint that changes moves them, one that none meets has them wait."""
    for node in NODES[1:]:
        change_node(manager, node, Labels={"ncname": f"{node}-label"})
    options: dict[str, Any] = {"update_config": SOON, "rollback_config": BACK, "mode": replicas(2)}
    web = manager.services.create("nginx", name="web", constraints=["node.labels.ncname==docker-1-label"], **options)
    wait(lambda: spread(manager, web) == {"docker-1": 2}, "two on docker-1")
    assert [node.id for node in manager.nodes.list(filters={"node.label": "ncname=docker-1-label"})] == [
        node_named(manager, "docker-1").id
    ]
    web.reload()
    web.update(constraints=["node.labels.ncname==docker-2-label"])
    wait(lambda: spread(manager, web) == {"docker-2": 2}, "two on docker-2")
    roll_back(manager, web)
    wait(lambda: spread(manager, web) == {"docker-1": 2}, "back on docker-1")

    change_node(manager, "docker-1", Labels={})
    reason = "no suitable node (scheduling constraints not satisfied on 3 nodes)"
    wait(
        lambda: [t["Status"].get("Err") for t in web.tasks({"desired-state": "running"})] == [reason] * 2,
        "they wait, and say why",
    )
    change_node(manager, "docker-1", Labels={"ncname": "docker-1-label"})
    wait(lambda: spread(manager, web) == {"docker-1": 2}, "they run again")

    everywhere = manager.services.create(
        "nginx", name="everywhere", mode=ServiceMode("global"), constraints=["node.role!=manager"]
    )
    wait(lambda: spread(manager, everywhere) == {"docker-1": 1, "docker-2": 1}, "one on each worker")
    everywhere.reload()
    everywhere.update(constraints=["node.hostname==docker-0"])
    wait(lambda: spread(manager, everywhere) == {"docker-0": 1}, "one on docker-0")

    even = manager.api.create_service(
        docker.types.TaskTemplate(
            docker.types.ContainerSpec("busybox", ["sleep", "10000"]),
            resources=Resources(mem_reservation=16 * 2**20),
            placement=Placement(
                ["node.role==worker"], [PlacementPreference("spread", "node.labels.ncname")], maxreplicas=2
            ),
        ),
        name="even",
        mode=replicas(4),
    )
    service = manager.services.get(even["ID"])
    wait(lambda: spread(manager, service) == {"docker-1": 2, "docker-2": 2}, "two on each worker")
    service.scale(5)
    wait(
        lambda: any("max replicas per node limit exceed" in t["Status"].get("Err", "") for t in service.tasks()),
        "the fifth says why it waits",
    )
    with pytest.raises(docker.errors.APIError, match="constraint expected one operator from ==, !="):
        manager.services.create("nginx", constraints=["node.labels.ncname=docker-1-label"])
    for one in (web, everywhere, service):
        one.remove()
    for node in NODES[1:]:
        change_node(manager, node, Labels={})


def test_wordpress(lab: LabUnderTest, engines: Engines, manager: docker.DockerClient, wait: Any) -> None:
    """Two services on a network of their own, with a secret, a volume and a port; what is in use stays."""
    secret = manager.secrets.create(name="db_password", data=b"correct horse")
    manager.networks.create("blog_backend", driver="overlay")
    given: dict[str, Any] = {
        "networks": ["blog_backend"],
        "secrets": [SecretReference(secret.id, "db_password")],
        "restart_policy": RestartPolicy("any", delay=100 * MS),
    }
    database = manager.services.create(
        "mysql:8",
        name="mysql",
        env=["MYSQL_ROOT_PASSWORD_FILE=/run/secrets/db_password"],
        mounts=[Mount("/var/lib/mysql", "blog_data", type="volume")],
        constraints=["node.hostname==docker-1"],
        **given,
    )
    front = manager.services.create(
        "wordpress",
        name="wordpress",
        env=["WORDPRESS_DB_HOST=mysql"],
        mode=replicas(2),
        endpoint_spec=EndpointSpec(ports={8080: 80}),
        **given,
    )
    wait(lambda: (len(running(database)), len(running(front))) == (1, 2), "the tasks")
    answers = "The database at mysql answers"
    assert all("Welcome to WordPress" in page(lab, address) for address in ADDRESSES)
    wait(lambda: answers in page(lab, ADDRESSES[0]), "the database answers")

    there = engines["docker-1"]
    inside = container_of(lab, there, "mysql.1")
    assert inside.exec_run("cat /run/secrets/db_password").output == b"correct horse"
    assert inside.exec_run("touch /var/lib/mysql/kept").exit_code == 0
    assert [volume.name for volume in there.volumes.list()] == ["blog_data"]
    shown = manager.api.inspect_network("blog_backend", verbose=True)
    assert sorted(shown["Services"]) == ["mysql", "wordpress"]

    with pytest.raises(docker.errors.APIError, match="secret 'db_password' is in use by the following services: "):
        secret.remove()
    with pytest.raises(docker.errors.APIError, match="is in use by service"):
        manager.networks.get("blog_backend").remove()
    inside.remove(force=True)
    wait(lambda: len(running(database)) == 1, "another database task")
    again = container_of(lab, there, "mysql.1")
    assert (again.id != inside.id, again.exec_run("ls /var/lib/mysql").output) == (True, b"kept\n")
    wait(lambda: answers in page(lab, ADDRESSES[2]), "the database answers")

    database.remove()
    front.remove()
    secret.remove()
    lab.wait_until(lambda: not lab.tasks(), what="the end of the tasks")
    manager.networks.get("blog_backend").remove()
    there.volumes.get("blog_data").remove()
    assert [network.name for network in manager.networks.list(filters={"driver": "overlay"})] == ["ingress"]

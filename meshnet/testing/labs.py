"""The `lab` fixture: a lab that is up while the tests of a module run, and what tests do with it.

A module says which lab it needs: `LAB = "labs/quickstart"` (a path from the test file's folder or from pytest's root
directory, else the name of a lab that comes with meshnet), or `LAB = {...}`, the content of a lab.yml. Each comes up
under a name of its own, so that the same lab may be up already, and tests may run side by side.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from meshnet.testing.waiting import wait_until

if TYPE_CHECKING:
    from meshnet.lab.engine import Engine

_numbers = itertools.count()
T = TypeVar("T")
PATIENCE = 20.0


class Host:
    """A node, a client or a task of a lab under test. `netns` is its network namespace."""

    def __init__(self, name: str, netns: str, run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        self.name = name
        self.netns = netns
        self._run = run

    def run(
        self, command: Sequence[str] | str, *, timeout: float = PATIENCE, check: bool = False, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command (text goes to `sh -c`) and returns its exit status, stdout and stderr.

        With `check`, AssertionError with what it said if it failed.
        """
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        done = self._run(words, timeout, stdin)
        if check:
            said = f"{done.stdout}{done.stderr}"
            assert done.returncode == 0, f"{self.name}: {' '.join(words)} ended with {done.returncode}: {said}"
        return done

    def out(self, command: Sequence[str] | str, *, timeout: float = PATIENCE) -> str:
        """The stdout, stripped, of a command that must succeed."""
        return self.run(command, timeout=timeout, check=True).stdout.strip()


class LabUnderTest:
    """A lab that is up, with the hands of a test: hosts to run things on, and services to make."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec
        self.name: str = spec.name

    @property
    def engine(self) -> Engine:
        """The manager. In a bare lab, that of the node which has one now."""
        from meshnet.lab import engine, state

        return engine.of_lab(state.load(self.name) if self.spec.bare else self.spec)

    def node(self, name: str) -> Host:
        """A node by name."""
        assert self.spec.node(name) is not None, f"{self.name} has no node {name}"
        return self._host(name)

    def client(self, name: str = "client") -> Host:
        """A client by name."""
        assert self.spec.host(name) is not None, f"{self.name} has no client {name}"
        return self._host(name)

    def _host(self, name: str) -> Host:
        from meshnet import names
        from meshnet.lab.enter import run_on_host

        space = names.node_netns(self.name, name)
        return Host(name, space, lambda words, timeout, stdin: run_on_host(self.spec, name, words, timeout, stdin))

    def task(self, name: str) -> Host:
        """A running task by `service.slot`, full name or id."""
        from meshnet.lab.enter import run_in_task
        from meshnet.lab.tasks import find

        task = find(self.spec, name)
        return Host(task.name, task.spec.netns, lambda words, timeout, stdin: run_in_task(task, words, timeout, stdin))

    def network(self, name: str, **options: Any) -> str:
        """Creates an overlay network, with the fields of a NetworkSpec, and returns its id."""
        from meshnet.model import NetworkSpec

        return self.engine.create_network(NetworkSpec(name=name, **options))

    def service(self, name: str, image: str = "whoami", *args: str, wait: bool = True, **options: Any) -> str:
        """Creates a service and returns its id; with `wait`, once its tasks run and every node sends to them.

        `options`: `replicas` or `global_=True`, `networks` (names), `aliases`, `ports` (docker's short notation),
        `env`, `endpoint_mode`, `constraints`, `healthcheck` (a Healthcheck), `hostname`, `stop_grace_period` and
        `restart_delay` (ns).
        """
        ident = self.engine.create_service(service_spec(name, image, args, **options))
        if wait:
            self.converged(name)
        return ident

    def scale(self, name: str, replicas: int, wait: bool = True) -> None:
        """Changes a service's replicas; with `wait`, returns once that many tasks run and every node sends to them."""
        from meshnet.model import Replicated, ServiceMode

        service = self.engine.service(name)
        spec = dataclasses.replace(service.spec, mode=ServiceMode(Replicated(replicas)))
        self.engine.update_service(service, spec)
        if wait:
            self.converged(name)

    def converged(self, *services: str) -> None:
        """Waits until the tasks of services run, and until every node that is ready sends to them and to no others.

        The manager knows that a task runs a moment before the other nodes do.
        """
        from meshnet.lab import converge
        from meshnet.testing import known

        converge.wait(self.engine, services, lambda _: None, PATIENCE)
        for name in services:
            self.wait_until(functools.partial(known.everywhere, self, name), what=f"{name} known on every node")

    def remove(self, *services: str) -> None:
        """Removes services and waits until no task of theirs is left on any node."""
        for name in services:
            self.engine.remove_service(name)
        wait_until(lambda: not self.tasks(*services), PATIENCE, what=f"the end of {', '.join(services)}")

    def tasks(self, *services: str) -> list[Any]:
        """Tasks with a container (`LabTask`: node, id, name, spec), of these services or of all."""
        from meshnet.lab.tasks import all_tasks

        return [task for task in all_tasks(self.spec) if not services or task.service in services]

    def inspect(self, node: str, view: str) -> Any:
        """What an agent shows: `lb`, `dns`, `members`, `endpoints`, `statistics`, `capabilities`."""
        from meshnet.lab import engine

        return engine.agent(self.spec, node, f"/inspect/{view}")

    def wait_until(self, predicate: Callable[[], T], timeout: float = PATIENCE, what: str = "") -> T:
        """Calls `predicate` until it returns something true. On failure, says what the agents wrote last."""
        from meshnet.lab import processes

        try:
            return wait_until(predicate, timeout, what=what)
        except AssertionError as error:
            tails = [f"{node.name}: {processes.log_tail(self.name, node.name, 'agent')}" for node in self.spec.nodes]
            raise AssertionError("\n".join([str(error), *tails])) from None


def service_spec(
    name: str,
    image: str = "whoami",
    args: Sequence[str] = (),
    *,
    replicas: int = 1,
    global_: bool = False,
    networks: Sequence[str] = (),
    aliases: Sequence[str] = (),
    ports: Sequence[str] = (),
    env: Sequence[str] = (),
    endpoint_mode: str = "vip",
    constraints: Sequence[str] = (),
    healthcheck: Any = None,
    hostname: str = "",
    stop_grace_period: int | None = None,
    restart_delay: int | None = None,
) -> Any:
    """A ServiceSpec in few words. `aliases` hold on each of `networks`; times are in ns."""
    from meshnet import model
    from meshnet.lab import words

    container = model.ContainerSpec(
        image=image,
        args=tuple(args),
        env=tuple(env),
        hostname=hostname,
        healthcheck=healthcheck,
        stop_grace_period=stop_grace_period,
    )
    task = model.TaskSpec(
        container_spec=container,
        networks=tuple(model.NetworkAttachmentConfig(network, tuple(aliases)) for network in networks),
        placement=model.Placement(constraints=tuple(constraints)),
        restart_policy=model.RestartPolicy() if restart_delay is None else model.RestartPolicy(delay=restart_delay),
    )
    published = tuple(port for text in ports for port in words.ports(text))
    mode = model.ServiceMode(global_=model.Global()) if global_ else model.ServiceMode(model.Replicated(replicas))
    endpoint = model.EndpointSpec(endpoint_mode, published)
    return model.ServiceSpec(name=name, task_template=task, mode=mode, endpoint_spec=endpoint)


def lab_folder(what: str | Path, folders: Sequence[Path]) -> Path:
    """The lab meant by a path: in the first of these folders that has it, else one that comes with meshnet, by name."""
    from meshnet.lab import file

    for folder in folders:
        if (folder / what / file.FILE).is_file() or (folder / what).is_file():
            return folder / what
    return file.packaged(str(what)) or folders[-1] / what


def bring_up(what: str | Path | dict[str, Any], root: Path = Path(), bare: bool = False) -> LabUnderTest:
    """Brings a lab up under a name that nobody else has, with its services known on every node; relative paths begin
    at `root`. Raises MeshnetError.

    The nodes of a `bare` one are in no swarm.
    """
    import yaml

    from meshnet.lab import file, up
    from meshnet.lab.yamlnodes import Problems, parse

    if isinstance(what, dict):
        problems = Problems()
        lab = file.resolve(parse(yaml.safe_dump(what), "lab.yml", problems), root, problems)
    else:
        lab = file.load(root / what)
    lab = dataclasses.replace(up.bare(lab) if bare else lab, name=f"t{os.getpid()}-{next(_numbers)}")
    up.up(lab)
    under_test = LabUnderTest(lab)
    if lab.services:
        under_test.converged(*(service.name for service in lab.services))
    return under_test


def take_down(lab: LabUnderTest) -> None:
    """Takes a lab down and asserts that nothing of it is left."""
    from meshnet.lab import down, leftovers

    down.down(lab.name)
    assert leftovers.find(lab.name) == []


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[LabUnderTest]:
    """The module's lab (`LAB`, by default the quickstart), up; and down without a trace after the module's tests.

    Skips, with the reason, without root.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root: run pytest as root")
    root = request.config.rootpath
    what = getattr(request.module, "LAB", "quickstart")
    if not isinstance(what, dict):
        what = lab_folder(what, (request.path.parent, root))
    under_test = bring_up(what, root)
    yield under_test
    take_down(under_test)

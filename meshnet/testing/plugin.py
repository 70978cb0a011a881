"""The pytest plugin of meshnet: fixtures for labs and namespaces.

Imports stay light, since pytest loads this in every project that has meshnet installed: what a fixture needs is
imported inside it.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from meshnet.datapath.rows import Plan
    from meshnet.testing.bpf_run import PacketNode, Result

pytest_plugins = ("meshnet.testing.labs",)
_numbers = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    """Makes the marker known, so that `--strict-markers` and warnings as errors take it in every project."""
    config.addinivalue_line("markers", "root: needs root and a kernel with namespaces, VXLAN and BPF")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `root` with a reason when they cannot run here."""
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root: run pytest as root")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test with a `lab` that fails says what its lab looked like."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and lab is not None:
        from meshnet.testing.failures import describe
        from meshnet.testing.labs import LabUnderTest

        if isinstance(lab, LabUnderTest):
            report.sections.append(("the lab", describe(lab)))
    return report


@pytest.fixture
def namespaces() -> Iterator[Callable[..., str]]:
    """A function that makes a network namespace and returns its unique name `mn-n<pid>-<number>-<label>`.

    All are deleted at the end of the test. No lab of `bring_up` has a name that these could belong to.
    """
    from meshnet.kernel import netns

    made: list[str] = []

    def make(label: str = "x") -> str:
        name = f"mn-n{os.getpid()}-{next(_numbers)}-{label}"
        netns.create(name)
        made.append(name)
        return name

    yield make
    for name in made:
        netns.delete(name)


@pytest.fixture(scope="session")
def _packet_nodes() -> Iterator[list[PacketNode]]:
    """The one node whose programs are loaded: that takes longer than most tests."""
    made: list[PacketNode] = []
    yield made
    for node in made:
        node.close()


@pytest.fixture
def packet_node(_packet_nodes: list[PacketNode]) -> Callable[[Plan], PacketNode]:
    """A function that returns a node with the packet programs loaded, the plan in their maps, and no memory of
    earlier tests. See `meshnet.testing.bpf_run`."""
    from meshnet.testing.bpf_run import PacketNode

    if os.geteuid() != 0:
        pytest.skip("needs root: run pytest as root")
    if shutil.which("bpftool") is None and not os.path.exists("/usr/sbin/bpftool"):
        pytest.skip("needs bpftool: apt-get install bpftool")

    def loaded(plan: Plan) -> PacketNode:
        if not _packet_nodes:
            _packet_nodes.append(PacketNode(plan))
        node = _packet_nodes[0]
        node.apply(plan)
        node.forget()
        return node

    return loaded


@pytest.fixture
def bpf_run(packet_node: Callable[[Plan], PacketNode]) -> Callable[..., Result]:
    """A function `bpf_run(program, packet, plan, port="", gso_size=0, tunnel=None)` that runs a program on a packet.

    The plan fills the maps. Connections stay while the test goes on; a plan other than the last one is applied to the
    same maps, as an agent would. See `PacketNode.run` and `prepared` for the rest.
    """
    nodes: list[PacketNode] = []

    def run(program: str, packet: object, plan: Plan, **how: Any) -> Result:
        if not nodes:
            nodes.append(packet_node(plan))
        (node,) = nodes
        if node.plan != plan:
            node.apply(plan)
        return node.run(program, packet, **how)

    return run

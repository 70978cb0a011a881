"""How soon a new service is known everywhere."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from places import LAB as PLACES
from places import NODES, box

from meshnet.sandbox.container import STARTED
from meshnet.testing.labs import LabUnderTest, bring_up, take_down

pytestmark = [pytest.mark.root, pytest.mark.slow]
TINY = Path(__file__).with_name("tiny.c")
TASKS = 3
PROMISED = 0.3  # s
TRIES, ROUNDS = 5, 3

# Asks for all tasks by name, then connects to the VIP by name; prints the time at which both worked.
LOOK = """
import socket, sys, time
name, count, end = sys.argv[1], int(sys.argv[2]), time.time() + 20
def addresses(what):
    try:
        return {found[4][0] for found in socket.getaddrinfo(what, 8000, socket.AF_INET, socket.SOCK_STREAM)}
    except OSError:
        return set()
print("looking", flush=True)
while time.time() < end:
    if len(addresses("tasks." + name)) == count:
        try:
            with socket.create_connection((name, 8000), 1) as found:
                found.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                if found.recv(100).startswith(b"HTTP"):
                    print(time.time())
                    break
        except OSError:
            pass
    time.sleep(0.002)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabUnderTest]:
    """A lab with an image of one static program, and a task to ask from on every node."""
    root = tmp_path_factory.mktemp("tiny") / "root"
    root.mkdir()
    subprocess.run(["clang", "-static", "-O1", "-o", root / "server", TINY], check=True, timeout=60)
    found = bring_up({**PLACES, "images": {"tiny": {"rootfs": str(root), "entrypoint": ["/server"]}}}, Path("/"))
    found.network("demo")
    for node in NODES:
        box(found, f"box-{node}", node, "demo")
    yield found
    take_down(found)


def known_after(lab: LabUnderTest, service: str) -> float:
    """Seconds from the start of a new service's last task until a task on each node found and reached the service."""

    def look(node: str) -> float:
        words = ["/usr/bin/python3", "-I", "-c", LOOK, service, str(TASKS)]
        said = lab.task(f"box-{node}.1").run(words, timeout=40, check=True).stdout.split()
        assert said[0] == "looking"
        assert len(said) == 2, f"{service} is not known on {node}"
        return float(said[1])

    with ThreadPoolExecutor(len(NODES)) as threads:
        looks = [threads.submit(look, node) for node in NODES]
        lab.service(service, "tiny", replicas=TASKS, networks=["demo"])
        known = max(each.result() for each in looks)
    tasks = lab.tasks(service)
    assert len(tasks) == TASKS
    return known - max(Path(task.spec.dir, STARTED).stat().st_mtime for task in tasks)


def test_a_service_is_known_everywhere_soon(lab: LabUnderTest) -> None:
    """300 ms after its last task began to run, a service is resolved and answers on every node."""
    # Others' load makes single ones slow, or all of a time that the load average does not know of yet; what is slow by
    # itself is so each time.
    for number in range(ROUNDS):
        took = []
        for each in range(number * TRIES, (number + 1) * TRIES):
            took.append(known_after(lab, f"soon{each}"))
            lab.remove(f"soon{each}")
        load = os.getloadavg()[0]
        print(f"seconds: {[round(each, 3) for each in sorted(took)]}, load {load:.1f}")
        median = sorted(took)[TRIES // 2]
        if median <= PROMISED:
            break
    assert min(took) <= PROMISED
    if load < (os.cpu_count() or 1):
        assert median <= PROMISED

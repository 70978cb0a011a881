"""`meshnet bench swarm`: how long an engine takes for what people ask of a swarm, meshnet beside a real dockerd.

Both are asked the same over their API sockets, and run the same imported root file system (one static program) on an
overlay network, on one node, without published ports. They take turns, so that what else the machine does meets both;
a ratio is of the same round. How long something took is found out by asking again and again.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshnet.api.client import EngineClient
from meshnet.bench import machine
from meshnet.errors import MeshnetError

MESHNET, DOCKERD = "meshnet", "dockerd"
REPLICAS, MANY, SERVICES = 10, 50, 300
ROUNDS, LISTINGS = 5, 20
PAUSE = 0.005  # s between two questions
PATIENCE = 300.0  # s that anything may take
NETWORK, SUBNET = "bench", "10.200.0.0/20"
TITLES = {
    "create": "create {replicas} replicas, until all run",
    "up": "scale 1 to {many}, until all run",
    "down": "scale {many} to 1, until one is left",
    "remove": "remove it, until nothing of it is left",
    "list": "list {services} services, as `service ls` does",
}
AIMS = ("create", "up", "down", "list")  # where meshnet has to be faster
_SOURCE = Path(__file__).with_name("task.c")
_GRACE = 10 * 10**9  # ns


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything: replicas of a new service, replicas to scale to, services in the list, and rounds."""

    replicas: int = REPLICAS
    many: int = MANY
    services: int = SERVICES
    rounds: int = ROUNDS


@dataclass(slots=True)
class Side:
    """One engine under test. `image` is the id of what its tasks run."""

    name: str
    client: EngineClient
    image: str
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Notes how long the block takes."""
        begin = time.perf_counter()
        yield
        self.seconds.setdefault(what, []).append(time.perf_counter() - begin)


def prepare(sockets: Mapping[str, Path]) -> list[Side]:
    """Gives every engine the image and a network. Raises MeshnetError."""
    archive = root_file_system()
    sides = []
    for name, path in sockets.items():
        client = EngineClient(path)
        ipam = {"Driver": "default", "Config": [{"Subnet": SUBNET}]}
        client.post("/networks/create", {"Name": NETWORK, "Driver": "overlay", "IPAM": ipam})
        sides.append(Side(name, client, import_image(path, archive)))
    return sides


def root_file_system(*sources: Path) -> bytes:
    """A tar with one static program, `task`; of these sources, or one that waits. MeshnetError without a C compiler."""
    sources = sources or (_SOURCE,)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "task")
        try:
            done = subprocess.run(
                ["gcc", "-static", "-O2", "-s", "-o", program, *sources], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise MeshnetError("the tasks' program is written in C: apt-get install gcc libc6-dev") from None
        if done.returncode:
            raise MeshnetError(f"gcc cannot compile {sources[0].name}: {done.stderr.strip()}")
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(program, "task")
        return archive.getvalue()


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def import_image(path: Path, archive: bytes) -> str:
    """`docker import`; the image's id, by which an engine does not look for it in a registry."""
    connection = _Connection(path)
    try:
        connection.request("POST", "/images/create?fromSrc=-&repo=meshnet-bench&tag=task", archive)
        response = connection.getresponse()
        said = response.read().decode(errors="replace").split("\n")
    finally:
        connection.close()
    found = [str(json.loads(line).get("status", "")) for line in said if line.strip()]
    ident = next((text for text in found if text.startswith("sha256:")), "")
    if not ident:
        raise MeshnetError(f"the image was not imported: {' '.join(said).strip()}")
    return ident


def measure(sides: Sequence[Side], size: Size, progress: Callable[[str], object]) -> None:
    """All rounds; the seconds are in the sides then. Raises MeshnetError if an engine refuses or gets stuck."""
    for number in range(size.rounds):
        for side in _turn(sides, number):
            progress(f"round {number + 1} of {size.rounds}: {side.name}")
            _life(side, size, f"life{number}")
    for side in sides:
        for number in range(size.services):
            if number % 50 == 0:
                progress(f"creating services: {side.name}, {number} of {size.services}")
            create(side, f"idle{number}", 1, nowhere=True)
    for number in range(max(LISTINGS, size.rounds)):
        for side in _turn(sides, number):
            with side.timed("list"):
                found = side.client.get("/services", status="true")
            if len(found) < size.services:
                raise MeshnetError(f"{side.name} lists {len(found)} services of {size.services}")


def _turn(sides: Sequence[Side], number: int) -> list[Side]:
    """Who begins changes from round to round."""
    return [*sides[number % len(sides) :], *sides[: number % len(sides)]]


def _life(side: Side, size: Size, name: str) -> None:
    with side.timed("create"):
        ident = create(side, name, size.replicas)
        _until(side, ident, size.replicas)
    scale(side, ident, 1)
    _until(side, ident, 1)
    for what, count in (("up", size.many), ("down", 1)):
        with side.timed(what):
            scale(side, ident, count)
            _until(side, ident, count)
    with side.timed("remove"):
        side.client.delete(f"/services/{ident}")
        _until_gone(side, ident)


def create(side: Side, name: str, replicas: int, nowhere: bool = False) -> str:
    """Creates a service and returns its id; no node may run a task of one that is for `nowhere`."""
    container = {"Image": side.image, "Command": ["/task"], "StopGracePeriod": _GRACE}
    placement = {"Constraints": ["node.labels.bench==nowhere"]} if nowhere else {}
    template = {"ContainerSpec": container, "Networks": [{"Target": NETWORK}], "Placement": placement}
    spec = {"Name": name, "TaskTemplate": template, "Mode": {"Replicated": {"Replicas": replicas}}}
    return str(side.client.post("/services/create", spec)["ID"])


def scale(side: Side, ident: str, replicas: int) -> None:
    """Changes the number of replicas, as `docker service scale` does."""
    service = side.client.get(f"/services/{ident}")
    spec = {**service["Spec"], "Mode": {"Replicated": {"Replicas": replicas}}}
    side.client.post(f"/services/{ident}/update", spec, version=service["Version"]["Index"])


def _until(side: Side, ident: str, count: int) -> None:
    """Returns when exactly `count` tasks of a service run. MeshnetError if that takes too long, or a task fails."""
    deadline = time.monotonic() + PATIENCE
    while True:
        tasks = side.client.get("/tasks", filters={"service": [ident]})
        states = [task["Status"]["State"] for task in tasks]
        if states.count("running") == count and all(state in _OVER for state in states if state != "running"):
            return
        failed = next((task["Status"].get("Err", "") for task in tasks if task["Status"]["State"] in _FAILED), None)
        if failed is not None:
            raise MeshnetError(f"{side.name}: a task failed: {failed}")
        if time.monotonic() > deadline:
            raise MeshnetError(f"{side.name}: {states.count('running')} of {count} tasks run after {PATIENCE:g} s")
        time.sleep(PAUSE)


def _until_gone(side: Side, ident: str) -> None:
    """Returns when no task of a service that was removed is left."""
    deadline = time.monotonic() + PATIENCE
    while any(task["ServiceID"] == ident for task in side.client.get("/tasks")):
        if time.monotonic() > deadline:
            raise MeshnetError(f"{side.name}: tasks of a removed service are left after {PATIENCE:g} s")
        time.sleep(PAUSE)


_FAILED = frozenset({"failed", "rejected"})
_OVER = frozenset({"complete", "shutdown", "remove", "orphaned"})


def summary(sides: Sequence[Side], size: Size, missing: Mapping[str, str], pressure: float) -> dict[str, object]:
    """What was measured as plain data: seconds with quartiles by engine, and how many times as fast meshnet was."""
    found: dict[str, dict[str, object]] = {}
    words = {"replicas": size.replicas, "many": size.many, "services": size.services}
    by_name = {side.name: side.seconds for side in sides}
    for what, title in TITLES.items():
        row: dict[str, object] = {"title": title.format(**words)}
        row |= {name: quartiles(seconds[what]) for name, seconds in by_name.items() if what in seconds}
        if all(name in row for name in (MESHNET, DOCKERD)):
            pairs = zip(by_name[DOCKERD][what], by_name[MESHNET][what], strict=True)
            row["times"] = quartiles([other / mine for other, mine in pairs])
        found[what] = row
    return {
        "machine": machine.about() | {"method": _METHOD},
        "rounds": size.rounds,
        "load": round(pressure, 2),
        "measured": found,
        "missing": dict(missing),
    }


def quartiles(values: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return [round(values[0], 5)] * 3
    return [round(value, 5) for value in statistics.quantiles(values, n=4, method="inclusive")]


_METHOD = (
    "Both engines run the same imported root file system on an overlay network of one node, and take turns. Seconds by "
    f"the wall clock, from the request until the API says so, asked every {PAUSE * 1000:g} ms; medians and quartiles. "
    "Ratios are of the same round."
)


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The result for a terminal."""
    names = [name for name in (MESHNET, DOCKERD) if any(name in row for row in result["measured"].values())]
    yield f"A swarm of one node, {result['rounds']} rounds, load {result['load']:g}"
    yield f"{'':44}" + "".join(f"{name.upper():26}" for name in names) + ("MESHNET IS" if len(names) > 1 else "")
    for what, row in result["measured"].items():
        cells = "".join(f"{_seconds(row[name]):26}" for name in names)
        yield f"{row['title']:44}{cells}{_times(what, row)}".rstrip()
    for name, reason in result["missing"].items():
        yield f"  left out: {name}: {reason}"
    if len(names) > 1:
        yield "Aim: faster in each; ! marks one that is missed."
    yield f"{result['machine']['processor']}, Linux {result['machine']['kernel']}. {result['machine']['method']}"


def _times(what: str, row: Mapping[str, Any]) -> str:
    if "times" not in row:
        return ""
    low, median, high = row["times"]
    return f"{median:.1f} times as fast ({low:.1f}-{high:.1f}){'!' if what in AIMS and median <= 1 else ''}"


def _seconds(found: Sequence[float]) -> str:
    low, median, high = found
    if median < 1:
        return f"{median * 1000:.4g} ms ({low * 1000:.4g}-{high * 1000:.4g})"
    return f"{median:.3g} s ({low:.3g}-{high:.3g})"

"""Real tasks in a namespace that the test made: what they may, what they see, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pulse import Pulse
from sandbox_bench import Bench, leftovers, made_bench, run, until

from meshnet.errors import MeshnetError, NotFoundError
from meshnet.kernel.bpf import cgroup2_root
from meshnet.sandbox import HealthConfig, TaskMount
from meshnet.sandbox.process import start_time

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        shutil.which("crun") is None or shutil.which("conmon") is None,
        reason="needs crun and conmon: run make setup",
    ),
]


@pytest.fixture
def bench(namespaces: Callable[..., str], tmp_path: Path) -> Iterator[Bench]:
    with made_bench(namespaces, tmp_path) as made:
        yield made


def test_output_and_exit_code(bench: Bench) -> None:
    """Both streams are kept in order with their times, and the exit code is the task's own."""

    async def body() -> None:
        container = await bench.start("echo out; echo err >&2; printf tail; exit 7")
        assert await container.wait() == 7
        assert container.status == "exited"
        lines = container.logs()
        assert {(line.stream, line.text) for line in lines} == {
            ("stdout", "out"),
            ("stderr", "err"),
            ("stdout", "tail"),
        }
        assert [line.text for line in container.logs(tail=1)] == [lines[-1].text]
        assert lines[0].time.startswith("20")

    run(bench, body())


def test_stop_asks_first(bench: Bench) -> None:
    """A task that takes its stop signal ends with its own exit code, within its grace period."""

    async def body() -> None:
        command = "trap 'exit 3' USR1; echo ready; while :; do sleep 0.05; done"
        container = await bench.start(command, stop_signal="SIGUSR1")
        await until(lambda: container.logs())
        assert await container.stop() == 3

    run(bench, body())


def test_a_task_that_ignores_the_signal_is_killed(bench: Bench) -> None:
    """After the grace period everything of the task ends, what it started in the background included."""

    async def body() -> None:
        container = await bench.start("trap '' TERM; setsid sleep 1000 & echo ready; while :; do sleep 1; done")
        await until(lambda: container.logs())
        with Pulse() as pulse:
            begun = time.monotonic()
            assert await container.stop(grace=0.2) == 137
            ended = time.monotonic()
            assert ended - begun >= 0.2
            assert pulse.moved(begun, ended) < 2.0
        await until(lambda: "populated 0" in Path(container.spec.cgroup, "cgroup.events").read_text())

    run(bench, body())


@pytest.mark.parametrize(("setup", "patient"), [("", False), ("trap '' TERM;", True), ("trap : TERM;", True)])
def test_a_task_that_cannot_hear_the_signal_does_not_wait(bench: Bench, setup: str, patient: bool) -> None:
    """The grace period is for programs that handle or ignore the signal; for others the kernel drops it, so it ends."""

    async def body() -> None:
        container = await bench.start(f"{setup} echo ready; while :; do sleep 0.05; done")
        await until(lambda: container.logs())
        begun, grace = asyncio.get_running_loop().time(), 0.5 if patient else 30.0
        assert await container.stop(grace=grace) == 137
        assert (asyncio.get_running_loop().time() - begun >= grace) is patient

    run(bench, body())


def test_the_log_is_bounded(bench: Bench) -> None:
    """A task that prints without end fills its bound, and its newest lines are there."""

    async def body() -> None:
        container = await bench.start("head -c 9000000 /dev/zero | tr '\\0' x | fold -w 99; echo last")
        assert await container.wait() == 0
        assert Path(container.spec.dir, "log").stat().st_size <= 2 << 20
        assert container.logs(tail=1)[0].text.endswith("last")

    run(bench, body())


def test_health(bench: Bench) -> None:
    """A task is starting, healthy once its check succeeds, and unhealthy when it failed too often."""

    async def body() -> None:
        seen: list[str] = []
        container = await bench.containers.create(
            bench.spec(
                "while [ ! -e /go ]; do sleep 0.05; done; touch /ready; sleep 1000",
                health=HealthConfig(
                    ("CMD-SHELL", "test -e /ready"), interval=0.3, timeout=5.0, retries=2, start_period=60.0
                ),
            )
        )
        bench.made.append(container)
        container.on_health(seen.append)
        await container.start()
        assert container.health == "starting"
        await container.exec(("touch", "/go"), timeout=5.0)
        async with asyncio.timeout(10):
            assert await container.healthy()
            await container.exec(("rm", "/ready"), timeout=5.0)
            await container.unhealthy()
        assert seen == ["healthy", "unhealthy"]
        assert container.last_check is not None
        assert container.last_check.code == 1

    run(bench, body())


def test_a_task_that_ends_is_never_healthy(bench: Bench) -> None:
    """Who waits for health is told when the task ended instead."""

    async def body() -> None:
        container = await bench.start("exit 1", health=HealthConfig(("CMD", "false"), interval=0.2, retries=100))
        async with asyncio.timeout(10):
            assert not await container.healthy()
            assert await container.wait() == 1

    run(bench, body())


CREATOR = """
import asyncio, os, sys
from meshnet.sandbox import Containers, Images
from meshnet.sandbox.spec import load
async def main():
    for text in sys.stdin.read().splitlines():
        container = await Containers(Images()).create(load(text))
        await container.start()
        if container.spec.health:
            await container.healthy()
    print("started", flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""


def test_a_task_outlives_its_agent(bench: Bench) -> None:
    """After `kill -9` of who made them, tasks go on and are adopted: health, log, exit code and stop work."""
    from meshnet.sandbox.spec import dump

    health = HealthConfig(("CMD", "true"), interval=0.2)
    specs = [
        bench.spec("echo one; while :; do sleep 0.05; test -e /end && exit 9; done", "runs", health=health),
        bench.spec("exit 5", "ended"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", CREATOR],
        input="\n".join(map(dump, specs)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "started\n"), done.stderr

    async def body() -> None:
        ended = Path(specs[1].dir, "exit")
        await until(ended.exists)
        containers = [await bench.containers.adopt(spec.dir) for spec in specs]
        bench.made += [container for container in containers if container is not None]
        runs, stopped = containers
        assert runs is not None
        assert stopped is not None
        assert runs.spec == specs[0]
        assert (runs.status, runs.health) == ("running", "healthy")
        assert [line.text for line in runs.logs()] == ["one"]
        async with asyncio.timeout(10):
            assert await stopped.wait() == 5
            await runs.exec(("touch", "/end"), timeout=5.0)
            assert await runs.wait() == 9

    run(bench, body())


@pytest.mark.parametrize("monitored", [True, False])
def test_a_half_made_container_is_undone(bench: Bench, monitored: bool) -> None:
    """One that was created but never started when its agent died is taken away at adoption, to its last process.

    That it is in no group yet, and that conmon ended because nobody took its report, makes no difference.
    """

    async def body() -> None:
        container = await bench.containers.create(bench.spec(("/bin/sleep", "1000")))
        pid = container.pid
        container.release()
        Path(container.spec.dir, "processes.json").unlink()
        Path(cgroup2_root(), "cgroup.procs").write_text(str(pid))
        if not monitored:
            os.kill(container.monitor, signal.SIGKILL)
            os.waitpid(container.monitor, 0)  # noqa: ASYNC222 it is dead already
        assert await bench.containers.adopt(container.spec.dir) is None
        await until(lambda: start_time(pid) is None)
        assert not Path(container.spec.dir).exists()
        assert await bench.containers.adopt(str(bench.root / "nothing")) is None

    run(bench, body())


def test_a_monitor_that_is_killed_takes_its_task_along(bench: Bench) -> None:
    """Without conmon nobody would read the task's output or know its end, so the task ends too."""

    async def body() -> None:
        container = await bench.start(("/bin/sleep", "1000"))
        os.kill(container.monitor, signal.SIGKILL)
        async with asyncio.timeout(10):
            assert await container.wait() == 137
        await until(lambda: start_time(container.pid) is None)

    run(bench, body())


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"image": "nosuch"}, NotFoundError, "No such image: nosuch"),
        ({"netns": "/run/netns/mn-nosuch"}, NotFoundError, "no network namespace at /run/netns/mn-nosuch"),
        ({"user": "nosuch"}, MeshnetError, "no such user"),
        ({"stop_signal": "SIGNOSUCH"}, MeshnetError, "no such signal"),
        ({"mounts": (TaskMount("/nosuch", "/x"),)}, MeshnetError, "/nosuch does not exist"),
        ({"mounts": (TaskMount("/usr", "/proc/x"),)}, MeshnetError, "cannot start"),
        (
            {"command": ("/no/such/program",)},
            MeshnetError,
            'exec: "/no/such/program": stat /no/such/program: no such file or directory',
        ),
    ],
)
def test_what_cannot_start_leaves_nothing(bench: Bench, changes: dict[str, Any], error: Any, words: str) -> None:
    """Each mistake is one clear line, and neither process, group, mount nor directory is left."""

    async def attempt() -> None:
        bench.made.append(await bench.containers.create(bench.spec(**{"command": ("/bin/true",), **changes})))
        await bench.made[-1].start()

    async def body() -> None:
        with pytest.raises(error, match=words) as caught:
            await attempt()
        assert "\n" not in str(caught.value)
        assert bench.made or leftovers(bench) == []

    run(bench, body())


def test_a_cancelled_creation_leaves_nothing(bench: Bench) -> None:
    """An agent that changes its mind at any moment of a start has nothing to clean."""

    async def body() -> None:
        for delay in range(12):
            task = asyncio.create_task(bench.containers.create(bench.spec(("/bin/sleep", "9"))))
            await asyncio.wait([task], timeout=delay * 0.004)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await task).remove()
            assert leftovers(bench) == [], delay

    run(bench, body())


def test_removal_is_idempotent_and_complete(bench: Bench) -> None:
    """Many tasks at once come and go without a trace: no descriptor, zombie, thread or namespace either."""

    def zombies() -> list[int]:
        states = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                if fields[0] == "Z" and fields[1] == str(os.getpid()):
                    states.append(int(path.parent.name))
        return states

    def held() -> tuple[set[str], set[str]]:
        """Descriptors and threads."""
        return set(os.listdir("/proc/self/fd")), set(os.listdir("/proc/self/task"))

    async def body() -> None:
        async def one(number: int) -> None:
            container = await bench.start(("/bin/sleep", "1000"), name=f"t{number}")
            await container.exec(("true",), timeout=10.0)
            await container.remove()
            await container.remove()

        await one(0)
        descriptors, threads = held()
        await asyncio.gather(*(one(number) for number in range(12)))
        # The kernel shows a thread a moment longer than who joins it.
        await until(lambda: held()[0] <= descriptors and held()[1] <= threads)
        assert zombies() == []
        assert leftovers(bench) == []

    run(bench, body())

"""Real tasks in a namespace that the test made: what they may, what they see, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshnet.errors import ConflictError, MeshnetError, NotFoundError
from meshnet.kernel import netns
from meshnet.kernel.bpf import cgroup2_root
from meshnet.sandbox import Container, Containers, ContainerSpec, HealthConfig, Images, TaskMount
from meshnet.sandbox.process import start_time

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        shutil.which("crun") is None or shutil.which("conmon") is None,
        reason="needs crun and conmon: run make setup",
    ),
]

SHELL = "/bin/sh", "-c"


class Bench:
    """A namespace, a run directory and a cgroup of one test, and the containers it made there."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.netns = root, name
        self.cgroup = cgroup2_root() / "meshnet" / name
        self.containers = Containers(Images())
        self.made: list[Container] = []

    def spec(self, command: tuple[str, ...] | str = "", name: str = "t1", **changes: Any) -> ContainerSpec:
        values: dict[str, Any] = {
            "id": secrets.token_hex(32),
            "name": name,
            "image": "busybox",
            "command": (*SHELL, command) if isinstance(command, str) and command else tuple(command),
            "netns": netns.path(self.netns),
            "cgroup": str(self.cgroup / name),
            "dir": str(self.root / name),
            "hostname": "box",
            "resolv_conf": "nameserver 127.0.0.11\n",
            "hosts": "127.0.0.1\tlocalhost\n10.0.0.9\tbox\n",
        }
        return ContainerSpec(**{**values, **changes})

    async def start(self, command: tuple[str, ...] | str = "", name: str = "t1", **changes: Any) -> Container:
        container = await self.containers.create(self.spec(command, name, **changes))
        self.made.append(container)
        await container.start()
        return container

    async def output(self, command: str, **changes: Any) -> str:
        """What a task prints that runs to its end."""
        container = await self.start(command, **changes)
        await container.wait()
        text = "\n".join(line.text for line in container.logs())
        await container.remove()
        return text

    async def close(self) -> None:
        for container in self.made:
            await container.remove()


def leftovers(bench: Bench) -> list[str]:
    """Mounts in any mount namespace, processes, groups and directories that carry the bench's name."""
    found = [str(path) for path in (*bench.root.iterdir(), *bench.cgroup.glob("*/"))]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(bench.root) in (process / "cmdline").read_text() and process.name != str(os.getpid()):
                found.append(f"process {process.name}")
            if f"{bench.root}/" in (process / "mountinfo").read_text():
                found.append(f"mounts of {process.name}")
    return found


@pytest.fixture
def bench(namespaces: Callable[..., str], tmp_path: Path) -> Iterator[Bench]:
    name = namespaces("box")
    root = Path("/run/meshnet") / name
    root.mkdir(parents=True, mode=0o700)
    made = Bench(root, name)
    try:
        yield made
        assert leftovers(made) == []
    finally:
        shutil.rmtree(root, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path(made.cgroup, "cgroup.kill").write_text("1")
        for path in (made.cgroup, made.cgroup.parent, root.parent):
            with contextlib.suppress(OSError):
                path.rmdir()


def run(bench: Bench, body: Coroutine[Any, Any, None]) -> None:
    async def whole() -> None:
        try:
            await body
        finally:
            await bench.close()

    asyncio.run(whole())


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Waits for a condition that nothing announces."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 nothing announces it
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def shell(bench: Bench, **changes: Any) -> AsyncIterator[Callable[[str], Coroutine[Any, Any, str]]]:
    """A running task, as a function that runs a line of shell in it and returns what that prints."""
    container = await bench.start(("/bin/sleep", "1000"), **changes)

    async def inside(line: str) -> str:
        return (await container.exec((*SHELL, line), timeout=10.0))[1].decode()

    yield inside
    await container.remove()


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


def test_writes_stay_private(bench: Bench) -> None:
    """What a task writes anywhere is seen by no other task and not by the machine."""
    mark = f"/usr/local/meshnet-{secrets.token_hex(4)}"

    async def body() -> None:
        assert await bench.output(f"echo mine > {mark}; echo x >> /etc/hosts; cat {mark}") == "mine"
        assert not Path(mark).exists()
        assert await bench.output(f"cat {mark} 2>/dev/null || echo none") == "none"

    run(bench, body())


def test_writes_are_bounded(bench: Bench) -> None:
    """A task that writes without end fills its own bound, not the machine's memory."""
    images = Images({"small": {"command": ["/bin/sh"], "writable": 1 << 20}})
    bench.containers = Containers(images)

    async def body() -> None:
        line = "head -c 3000000 /dev/zero > /usr/big 2>/dev/null; echo $?; stat -c %s /usr/big"
        code, size = (await bench.output(line, image="small")).split()
        assert code != "0"
        assert int(size) <= 1 << 20

    run(bench, body())


def test_a_task_does_not_see_its_machine(bench: Bench) -> None:
    """No bpffs, cgroup tree, agent directory, home, key, other process or other namespace's interface."""
    Path(bench.root, "agent.sock").touch()

    async def body() -> None:
        async with shell(bench) as inside:
            for path in ("/sys/fs/bpf", "/sys/fs/cgroup", "/root", "/home", "/var/lib/meshnet", "/etc/ssh"):
                assert await inside(f"ls -A {path} 2>/dev/null") == "", path
            assert await inside("ls /run/meshnet /run/netns 2>&1 | grep -c 'No such'") == "2\n"
            assert await inside("wc -c < /etc/shadow") == "0\n"
            assert (await inside("echo /sys/class/net/*")).split() == ["/sys/class/net/lo"]
            assert await inside("cat /proc/1/cmdline | tr '\\0' ' '") == "/bin/sleep 1000 "
            assert len((await inside("ls -d /proc/[0-9]*")).split()) <= 4
            assert str(bench.root) not in await inside("mount | grep -v /etc/")
        Path(bench.root, "agent.sock").unlink()

    run(bench, body())


def test_a_task_has_a_containers_rights(bench: Bench) -> None:
    """Docker's default capabilities, seccomp profile and no new privileges, in the task and in what is run inside."""

    async def body() -> None:
        command = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t\\n' ' '"
        expected = "CapEff: 00000000a80425fb CapBnd: 00000000a80425fb NoNewPrivs: 1 Seccomp: 2"
        assert (await bench.output(command)).strip() == expected
        async with shell(bench) as inside:
            assert (await inside(command)).strip() == expected

    run(bench, body())


@pytest.mark.parametrize(
    "attempt",
    [
        "mknod /dev/evil b 254 0",
        "mknod /usr/evil c 1 1",
        "mount -t tmpfs none /mnt",
        "umount /run",
        "mount -o remount,rw /sys",
        "unshare -n true",
        "unshare -Ur true",
        "unshare -m true",
        "nsenter -t 1 -n true",
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /proc/sysrq-trigger",
        "hostname other",
        "ip link add evil type bridge",
        "bpftool prog show",
        "dmesg",
        "cat /proc/kcore | grep -q .",
    ],
)
def test_a_hostile_task_is_refused(bench: Bench, attempt: str) -> None:
    """A task that tries to reach the machine fails at it, although it runs as root."""

    async def body() -> None:
        assert (await bench.output(f"PATH=$PATH:/usr/sbin; ({attempt}) >/dev/null 2>&1; echo $?")) != "0"

    run(bench, body())


def test_names_and_addresses_files(bench: Bench) -> None:
    """Host name, resolv.conf, hosts, user and working directory are those of the spec."""

    async def body() -> None:
        text = await bench.output(
            "hostname; cat /etc/hostname /etc/resolv.conf; grep -c box /etc/hosts; id -u; id -g; pwd; "
            "echo $HOSTNAME $A",
            user="daemon",
            workdir="/usr",
            env=("A=1=2",),
        )
        assert text.split("\n") == ["box", "box", "nameserver 127.0.0.11", "1", "1", "1", "/usr", "box 1=2"]

    run(bench, body())


def test_mounts(bench: Bench, tmp_path: Path) -> None:
    """A directory of the machine is bound read-only or writable, a tmpfs is empty."""
    (tmp_path / "file").write_text("here")

    async def body() -> None:
        text = await bench.output(
            "cat /in/file; echo; (echo > /in/x) 2>/dev/null || echo refused; echo new > /out/x; ls -A /mem | wc -l",
            mounts=(
                TaskMount(str(tmp_path), "/in", read_only=True),
                TaskMount(str(tmp_path), "/out"),
                TaskMount("", "/mem", type="tmpfs"),
            ),
        )
        assert text.split() == ["here", "refused", "0"]
        assert (tmp_path / "x").read_text() == "new\n"

    run(bench, body())


def test_whoami_answers(bench: Bench) -> None:
    """The built-in image says who it is and who asked, over TCP with keep-alive and over UDP."""

    async def body() -> None:
        container = await bench.start(image="whoami", env=("PORT=81",), user="nobody", hostname="me")

        def ask() -> list[str]:
            import socket

            def work() -> list[str]:
                with socket.create_connection(("127.0.0.1", 81), timeout=5) as tcp:
                    answers = []
                    for _ in range(2):
                        tcp.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                        answers.append(tcp.recv(4096).decode().partition("\r\n\r\n")[2])
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                    udp.settimeout(5)
                    udp.sendto(b"ping", ("127.0.0.1", 81))
                    return [*answers, udp.recv(100).decode()]

            try:
                return netns.run_in(bench.netns, work)
            except ConnectionRefusedError:
                return []

        answers: list[str] = []

        def answered() -> bool:
            answers.extend(ask())
            return bool(answers)

        await until(answered)
        assert answers == ["I'm me\n127.0.0.1\n"] * 2 + ["I'm me\n127.0.0.1\nping"]
        assert await container.stop() == 0

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
        begun = asyncio.get_running_loop().time()
        assert await container.stop(grace=0.2) == 137
        assert 0.2 <= asyncio.get_running_loop().time() - begun < 2.0
        await until(lambda: "populated 0" in Path(container.spec.cgroup, "cgroup.events").read_text())

    run(bench, body())


@pytest.mark.parametrize(("setup", "patient"), [("", False), ("trap '' TERM;", True), ("trap : TERM;", True)])
def test_a_task_that_cannot_hear_the_signal_does_not_wait(bench: Bench, setup: str, patient: bool) -> None:
    """The grace period is for programs that handle or ignore the signal; for others the kernel drops it, so it ends."""

    async def body() -> None:
        container = await bench.start(f"{setup} echo ready; while :; do sleep 0.05; done")
        await until(lambda: container.logs())
        begun = asyncio.get_running_loop().time()
        assert await container.stop(grace=0.5 if patient else 30.0) == 137
        assert (asyncio.get_running_loop().time() - begun >= 0.5) is patient

    run(bench, body())


def test_the_log_is_bounded(bench: Bench) -> None:
    """A task that prints without end fills its bound, and its newest lines are there."""

    async def body() -> None:
        container = await bench.start("head -c 9000000 /dev/zero | tr '\\0' x | fold -w 99; echo last")
        assert await container.wait() == 0
        assert Path(container.spec.dir, "log").stat().st_size <= 2 << 20
        assert container.logs(tail=1)[0].text.endswith("last")

    run(bench, body())


def test_the_task_is_in_its_group(bench: Bench) -> None:
    """Every process of a task, and what is run inside later, is in the task's cgroup2 group or below it."""

    async def body() -> None:
        container = await bench.start("sleep 1000 & sleep 1000")
        procs = Path(container.spec.cgroup, "cgroup.procs")
        await until(lambda: len(procs.read_text().split()) == 3)
        assert str(container.pid) in procs.read_text().split()
        _, output = await container.exec(("cat", "/proc/self/cgroup"), timeout=5.0)
        assert f"/{bench.netns}/t1/exec-" in output.decode()

    run(bench, body())


def test_exec(bench: Bench) -> None:
    """A program run inside has the task's environment and user, bounded output, and is ended whole if it is slow."""

    async def body() -> None:
        container = await bench.start(("/bin/sleep", "1000"), env=("A=1",))
        assert await container.exec((*SHELL, "echo $A$B; exit 4"), timeout=5.0, env=("B=2",)) == (4, b"12\n")
        assert await container.exec(("id", "-u"), timeout=5.0, user="daemon") == (0, b"1\n")
        code, output = await container.exec(("/no/such/program",), timeout=5.0)
        assert code not in (0, None)
        assert b"no such" in output.lower()
        code, output = await container.exec(("head", "-c", "200000", "/dev/zero"), timeout=5.0, limit=1000)
        assert (code, len(output)) == (0, 1000)
        code, output = await container.exec((*SHELL, "echo a; sleep 1000 & sleep 1000"), timeout=0.3)
        assert (code, output) == (None, b"a\n")
        procs = Path(container.spec.cgroup, "cgroup.procs")
        await until(lambda: "exec" not in _groups_in_use(container))
        assert procs.read_text().split() == [str(container.pid)]
        await container.exec(("true",), timeout=5.0)
        assert not list(Path(container.spec.cgroup).glob("exec-*/"))
        await container.kill()
        with pytest.raises(ConflictError, match="not running"):
            await container.exec(("true",), timeout=5.0)

    run(bench, body())


def _groups_in_use(container: Container) -> str:
    groups = Path(container.spec.cgroup).glob("*/cgroup.events")
    return " ".join(str(path) for path in groups if "populated 1" in path.read_text())


def test_health(bench: Bench) -> None:
    """A task is starting, healthy once its check succeeds, and unhealthy when it failed too often."""

    async def body() -> None:
        seen: list[str] = []
        container = await bench.containers.create(
            bench.spec(
                "while [ ! -e /go ]; do sleep 0.05; done; touch /ready; sleep 1000",
                health=HealthConfig(("CMD-SHELL", "test -e /ready"), interval=0.3, timeout=5.0, retries=2),
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
        ({"command": ("/no/such/program",)}, MeshnetError, "cannot start: .*(?i:no such file)"),
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

    async def body() -> None:
        async def one(number: int) -> None:
            container = await bench.start(("/bin/sleep", "1000"), name=f"t{number}")
            await container.exec(("true",), timeout=10.0)
            await container.remove()
            await container.remove()

        await one(0)
        before = set(os.listdir("/proc/self/fd")), set(os.listdir("/proc/self/task"))
        await asyncio.gather(*(one(number) for number in range(12)))
        assert (set(os.listdir("/proc/self/fd")), set(os.listdir("/proc/self/task"))) == before
        assert zombies() == []
        assert leftovers(bench) == []

    run(bench, body())


def test_a_task_pins_no_other_namespace(bench: Bench, namespaces: Callable[..., str]) -> None:
    """A namespace that is deleted while a task runs is gone: no task's mount namespace keeps a copy of it."""

    async def body() -> None:
        other = namespaces("other")
        container = await bench.start(("/bin/sleep", "1000"))
        for pid in (container.pid, container.monitor):
            assert other not in Path(f"/proc/{pid}/mountinfo").read_text()

    run(bench, body())


def test_the_config_is_private(bench: Bench) -> None:
    """What may hold a secret, such as the environment, is readable by root alone."""

    async def body() -> None:
        container = await bench.start(("/bin/sleep", "1000"), env=("SECRET=1",))
        assert os.stat(container.spec.dir).st_mode & 0o777 == 0o700
        for path in Path(container.spec.dir).glob("*.json"):
            assert path.stat().st_mode & 0o077 == 0, path
        assert "SECRET=1" in json.loads(Path(container.spec.dir, "config.json").read_text())["process"]["env"]

    run(bench, body())

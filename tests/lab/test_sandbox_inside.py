"""What a task is inside: what it sees, may do and may write, with real containers."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sandbox_bench import SHELL, Bench, made_bench, run, shell, until

from meshnet.errors import ConflictError
from meshnet.kernel import netns
from meshnet.sandbox import Container, Containers, Images, TaskMount

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
        for patience in (0.3, 3.0, 10.0):  # in which it must have begun, to be ended in the middle
            code, output = await container.exec((*SHELL, "echo a; sleep 1000 & sleep 1000"), timeout=patience)
            assert code is None
            if output:
                break
        assert output == b"a\n"
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
    found = []
    for path in Path(container.spec.cgroup).glob("*/cgroup.events"):
        with contextlib.suppress(OSError):  # it is gone already
            if "populated 1" in path.read_text():
                found.append(str(path))
    return " ".join(found)


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

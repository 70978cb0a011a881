"""What a container may beyond or below the usual, seen from inside, with real containers."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sandbox_bench import Bench, made_bench, run, until

from meshnet.errors import MeshnetError
from meshnet.sandbox import TaskMount
from meshnet.sandbox.spec import Limits, Ulimit

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


def test_capabilities(bench: Bench) -> None:
    """NET_ADMIN lets a container change its interfaces; without CHOWN it cannot give files away; exec has the same."""

    async def body() -> None:
        inside = (
            "PATH=$PATH:/usr/sbin; ip addr add 10.9.9.9/32 dev lo && echo added; chown daemon /usr/x 2>&1 | grep -c not"
        )
        command = f"touch /usr/x; {inside}"
        rights: dict[str, Any] = {"capability_add": ("NET_ADMIN",), "capability_drop": ("CHOWN",)}
        assert await bench.output(command, **rights) == "added\n1"
        container = await bench.start(("/bin/sleep", "1000"), **rights)
        command = "grep CapEff /proc/self/status"
        _, told = await container.exec(("/bin/sh", "-c", command), timeout=5.0)
        _, as_root = await container.exec(("/bin/sh", "-c", command), timeout=5.0, user="0")
        assert told == as_root == b"CapEff:\t00000000a80435fa\n"

    run(bench, body())


def test_ulimits_sysctls_and_scores(bench: Bench) -> None:
    """They are the container's own, and those of what is run inside later."""

    async def body() -> None:
        wanted: dict[str, Any] = {
            "ulimits": (Ulimit("nofile", 55, 66), Ulimit("core", -1, -1)),
            "sysctls": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "4096"},
            "oom_score_adj": 321,
        }
        command = (
            "ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax "
            "/proc/self/oom_score_adj"
        )
        expected = ["55", "66", "unlimited", "1", "4096", "321"]
        assert (await bench.output(command, **wanted)).split() == expected
        container = await bench.start(("/bin/sleep", "1000"), **wanted)
        assert (await container.exec(("/bin/sh", "-c", command), timeout=5.0))[1].decode().split() == expected

    run(bench, body())


def test_groups(bench: Bench) -> None:
    """More groups by name and number, also for another user of exec."""

    async def body() -> None:
        container = await bench.start("id -G; sleep 1000", user="daemon", groups=("video", "4242"))
        await until(lambda: container.logs())
        assert container.logs()[0].text == "1 44 4242"
        assert (await container.exec(("id", "-G"), timeout=5.0, user="nobody"))[1] == b"65534 44 4242\n"

    run(bench, body())


def test_a_root_that_is_read_only(bench: Bench) -> None:
    """Nothing of the image can be written, the mounts can."""

    async def body() -> None:
        command = "(echo > /usr/x) 2>/dev/null || echo refused; echo > /data/x && echo written; echo > /etc/x || true"
        mounts = (TaskMount("", "/data", type="tmpfs", options=("noexec",)),)
        assert (await bench.output(command, read_only=True, mounts=mounts)).split()[:2] == ["refused", "written"]

    run(bench, body())


def test_a_small_init(bench: Bench) -> None:
    """It is the first process, hands signals on to the program, and reaps what that leaves behind."""

    async def body() -> None:
        script = "trap 'exit 5' TERM; (sleep 0.01 &) ; echo ready; while :; do sleep 0.05; done"
        container = await bench.start(script, init=True)
        await until(lambda: container.logs())
        _, name = await container.exec(("cat", "/proc/1/comm"), timeout=5.0)
        assert name == b"docker-init\n"
        look = ("/bin/sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l")
        for _ in range(50):  # what has just ended is seen for a moment before it is reaped, also by the script
            _, dead = await container.exec(look, 5.0)
            if dead == b"0\n":
                break
        assert dead == b"0\n"
        assert await container.stop() == 5

    run(bench, body())


def test_a_program_that_waits_for_its_signal(bench: Bench) -> None:
    """One that takes its stop signal with sigwait gets it, although the kernel shows it as not blocked meanwhile."""
    program = (
        "import signal as s; s.pthread_sigmask(s.SIG_BLOCK, [15]); print('ready', flush=True); s.sigwait([15]); exit(6)"
    )

    async def body() -> None:
        container = await bench.start(("/usr/bin/python3", "-c", program))
        await until(lambda: container.logs())
        await until(lambda: "sigtimedwait" in Path(f"/proc/{container.pid}/wchan").read_text())
        assert await container.stop() == 6

    run(bench, body())


def test_the_room_for_shared_memory(bench: Bench) -> None:
    """/dev/shm has the size that was asked for."""

    async def body() -> None:
        assert await bench.output("df -k /dev/shm | tail -1 | awk '{print $2}'", shm_size=1 << 20) == "1024"

    run(bench, body())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"capability_add": ("SYS_ADMIN",)}, "reaches the machine"),
        ({"sysctls": {"kernel.panic": "1"}}, "not in a separate kernel namespace"),
        ({"sysctls": {"net.nosuch": "1"}}, "net/nosuch"),
        ({"ulimits": (Ulimit("nosuch", 1, 1),)}, "invalid ulimit"),
        ({"groups": ("nosuch",)}, "Unable to find group nosuch"),
        ({"oom_score_adj": 5000}, "oom score"),
    ],
)
def test_what_cannot_be(bench: Bench, changes: dict[str, Any], words: str) -> None:
    """A container that cannot be as it was asked for is not made, the reason is given, and nothing is left of it."""

    async def body() -> None:
        with pytest.raises(MeshnetError, match=words):
            await bench.start(("/bin/sleep", "1000"), **changes)

    run(bench, body())


def test_limits(bench: Bench) -> None:
    """Where the machine accounts for processes in cgroup2 a container cannot have more; elsewhere it runs without."""

    async def body() -> None:
        container = await bench.start(("/bin/sleep", "1000"), limits=Limits(pids=7))
        bound = Path(container.spec.cgroup, "pids.max")
        assert not bound.exists() or bound.read_text() == "7\n"
        container.kill_with(signal.SIGKILL)

    run(bench, body())

"""Real containers for tests: a namespace, images and a count of what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from meshnet.kernel import netns
from meshnet.kernel.bpf import cgroup2_root
from meshnet.sandbox import Container, Containers, ContainerSpec, Images

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


@contextlib.contextmanager
def made_bench(namespaces: Callable[..., str], tmp_path: Path) -> Iterator[Bench]:
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

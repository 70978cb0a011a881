"""One container: start it, wait for it, look into it, stop it, and leave nothing behind.

What is true is in the kernel and in the container's directory; this object only watches it. At rest it costs two
descriptors: a pidfd of conmon, which ends once it wrote the exit code, and one of the container's init.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from meshnet.errors import ConflictError, MeshnetError
from meshnet.files import replace_text
from meshnet.sandbox import bundle, cgroup, execution, logs, process, runtime, users
from meshnet.sandbox import health as checks
from meshnet.sandbox.execution import Execution, Program
from meshnet.sandbox.spec import ContainerSpec

STARTED = "started"
HEALTH = "health.json"
CHECKS = "checks.json"
KILLED = 128 + signal.SIGKILL
END_TIMEOUT = 10.0  # seconds that a killed container gets to be gone
FREEZING = 10.0  # seconds that the kernel gets to stop its processes


@dataclass(frozen=True, slots=True)
class Processes:
    """conmon and the container's init, each named for good by pid and start time (clock ticks since boot)."""

    conmon: int
    conmon_started: int
    init: int
    init_started: int


def signal_number(name: str) -> int:
    """SIGTERM for "", else the number of `TERM`, `SIGTERM` or `15`. MeshnetError if there is no such signal."""
    if not name:
        return signal.SIGTERM
    if name.isdecimal() and 0 < int(name) < signal.NSIG:
        return int(name)
    try:
        return signal.Signals["SIG" + name.upper().removeprefix("SIG")]
    except KeyError:
        raise MeshnetError(f"stop signal {name!r}: no such signal") from None


class Container:
    """A container that was created; made by `Containers`, not directly."""

    def __init__(self, spec: ContainerSpec, processes: Processes, slots: asyncio.Semaphore) -> None:
        self.spec = spec
        self._processes = processes
        self._slots = slots
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._callbacks: list[Callable[[str], None]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._health_task: asyncio.Task[None] | None = None
        self._health: checks.Health | None = None
        self._serial = 0
        self._groups: list[str] = []
        self._conmon = process.open_process(processes.conmon, processes.conmon_started)
        self._init = process.open_process(processes.init, processes.init_started)
        if self._conmon is None:
            self._ended()
        else:
            asyncio.get_running_loop().add_reader(self._conmon, self._ended)

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def pid(self) -> int:
        """The container's init as the machine numbers it."""
        return self._processes.init

    @property
    def monitor(self) -> int:
        """The pid of conmon."""
        return self._processes.conmon

    @property
    def status(self) -> str:
        """`created`, `running` or `exited`."""
        if self._exit.done():
            return "exited"
        return "running" if Path(self.spec.dir, STARTED).exists() else "created"

    @property
    def paused(self) -> bool:
        """Whether its processes are stopped; it counts as running."""
        return self.status == "running" and cgroup.frozen(self.spec.cgroup)

    @property
    def exit_code(self) -> int | None:
        """The exit code once the container has ended (128 + signal if it was killed)."""
        return self._exit.result() if self._exit.done() else None

    @property
    def health(self) -> str:
        """`none` without a check, else `starting`, `healthy` or `unhealthy`."""
        return self._health.status if self._health is not None else checks.NONE

    @property
    def last_check(self) -> checks.Result | None:
        """The newest result of the health check."""
        return self._health.last if self._health is not None else None

    def health_report(self) -> dict[str, Any] | None:
        """Status, FailingStreak and Log (the last five results) as the Engine shows them; None without a check."""
        if self._health is None:
            return None
        offset = time.time() - asyncio.get_running_loop().time()
        return checks.report(self._health, offset)

    def _ended(self) -> None:
        if self._conmon is not None:
            asyncio.get_running_loop().remove_reader(self._conmon)
            process.reap(self._conmon)
            os.close(self._conmon)
            self._conmon = None
        code = runtime.exit_code(self.spec.dir)
        if code is None:
            # conmon was killed: nobody reads the task's output any more, so the task ends too.
            self._signal(signal.SIGKILL)
            cgroup.kill(self.spec.cgroup)
        if self._health_task is not None:
            self._health_task.cancel()
        if not self._exit.done():
            self._exit.set_result(KILLED if code is None else code)
        self._changed()

    def _signal(self, number: int) -> None:
        if self._init is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, number)

    async def start(self) -> None:
        """Runs the container's program. MeshnetError if that cannot be; the container is then to be removed."""
        async with self._slots:
            await runtime.start(self.spec)
        Path(self.spec.dir, STARTED).touch()
        self.watch_health()

    def watch_health(self) -> None:
        """Begins (or, after adoption, resumes) the health check, if the spec has one."""
        if checks.command(self.spec.health) is None or self._health_task is not None or self._exit.done():
            return
        self._health = self._remembered_health() or checks.Health(asyncio.get_running_loop().time())
        self._health_task = asyncio.create_task(self._check_health(), name=f"health-{self.spec.name}")

    def on_health(self, callback: Callable[[str], None]) -> None:
        """Calls back with the new status each time it changes."""
        self._callbacks.append(callback)

    async def healthy(self) -> bool:
        """Returns True once the task is healthy (at once without a check), False if it is unhealthy or ended first."""
        while self.health == checks.STARTING and not self._exit.done():
            await self._next_change()
        return self.health in (checks.HEALTHY, checks.NONE) and not self._exit.done()

    async def unhealthy(self) -> None:
        """Returns once the task is unhealthy; never for one without a check."""
        while self.health != checks.UNHEALTHY:
            await self._next_change()

    async def _next_change(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _changed(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _remembered_health(self) -> checks.Health | None:
        try:
            return checks.Health(**json.loads(Path(self.spec.dir, HEALTH).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    async def _check_health(self) -> None:
        config, words = self.spec.health, checks.command(self.spec.health)
        if config is None or words is None or self._health is None:
            return
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(checks.next_delay(self._health, config))
            if self.paused:
                continue  # nothing can be asked of it
            async with self._slots:
                begun = clock()
                try:
                    code, output = await self._execute(words, config.timeout, limit=checks.OUTPUT)
                except (MeshnetError, OSError) as error:
                    code, output = 1, str(error).encode()
            if cgroup.frozen(self.spec.cgroup):
                continue  # it was paused in the middle of the check
            result = checks.Result(begun, clock(), code, output.decode(errors="replace"))
            before, self._health = self._health, checks.observe(self._health, config, result)
            if before.status != self._health.status or before.checks == 0:
                kept = {key: value for key, value in asdict(self._health).items() if key != "results"}
                with contextlib.suppress(OSError):  # a full disk costs a restarted agent one more check, not the task
                    replace_text(os.path.join(self.spec.dir, HEALTH), json.dumps(kept))
            if before.status != self._health.status:
                self._changed()
                for callback in self._callbacks:
                    callback(self._health.status)

    async def exec(
        self,
        argv: tuple[str, ...] | list[str],
        timeout: float,
        env: tuple[str, ...] = (),
        user: str = "",
        *,
        limit: int = 65536,
    ) -> tuple[int | None, bytes]:
        """Runs a program inside; returns its exit code (None: killed after `timeout` seconds) and its output.

        stdout and stderr come together, the first `limit` bytes. `user` is the container's own if empty.
        ConflictError if the container does not run.
        """
        return await self._execute(tuple(argv), timeout, env, user, limit)

    async def _execute(
        self, argv: tuple[str, ...], timeout: float, env: tuple[str, ...] = (), user: str = "", limit: int = 65536
    ) -> tuple[int | None, bytes]:
        self._check_runs()
        group, run = self._inside(argv, env, user)
        try:
            return await runtime.execute(self.spec, run, group, timeout, limit)
        finally:
            # What it left running in the background, or what the kernel has not reaped yet, keeps the group.
            if not cgroup.try_remove(group):
                self._groups.append(group)

    def _inside(self, argv: tuple[str, ...], env: tuple[str, ...], user: str) -> tuple[str, dict[str, Any]]:
        """A group of its own and the OCI `process` object for something that runs inside."""
        self._serial += 1
        group = os.path.join(self.spec.cgroup, f"exec-{os.getpid()}-{self._serial}")
        self._groups = [left for left in self._groups if not cgroup.try_remove(left)]
        run: dict[str, Any] = json.loads(Path(self.spec.dir, "config.json").read_text())["process"]
        if user:
            root = f"/proc/{self.pid}/root"
            known = users.read(root, "etc/group")
            account = users.lookup(user, users.read(root, "etc/passwd"), known)
            account = users.with_groups(account, self.spec.groups, known)
            run = bundle.process(argv, run["env"], account, run["cwd"], self.spec)
        run.update(args=list(argv), env=[*run["env"], *env], terminal=False)
        return group, run

    def _check_runs(self) -> None:
        if self.status != "running":
            raise ConflictError(f"Container {self.id} is not running")
        if self.paused:
            raise ConflictError(f"Container {self.id} is paused, unpause the container before exec")

    async def launch(self, program: Program) -> Execution:
        """Starts a program inside, with streams. ConflictError if the container does not run, or is paused."""
        self._check_runs()
        term = ("TERM=xterm",) if program.tty else ()
        group, run = self._inside(program.argv, (*term, *program.env), program.user)
        if program.workdir:
            run["cwd"] = program.workdir
        found = await execution.launch(self.spec, run, group, program)
        found.left = lambda group: self._groups.append(group)
        return found

    def kill_with(self, number: int) -> None:
        """Sends a signal to the container's first process. ConflictError if it does not run."""
        if self.status != "running":
            raise ConflictError(f"Cannot kill container: {self.id}: Container {self.id} is not running")
        if number == signal.SIGKILL:
            cgroup.kill(self.spec.cgroup)
        self._deliver(number)

    def _deliver(self, number: int) -> None:
        """A signal, and of a container that is paused the stop signal wakes it."""
        self._signal(number)
        if self.paused and number == signal_number(self.spec.stop_signal):
            cgroup.freeze(self.spec.cgroup, stop=False)

    async def pause(self) -> None:
        """Stops its processes where they are; when it returns they stand. ConflictError if it does not run, or is
        paused."""
        if self.status != "running":
            raise ConflictError(f"Container {self.id} is not running")
        if self.paused:
            raise ConflictError(f"Container {self.id} is already paused")
        cgroup.freeze(self.spec.cgroup, stop=True)
        await cgroup.frozen_through(self.spec.cgroup, FREEZING)

    def unpause(self) -> None:
        """Lets its processes go on. MeshnetError (500, as of an engine) if it is not paused."""
        if not self.paused:
            raise MeshnetError(f"Container {self.id} is not paused", 500)
        cgroup.freeze(self.spec.cgroup, stop=False)

    def root(self) -> int:
        """A descriptor of its root directory, for the caller to close. ConflictError if it does not run."""
        with contextlib.suppress(OSError):
            found = os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if process.start_time(self.pid) == self._processes.init_started and self.status == "running":
                return found
            os.close(found)
        raise ConflictError(f"Container {self.id} is not running")

    def logs(self, *, tail: int | None = None, since: float | None = None) -> list[logs.LogLine]:
        """What the task wrote, oldest first; see `logs.read`."""
        return logs.read(os.path.join(self.spec.dir, runtime.LOG), tail=tail, since=since)

    async def wait(self) -> int:
        """Returns the exit code once the container has ended."""
        return await asyncio.shield(self._exit)

    async def stop(self, grace: float | None = None) -> int:
        """Asks with the stop signal, kills what is left after the grace period (seconds); returns the exit code.

        A program that neither handles, blocks nor ignores the signal is killed at once: anywhere else the signal
        would end it, but the kernel drops it for the first process of a PID namespace.
        """
        number = signal_number(self.spec.stop_signal)
        if self.status == "running" and (self.spec.init or not await process.would_drop(self.pid, number)):
            self._deliver(number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.spec.stop_grace if grace is None else grace):
                    return await self.wait()
        return await self.kill()

    async def kill(self) -> int:
        """Ends every process of the container at once; returns the exit code."""
        if not self._exit.done():
            cgroup.kill(self.spec.cgroup)
            self._signal(signal.SIGKILL)
        try:
            async with asyncio.timeout(END_TIMEOUT):
                return await self.wait()
        except TimeoutError:
            if self._conmon is not None:
                with contextlib.suppress(ProcessLookupError):  # it has ended just now, and another parent reaped it
                    signal.pidfd_send_signal(self._conmon, signal.SIGKILL)
            return await self.wait()

    async def end(self) -> None:
        """Ends the container if it runs and takes away its processes, group and mounts. What it was, what it wrote and
        how it ended stays in its directory. Idempotent."""
        report = self.health_report()
        if self._health_task is not None:
            self._health_task.cancel()
            await asyncio.gather(self._health_task, return_exceptions=True)
        await self.kill()
        await cgroup.remove(self.spec.cgroup)
        self.release()
        if report is not None:
            with contextlib.suppress(OSError):
                replace_text(os.path.join(self.spec.dir, CHECKS), json.dumps(report))

    async def remove(self) -> None:
        """Ends the container, and takes away its directory too. Idempotent."""
        await self.end()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.spec.dir)

    def release(self) -> None:
        """Stops watching and closes descriptors; the container itself goes on. For an agent that ends."""
        if self._health_task is not None:
            self._health_task.cancel()
        if self._conmon is not None:
            asyncio.get_running_loop().remove_reader(self._conmon)
            os.close(self._conmon)
            self._conmon = None
        if self._init is not None:
            os.close(self._init)
            self._init = None

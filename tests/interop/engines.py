"""The real docker command and docker-py against the nodes of a lab."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import pytest

from meshnet import names
from meshnet.testing.labs import LabUnderTest

NODES = ("docker-0", "docker-1", "docker-2")
PATIENCE = 50.0


def program() -> str:
    """The docker command: this environment's, else the machine's. Skips, with the fix, if there is none."""
    own = Path(os.sys.executable).parent / "docker"  # type: ignore[attr-defined]
    found = str(own) if own.exists() else shutil.which("docker")
    if found is None:
        pytest.skip("needs the docker command: make test installs it, without its daemon")
    return found


def socket_of(lab: LabUnderTest, node: str) -> Path:
    return Path(names.node_dir(lab.name, node), "docker.sock")


class Docker:
    """The docker command on one node."""

    def __init__(self, lab: LabUnderTest, node: str) -> None:
        self.lab, self.node = lab, node
        self.socket = socket_of(lab, node)
        home = Path(names.lab_dir(lab.name))
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "DOCKER_HOST": f"unix://{self.socket}"}

    def run(self, *words: str, stdin: str = "", timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Runs a docker command and returns its exit status, stdout and stderr."""
        return subprocess.run(
            [program(), *words], input=stdin, env=self.env, capture_output=True, text=True, timeout=timeout, check=False
        )

    def out(self, *words: str, stdin: str = "") -> str:
        """The stdout, stripped, of a command that must succeed."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, f"docker {' '.join(words)} ended with {done.returncode}: {done.stderr}"
        return done.stdout.strip()

    def refused(self, *words: str) -> str:
        """What a command that must fail says, without its prefix."""
        done = self.run(*words)
        assert done.returncode != 0, f"docker {' '.join(words)} was not refused: {done.stdout}"
        return done.stderr.strip().removeprefix("Error response from daemon: ")

    def container(self, task: str) -> str:
        """The id of the running container of a task such as `web.1`."""
        return self.lab.wait_until(
            lambda: self.run("ps", "-q", "--filter", f"name={task}").stdout.strip(), PATIENCE, f"{task} on {self.node}"
        )

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A docker command that goes on; it is killed in the end."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen([program(), *words], env=self.env, text=True, **pipes) as child:  # type: ignore[call-overload]
            try:
                yield child
            finally:
                child.kill()

    def terminal(self, *words: str) -> Terminal:
        """A docker command on a terminal of its own."""
        return Terminal([program(), *words], self.env)


class Terminal:
    """A program on a pty: what a person would type, and what they would see."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.seen = ""
        self._pid, self._master = pty.fork()
        if self._pid == 0:
            os.execve(command[0], command, env)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, text: str) -> str:
        """Reads until `text` is there; what was seen so far."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} does not come: {self.seen!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._master, 4096).decode()
                except OSError:
                    break
        return self.seen

    def end(self) -> int:
        """Waits for the program's end; its exit status."""
        while select.select([self._master], [], [], PATIENCE)[0]:
            try:
                if not os.read(self._master, 4096):
                    break
            except OSError:
                break
        _, status = os.waitpid(self._pid, 0)
        os.close(self._master)
        return os.waitstatus_to_exitcode(status)


def client(lab: LabUnderTest, node: str) -> docker.DockerClient:
    """docker-py on one node."""
    return docker.DockerClient(base_url=f"unix://{socket_of(lab, node)}", timeout=PATIENCE)


def node_of(lab: LabUnderTest, service: str) -> str:
    """The node that runs the (only) task of a service."""
    return lab.wait_until(
        lambda: next((task.node for task in lab.tasks(service)), ""), PATIENCE, f"a task of {service}"
    )


def eventually(lab: LabUnderTest, holds: Callable[[], object], what: str) -> None:
    lab.wait_until(holds, PATIENCE, what)


def sweep(lab: LabUnderTest) -> None:
    """Removes services, secrets and networks, and waits for the end of all tasks."""
    manager = Docker(lab, NODES[0])
    for kind in ("service", "secret"):
        left = manager.out(kind, "ls", "-q").split()
        if left:
            manager.out(kind, "rm", *left)
    lab.wait_until(lambda: not lab.tasks(), PATIENCE, "the end of all tasks")
    manager.out("network", "prune", "-f")

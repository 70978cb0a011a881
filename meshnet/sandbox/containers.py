"""Creates containers, and finds those again that an earlier agent created.

A container's directory tells how far it came: `spec.json` is written before anything is started, `processes.json`
once it exists, `started` once its program runs. One that did not get that far is undone, not resumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from meshnet.errors import ConflictError, MeshnetError, NoSpaceError, NotFoundError
from meshnet.files import is_full, replace_text
from meshnet.kernel.bpf import cgroup2_root
from meshnet.sandbox import bundle, cgroup, filling, limits, process, rights, runtime, users
from meshnet.sandbox.arguments import check_hostname
from meshnet.sandbox.container import STARTED, Container, Processes, signal_number
from meshnet.sandbox.images import HostImage, Image, Images
from meshnet.sandbox.memory import MemoryFile
from meshnet.sandbox.spec import ContainerSpec, dump, load

log = logging.getLogger(__name__)
SPEC = "spec.json"
PROCESSES = "processes.json"
PARALLEL = 4  # creations, starts and checks at once; more only get in each other's way


class Containers:
    """The containers of one agent. What must last is in the containers' directories, not in this object."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self._slots = asyncio.Semaphore(PARALLEL)
        self._seccomp = b""

    def image_id(self, reference: str) -> str:
        """The id of an image, `sha256:...`; "" if there is none of that name any more."""
        return self.images.identity(reference)

    def image_names(self) -> list[str]:
        """The names of all images."""
        return self.images.names()

    async def create(self, spec: ContainerSpec, files: Sequence[MemoryFile] = ()) -> Container:
        """Makes a container up to the point where its program would run, in its group and its network namespace.

        `files` are seen by it and written nowhere.
        Raises NotFoundError for an unknown image, ConflictError if the directory is in use, MeshnetError for what
        else cannot be; then nothing is left of it.
        """
        spec = dataclasses.replace(spec, hostname=spec.hostname or spec.id[:12])
        image = self.images.find(spec.image)
        spec = dataclasses.replace(
            spec, health=spec.health or image.health, stop_signal=spec.stop_signal or image.stop_signal
        )
        _check(spec)
        if os.path.exists(os.path.join(spec.dir, SPEC)):
            raise ConflictError(f"{spec.dir} already holds a container")
        for text in limits.warnings(spec.limits, cgroup2_root()):
            log.warning("container %s: %s", spec.name, text)
        for mount in spec.mounts:
            if mount.type != "tmpfs" and not os.path.exists(mount.source):
                raise MeshnetError(f"mount {mount.target}: {mount.source} does not exist")
        try:
            return await self._create(spec, image, files)
        except BaseException:
            await asyncio.shield(_discard(spec))
            raise

    async def _create(self, spec: ContainerSpec, image: Image, files: Sequence[MemoryFile]) -> Container:
        group = users.read(image.lower, "etc/group")
        user = users.lookup(spec.user or image.user, users.read(image.lower, "etc/passwd"), group)
        user = users.with_groups(user, spec.groups, group)
        init = runtime.program("tini-static", "tini") if spec.init else ""
        try:
            netns = os.open(spec.netns, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFoundError(f"no network namespace at {spec.netns}: {error.strerror}") from None
        try:
            await _fill_volumes(spec, image)
            path = f"/proc/{os.getpid()}/fd/{netns}"
            runtime.write_files(spec)
            replace_text(os.path.join(spec.dir, SPEC), dump(spec))
            async with self._slots:
                config = bundle.config(spec, image, user, path, os.uname().machine, self._seccomp, files, init)
                replace_text(os.path.join(spec.dir, "config.json"), json.dumps(config))
                started = await runtime.create(spec, image, netns, files)
            self._seccomp = self._seccomp or runtime.compiled_seccomp(spec)
        finally:
            os.close(netns)
        limits.apply(spec.limits, Path(spec.cgroup), cgroup2_root())
        try:
            cgroup.join(spec.cgroup, started.init)
        except ProcessLookupError:
            raise MeshnetError("ended before it was started", 500) from None
        ticks = process.start_time(started.conmon), process.start_time(started.init)
        if None in ticks:
            raise MeshnetError("ended before it was started", 500)
        processes = Processes(started.conmon, ticks[0] or 0, started.init, ticks[1] or 0)
        replace_text(os.path.join(spec.dir, PROCESSES), json.dumps(dataclasses.asdict(processes)))
        return Container(spec, processes, self._slots)

    async def adopt(self, directory: str) -> Container | None:
        """The container of that directory, running or ended meanwhile (`wait` then returns at once).

        None if there is none; one that never ran its program is undone.
        """
        try:
            spec = load(Path(directory, SPEC).read_text())
        except (OSError, ValueError, KeyError, TypeError):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(directory)
            return None
        try:
            processes = Processes(**json.loads(Path(directory, PROCESSES).read_text()))
            started = Path(directory, STARTED).exists()
        except (OSError, ValueError, TypeError):
            started = False
        if not started:
            await _discard(spec)
            return None
        container = Container(spec, processes, self._slots)
        container.watch_health()
        return container

    @staticmethod
    def runs(directory: str) -> bool:
        """Whether the container of that directory has started its program and still runs; nothing is touched."""
        try:
            processes = Processes(**json.loads(Path(directory, PROCESSES).read_text()))
        except (OSError, ValueError, TypeError):
            return False
        return Path(directory, STARTED).exists() and process.start_time(processes.init) == processes.init_started


async def _fill_volumes(spec: ContainerSpec, image: Image) -> None:
    """Only from images with a root of their own: a host image would hand the machine's directories to a volume."""
    if isinstance(image, HostImage):
        return
    for mount in spec.mounts:
        if mount.type == "volume" and not mount.no_copy:
            try:
                await asyncio.to_thread(filling.fill, mount.source, image.lower, mount.target)
            except OSError as error:
                if is_full(error):
                    raise NoSpaceError(mount.source) from error
                raise MeshnetError(f"mount {mount.target}: the volume cannot be filled: {error}", 500) from error


def _check(spec: ContainerSpec) -> None:
    """MeshnetError for what no container can have."""
    check_hostname("hostname", spec.hostname)
    signal_number(spec.stop_signal)
    rights.capabilities(spec.capability_add, spec.capability_drop)
    rights.check_ulimits(spec.ulimits)
    rights.check_sysctls(spec.sysctls, spec.own_network)
    rights.check_oom_score(spec.oom_score_adj)


async def _discard(spec: ContainerSpec) -> None:
    """Takes away whatever a creation that did not finish has made."""
    await runtime.end_creation(spec.id)
    await cgroup.remove(spec.cgroup)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(spec.dir)

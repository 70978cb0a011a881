"""BPF maps and programs as objects: a pinned set is opened, read, changed, attached and run from here.

Calls block for microseconds; none of them waits for another process. Loading object files is
`meshnet.kernel.bpfload`, the system call itself is `meshnet.kernel.bpfsys`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from meshnet.errors import MeshnetError
from meshnet.kernel import bpfsys
from meshnet.kernel.bpfsys import CGROUP_HOOKS, ProgInfo, SkbContext, TestRun

__all__ = [
    "ANY",
    "CGROUP_HOOKS",
    "EXIST",
    "NOEXIST",
    "NO_ROOM",
    "Map",
    "Objects",
    "Program",
    "SkbContext",
    "TestRun",
    "attach_cgroup",
    "attached_cgroup",
    "cgroup2_root",
    "detach_cgroup",
    "ensure_bpffs",
    "measured_runs",
]

ANY, NOEXIST, EXIST = 0, 1, 2
_BATCH = 4096
NO_ROOM = frozenset({errno.E2BIG, errno.ENOSPC, errno.ENOMEM})  # a map that is full, or no memory for it
_PERCPU_TYPES = frozenset({5, 6, 10, 21})  # percpu hash, array, LRU hash, cgroup storage
_NO_BATCH = frozenset({errno.EINVAL, 524})  # 524: the kernel's internal ENOTSUPP


class Map:
    """One map. Keys and values are bytes of exactly `key_size` and `value_size`; the fd is owned."""

    def __init__(self, fd: int, name: str = "") -> None:
        self.fd = fd
        info = bpfsys.map_info(fd)
        self.type, self.id, self.max_entries, self.flags = info.type, info.id, info.max_entries, info.flags
        self.key_size, self.value_size = info.key_size, info.value_size
        self.name = name or info.name
        self._batches = True
        self.cpus = _possible_cpus() if self.type in _PERCPU_TYPES else 1
        self._room = self.value_size if self.cpus == 1 else self.cpus * ((self.value_size + 7) & ~7)

    @classmethod
    def open(cls, path: str | Path) -> Map:
        """The map pinned at `path`. FileNotFoundError if there is none."""
        return cls(bpfsys.obj_get(str(path)), Path(path).name)

    @classmethod
    def create(cls, kind: int, key_size: int, value_size: int, max_entries: int, flags: int = 0, name: str = "") -> Map:
        """A new map of enum bpf_map_type `kind`, gone when closed unless pinned or used by a program."""
        return cls(bpfsys.map_create(kind, key_size, value_size, max_entries, flags, name), name)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def pin(self, path: str | Path) -> None:
        bpfsys.obj_pin(self.fd, str(path))

    def get(self, key: bytes) -> bytes | None:
        """The value, or None. Of a per-CPU map: the values of all possible CPUs, see `percpu`."""
        self._check(key)
        try:
            return bpfsys.map_lookup(self.fd, key, self._room)
        except FileNotFoundError:
            return None

    def percpu(self, key: bytes) -> list[bytes]:
        """A per-CPU map's value on each possible CPU; [] if there is no such entry."""
        raw = self.get(key)
        if raw is None:
            return []
        step = len(raw) // self.cpus
        return [raw[i * step : i * step + self.value_size] for i in range(self.cpus)]

    def set(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Insert or replace. OSError: E2BIG when full, EEXIST (NOEXIST), ENOENT (EXIST, or past an array's end)."""
        self._check(key)
        if len(value) != self._room:
            raise ValueError(f"map {self.name}: a value of {len(value)} bytes, {self._room} wanted")
        bpfsys.map_update(self.fd, key, value, flags)

    def delete(self, key: bytes) -> bool:
        """Whether there was such an entry."""
        self._check(key)
        try:
            bpfsys.map_delete(self.fd, key)
        except FileNotFoundError:
            return False
        return True

    def keys(self) -> Iterator[bytes]:
        """All keys. Entries that come or go meanwhile may or may not be seen; bounded by twice the map's size."""
        key: bytes | None = None
        for _ in range(2 * self.max_entries + 1):
            try:
                key = bpfsys.map_next_key(self.fd, key, self.key_size)
            except FileNotFoundError:
                return
            yield key

    def items(self) -> dict[bytes, bytes]:
        """All entries, read in batches where the kernel has them for this type (most since 5.6)."""
        if self._batches:
            try:
                return self._items_by_batch()
            except OSError as error:
                if error.errno not in _NO_BATCH:
                    raise
                self._batches = False
        return {key: value for key in self.keys() if (value := self.get(key)) is not None}

    def _items_by_batch(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        cursor: bytes | None = None
        count = min(_BATCH, max(self.max_entries, 1))
        last = False
        while not last:
            try:
                entries, cursor, last = bpfsys.map_lookup_batch(self.fd, cursor, count, self.key_size, self._room)
            except OSError as error:
                if error.errno != errno.ENOSPC or count > self.max_entries:
                    raise
                count *= 4
                continue
            found.update(entries)
        return found

    def update(self, entries: Mapping[bytes, bytes]) -> None:
        """Insert or replace many: OSError carries the errno of the first entry that was refused, see `put`."""
        for code in self.put(entries).values():
            raise OSError(code, f"map {self.name}: {os.strerror(code)}")

    def put(self, entries: Mapping[bytes, bytes]) -> dict[bytes, int]:
        """Insert or replace many, in order. Returns what there was no room for: key -> E2BIG, ENOSPC or ENOMEM; all
        others are in. OSError for any other reason."""
        refused: dict[bytes, int] = {}

        def many(keys: Sequence[bytes]) -> int:
            return bpfsys.map_update_batch(self.fd, keys, [entries[key] for key in keys])

        def one(key: bytes) -> None:
            try:
                self.set(key, entries[key])
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                refused[key] = error.errno

        if not set(map(len, entries.values())) <= {self._room}:
            raise ValueError(f"map {self.name}: values of {self._room} bytes wanted")
        self._in_batches(entries, many, one)
        return refused

    def discard(self, keys: Iterable[bytes]) -> int:
        """Delete many, in order; returns how many there were."""
        wanted = list(keys)
        absent: list[bytes] = []

        def many(keys: Sequence[bytes]) -> int:
            return bpfsys.map_delete_batch(self.fd, keys)

        def one(key: bytes) -> None:
            if not self.delete(key):
                absent.append(key)

        self._in_batches(wanted, many, one)
        return len(wanted) - len(absent)

    def _in_batches(
        self, keys: Iterable[bytes], many: Callable[[Sequence[bytes]], int], one: Callable[[bytes], None]
    ) -> None:
        """`many` says how many it did, from the first on; the next is for `one`, which finds out why. That may be that
        this kernel has no batches for this map, or that its pool of memory was empty and has filled meanwhile."""
        wanted = list(keys)
        if not set(map(len, wanted)) <= {self.key_size}:
            raise ValueError(f"map {self.name}: keys of {self.key_size} bytes wanted")
        at, size = 0, _BATCH
        while at < len(wanted):
            some = wanted[at : at + size]
            done = many(some)
            at += done
            size = min(4 * size, _BATCH) if done else 1
            if done < len(some):
                one(wanted[at])
                at += 1

    def memory(self) -> int:
        """Bytes that the kernel counts for it now, 0 where it does not say."""
        for line in Path(f"/proc/self/fdinfo/{self.fd}").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "memlock":
                return int(value)
        return 0

    def _check(self, key: bytes) -> None:
        if len(key) != self.key_size:
            raise ValueError(f"map {self.name}: a key of {len(key)} bytes, {self.key_size} wanted")


class Program:
    """One loaded program. The fd is owned."""

    def __init__(self, fd: int, name: str = "") -> None:
        self.fd = fd
        self.info: ProgInfo = bpfsys.prog_info(fd)
        self.name = name or self.info.name
        self.id = self.info.id

    @classmethod
    def open(cls, path: str | Path) -> Program:
        """The program pinned at `path`. FileNotFoundError if there is none."""
        return cls(bpfsys.obj_get(str(path)), Path(path).name)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def runs(self) -> tuple[int, int]:
        """Nanoseconds that it ran, and how often, inside `measured_runs`."""
        return bpfsys.prog_runs(self.fd)

    def test_run(self, data: bytes, context: SkbContext | None = None, repeat: int = 1) -> TestRun:
        """Runs this tc program on a packet without sending it; see `bpfsys.prog_run`."""
        return bpfsys.prog_run(self.fd, data, context, repeat)


class Objects:
    """The maps and programs pinned under one directory: `maps/<name>` and `progs/<name>`."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.maps: dict[str, Map] = {}
        self.progs: dict[str, Program] = {}
        try:
            for path in _pins(self.directory / "maps"):
                self.maps[path.name] = Map.open(path)
            for path in _pins(self.directory / "progs"):
                self.progs[path.name] = Program.open(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of the file descriptors; pins and attachments stay."""
        for each in self.maps.values():
            each.close()
        for program in self.progs.values():
            program.close()

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pins(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def measured_runs() -> Iterator[None]:
    """The kernel measures every program's runs meanwhile, and no longer, however this ends. That costs each run tens
    of nanoseconds, of which most are not in what it measures. OSError (EINVAL) before Linux 5.8."""
    fd = bpfsys.enable_stats()
    try:
        yield
    finally:
        os.close(fd)


def attached_cgroup(cgroup: str | Path, hook: str) -> list[int]:
    """Ids of the programs attached to a cgroup (its path in the file system) at a hook of `CGROUP_HOOKS`."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return bpfsys.prog_query(fd, CGROUP_HOOKS[hook])
    finally:
        os.close(fd)


def attach_cgroup(cgroup: str | Path, hook: str, program: Program) -> bool:
    """Makes `program` run at a hook of a cgroup, beside those of others (BPF_F_ALLOW_MULTI).

    A program of the same name that is there already is replaced in one step, so no call slips through between
    them. Returns whether anything changed.
    """
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _attach(fd, CGROUP_HOOKS[hook], program, bpfsys.F_ALLOW_MULTI)
    finally:
        os.close(fd)


def detach_cgroup(cgroup: str | Path, hook: str, name: str) -> bool:
    """Takes the program of that name (its first 15 bytes count) off a cgroup's hook; whether there was one."""
    try:
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        return _detach(fd, CGROUP_HOOKS[hook], name)
    finally:
        os.close(fd)


def tcx_programs(index: int) -> list[int]:
    """Ids of the programs at tcx ingress of a device of the caller's namespace, in the order in which they run.

    OSError: ENODEV without that device, EINVAL on kernels without tcx (before 6.6).
    """
    return bpfsys.prog_query(index, bpfsys.TCX_INGRESS)


def attach_tcx(index: int, program: Program) -> bool:
    """Makes `program` run at tcx ingress of a device, as `attach_cgroup` does at a cgroup. OSError as above."""
    return _attach(index, bpfsys.TCX_INGRESS, program, 0)


def detach_tcx(index: int, name: str) -> bool:
    """Takes the program of that name off tcx ingress of a device; whether there was one. OSError as above."""
    return _detach(index, bpfsys.TCX_INGRESS, name)


def _attach(target: int, kind: int, program: Program, flags: int) -> bool:
    ids = bpfsys.prog_query(target, kind)
    if program.id in ids:
        return False
    for old in _opened(ids):
        try:
            if old.info.name == program.info.name:
                bpfsys.prog_attach(target, program.fd, kind, flags | bpfsys.F_REPLACE, old.fd)
                return True
        finally:
            old.close()
    bpfsys.prog_attach(target, program.fd, kind, flags)
    return True


def _detach(target: int, kind: int, name: str) -> bool:
    found = False
    for program in _opened(bpfsys.prog_query(target, kind)):
        if program.info.name == name[:15]:
            bpfsys.prog_detach(target, program.fd, kind)
            found = True
        program.close()
    return found


def _opened(ids: Iterable[int]) -> Iterator[Program]:
    for ident in ids:
        try:
            yield Program(bpfsys.prog_by_id(ident))
        except FileNotFoundError:
            continue


def mount_points(kind: str) -> list[str]:
    """Where file systems of a type (`bpf`, `cgroup2`) are mounted in this process's mount namespace."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split(" ", 1)[0] == kind:
            points.append(left.split(" ")[4])
    return points


def ensure_bpffs(path: str = "/sys/fs/bpf") -> None:
    """Mounts the BPF file system at `path` if it is not mounted. MeshnetError if that is refused.

    One process at a time: a second mount would hide what others pin in the first.
    """
    if path in mount_points("bpf"):
        return
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MeshnetError(f"cannot mount the BPF file system at {path}: {error.strerror}") from None
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if path in mount_points("bpf"):
            return
        done = subprocess.run(["mount", "-t", "bpf", "bpf", path], capture_output=True, text=True, check=False)
    finally:
        os.close(directory)
    if done.returncode:
        raise MeshnetError(f"cannot mount the BPF file system at {path}: {done.stderr.strip()}; run as root")


@functools.cache
def cgroup2_root() -> Path:
    """Where cgroup2 is mounted: /sys/fs/cgroup, or /sys/fs/cgroup/unified beside v1. MeshnetError if nowhere."""
    points = mount_points("cgroup2")
    for path in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", *points):
        if path in points:
            return Path(path)
    raise MeshnetError(
        "no cgroup2 is mounted: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
    )


def _possible_cpus() -> int:
    """How many CPUs this kernel could have: the length of a per-CPU value (/sys/devices/system/cpu/possible)."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.split(",")[-1].split("-")[-1]) + 1

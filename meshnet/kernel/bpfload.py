"""Loading BPF objects with `bpftool`: maps shared between objects, pins adopted, programs replaced without a gap.

A directory of pins holds `maps/`, `progs/` and an empty directory `loaded_<hash>` whose name says which objects
the programs came from. The same hash means there is nothing to do. Another hash means new programs on the
maps that are there: the directory's path names the layout of the maps, so what is under it fits. New pins are
made aside and renamed over the old, and the old programs run where they are attached until they are replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from meshnet.errors import MeshnetError
from meshnet.kernel.bpf import Map, Objects, ensure_bpffs

_MARK = "loaded_"


def load(objects: Sequence[Path], directory: str | Path, sizes: Mapping[str, int] | None = None) -> Objects:
    """Loads object files into a pin directory (below a bpffs) and opens what is pinned there.

    `sizes`: entries by map name, where a map shall be larger or smaller than its object says. A map that is pinned
    in another size is replaced by one with the same entries. Blocks for about 25 ms per object; nothing happens
    when the same was loaded already. MeshnetError: no bpftool, a program that the kernel refuses, no bpffs,
    entries that do not fit the smaller map, a size for a map that there is not.
    """
    root = Path(directory)
    known = {name for path in objects for name in map_names(path.read_bytes())}
    for name in sizes or {}:
        if name not in known:
            raise MeshnetError(f"no map is called {name}; there are {', '.join(sorted(known))}")
    ensure_bpffs()
    digest = _digest(objects, sizes or {})
    if (root / f"{_MARK}{digest}").is_dir():
        return Objects(root)
    maps, progs = root / "maps", root / "progs"
    for path in (maps, progs):
        path.mkdir(parents=True, exist_ok=True)
    with _staging(root) as staging:
        for name, size in (sizes or {}).items():
            _resize(maps / name, size, staging)
        for path in objects:
            _load_object(path, staging, maps, sizes or {})
        _publish(staging / "progs", progs)
    for old in root.glob(f"{_MARK}*"):
        old.rmdir()
    (root / f"{_MARK}{digest}").mkdir()
    return Objects(root)


def unload(directory: str | Path) -> bool:
    """Removes all pins under a directory, and the directory; whether it was there.

    What is attached keeps running until it is detached.
    """
    root = Path(directory)
    if not root.is_dir():
        return False
    shutil.rmtree(root)
    return True


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A place beside the pins for what is being loaded; leftovers of a killed loader are removed first."""
    for old in root.glob("staging_*"):
        shutil.rmtree(old)
    staging = root / f"staging_{os.getpid()}"
    (staging / "progs").mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging)


def _load_object(path: Path, staging: Path, maps: Path, sizes: Mapping[str, int]) -> None:
    names = map_names(path.read_bytes())
    wanted = {name: size for name, size in sizes.items() if name in names and not (maps / name).exists()}
    if wanted:
        _create_sized(path, staging, maps, wanted)
    aside = staging / "maps"
    progs = staging / f"p_{path.stem}"
    _bpftool(path, progs, aside, [name for name in names if (maps / name).exists()], maps)
    aside.mkdir(exist_ok=True)  # of an object without maps there is none
    for pin in aside.iterdir():
        shared = pin.name in names and not (maps / pin.name).exists()
        if shared:
            pin.rename(maps / pin.name)
    shutil.rmtree(aside)
    for pin in progs.iterdir():
        pin.rename(staging / "progs" / pin.name)


def _create_sized(path: Path, staging: Path, maps: Path, sizes: Mapping[str, int]) -> None:
    """Makes maps of another size than their object's: its own show the rest, and are dropped again."""
    trial = staging / "trial"
    present = [name for name in map_names(path.read_bytes()) if (maps / name).exists()]
    _bpftool(path, trial / "progs", trial / "maps", present, maps)
    for name, size in sizes.items():
        with contextlib.closing(Map.open(trial / "maps" / name)) as model:
            kind = (model.type, model.key_size, model.value_size)
            with contextlib.closing(Map.create(*kind, size, model.flags, name)) as made:
                made.pin(maps / name)
    shutil.rmtree(trial)


def _resize(pin: Path, size: int, staging: Path) -> None:
    """Replaces a pinned map by one of another size; the old one lives on in the programs that use it."""
    if not pin.exists():
        return
    with contextlib.closing(Map.open(pin)) as old:
        if old.max_entries == size:
            return
        with contextlib.closing(Map.create(old.type, old.key_size, old.value_size, size, old.flags, old.name)) as new:
            try:
                new.update(old.items())
            except OSError as error:
                raise MeshnetError(f"map {pin.name} holds too many entries for a size of {size}: {error}") from error
            new.pin(staging / pin.name)
    (staging / pin.name).rename(pin)


def _publish(new: Path, current: Path) -> None:
    names = {pin.name for pin in new.iterdir()}
    for name in names:
        (new / name).rename(current / name)
    for pin in current.iterdir():
        if pin.name not in names:
            pin.unlink()


def _bpftool(path: Path, progs: Path, maps: Path, reuse: Sequence[str], reuse_dir: Path) -> None:
    tool = shutil.which("bpftool") or "/usr/sbin/bpftool"
    progs.parent.mkdir(exist_ok=True)
    command = [tool, "prog", "loadall", str(path), str(progs)]
    for name in reuse:
        command += ["map", "name", name, "pinned", str(reuse_dir / name)]
    command += ["pinmaps", str(maps)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    except FileNotFoundError as error:
        raise MeshnetError("bpftool is not installed: apt-get install bpftool") from error
    if done.returncode:
        raise MeshnetError(f"the kernel does not take {path.name}: {reason(done.stderr)}")


def reason(log: str) -> str:
    """The telling line of what bpftool and the verifier wrote: the last before the log's end, else the last one."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    program = ""
    for index, line in enumerate(lines):
        if line.startswith("libbpf: prog '"):
            program = line.split("'")[1]
        if "END PROG LOAD LOG" in line:
            before = [text for text in lines[:index] if not text.startswith(("processed ", "libbpf:", "verification"))]
            return f"program {program}: {before[-1] if before else 'no reason given'}"[:300]
    return (lines[-1] if lines else "no reason given")[:300]


def map_names(elf: bytes) -> list[str]:
    """Names of the maps that an ELF64 object defines: the symbols of its section `.maps`.

    MeshnetError if it is not a little- or big-endian ELF64 file. (ELF-64 object file format, 1998.)
    """
    if elf[:5] != b"\x7fELF\x02" or len(elf) < 64:
        raise MeshnetError("not an ELF64 object file")
    order = "<" if elf[5] == 1 else ">"
    (offset,) = struct.unpack_from(order + "Q", elf, 40)
    size, count, names_at = struct.unpack_from(order + "HHH", elf, 58)
    # name, type, flags, address, offset, size, link, info, alignment, entry size
    sections = [struct.unpack_from(order + "IIQQQQIIQQ", elf, offset + size * i) for i in range(count)]
    strings = sections[names_at]
    maps = {i for i, section in enumerate(sections) if _string(elf, strings[4] + section[0]) == ".maps"}
    found = []
    for section in sections:
        if section[1] != 2:  # SHT_SYMTAB
            continue
        table = sections[section[6]]
        for at in range(section[4], section[4] + section[5], section[9]):
            name, info, _, index = struct.unpack_from(order + "IBBH", elf, at)
            if index in maps and info & 15 == 1:  # STT_OBJECT
                found.append(_string(elf, table[4] + name))
    return sorted(found)


def _string(elf: bytes, at: int) -> str:
    return elf[at : elf.index(b"\0", at)].decode()


def _digest(objects: Sequence[Path], sizes: Mapping[str, int]) -> str:
    digest = hashlib.sha256(repr(sorted(sizes.items())).encode())
    for path in sorted(objects):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:24]

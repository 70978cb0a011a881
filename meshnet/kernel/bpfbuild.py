"""Compiles bpf/*.c to bpf/*.o, once per content: `python -m meshnet.kernel.bpfbuild`.

In a checkout `meshnet/_bpf` is a link to that folder; an installed wheel has it there, with the objects. An object
is up to date when the hash in its `.sum` file equals that of its source, all headers and the compiler's flags.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from meshnet.errors import MeshnetError

FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror")
CACHE = Path("/var/cache/meshnet")  # what is compiled besides the data path
_DAY = 86400.0  # s


def source_dir() -> Path:
    """The folder with the BPF sources and objects. MeshnetError if this installation has none."""
    directory = Path(__file__).resolve().parents[1] / "_bpf"
    if not directory.is_dir():
        raise MeshnetError("the BPF programs are missing from this installation: reinstall meshnet")
    return directory.resolve()


def objects() -> list[Path]:
    """The object files to load, compiled first where a source is newer than its object and clang is there.

    MeshnetError: no compiler and no object, or a source that does not compile.
    """
    directory = source_dir()
    sources = sorted(directory.glob("*.c"))
    if not sources:
        shipped = sorted(directory.glob("*.o"))
        if shipped:
            return shipped
        raise MeshnetError(f"no BPF programs in {directory}: reinstall meshnet")
    return [_object(source) for source in sources]


def _object(source: Path) -> Path:
    target, stamp = source.with_suffix(".o"), source.with_suffix(".sum")
    digest = _digest(source)
    if target.exists() and stamp.exists() and stamp.read_text().strip() == digest:
        return target
    clang = shutil.which("clang")
    if clang is None:
        if target.exists() and not stamp.exists():
            return target  # shipped without a stamp: nothing to compare with
        raise MeshnetError(f"{target.name} is not built and there is no clang: apt-get install clang libbpf-dev")
    compile_object(clang, source, target)
    stamp.write_text(digest + "\n")
    return target


def cached(source: Path) -> Path:
    """The object of a program that is no part of the data path, compiled if this source was not yet.

    MeshnetError without clang, or if it does not compile.
    """
    digest = hashlib.sha256(" ".join(FLAGS).encode() + source.read_bytes()).hexdigest()[:16]
    target = CACHE / f"{source.stem}-{digest}.o"
    if in_use(target):
        return target
    clang = shutil.which("clang")
    if clang is None:
        raise MeshnetError("clang is not installed: apt-get install clang libbpf-dev")
    CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    compile_object(clang, source, target)
    return target


def in_use(target: Path) -> bool:
    """Whether a file of the cache is there; then it stays for another day. Others that nobody used for a day go: a
    second checkout may be at work with its own."""
    for old in CACHE.glob(f"{target.name.partition('-')[0]}-*"):
        with contextlib.suppress(FileNotFoundError):
            if old != target and time.time() - old.stat().st_mtime > _DAY:
                old.unlink()
    try:
        os.utime(target)
    except FileNotFoundError:
        return False
    return True


def compile_object(clang: str, source: Path, target: Path) -> None:
    """Runs the compiler; the target is replaced in one step. MeshnetError with the compiler's first error."""
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as file:
        temporary = Path(file.name)
    command = [clang, *FLAGS, *_include_flags(), "-c", str(source), "-o", str(temporary)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error:" in line] or done.stderr.splitlines()
            reason = errors[0] if errors else f"exit status {done.returncode}"
            raise MeshnetError(f"clang cannot compile {source.name}: {reason}")
        temporary.chmod(0o644)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _include_flags() -> list[str]:
    """Debian keeps asm/types.h per architecture, out of clang's sight when it targets bpf."""
    multiarch = Path(f"/usr/include/{platform.machine()}-linux-gnu")
    return [f"-I{multiarch}"] if multiarch.is_dir() else []


def _digest(source: Path) -> str:
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in (source, *sorted(source.parent.glob("*.h"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def main() -> int:
    try:
        for path in objects():
            print(path)
    except MeshnetError as error:
        print(f"meshnet: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

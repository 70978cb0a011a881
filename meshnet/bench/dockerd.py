"""A real dockerd to compare with, in namespaces of its own: nothing of it is on the host, and it ends with its user.

It has its own network, mounts and processes; its state is in memory, and gone with it. What it needs may be installed,
or unpacked from Debian's packages into a folder (scripts/dockerd). A shell is the first process of its namespace and
waits for the end of its input: when whoever started it ends, in whatever way, the kernel ends everything in there.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from meshnet.api.client import EngineClient
from meshnet.errors import MeshnetError

FOLDER = Path("/var/cache/meshnet/dockerd")
ADDRESS = "192.0.2.1"  # of the only node (RFC 5737)
_NEEDED = ("dockerd", "containerd", "containerd-shim-runc-v2", "runc")
_PREFIX = "meshnet-dockerd-"
_STARTING = 30.0  # s
_EMPTY = 5.0  # s that its groups get to be empty after its end
_SCRIPT = """
set -e
mount --make-rprivate /
mkdir "$PLACE/cgroup"
mount --rbind /sys/fs/cgroup "$PLACE/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$PLACE/cgroup" /sys/fs/cgroup
mount -t tmpfs tmpfs /run
ip link set lo up
ip link add eth0 type veth peer name eth1
ip link set eth1 up
ip link set eth0 up
ip address add "$ADDRESS/24" dev eth0
ip route add default via 192.0.2.2
dockerd --host "unix://$PLACE/docker.sock" --data-root /run/data --exec-root /run/docker --pidfile /run/docker.pid \
  --cgroup-parent "/$GROUP" --log-level error >"$PLACE/log" 2>&1 </dev/null &
read -r _ || true
"""


def missing(folder: Path = FOLDER) -> str:
    """Why there is no dockerd to start, with how to get one; "" if there is."""
    path = _path(folder)
    lacking = [name for name in _NEEDED if shutil.which(name, path=path) is None]
    if _iptables(path) is None:
        lacking.append("iptables")
    if not lacking:
        return ""
    return f"there is no {', '.join(lacking)}; scripts/dockerd takes Debian's into {FOLDER}, and starts nothing"


def _path(folder: Path) -> str:
    return f"{folder}/usr/sbin:{folder}/usr/bin:{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"


def _iptables(path: str) -> str | None:
    return shutil.which("iptables", path=path) or shutil.which("xtables-nft-multi", path=path)


@contextlib.contextmanager
def running(folder: Path = FOLDER) -> Iterator[Path]:
    """The socket of a dockerd that has a swarm of its own. Raises MeshnetError if it does not come up."""
    if lacking := missing(folder):
        raise MeshnetError(lacking)
    group = f"{_PREFIX}{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix=f"{group}-") as made:
        place = Path(made)
        path = _path(folder)
        (place / "bin").mkdir()
        for name in ("iptables", "ip6tables"):
            (place / "bin" / name).symlink_to(_iptables(path) or "")
        libraries = [*glob.glob(f"{folder}/usr/lib/*-linux-gnu"), *glob.glob(f"{folder}/lib/*-linux-gnu")]
        given = {
            "PATH": f"{place}/bin:{path}",
            "PLACE": made,
            "ADDRESS": ADDRESS,
            "GROUP": group,
            "LD_LIBRARY_PATH": ":".join(libraries),
        }
        if libraries:
            given["XTABLES_LIBDIR"] = f"{libraries[0]}/xtables"
        command = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child"]
        shell = subprocess.Popen(
            [*command, "sh", "-c", _SCRIPT], env=given, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            yield _with_a_swarm(place, shell)
        finally:
            shell.communicate("\n")
            _remove_groups(group)


def sweep() -> list[str]:
    """Removes the folders and control groups of those whose user was killed; returns their names."""
    folders = Path(tempfile.gettempdir()).glob(f"{_PREFIX}*")
    groups = glob.glob(f"/sys/fs/cgroup/{_PREFIX}*") + glob.glob(f"/sys/fs/cgroup/*/{_PREFIX}*")
    dead = set()
    for path in (*folders, *map(Path, groups)):
        found = re.fullmatch(rf"({_PREFIX}(\d+))(-\w+)?", path.name)
        if found is None or os.path.exists(f"/proc/{found[2]}"):
            continue
        with contextlib.suppress(OSError):
            seen = path.lstat()
            if stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid():
                dead.add(found[1])
                if found[3]:
                    shutil.rmtree(path, ignore_errors=True)
    for name in dead:
        _remove_groups(name)
    return sorted(dead)


def _with_a_swarm(place: Path, shell: subprocess.Popen[str]) -> Path:
    """Waits for the socket, and makes a swarm of one node."""
    client, deadline = EngineClient(place / "docker.sock"), time.monotonic() + _STARTING
    while True:
        try:
            client.get("/version")
            break
        except MeshnetError:
            if shell.poll() is not None or time.monotonic() > deadline:
                raise MeshnetError(f"dockerd does not start: {_last_words(place, shell)}") from None
            time.sleep(0.05)
    client.post("/swarm/init", {"ListenAddr": f"{ADDRESS}:2377", "AdvertiseAddr": ADDRESS})
    return place / "docker.sock"


def _last_words(place: Path, shell: subprocess.Popen[str]) -> str:
    said = ""
    with contextlib.suppress(OSError):
        said = (place / "log").read_text(errors="replace")
    if shell.poll() is not None and shell.stderr is not None:
        said += shell.stderr.read()
    return said.strip().rpartition("\n")[2] or "it said nothing"


def _remove_groups(name: str) -> None:
    """Takes away the control groups that it made, once the kernel has ended everything in them."""
    deadline = time.monotonic() + _EMPTY
    tops = [Path(top) for top in glob.glob(f"/sys/fs/cgroup/{name}") + glob.glob(f"/sys/fs/cgroup/*/{name}")]
    for top in tops:
        while top.exists() and time.monotonic() < deadline:
            for each in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
                with contextlib.suppress(OSError):
                    each.rmdir()
            try:
                top.rmdir()
            except OSError:
                time.sleep(0.02)

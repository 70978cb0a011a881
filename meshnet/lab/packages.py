"""Debian packages whose programs a lab uses, unpacked privately: nothing is installed, and no service is started.

A package, with all it needs that the machine has not, becomes one directory below /var/cache/meshnet/packages. The
tasks of a lab that names it (`packages:` in lab.yml) see it as a layer over the machine's own root; commands on its
nodes and clients find its programs on their PATH.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from meshnet.errors import MeshnetError
from meshnet.lab.spec import Lab

PLACE = Path("/var/cache/meshnet/packages")
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{1,60}")
# A program, and the package that brings it: what labs and people's own checks commonly call.
PROGRAMS = {
    "arping": "iputils-arping",
    "bpftool": "bpftool",
    "bridge": "iproute2",
    "curl": "curl",
    "dig": "bind9-dnsutils",
    "ethtool": "ethtool",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "jq": "jq",
    "mariadb": "mariadb-client-core",
    "mariadbd": "mariadb-server-core",
    "mtr": "mtr-tiny",
    "nc": "netcat-openbsd",
    "nft": "nftables",
    "nginx": "nginx",
    "nslookup": "bind9-dnsutils",
    "php-fpm8.2": "php8.2-fpm",
    "ping": "iputils-ping",
    "socat": "socat",
    "ss": "iproute2",
    "tc": "iproute2",
    "tcpdump": "tcpdump",
    "tracepath": "iputils-tracepath",
    "traceroute": "traceroute",
    "wget": "wget",
    "wrk": "wrk",
}
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # links into /usr on a Debian machine
_DOWNLOAD = (
    *("apt-get", "install", "--download-only", "--reinstall", "--yes", "-qq", "--no-install-recommends"),
    *("-o", "APT::Sandbox::User=root"),  # apt's own user cannot reach the place
    *("-o", "Debug::NoLocking=1"),  # the place is nobody else's, and nothing is installed
)
_TIMEOUT = 300.0


def how_to_get(program: str, directory: str) -> str:
    """What to do about a program that the machine does not have and the lab in `directory` needs."""
    package = PROGRAMS.get(program)
    if package is None:
        return f"find its Debian package with: apt-file search bin/{program}"
    file = shlex.quote(f"{directory.rstrip('/')}/lab.yml")
    return (
        f"Debian's {package} brings it: name it in the packages of {file}, run meshnet lab get "
        f"{shlex.quote(directory)}, and bring the lab up again"
    )


def missing(lab: Lab) -> list[str]:
    """Those of the lab's packages that are not unpacked here."""
    return [package for package in lab.packages if not (PLACE / package).is_dir()]


def check(lab: Lab) -> None:
    """Raises MeshnetError that says what to do if a package of the lab is missing."""
    if lacks := missing(lab):
        raise MeshnetError(
            f"the lab {lab.name} uses Debian's {', '.join(lacks)}; get them, unpacked below {PLACE} and not "
            f"installed, with: meshnet lab get {lab.directory}"
        )


def layers(lab: Lab) -> tuple[str, ...]:
    """Directories that the lab's tasks see over the machine's root."""
    return tuple(str(PLACE / package) for package in lab.packages)


def environment(lab: Lab) -> dict[str, str]:
    """Variables with which a command on a node or client finds the programs of the lab's packages."""
    if not lab.packages:
        return {}
    roots = layers(lab)
    libraries = [f"{root}/usr/lib/{platform.machine()}-linux-gnu" for root in roots]
    programs = [f"{root}/usr/{folder}" for root in roots for folder in ("sbin", "bin")]
    return {
        "PATH": ":".join([os.environ.get("PATH", os.defpath), *programs]),
        "LD_LIBRARY_PATH": ":".join([*filter(None, [os.environ.get("LD_LIBRARY_PATH")]), *libraries]),
    }


def get(package: str) -> None:
    """Downloads a package, and what it needs and the machine lacks, and unpacks them; nothing if that was done before.

    Raises MeshnetError with apt's own words.
    """
    if (PLACE / package).is_dir():
        return
    PLACE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PLACE, prefix=".") as name:
        place = Path(name)
        archives, root = place / "archives", place / "root"
        (archives / "partial").mkdir(parents=True)
        root.mkdir(mode=0o755)
        for folder in (place, archives, archives / "partial"):
            folder.chmod(0o755)
        download = [*_DOWNLOAD, "-o", f"Dir::Cache::archives={archives}", package]
        try:
            _say(download, f"cannot get {package}")
        except MeshnetError:  # the lists may be missing, or older than what the mirrors have
            _say(["apt-get", "update", "-qq"], "cannot update apt's lists")
            _say(download, f"cannot get {package}")
        for archive in sorted(archives.glob("*.deb")):
            _say(["dpkg-deb", "--extract", str(archive), str(root)], f"cannot unpack {archive.name}")
        merge(root)
        try:
            os.rename(root, PLACE / package)
        except OSError:
            if not (PLACE / package).is_dir():  # else somebody else was faster
                raise


def merge(root: Path) -> None:
    """Moves what stands in /bin, /lib ... to /usr, where the machine's links of these names lead."""
    for name in _MERGED:
        if not (root / name).is_dir():
            continue
        shutil.copytree(root / name, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(root / name)


def _say(words: Iterable[str], what: str) -> None:
    command = list(words)
    if shutil.which(command[0]) is None:
        raise MeshnetError(f"{what}: there is no {command[0]}; this needs a Debian machine")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False, env=environment)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise MeshnetError(f"{what}: {lines[-1]}")

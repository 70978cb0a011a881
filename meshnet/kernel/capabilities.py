"""What this machine's kernel can do of what meshnet needs, found by trying.

Devices are made in a namespace without a name that ends with the thread that made it, so nothing is left behind, not
even after a crash. Each probe that fails comes with the fix.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from meshnet.errors import MeshnetError
from meshnet.kernel import bpf, netns, nft
from meshnet.kernel import requests as rt
from meshnet.kernel.attributes import attribute
from meshnet.kernel.channel import Request, request
from meshnet.kernel.dumps import Rule
from meshnet.kernel.netlink import Netlink

OLDEST = (6, 1)
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21

# command -> Debian package
TOOLS = {
    "clang": "clang",
    "bpftool": "bpftool",
    "nft": "nftables",
    "tc": "iproute2",
    "conmon": "conmon",
}


@dataclass(frozen=True, slots=True)
class Probe:
    """What was tried, whether it works, what was found, and what would make it work. `needed`: nothing runs without."""

    name: str
    works: bool
    detail: str = ""
    fix: str = ""
    needed: bool = True


def probes() -> list[Probe]:
    """Every probe, in the order in which fixing them makes sense; takes some 0.1 s. Raises nothing."""
    found = [_root(), _version()]
    if not found[0].works:
        return found + _files() + _tools()
    found += _in_namespace()
    return found + _files() + [_ip_vs(), esp()] + _tools()


def _root() -> Probe:
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    capabilities = int(match.group(1), 16) if match else 0
    works = os.geteuid() == 0 and all(capabilities >> bit & 1 for bit in (_CAP_NET_ADMIN, _CAP_SYS_ADMIN))
    return Probe("root", works, f"uid {os.geteuid()}", "" if works else "run as root, with all capabilities")


def _version() -> Probe:
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    works = match is not None and (int(match.group(1)), int(match.group(2))) >= OLDEST
    fix = "" if works else f"boot a kernel of {OLDEST[0]}.{OLDEST[1]} or newer (Debian 12 has one)"
    return Probe("kernel", works, release, fix)


def _in_namespace() -> list[Probe]:
    try:
        return netns.run_in_new(_devices)
    except OSError as error:
        fix = "allow new network namespaces: a container needs --privileged, a kernel CONFIG_NET_NS"
        return [Probe("namespaces", False, str(error), fix)]


def _devices() -> list[Probe]:
    with Netlink() as netlink:

        def tried(name: str, option: str, *wanted: Request, needed: bool = True) -> Probe:
            return _tried(name, lambda: netlink.send(*wanted), _kernel_fix(option), needed)

        found = [
            Probe("namespaces", True, "tried"),
            tried("veth", "VETH", rt.veth_add(rt.VethEnd("probe0"), rt.VethEnd("probe1"))),
            tried("bridge", "BRIDGE", rt.bridge_add("probe2")),
            tried("vxlan", "VXLAN", rt.vxlan_add("probe3"), rt.link_set("probe3", up=True)),
        ]
        port = netlink.link("probe0")
        index = port.index if port else 1
        found.append(tried("clsact", "NET_SCH_INGRESS", rt.clsact_add(index)))
        found.append(tried("policy routing", "IP_MULTIPLE_TABLES", rt.rule_add(Rule(100, 100, iif="lo", invert=True))))
        netem = tried("netem", "NET_SCH_NETEM", _netem_add(index), needed=False)
        found.append(netem if netem.works else replace(netem, detail="this kernel has no netem"))
        return [*found, _nft()]


def _tried(name: str, attempt: Callable[[], object], fix: str, needed: bool = True) -> Probe:
    try:
        attempt()
    except OSError as error:
        return Probe(name, False, error.strerror or str(error), fix, needed)
    except MeshnetError as error:
        return Probe(name, False, str(error), fix, needed)
    return Probe(name, True, "tried", needed=needed)


def _kernel_fix(option: str) -> str:
    return (
        f"boot a kernel with CONFIG_{option} (Debian's has it; in a minimal image: apt-get install linux-image-amd64)"
    )


def _netem_add(index: int) -> Request:
    options = struct.pack("=IIIIII", 1000, 1000, 0, 0, 0, 0)  # struct tc_netem_qopt
    body = struct.pack("=BxxxiIII", 0, index, 0x10000, 0xFFFFFFFF, 0)
    body += attribute(1, b"netem\0") + attribute(2, options)
    return request(rt.RTM_NEWQDISC, rt.NLM_F_CREATE | rt.NLM_F_EXCL, body, f"add netem dev {index}")


def _nft() -> Probe:
    rules = (
        "table ip meshnet-probe {\n"
        "chain forward { type filter hook forward priority filter; ct state established accept\n"
        'iifname "mnt*" drop; }\n'
        "chain nat { type nat hook postrouting priority srcnat; meta mark 0x6d6e masquerade; }\n}"
    )
    return _tried("nftables", lambda: nft.apply(rules), _kernel_fix("NF_TABLES, NFT_CT, NFT_MASQ and NFT_NAT"))


def _files() -> list[Probe]:
    return [_bpf_call(), _bpffs(), _cgroup2(), _btf(), _jit()]


def _bpf_call() -> Probe:
    def attempt() -> None:
        bpf.Map.create(kind=1, key_size=4, value_size=4, max_entries=1).close()

    return _tried("bpf", attempt, "run as root on a kernel with CONFIG_BPF_SYSCALL, not locked down")


def _bpffs() -> Probe:
    points = bpf.mount_points("bpf")
    if points:
        return Probe("bpffs", True, points[0])
    works = "\tbpf\n" in Path("/proc/filesystems").read_text() and os.path.isdir("/sys/fs/bpf")
    detail = "not mounted; meshnet mounts /sys/fs/bpf when it starts" if works else "unknown to this kernel"
    return Probe("bpffs", works, detail, "" if works else _kernel_fix("BPF_SYSCALL"))


def _cgroup2() -> Probe:
    try:
        root = bpf.cgroup2_root()
    except MeshnetError as error:
        return Probe("cgroup2", False, "not mounted", str(error).partition(": ")[2])
    works = os.access(root, os.W_OK) and (root / "cgroup.procs").exists()
    fix = "" if works else f"mount it writable: mount -o remount,rw {root}"
    return Probe("cgroup2", works, str(root), fix)


def _btf() -> Probe:
    works = os.path.exists("/sys/kernel/btf/vmlinux")
    fix = "" if works else _kernel_fix("DEBUG_INFO_BTF")
    return Probe("BTF", works, "/sys/kernel/btf/vmlinux" if works else "missing", fix, needed=False)


def _jit() -> Probe:
    try:
        value = Path("/proc/sys/net/core/bpf_jit_enable").read_text().strip()
    except OSError:
        return Probe("BPF JIT", True, "unknown, seen only in the host's namespace", needed=False)
    works = value != "0"
    fix = "" if works else "sysctl -w net.core.bpf_jit_enable=1 (programs run several times slower without)"
    return Probe("BPF JIT", works, f"bpf_jit_enable={value}", fix, needed=False)


def _ip_vs() -> Probe:
    """Looked up rather than tried: a trial would load the module into a machine that may never use it."""
    loaded = os.path.exists("/proc/net/ip_vs")
    works = loaded or _has_module("ip_vs")
    detail = "loaded" if loaded else "available" if works else "missing"
    return Probe("IPVS", works, detail, "" if works else _kernel_fix("IP_VS"), needed=False)


def _has_module(name: str) -> bool:
    directory = Path("/lib/modules") / platform.release()
    for listing in ("modules.builtin", "modules.dep"):
        try:
            text = (directory / listing).read_text()
        except OSError:
            continue
        if re.search(rf"/{name}\.ko", text):
            return True
    return False


def esp() -> Probe:
    """Whether packets can be encrypted as overlay networks need it. Raises nothing."""

    def attempt() -> None:
        state = "xfrm state add src 127.0.0.1 dst 127.0.0.2 proto esp spi 1 mode transport aead rfc4106(gcm(aes))"
        command = ["ip", *state.split(), "0x" + "01" * 20, "128"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().removeprefix("Error: ").rstrip(".")
            raise MeshnetError(said or f"ip xfrm ended with {done.returncode}")

    fix = "nothing needs it yet: meshnet does not encrypt overlay networks (CONFIG_XFRM_USER, INET_ESP and CRYPTO_GCM)"
    return _tried("ESP", lambda: netns.run_in_new(attempt), fix, needed=False)


def _tools() -> list[Probe]:
    found = [_tool(command, [command], package) for command, package in TOOLS.items()]
    return [*found, _tool("OCI runtime", ["crun"], "crun"), _bcc()]


def _bcc() -> Probe:
    """For `meshnet trace` only. Debian's package, which Debian's own Python imports; PyPI's bcc is something else."""
    command = ["/usr/bin/python3", "-Ic", "import importlib.util as u, sys; sys.exit(not u.find_spec('bcc.table'))"]
    works = shutil.which(command[0]) is not None and not subprocess.run(command, capture_output=True).returncode
    fix = "" if works else "apt-get install python3-bpfcc (meshnet trace drops is compiled by it)"
    return Probe("bcc", works, "python3-bpfcc" if works else "missing", fix, needed=False)


def _tool(name: str, commands: Iterable[str], package: str) -> Probe:
    path = next((path for path in map(_which, commands) if path), None)
    return Probe(name, path is not None, path or "missing", "" if path else f"apt-get install {package}")


def _which(command: str) -> str | None:
    return shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")

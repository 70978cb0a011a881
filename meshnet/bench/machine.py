"""The machine a benchmark ran on, and what else it was doing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

METHOD = (
    "One thread on one CPU is client and server. Paths take turns in slices of about a millisecond. A cost is the "
    "thread's CPU time per operation, softirqs included; the numbers are medians. A ratio is the baseline's cost over "
    "the path's in the same round: above 1 is faster. Caches are hot and nobody is woken: the cost of the path alone."
)
# program, how it tells its version
_TOOLS = {"ip": "-V", "nft": "--version", "gcc": "--version", "clang": "--version", "haproxy": "-v"}


def about() -> dict[str, str]:
    """Machine, kernel, versions and method, for people."""
    now = time.strftime("%Y-%m-%d %H:%M:%S %z")
    found = {
        "when": now,
        "meshnet": metadata.version("meshnet"),
        "kernel": f"{platform.release()} {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} CPUs",
        "virtual": "yes" if _virtual() else "no",
        "BPF JIT": _first_line(Path("/proc/sys/net/core/bpf_jit_enable")),
    }
    for tool, option in _TOOLS.items():
        path = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if path:
            done = subprocess.run([path, option], capture_output=True, text=True, check=False)
            found[tool] = (done.stdout or done.stderr).partition("\n")[0].strip()
    return found | {"method": METHOD}


def _first_line(path: Path) -> str:
    try:
        return path.read_text().partition("\n")[0]
    except OSError:
        return "unknown"


def _processor() -> str:
    try:
        match = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else "unknown processor"


def _virtual() -> bool:
    try:
        return re.search(r"^flags.*\bhypervisor\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE) is not None
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Seconds since boot of one CPU, and the clock at which they were read."""

    at: float
    busy: float
    stolen: float


def cpu_time(cpu: int) -> CpuTime:
    """What /proc/stat says of a CPU (proc(5))."""
    tick = os.sysconf("SC_CLK_TCK")
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{cpu}":
            user, nice, system, _, _, irq, softirq, stolen = (int(field) / tick for field in fields[:8])
            return CpuTime(time.monotonic(), user + nice + system + irq + softirq, stolen)
    return CpuTime(time.monotonic(), 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Work:
    """CPU seconds since boot: of all CPUs, of one cgroup2 group on them, taken by the hypervisor; and the clock."""

    at: float
    busy: float
    own: float
    stolen: float


def work(group: Path) -> Work:
    """What all CPUs did, and how much of it for the processes of a group."""
    cpus = [cpu_time(cpu) for cpu in range(os.cpu_count() or 1)]
    usage = re.search(r"^usage_usec (\d+)$", (group / "cpu.stat").read_text(), re.MULTILINE)
    own = int(usage[1]) / 1e6 if usage else 0.0
    return Work(time.monotonic(), sum(cpu.busy for cpu in cpus), own, sum(cpu.stolen for cpu in cpus))


def shares(before: Work, after: Work) -> tuple[float, float]:
    """Shares of 1 of the machine's CPU time: stolen by the hypervisor, and had by processes outside the group."""
    whole = max(after.at - before.at, 0.001) * (os.cpu_count() or 1)
    others = (after.busy - before.busy) - (after.own - before.own)
    return round((after.stolen - before.stolen) / whole, 3), max(0.0, round(others / whole, 3))


def quietest_cpu() -> int:
    """Of the CPUs that this process may use, the one that did least in the last fifth of a second."""
    allowed = sorted(os.sched_getaffinity(0))
    before = {cpu: cpu_time(cpu) for cpu in allowed}
    time.sleep(0.2)
    return min(allowed, key=lambda cpu: cpu_time(cpu).busy - before[cpu].busy)

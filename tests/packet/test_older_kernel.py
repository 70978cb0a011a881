"""The programs on the oldest kernel they are made for: Debian 12's 6.1, as User Mode Linux.

That kernel has neither type information of its own nor unaligned loads nor a compiler for BPF: what loads there asks
for nothing but what 6.1 has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meshnet.datapath.ebpf.names import entry
from meshnet.kernel import bpfbuild

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang"),
    pytest.mark.skipif(
        shutil.which("linux.uml") is None, reason="needs User Mode Linux: apt-get install user-mode-linux"
    ),
]
XSTATE = Path(__file__).with_name("xstate.c")
BOOT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t bpf bpf /sys/fs/bpf; mount -t tmpfs tmp /run
uname -r
{script}
echo done
echo o > /proc/sysrq-trigger
sleep 60
"""
LOAD = """
for object in {objects}; do
  name=$(basename "$object" .o)
  if bpftool prog loadall "$object" "/sys/fs/bpf/$name" > /run/log 2>&1; then echo "loaded $name"
  else echo "refused $name"; grep -a -B 12 '^processed' /run/log; fi
done
"""
ASK = """
for module in sch_ingress cls_bpf; do insmod /usr/lib/uml/modules/$(uname -r)/kernel/net/sched/$module.ko; done
ip link set lo up
bpftool prog loadall {object} /sys/fs/bpf/lo pinmaps /sys/fs/bpf/maps
bpftool map update pinned /sys/fs/bpf/maps/names key hex {key} value hex {value}
tc qdisc add dev lo clsact
wait=20
for zone in 7 8; do
  tc filter replace dev lo egress handle 1 prio 1 bpf da object-pinned /sys/fs/bpf/lo/lo_steer classid 0:$zone
  echo "zone $zone:" $(dig -r @127.0.0.11 +tries=1 +time=$wait +short tasks.WEB)
  wait=1
done
"""
LIMITS = """
mount -t tmpfs none /sys/fs/cgroup; mkdir /run/groups; mount -t cgroup2 none /run/groups
{python} {program}
"""
LIMITED = """
import os, pathlib, resource, sys
from meshnet.sandbox import limits
from meshnet.sandbox.spec import Limits
root = pathlib.Path("/run/groups")
print("before:", len(limits.missing(root)))
(root / "cgroup.subtree_control").write_text("+cpu +memory +pids")
print("after:", len(limits.missing(root)))
group = root / "meshnet" / "lab" / "node" / "task"
limits.apply(Limits(32 << 20, 500_000_000, 5), group, root)
print("files:", *((group / name).read_text().strip() for name in ("memory.max", "cpu.max", "pids.max")))
pid = os.fork()
if pid == 0:
    (group / "cgroup.procs").write_text("0")
    held = [b"x" * (1 << 20) for _ in range(64)]
    os._exit(0)
print("signal:", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
pid = os.fork()
if pid == 0:
    (group / "cgroup.procs").write_text("0")
    started = 0
    try:
        for _ in range(20):
            if os.fork() == 0:
                os.read(os.pipe()[0], 1)
            started += 1
    except BlockingIOError:
        print("forks:", started, flush=True)
    (group / "cgroup.kill").write_text("1")
os.waitpid(pid, 0)
"""


def boot(folder: Path, script: str) -> str:
    """What a script says on Linux 6.1."""
    init = folder / "init"
    init.write_text(BOOT.format(script=script))
    init.chmod(0o755)
    xstate = folder / "xstate.so"
    subprocess.run(["clang", "-shared", "-fPIC", "-O1", "-o", xstate, XSTATE], check=True, timeout=60)
    command = [
        "linux.uml",
        "rootfstype=hostfs",
        "rw",
        f"init={init}",
        "mem=512M",
        "con=null",
        "con0=null,fd:1",
        "quiet",
    ]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(folder), "LD_PRELOAD": str(xstate)},
        timeout=55,
        check=False,
    )
    output = done.stdout.decode(errors="replace").replace("\r", "")
    assert "\n6.1." in output, output
    return output


def test_programs_load_on_6_1(tmp_path: Path) -> None:
    """Every object loads on Linux 6.1, and says so within seconds."""
    objects = bpfbuild.objects()
    output = boot(tmp_path, LOAD.format(objects=" ".join(map(str, objects))))
    for path in objects:
        assert f"loaded {path.stem}" in output, output


@pytest.mark.skipif(shutil.which("dig") is None, reason="needs dig: apt-get install bind9-dnsutils")
def test_names_are_answered_on_6_1(tmp_path: Path) -> None:
    """The program on lo answers dig there too, for the zone that its filter names and for no other."""
    packed = entry(7, b"\5tasks\3web\0", (bytes((10, 0, 0, 3)), bytes((10, 0, 0, 4))), 5)
    assert packed
    key, value = (" ".join(f"{octet:02x}" for octet in part) for part in packed)
    (program,) = (path for path in bpfbuild.objects() if path.stem == "lo")
    output = boot(tmp_path, ASK.format(object=program, key=key, value=value))
    found = {line.split(":")[0]: line.split(":")[1] for line in output.splitlines() if line.startswith("zone ")}
    assert sorted(found["zone 7"].split()) == ["10.0.0.3", "10.0.0.4"], output
    assert "10.0.0" not in found["zone 8"], output


def test_limits_hold_on_6_1(tmp_path: Path) -> None:
    """Where cgroup2 accounts for memory, processors and processes, a container's group gets no more than its limits."""
    program = tmp_path / "limited.py"
    program.write_text(LIMITED)
    output = boot(tmp_path, LIMITS.format(python=sys.executable, program=program))
    found = dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)
    assert (found["before"], found["after"]) == ("3", "0"), output
    assert found["files"] == f"{32 << 20} 50000 100000 5", output
    assert found["signal"] == "-9", output
    assert found["forks"] == "4", output

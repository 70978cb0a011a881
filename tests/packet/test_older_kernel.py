"""The programs on the oldest kernel they are made for: Debian 12's 6.1, as User Mode Linux.

That kernel has neither type information of its own nor unaligned loads nor a compiler for BPF: what loads there asks
for nothing but what 6.1 has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from meshnet.kernel import bpfbuild

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang"),
    pytest.mark.skipif(
        shutil.which("linux.uml") is None, reason="needs User Mode Linux: apt-get install user-mode-linux"
    ),
]
INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t bpf bpf /sys/fs/bpf; mount -t tmpfs tmp /run
uname -r
for object in {objects}; do
  name=$(basename "$object" .o)
  if bpftool prog loadall "$object" "/sys/fs/bpf/$name" > /run/log 2>&1; then echo "loaded $name"
  else echo "refused $name"; grep -a -B 12 '^processed' /run/log; fi
done
echo done
echo o > /proc/sysrq-trigger
sleep 60
"""


def test_programs_load_on_6_1(tmp_path: Path) -> None:
    """Every object loads on Linux 6.1, and says so within seconds."""
    objects = bpfbuild.objects()
    init = tmp_path / "init"
    init.write_text(INIT.format(objects=" ".join(map(str, objects))))
    init.chmod(0o755)
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
        env={**os.environ, "TMPDIR": str(tmp_path)},
        timeout=55,
        check=False,
    )
    output = done.stdout.decode(errors="replace").replace("\r", "")
    assert "\n6.1." in output, output
    for path in objects:
        assert f"loaded {path.stem}" in output, output

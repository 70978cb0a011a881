"""What of a lab is on this machine, by looking everywhere a lab puts things: nothing, once it is down."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from meshnet import names
from meshnet.kernel.netlink import Netlink
from meshnet.lab import cgroups, down


def find(lab: str) -> list[str]:
    """A line per thing that carries the lab's name, sorted: namespaces, links, pins, groups, processes, mounts, files.

    Also the host's own nftables tables of that mark, of which there should never be one.
    """
    found = [f"namespace {name}" for name in down.namespaces(lab)]
    with Netlink() as host:
        found += [f"link {link.name}" for link in host.links() if link.alias.startswith(f"meshnet:{lab}:")]
    for directory in (names.lab_dir(lab), f"{names.BPFFS}/meshnet/{lab}", str(cgroups.path(lab))):
        found += [f"directory {folder}" for folder, _, _ in os.walk(directory)]
    found += [f"process {pid}" for pid in processes(lab)]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line.split()[4]}" for line in mounts if line.split()[4].startswith(names.lab_dir(lab) + "/")]
    return sorted(found + _host_tables())


def processes(lab: str) -> list[int]:
    """Every process in the groups of a lab."""
    return sorted(pid for folder, _, _ in os.walk(cgroups.path(lab)) for pid in cgroups.processes(Path(folder)))


def _host_tables() -> list[str]:
    done = subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, text=True, check=False)
    tables = [item["table"] for item in json.loads(done.stdout or "{}").get("nftables", []) if "table" in item]
    return [f"host table {table['family']} {table['name']}" for table in tables if table["name"] == "meshnet"]

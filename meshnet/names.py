"""Names of kernel objects and directories, fixed in one place so that every part finds what another made."""

from __future__ import annotations

import hashlib

RUN = "/run/meshnet"
BPFFS = "/sys/fs/bpf"
PIN_VERSION = 3


def node_netns(lab: str, node: str) -> str:
    """Network namespace of a node (or a client) of a lab."""
    return f"mn-{lab}-{node}"


def underlay_netns(lab: str) -> str:
    """Network namespace that holds a lab's underlay: the bridge every node and client is plugged into."""
    return f"mn-{lab}"


def task_netns(lab: str, node: str, task: str) -> str:
    """Network namespace of a task's sandbox; `task` is the task id."""
    return f"mn-{lab}-{node}-{task[:12]}"


def netns_path(name: str) -> str:
    return f"/run/netns/{name}"


def lab_dir(lab: str) -> str:
    return f"{RUN}/{lab}"


def node_dir(lab: str, node: str) -> str:
    """State of one node, mode 0700: agent.sock, agent.log, tasks/, store/ ..."""
    return f"{RUN}/{lab}/{node}"


def pin_dir(lab: str, node: str) -> str:
    """Where a node's BPF maps and programs are pinned; the version is that of the maps' layout."""
    return f"{BPFFS}/meshnet/{lab}/{node}/v{PIN_VERSION}"


def cgroup(lab: str, node: str, leaf: str = "") -> str:
    """cgroup2 group below the mount point: meshnet/<lab>/<node>[/<task id, or agent, exec>]."""
    return f"meshnet/{lab}/{node}" + (f"/{leaf}" if leaf else "")


def mark(lab: str, node: str, kind: str, ident: str) -> str:
    """The ownership mark a link carries as its ifalias."""
    return f"meshnet:{lab}:{node}:{kind}:{ident}"


def port_name(task: str, vni: int) -> str:
    """Name of the node-side end of a task's interface: `mnt` and 11 hex digits (IFNAMSIZ is 15)."""
    return "mnt" + hashlib.sha256(f"{task}/{vni}".encode()).hexdigest()[:11]

"""Bringing a lab up: first everything that could be wrong is looked at, then it is made; a failure undoes it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from meshnet import names
from meshnet.errors import ConflictError, MeshnetError
from meshnet.kernel import netns
from meshnet.lab import archives, converge, daemons, engine, impair, packages, processes, state, topology
from meshnet.lab.down import down
from meshnet.lab.interrupts import postponed
from meshnet.lab.spec import Lab

# A tool that a node needs, and the Debian package that brings it.
TOOLS = {"nft": "nftables", "bpftool": "bpftool", "conmon": "conmon", "crun": "crun", "tc": "iproute2"}
_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"

READY = 30.0  # s that nodes get to join,
READY_PER_NODE = 1.0  # and more where many share the machine

Report = Callable[[str], None]


def check(lab: Lab) -> None:
    """Raises MeshnetError for whatever keeps the lab from starting here. Changes nothing."""
    if os.geteuid() != 0:
        raise MeshnetError("a lab needs root (namespaces, eBPF); run it with sudo")
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool, path=_PATH) is None})
    if missing:
        raise MeshnetError(f"missing tools; run: apt-get install {' '.join(missing)}")
    if os.path.isdir(names.lab_dir(lab.name)):
        raise ConflictError(f"the lab {lab.name} is up already; take it down with: meshnet lab down {lab.name}")
    for namespace in topology.namespaces(lab):
        if netns.exists(namespace):
            raise ConflictError(
                f"the network namespace {namespace} exists already, and is no part of this lab; {_other(namespace)}"
            )
    impair.check(lab)
    packages.check(lab)


def _other(namespace: str) -> str:
    """What to do about a namespace with a name that the lab needs: never to delete what another lab lives in."""
    for lab in state.all_up():
        if namespace in topology.namespaces(lab):
            return f"the lab {lab.name} has it: rename this lab or its node"
    return f"rename this lab or its node, or remove it with: ip netns del {namespace}"


def bare(lab: Lab) -> Lab:
    """The lab with nodes that are in no swarm yet."""
    nodes = tuple(replace(node, role="worker") for node in lab.nodes)
    return replace(lab, bare=True, nodes=nodes, networks=(), services=(), secrets=(), configs=())


def up(lab: Lab, report: Report = lambda _: None) -> None:
    """Makes the lab and returns when it works; `report` hears what is being done.

    Raises MeshnetError; then nothing of the lab is left.
    """
    check(lab)
    claim = 0
    try:
        with postponed():
            claim = state.claim(lab)
        report(f"wiring nodes and clients to {lab.subnet}")
        topology.create(lab)
        impair.apply(lab)
        unpacked = archives.unpacked(lab)
        report("starting managers and agents")
        _start(unpacked)
        wait_ready(lab, [node.name for node in lab.nodes], report, stays=False)
        if lab.services:
            converge.deploy(engine.of_lab(lab), lab, lambda found: report(converge.summary(found)))
    except BaseException as error:
        if not claim:
            raise
        with postponed():  # a second Ctrl-C does not leave half of it
            ours = state.is_ours(lab.name, claim)
            if state.claimed(lab.name) in (claim, 0):
                down(lab.name)
        if not ours and isinstance(error, Exception):
            raise MeshnetError(f"the lab {lab.name} was taken down while it came up") from None
        raise


def _start(lab: Lab) -> None:
    """Managers first: the first one makes the swarm, whose join tokens the agents are given. A `lab start` meanwhile
    waits: it would start what does not run yet a second time."""
    with ExitStack() as turns:
        for node in lab.nodes:
            turns.enter_context(state.turn(lab.name, node.name))
        _start_all(lab)


def _start_all(lab: Lab) -> None:
    found = [daemon for node in lab.nodes for daemon in daemons.of_node(lab, node)]
    if not lab.bare:
        daemons.write_managers(lab)
        daemons.preload({daemons.MANAGER})
        processes.spawn([daemon for daemon in found if daemon.role == daemons.MANAGER])
    daemons.preload({daemons.AGENT})
    daemons.write_agents(lab, {} if lab.bare else tokens(lab))
    processes.spawn([daemon for daemon in found if daemon.role == daemons.AGENT])


def tokens(lab: Lab, timeout: float = READY) -> dict[str, str]:
    """The swarm's join tokens, as soon as its manager answers.

    Raises MeshnetError if it ends, or does not answer within `timeout` seconds.
    """
    manager, deadline = engine.of_lab(lab), time.monotonic() + timeout
    while True:
        try:
            return manager.join_tokens()
        except MeshnetError as error:
            if error.status != engine.UNAVAILABLE or time.monotonic() > deadline:
                raise
            _check_alive(lab, lab.managers[0].name, daemons.MANAGER)
        time.sleep(engine.PAUSE / 4)


def _check_alive(lab: Lab, node: str, role: str) -> None:
    """Raises MeshnetError with the end of its log if a process has ended."""
    if not processes.alive(lab.name, node, role):
        raise MeshnetError(f"the {role} of {node} ended: {processes.log_tail(lab.name, node, role)}")


def wait_ready(lab: Lab, nodes: list[str], report: Report, timeout: float | None = None, *, stays: bool = True) -> None:
    """Returns when the manager sees every one of `nodes` ready, and each of them has known all members that run; of
    nodes that are in no swarm, when their agents answer.

    `stays`: after a failure the lab and its logs are still there to look at.

    Raises MeshnetError with the end of a log as soon as a manager or agent of theirs has ended, or after `timeout`
    seconds (by default what a lab of this size may take).
    """
    if timeout is None:
        timeout = READY + READY_PER_NODE * len(lab.nodes)
    deadline = time.monotonic() + timeout
    acquainted: set[str] = set()
    while True:
        for node in nodes:
            for daemon in daemons.of_node(lab, state.node_of(lab, node)):
                _check_alive(lab, node, daemon.role)
        if lab.bare:
            ready = _listening(lab, nodes)
        else:
            # Agents that start are not asked anything: what they do is waited for.
            members = _ready(lab)
            fresh = [node for node in nodes if node in members - acquainted]
            acquainted |= _acquainted(lab, fresh, members | set(nodes))
            ready = members & set(nodes) & acquainted
            ready |= _listening(lab, [node for node in nodes if node not in ready and daemons.is_out(lab, node)])
        waiting = [node for node in nodes if node not in ready]
        if not waiting:
            return
        report(f"{len(ready)} of {len(nodes)} nodes ready, waiting for {', '.join(waiting)}")
        if time.monotonic() > deadline:
            last = processes.log_tail(lab.name, waiting[0], daemons.AGENT, 1)
            where = f"see: meshnet lab logs {waiting[0]} --lab {lab.name}" if stays else f"its log ends with: {last}"
            raise MeshnetError(f"{waiting[0]} is not ready after {timeout:g} s; {where}")
        time.sleep(engine.PAUSE)


def _listening(lab: Lab, nodes: list[str]) -> set[str]:
    """Those of `nodes` whose agents answer, in a swarm or not."""
    return {node for node in nodes if engine.listens(lab, node)}


def _ready(lab: Lab) -> set[str]:
    """The nodes that the manager calls ready."""
    try:
        members = engine.of_lab(lab).nodes()
    except MeshnetError:
        return set()
    return {one.description.hostname for one in members if one.status.state == "ready"}


def _acquainted(lab: Lab, nodes: list[str], swarm: set[str]) -> set[str]:
    """Those of `nodes` whose agents have every running agent of `swarm` among their live members. Others run, too: of
    nodes that left the swarm or were removed from it."""
    running = {name for name in swarm if processes.alive(lab.name, name, daemons.AGENT)}
    found = set()
    for node in nodes:
        try:
            members = engine.agent(lab, node, "/inspect/members")
        except MeshnetError:
            continue
        if running <= {member["Node"] for member in members if member["State"] == "alive"}:
            found.add(node)
    return found

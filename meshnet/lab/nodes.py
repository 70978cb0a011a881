"""Stopping, killing and starting one node of a lab that is up."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from enum import Enum
from pathlib import Path

from meshnet.errors import ConflictError, MeshnetError, NotFoundError
from meshnet.gossip.settings import patience
from meshnet.lab import cgroups, daemons, engine, processes, state, tasks, topology
from meshnet.lab.spec import Lab
from meshnet.lab.up import Report, tokens, wait_ready

END = 15.0  # s that a process gets to end after it was told to


def _node(lab: Lab, name: str) -> None:
    state.node_of(lab, name)
    if os.geteuid() != 0:
        raise MeshnetError("this needs root; run it with sudo")


def stop(lab: Lab, name: str, report: Report = lambda _: None) -> None:
    """Ends a node in order: its tasks are drained and stopped, then its agent, then its manager.

    Raises ConflictError if it does not run, MeshnetError if something of it does not end.
    """
    _node(lab, name)
    if not any(processes.alive(lab.name, name, role) for role in (daemons.AGENT, daemons.MANAGER)):
        raise ConflictError(f"{name} does not run; start it with: meshnet lab start {name}")
    if processes.alive(lab.name, name, daemons.AGENT):
        report(f"stopping the tasks and the agent of {name}")
        engine.stop_agent(lab, name)
        _ended(lab, name, daemons.AGENT)
    if processes.alive(lab.name, name, daemons.MANAGER):
        report(f"stopping the manager of {name}")
        for pid in processes.pids(lab.name, name, daemons.MANAGER):
            with contextlib.suppress(ProcessLookupError):  # it ends by itself, or as soon as it is told
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGCONT)  # one that was stopped hears it too
        _ended(lab, name, daemons.MANAGER)


def _renew_token(lab: Lab, name: str) -> None:
    """A node that was removed meanwhile needs the token of now; one that is a member needs none, nor a manager."""
    if lab.bare:
        return
    manager = lab.managers[0].name
    if processes.alive(lab.name, manager, daemons.MANAGER):
        daemons.renew_token(lab, state.node_of(lab, name), tokens(lab))


def _ended(lab: Lab, name: str, role: str) -> None:
    deadline = time.monotonic() + END
    while processes.alive(lab.name, name, role):
        if time.monotonic() > deadline:
            raise MeshnetError(f"the {role} of {name} did not end; end it with: meshnet lab kill {name}")
        time.sleep(engine.PAUSE)


class Was(Enum):
    """What a node was before it was killed."""

    KILLED = "killed"
    ENDED = "ended"
    RUNNING = "running"


def kill(lab: Lab, name: str) -> Was:
    """Cuts a node's cable and kills every process of it at once, like a power cut. Running it twice does no harm.

    Returns what the node was before.
    """
    _node(lab, name)
    group = cgroups.path(lab.name, name)
    idle = Was.ENDED if topology.is_plugged(lab, name) else Was.KILLED
    was = Was.RUNNING if cgroups.populated(group) else idle
    topology.plug(lab, name, False)
    if cgroups.kill(group):
        for role in (daemons.AGENT, daemons.MANAGER):
            _ended(lab, name, role)
        deadline = time.monotonic() + END  # what is left is dying: a task takes its namespaces with it
        while cgroups.populated(group) and time.monotonic() < deadline:
            time.sleep(engine.PAUSE)
    return was


def after_kill(lab: Lab, name: str, was: Was) -> str:
    """What happens now that a node was killed, or why nothing does, for a person."""
    again = f"bring it back with: meshnet lab start {name}"
    if was is Was.KILLED:
        return f"it was killed before, and nothing of it ran; {again}"
    if was is Was.ENDED:
        return f"nothing of it ran; now its cable is cut, too; {again}"
    slow = patience(len(lab.nodes))
    avoided = f"traffic avoids it within {'a second' if slow == 1 else f'{slow:.0f} seconds'}"
    managers = [manager.name for manager in lab.managers]
    if name in managers:
        return f"{avoided}; nothing can be changed or replaced without the manager; {again}"
    if not any(processes.alive(lab.name, manager, daemons.MANAGER) for manager in managers):
        return f"{avoided}; no manager runs that would call it Down; {again}"
    return f"{avoided}; the manager calls it Down after {3 * daemons.heartbeat(lab):g} s; {again}"


def kill_task(lab: Lab, name: str) -> str:
    """Kills every process of a task at once and returns its full name. Raises NotFoundError if there is none, or if it
    has ended."""
    if lab.host(name) is not None:
        there = ", ".join(node.name for node in lab.nodes)
        running = ", ".join(task.short for task in tasks.all_tasks(lab)) or "none"
        raise MeshnetError(f"{name} is a client; nodes and tasks can be killed: nodes are {there}; tasks are {running}")
    task = tasks.find(lab, name)
    if not cgroups.kill(Path(task.spec.cgroup)):
        raise NotFoundError(f"the task {task.name} has ended")
    return task.name


def outside(lab: Lab, name: str) -> str:
    """What to do about a node that is in no swarm; "" for a member of one."""
    if not daemons.is_out(lab, name):
        return ""
    others = [manager.name for manager in lab.managers if manager.name != name]
    if not others:
        return f"{name} is in no swarm; make one with: meshnet swarm init --node {name}"
    return (
        f"{name} is in no swarm: it left, or was removed; let it join with what this says: "
        f"meshnet swarm join-token worker --node {others[0]}"
    )


def start(lab: Lab, name: str, report: Report = lambda _: None) -> str:
    """Connects a node again and starts what of it does not run; returns when the manager sees it ready, or when its
    agent answers if it is out of the swarm: then with what to do about that, else with "".

    Raises ConflictError if it runs already, MeshnetError if it does not get ready, at once if its manager does not run.
    """
    _node(lab, name)
    with state.turn(lab.name, name):
        missing = [
            daemon
            for daemon in daemons.of_node(lab, state.node_of(lab, name))
            if not processes.alive(lab.name, name, daemon.role)
        ]
        if not missing and topology.is_plugged(lab, name):
            raise ConflictError("; ".join(filter(None, (f"{name} runs already", outside(lab, name)))))
        topology.plug(lab, name, True)
        report(f"starting {name}")
        daemons.preload({daemon.role for daemon in missing})
        processes.spawn([daemon for daemon in missing if daemon.role == daemons.MANAGER])
        _renew_token(lab, name)
        processes.spawn([daemon for daemon in missing if daemon.role == daemons.AGENT])
    manager = lab.managers[0].name if not lab.bare else name
    if manager != name and not processes.alive(lab.name, manager, daemons.MANAGER):
        raise MeshnetError(
            f"{name} is started, and gets ready when its manager runs, which does not; start that with: "
            f"meshnet lab start {manager}"
        )
    wait_ready(lab, [name], report)
    return "" if lab.bare else outside(lab, name)

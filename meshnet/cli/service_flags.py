"""The flags of `service create` and `service update`, under one name each: docker's `--env` is update's `--env-add`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from meshnet.cli import params

TIME, BYTES, CPUS = params.Duration(), params.Bytes(), params.Cpus()
NUMBER = click.IntRange(0)
RATIO = click.FloatRange(0, 1)
ORDER = click.Choice(["start-first", "stop-first"])

# What is given once. A flag that is not given changes nothing.
SINGLE: tuple[tuple[str, Any, str], ...] = (
    ("replicas", NUMBER, "Number of tasks."),
    ("max-concurrent", NUMBER, "Number of a job's tasks that run at a time."),
    ("replicas-max-per-node", NUMBER, "Most tasks on one node (0: any number)."),
    ("endpoint-mode", click.Choice(["vip", "dnsrr"]), "One virtual address, or the tasks' own in DNS."),
    ("hostname", str, "Container hostname."),
    ("entrypoint", params.Words(), "Overwrite the image's entry point."),
    ("stop-signal", str, "Signal that stops a task."),
    ("stop-grace-period", TIME, "Time before a task is killed (10s)."),
    ("oom-score-adj", click.IntRange(-1000, 1000), "Whom the kernel ends first when memory is out."),
    ("health-cmd", str, "Command that checks health."),
    ("health-interval", TIME, "Time between checks (30s)."),
    ("health-timeout", TIME, "Most time for one check (30s)."),
    ("health-retries", NUMBER, "Failures until unhealthy (3)."),
    ("health-start-period", TIME, "Time to start, during which failures do not count."),
    ("health-start-interval", TIME, "Time between checks while it starts."),
    ("limit-cpu", CPUS, "Most processors a task may use."),
    ("limit-memory", BYTES, "Most memory a task may use."),
    ("limit-pids", NUMBER, "Most processes of a task (0: any number)."),
    ("reserve-cpu", CPUS, "Processors that its node must have free for a task."),
    ("reserve-memory", BYTES, "Memory that its node must have free for a task."),
    ("restart-condition", click.Choice(["none", "on-failure", "any"]), "When a task is replaced (any)."),
    ("restart-delay", TIME, "Time before a task is replaced (5s)."),
    ("restart-max-attempts", NUMBER, "Most restarts (0: any number)."),
    ("restart-window", TIME, "Time in which restarts are counted."),
    ("update-parallelism", NUMBER, "Tasks replaced at a time (1; 0: all)."),
    ("update-delay", TIME, "Time between updates of tasks."),
    (
        "update-failure-action",
        click.Choice(["pause", "continue", "rollback"]),
        "What a failed update leads to (pause).",
    ),
    ("update-monitor", TIME, "Time after a task's update in which it may fail (5s)."),
    ("update-max-failure-ratio", RATIO, "Share of tasks that may fail."),
    ("update-order", ORDER, "Which of old and new task comes first (stop-first)."),
    ("rollback-parallelism", NUMBER, "Tasks rolled back at a time (1; 0: all)."),
    ("rollback-delay", TIME, "Time between rollbacks of tasks."),
    ("rollback-failure-action", click.Choice(["pause", "continue"]), "What a failed rollback leads to (pause)."),
    ("rollback-monitor", TIME, "Time after a task's rollback in which it may fail (5s)."),
    ("rollback-max-failure-ratio", RATIO, "Share of tasks that may fail in a rollback."),
    ("rollback-order", ORDER, "Which of old and new task comes first in a rollback (stop-first)."),
)
SHORT: tuple[tuple[str, str, str], ...] = (
    ("user", "-u", "User name or id, with :GROUP."),
    ("workdir", "-w", "Working directory."),
)
SWITCHES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("--no-healthcheck",), "Turn off the image's health check."),
    (("--read-only/--no-read-only",), "Keep a task from writing to its root."),
    (("--init/--no-init",), "Run an init in each container."),
    (("-t", "--tty/--no-tty"), "Give each task a terminal."),
)
# What may be given many times: name, short form, what one is.
MANY: tuple[tuple[str, str, str], ...] = (
    ("env", "-e", "environment variable: NAME=value"),
    ("label", "-l", "service label: NAME=value"),
    ("container-label", "", "container label: NAME=value"),
    ("constraint", "", "placement constraint, such as node.role==worker"),
    ("placement-pref", "", "placement preference: spread=node.labels.zone"),
    ("publish", "-p", "published port: 8000:80, or published=8000,target=80,mode=host"),
    ("network", "", "network: NAME, or name=NAME,alias=ALIAS"),
    ("mount", "", "mount: type=volume,source=NAME,target=/b"),
    ("secret", "", "secret as a file: NAME, or source=NAME,target=FILE,mode=0400"),
    ("config", "", "config as a file: NAME, or source=NAME,target=FILE,mode=0444"),
    ("host", "", "line of /etc/hosts: NAME:ADDRESS"),
    ("dns", "", "DNS server"),
    ("dns-search", "", "DNS search domain"),
    ("dns-option", "", "DNS option"),
    ("group", "", "supplementary group"),
    ("sysctl", "", "sysctl: NAME=value"),
    ("ulimit", "", "limit: NAME=SOFT:HARD"),
    ("generic-resource", "", "resource that a task reserves: KIND=NUMBER"),
)
BOTH = (("cap-add", "Add a capability."), ("cap-drop", "Drop a capability."))  # alike in create and update
BY = {"env": "NAME", "mount": "TARGET", "publish": "TARGET PORT", "host": "NAME:ADDRESS"}

Decorated = Callable[..., Any]


def create(command: Decorated) -> Decorated:
    """Adds everything that says what a new service is, each list as `NAME_add`."""
    for name, letter, what in reversed(MANY):
        words = [f"--{name}", _argument(f"{name}-add"), *([letter] if letter else [])]
        command = click.option(*words, multiple=True, help=f"A {what}.")(command)
    return _single(command)


def update(command: Decorated) -> Decorated:
    """Adds everything that says how a service changes, each list as `NAME_add` and `NAME_rm`."""
    for name, _, what in reversed(MANY):
        removed = what.partition(":")[0].partition(",")[0]
        command = click.option(f"--{name}-rm", multiple=True, metavar=BY.get(name), help=f"Remove a {removed}.")(
            command
        )
        command = click.option(f"--{name}-add", multiple=True, help=f"Add or change a {what}.")(command)
    return _single(command)


def _single(command: Decorated) -> Decorated:
    for names, said in reversed(SWITCHES):
        command = click.option(*names, is_flag=True, default=None, help=said)(command)
    for name, letter, said in reversed(SHORT):
        command = click.option(letter, f"--{name}", help=said)(command)
    for name, said in BOTH:
        command = click.option(f"--{name}", multiple=True, help=said)(command)
    for name, kind, said in reversed(SINGLE):
        command = click.option(f"--{name}", type=kind, help=said)(command)
    return command


def _argument(name: str) -> str:
    return name.replace("-", "_")

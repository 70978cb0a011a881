"""`meshnet service create`."""

from __future__ import annotations

from typing import Any

import click

from meshnet.cli import options
from meshnet.cli import service_spec as spec
from meshnet.errors import MeshnetError

MANY: Any = {"multiple": True}
TIME = spec.Duration()


@click.command(context_settings={"allow_interspersed_args": False})
@options.in_lab
@options.on_node
@options.detach
@click.option("--name", default="", help="Service name.")
@click.option("--replicas", type=click.IntRange(0), help="Number of tasks.")
@click.option("--network", **MANY, help="Networks: NAME, or name=NAME,alias=ALIAS.")
@click.option("-p", "--publish", **MANY, help="Publish a port: 8000:80, or published=8000,target=80,mode=ingress.")
@click.option("--mode", type=click.Choice(["replicated", "global"]), default="replicated", show_default=True)
@click.option("--endpoint-mode", type=click.Choice(["vip", "dnsrr"]), default="vip", show_default=True)
@click.option("--constraint", **MANY, help="Placement constraints, such as node.role==worker.")
@click.option("--placement-pref", **MANY, help="Placement preference: spread=node.labels.zone.")
@click.option("--replicas-max-per-node", type=click.IntRange(0), default=0, help="Most tasks on one node.")
@click.option("-e", "--env", **MANY, help="Environment: NAME=value.")
@click.option("-l", "--label", **MANY, help="Service labels.")
@click.option("--container-label", **MANY, help="Container labels.")
@click.option("--hostname", default="", help="Container hostname.")
@click.option("-u", "--user", default="", help="User name or id.")
@click.option("-w", "--workdir", default="", help="Working directory.")
@click.option("--entrypoint", default="", help="Overwrite the image's entry point.")
@click.option("--mount", **MANY, help="Attach a mount: type=bind,source=/a,target=/b.")
@click.option("--health-cmd", help="Command that checks health.")
@click.option("--health-interval", type=TIME, default=0, help="Time between checks (30s).")
@click.option("--health-timeout", type=TIME, default=0, help="Most time for one check (30s).")
@click.option("--health-retries", type=click.IntRange(0), default=0, help="Failures until unhealthy (3).")
@click.option("--health-start-period", type=TIME, default=0, help="Time to start, during which failures do not count.")
@click.option("--no-healthcheck", is_flag=True, help="Turn off the image's health check.")
@click.option("--restart-condition", type=click.Choice(["none", "on-failure", "any"]), default="any")
@click.option("--restart-delay", type=TIME, default="5s", show_default=True)
@click.option("--restart-max-attempts", type=click.IntRange(0), default=0)
@click.option("--restart-window", type=TIME, default=0)
@click.option("--stop-grace-period", type=TIME, help="Time before a task is killed (10s).")
@click.option("--stop-signal", default="", help="Signal that stops a task.")
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND] [ARG...]")
def create(lab_name: str | None, node_name: str | None, detach: bool, quiet: bool, **given: Any) -> None:
    """Create a service and wait until its tasks run."""
    from meshnet.cli import converge
    from meshnet.lab import engine, state

    wanted = _spec(given)
    lab = state.current(lab_name)
    manager = engine.of_lab(lab, node_name)
    engine.check_image(lab, given["image"])
    ident = manager.create_service(wanted)
    print(ident, flush=True)
    if not detach:
        converge.wait(manager, manager.service(ident).spec.name, quiet)


def _spec(given: dict[str, Any]) -> Any:
    import shlex

    from meshnet.model import ContainerSpec, Placement, RestartPolicy, ServiceSpec, TaskSpec

    try:
        entrypoint = tuple(shlex.split(given["entrypoint"]))
    except ValueError as error:
        raise MeshnetError(f"--entrypoint: not a command line: {error}") from None
    container = ContainerSpec(
        image=given["image"],
        labels=spec.pairs(given["container_label"], "--container-label"),
        command=entrypoint,
        args=given["command"],
        hostname=given["hostname"],
        env=given["env"],
        dir=given["workdir"],
        user=given["user"],
        stop_signal=given["stop_signal"],
        stop_grace_period=given["stop_grace_period"],
        healthcheck=spec.health(
            given["health_cmd"],
            given["health_interval"],
            given["health_timeout"],
            given["health_retries"],
            given["health_start_period"],
            given["no_healthcheck"],
        ),
        mounts=spec.mounts(given["mount"]),
    )
    task = TaskSpec(
        container_spec=container,
        networks=spec.networks(given["network"]),
        placement=Placement(
            given["constraint"], spec.preferences(given["placement_pref"]), given["replicas_max_per_node"]
        ),
        restart_policy=RestartPolicy(
            given["restart_condition"], given["restart_delay"], given["restart_max_attempts"], given["restart_window"]
        ),
    )
    return ServiceSpec(
        name=given["name"],
        labels=spec.pairs(given["label"], "--label"),
        task_template=task,
        mode=spec.mode(given["mode"], given["replicas"]),
        endpoint_spec=spec.endpoint(given["endpoint_mode"], spec.ports(given["publish"])),
    )

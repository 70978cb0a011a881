"""`inspect --pretty`: what docker says of a service or a node in words, from the Engine's JSON (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from meshnet.cli import human

Json = Mapping[str, Any]


def service(found: Json, networks: Mapping[str, str]) -> str:
    """A service whose spec has its defaults; `networks`: id -> name."""
    spec = found["Spec"]
    task = spec.get("TaskTemplate", {})
    lines = ["", f"ID:\t\t{found['ID']}", f"Name:\t\t{spec['Name']}"]
    lines += _labels(spec.get("Labels", {}))
    lines += _mode(spec.get("Mode", {}))
    lines += _status(found.get("UpdateStatus"))
    lines += [f"Waiting:\t{reason}" for reason in found.get("Waiting", ())]
    lines += _placement(task.get("Placement", {}))
    for head, order, config in (
        ("UpdateConfig", "Update order:     ", spec.get("UpdateConfig")),
        ("RollbackConfig", "Rollback order:   ", spec.get("RollbackConfig")),
    ):
        lines += _update(head, order, config)
    lines += _container(task.get("ContainerSpec", {}))
    lines += _resources(task.get("Resources") or {})
    attached = task.get("Networks") or spec.get("Networks") or ()
    if attached:
        lines.append(f"Networks: {' '.join(networks.get(one['Target'], one['Target']) for one in attached)} ")
    lines.append(f"Endpoint Mode:\t{found.get('Endpoint', {}).get('Spec', {}).get('Mode', 'vip')}")
    lines += _ports(found.get("Endpoint", {}).get("Ports", ()))
    return "\n".join(lines) + "\n"


def _labels(labels: Json) -> list[str]:
    return ["Labels:", *(f" {key}={value}" for key, value in sorted(labels.items()))] if labels else []


def _mode(mode: Json) -> list[str]:
    if "ReplicatedJob" in mode:
        job = mode["ReplicatedJob"]
        total = job.get("TotalCompletions", 0)
        counts = [f" Max Concurrent:\t{job.get('MaxConcurrent', 1)}", f" Total Completions:\t{total}"]
        return ["Service Mode:\tReplicated Job", *counts]
    if "Replicated" in mode:
        return ["Service Mode:\tReplicated", f" Replicas:\t{mode['Replicated'].get('Replicas', 1)}"]
    return ["Service Mode:\tGlobal Job" if "GlobalJob" in mode else "Service Mode:\tGlobal"]


def _status(status: Json | None) -> list[str]:
    if not status:
        return []
    lines = ["UpdateStatus:", f" State:\t\t{status.get('State', '')}"]
    if status.get("StartedAt"):
        lines.append(f" Started:\t{human.ago(status['StartedAt'])}")
    if status.get("State") == "completed" and status.get("CompletedAt"):
        lines.append(f" Completed:\t{human.ago(status['CompletedAt'])}")
    return [*lines, f" Message:\t{status.get('Message', '')}"]


def _placement(placement: Json) -> list[str]:
    lines = ["Placement:"]
    if placement.get("Constraints"):
        lines.append(f" Constraints:\t[{' '.join(placement['Constraints'])}]")
    spread = [one["Spread"]["SpreadDescriptor"] for one in placement.get("Preferences") or () if one.get("Spread")]
    if spread:
        lines.append(f" Preferences:\t[{' '.join(f'spread={one}' for one in spread)}]")
    if placement.get("MaxReplicas"):
        lines.append(f" Max Replicas Per Node:   {placement['MaxReplicas']}")
    return lines


def _update(head: str, order: str, config: Json | None) -> list[str]:
    if not config:
        return []
    lines = [f"{head}:", f" Parallelism:\t{config.get('Parallelism', 1)}"]
    if config.get("Delay"):
        lines.append(f" Delay:\t\t{human.go_duration(config['Delay'])}")
    lines.append(f" On failure:\t{config.get('FailureAction', 'pause')}")
    if config.get("Monitor"):
        lines.append(f" Monitoring Period: {human.go_duration(config['Monitor'])}")
    return [*lines, f" Max failure ratio: {config.get('MaxFailureRatio', 0):g}", f" {order} {config.get('Order', '')}"]


def _container(spec: Json) -> list[str]:
    lines = ["ContainerSpec:", f" Image:\t\t{spec.get('Image', '')}"]
    for head, key in (("Command:\t", "Command"), ("Args:\t\t", "Args"), ("Env:\t\t", "Env")):
        if spec.get(key):
            lines.append(f" {head}{' '.join(spec[key])} ")
    for head, key in (("Dir:\t\t", "Dir"), ("User:\t\t", "User"), ("Hostname:\t", "Hostname")):
        if spec.get(key):
            lines.append(f" {head}{spec[key]}")
    if spec.get("Init") is not None:
        lines.append(f" Init:\t\t{str(spec['Init']).lower()}")
    if spec.get("Mounts"):
        lines.append("Mounts:")
        for mount in spec["Mounts"]:
            lines += [f" Target:\t{mount.get('Target', '')}", f"  Source:\t{mount.get('Source', '')}"]
            access = str(bool(mount.get("ReadOnly"))).lower()
            lines += [f"  ReadOnly:\t{access}", f"  Type:\t\t{mount.get('Type', '')}"]
    for head, key, name in (("Configs:", "Configs", "ConfigName"), ("Secrets:", "Secrets", "SecretName")):
        if spec.get(key):
            lines += [
                head,
                *(f" Target:\t{(one.get('File') or {}).get('Name')}\n  Source:\t{one[name]}" for one in spec[key]),
            ]
    if spec.get("Healthcheck"):
        lines += _health(spec["Healthcheck"])
    return lines


def _health(check: Json) -> list[str]:
    lines = ["Healthcheck:"]
    times = (("Interval", "Interval"), ("Timeout", "Timeout"), ("Start Period", "StartPeriod"))
    lines += [f" {head} = {human.go_duration(check[key])}" for head, key in times if check.get(key)]
    lines += [f" Retries = {check['Retries']}"] if check.get("Retries") else []
    return [*lines, f" Tests:\t{' '.join(check.get('Test') or ())}"]


def _resources(found: Json) -> list[str]:
    lines = ["Resources:"]
    for head, key in ((" Reservations:", "Reservations"), (" Limits:", "Limits")):
        part = found.get(key) or {}
        named = [f"  CPU:\t\t{part['NanoCPUs'] / 1e9:g}"] if part.get("NanoCPUs") else []
        named += [f"  Memory:\t{human.size(part['MemoryBytes'])}"] if part.get("MemoryBytes") else []
        named += [f"  PIDs:\t\t{part['Pids']}"] if part.get("Pids") else []
        lines += [head, *named] if named else []
    return lines


def _ports(ports: Iterable[Json]) -> list[str]:
    lines: list[str] = []
    for port in ports:
        lines += [
            f" PublishedPort = {port.get('PublishedPort', 0)}",
            f"  Protocol = {port.get('Protocol', 'tcp')}",
            f"  TargetPort = {port.get('TargetPort', 0)}",
            f"  PublishMode = {port.get('PublishMode', 'ingress')} ",
        ]
    return ["Ports:", *lines] if lines else []


def node(found: Json) -> str:
    """A node."""
    spec, status, about = found["Spec"], found["Status"], found["Description"]
    engine, resources, manager = about.get("Engine", {}), about.get("Resources", {}), found.get("ManagerStatus")
    lines = [f"ID:\t\t\t{found['ID']}"]
    lines += [f"Name:\t\t\t{spec['Name']}"] if spec.get("Name") else []
    lines += _labels(spec.get("Labels") or {})
    lines += [
        f"Hostname:              \t{about['Hostname']}",
        f"Joined at:             \t{_go_time(found['CreatedAt'])}",
    ]
    lines += ["Status:", f" State:\t\t\t{status['State'].capitalize()}"]
    lines += [f" Message:\t\t{status['Message']}"] if status.get("Message") else []
    lines += [f" Availability:         \t{spec['Availability'].capitalize()}", f" Address:\t\t{status.get('Addr', '')}"]
    if manager:
        lines += ["Manager Status:", f" Address:\t\t{manager.get('Addr', '')}"]
        lines += [f" Raft Status:\t\t{manager.get('Reachability', '').capitalize()}"]
        lines += [f" Leader:\t\t{'Yes' if manager.get('Leader') else 'No'}"]
    lines += ["Platform:", f" Operating System:\t{about['Platform']['OS']}"]
    lines += [f" Architecture:\t\t{about['Platform']['Architecture']}", "Resources:"]
    lines += [f" CPUs:\t\t\t{resources.get('NanoCPUs', 0) // 10**9}"]
    lines += [f" Memory:\t\t{human.size(resources.get('MemoryBytes', 0))}", "Plugins:"]
    kinds = sorted({one["Type"] for one in engine.get("Plugins", ())})
    for kind in kinds:
        names = ", ".join(one["Name"] for one in engine["Plugins"] if one["Type"] == kind)
        lines.append(f" {kind}:\t\t{names}")
    lines.append(f"Engine Version:\t\t{engine.get('EngineVersion', '')}")
    lines += ["Engine Labels:", *(f" - {k}={v}" for k, v in engine["Labels"].items())] if engine.get("Labels") else []
    tls = about.get("TLSInfo") or {}
    if tls.get("TrustRoot"):
        lines += ["TLS Info:", " TrustRoot:", tls["TrustRoot"]]
        lines += [f" Issuer Subject:\t{tls['CertIssuerSubject']}", f" Issuer Public Key:\t{tls['CertIssuerPublicKey']}"]
    return "\n".join(lines)


def _go_time(stamp: str) -> str:
    """As Go prints it: `2026-11-20 10:37:33.118 +0000 utc`."""
    return f"{stamp.replace('T', ' ').removesuffix('Z')} +0000 utc"

"""The objects as the Engine's JSON shows them: which fields are there even when empty, and what is derived.

Go leaves out empty fields where its struct says `omitempty`; clients rely on the ones that are always there. The
recordings of a real engine are the reference (API 1.41).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from meshnet.codec import shown
from meshnet.control.allocator import VNI_OPTION
from meshnet.control.defaults import interpolated
from meshnet.control.view import View, alive, iteration_of, wanted
from meshnet.model import Network, Node, Service, ServiceSpec, Task, TaskSpec, mac_of, task_name

API_VERSION = "1.41"
MINIMUM_API_VERSION = "1.12"
ENGINE_VERSION = "20.10.24"
Json = dict[str, Any]


def head(thing: Any) -> Json:
    """What all objects begin with."""
    return {
        "ID": thing.id,
        "Version": {"Index": thing.version.index},
        "CreatedAt": thing.created_at,
        "UpdatedAt": thing.updated_at,
    }


def node(thing: Node) -> Json:
    return {
        **head(thing),
        "Spec": shown(thing.spec),
        "Description": shown(thing.description),
        "Status": shown(thing.status),
        **({"ManagerStatus": shown(thing.manager_status)} if thing.manager_status is not None else {}),
    }


def task_spec(spec: TaskSpec) -> Json:
    described: Json = shown(spec)
    described["ContainerSpec"]["Isolation"] = "default"
    return described


def service_spec(spec: ServiceSpec) -> Json:
    described: Json = shown(spec)
    described["TaskTemplate"] = {**task_spec(spec.task_template), "Runtime": "container"}
    return described


def service(thing: Service, view: View, status: bool = False, defaults: bool = False) -> Json:
    """With `status`, the counts that `docker service ls` shows; with `defaults`, what holds where nothing was said."""
    return lasting(thing, defaults) | momentary(thing, view, status)


def lasting(thing: Service, defaults: bool = False) -> Json:
    """What a service says of itself."""
    described = {
        **head(thing),
        "Spec": service_spec(interpolated(thing.spec) if defaults else thing.spec),
    }
    if thing.previous_spec is not None:
        described["PreviousSpec"] = service_spec(thing.previous_spec)
    described["Endpoint"] = _endpoint(thing)
    if thing.update_status is not None:
        described["UpdateStatus"] = shown(thing.update_status)
    if thing.job_status is not None:
        described["JobStatus"] = shown(thing.job_status)
    return described


def momentary(thing: Service, view: View, status: bool) -> Json:
    """What its tasks say of it."""
    described: Json = {}
    waiting = _waiting(thing, view)
    if waiting:
        described["Waiting"] = waiting
    if status:
        described["ServiceStatus"] = _status(thing, view)
    return described


def _endpoint(thing: Service) -> Json:
    if not thing.endpoint.ports and not thing.endpoint.virtual_ips:
        return {"Spec": {}}
    return {name: item for name, item in shown(thing.endpoint).items() if item or name == "Spec"}


def _waiting(thing: Service, view: View) -> list[str]:
    """Why tasks of the service have no address or no node, each reason once with how many it holds up.

    The Engine has no such field; there a service says nothing of it.
    """
    tasks = view.tasks_of.get(thing.id, {}).values()
    reasons = Counter(task.status.err for task in tasks if task.id in view.waiting and task.status.err)
    return [f"{count} task{'s' if count > 1 else ''}: {reason}" for reason, count in sorted(reasons.items())]


def _status(thing: Service, view: View) -> Json:
    """Swarm counts tasks that run and are wanted to; where there is one per node, as many are desired as there are."""
    mode = thing.spec.mode
    tasks = [task for task in view.tasks_of.get(thing.id, {}).values() if task.job_iteration == iteration_of(thing)]
    completed = sum(task.status.state == "complete" for task in tasks) if mode.job else 0
    if mode.replicated_job is not None:
        left = (mode.replicated_job.total_completions or 0) - completed
        desired = max(0, min(mode.replicated_job.max_concurrent or 0, left))
    elif mode.replicated is not None:
        desired = mode.replicated.replicas
    else:
        desired = sum(wanted(task) and alive(task) for task in tasks)
    running = sum(task.status.state == "running" and task.desired_state == "running" for task in tasks)
    return {"RunningTasks": running, "DesiredTasks": desired, "CompletedTasks": completed}


def task(thing: Task, view: View) -> Json:
    described: Json = {
        **head(thing),
        "Labels": {},
        "Spec": task_spec(thing.spec),
        "ServiceID": thing.service_id,
        # Clients count a job's slots from 0, and those of other services from 1, as Swarm does.
        "Slot": thing.slot - 1 if thing.job_iteration and thing.slot else thing.slot,
        "NodeID": thing.node_id,
        "Status": _task_status(thing, view),
        "DesiredState": "complete" if thing.job_iteration and thing.desired_state == "running" else thing.desired_state,
        "NetworksAttachments": [
            {"Network": _attached(view.networks[item.network_id]), "Addresses": list(item.addresses)}
            for item in thing.networks_attachments
            if item.network_id in view.networks
        ],
        "JobIteration": shown(thing.job_iteration) if thing.job_iteration else None,
    }
    always = {"Labels", "Spec", "Status"}
    return {key: item for key, item in described.items() if key in always or item not in ("", 0, [], None)}


def _task_status(thing: Task, view: View) -> Json:
    """With the ports of its node that lead to the task alone while it runs."""
    service = view.services.get(thing.service_id)
    host = [port for port in service.endpoint.ports if port.publish_mode == "host"] if service is not None else []
    described = {name: item for name, item in shown(thing.status).items() if item is not None}
    ports = {"Ports": [shown(port) for port in host]} if host and thing.status.state == "running" else {}
    return {"Timestamp": thing.status.timestamp, **described, "PortStatus": ports}


def _attached(thing: Network) -> Json:
    """A network as Swarm itself describes it, inside a task."""
    spec: Json = {"Name": thing.spec.name, "Labels": thing.spec.labels}
    spec["DriverConfiguration"] = {} if thing.spec.ingress else {"Name": "overlay"}
    for name, value in (
        ("Internal", thing.spec.internal),
        ("Attachable", thing.spec.attachable),
        ("Ingress", thing.spec.ingress),
    ):
        if value:
            spec[name] = True
    if thing.spec.ingress:
        spec["IPAMOptions"] = {"Driver": {}}
    elif thing.spec.ipam_options.configs:
        spec["IPAMOptions"] = {"Driver": {"Name": "default"}, "Configs": shown(thing.spec.ipam_options.configs)}
    return {
        **head(thing),
        "Spec": {**spec, "Scope": "swarm"},
        "DriverState": {"Name": "overlay", "Options": _options(thing)},
        "IPAMOptions": {"Driver": {"Name": "default"}, "Configs": shown(thing.ipam_options.configs)},
    }


def _options(thing: Network) -> dict[str, str]:
    return dict(sorted({**thing.spec.options, VNI_OPTION: str(thing.vni)}.items()))


def network(thing: Network, view: View | None = None, verbose: bool = False) -> Json:
    """A network as `docker network inspect` shows it; with `verbose`, also the services and tasks on it."""
    config = [
        {
            "Subnet": c.subnet,
            **({"IPRange": c.range} if c.range else {}),
            "Gateway": c.gateway,
            **({"AuxiliaryAddresses": c.auxiliary_addresses} if c.auxiliary_addresses else {}),
        }
        for c in thing.ipam_options.configs
    ]
    described: Json = {
        "Name": thing.spec.name,
        "Id": thing.id,
        "Created": thing.created_at,
        "Scope": "swarm",
        "Driver": "overlay",
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": config},
        "Internal": thing.spec.internal,
        "Attachable": thing.spec.attachable,
        "Ingress": thing.spec.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": None,
        "Options": _options(thing),
        "Labels": thing.spec.labels or None,
    }
    if verbose and view is not None:
        described["Services"] = _services_on(thing, view)
    return described


def _services_on(thing: Network, view: View) -> Json:
    """The Engine's verbose view: per service its VIP, ports and tasks with their addresses."""
    described: Json = {}
    idents = view.published if thing.spec.ingress else view.services_on.get(thing.id, set())
    for ident in sorted(idents):
        service_ = view.services[ident]
        tasks = [
            {
                "Name": task_name(service_.spec.name, task_),
                "EndpointID": "",
                "EndpointIP": item.address,
                "Info": {"Host IP": view.nodes[task_.node_id].status.addr, "MAC": mac_of(item.address)},
            }
            for task_ in view.tasks_of.get(ident, {}).values()
            if task_.status.state == "running" and task_.node_id in view.nodes
            for item in task_.networks_attachments
            if item.network_id == thing.id
        ]
        ports = [f"Target: {p.target_port}, Publish: {p.published_port}" for p in service_.endpoint.ports]
        described[service_.spec.name] = {
            "VIP": service_.vip(thing.id) or "<nil>",
            "Ports": ports if thing.spec.ingress else [],
            "LocalLBIndex": 0,
            "Tasks": tasks,
        }
    return described

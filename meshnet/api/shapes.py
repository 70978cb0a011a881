"""The objects as the Engine's JSON shows them: which fields are there even when empty, and what is derived.

Go leaves out empty fields where its struct says `omitempty`; clients rely on the ones that are always there. The
recordings of a real engine are the reference (API 1.41).
"""

from __future__ import annotations

from typing import Any

from meshnet.codec import to_json
from meshnet.control.allocator import VNI_OPTION
from meshnet.control.view import View, alive, wanted
from meshnet.model import Network, Node, Service, ServiceMode, Task, TaskSpec, mac_of, task_name

API_VERSION = "1.41"
MINIMUM_API_VERSION = "1.12"
ENGINE_VERSION = "20.10.24"
Json = dict[str, Any]


def pruned(value: Any) -> Any:
    """The value without empty fields: "", 0, false, null, [] and {}."""
    if isinstance(value, dict):
        items = ((key, pruned(item)) for key, item in value.items())
        return {key: item for key, item in items if item not in ("", 0, None, [], {})}
    if isinstance(value, list):
        return [pruned(item) for item in value]
    return value


def _head(thing: Any) -> Json:
    return {
        "ID": thing.id,
        "Version": {"Index": thing.version.index},
        "CreatedAt": thing.created_at,
        "UpdatedAt": thing.updated_at,
    }


def node(thing: Node) -> Json:
    shown = {
        **_head(thing),
        "Spec": {**pruned(to_json(thing.spec)), "Labels": thing.spec.labels},
        "Description": pruned(to_json(thing.description)),
        "Status": pruned(to_json(thing.status)),
    }
    if thing.manager_status is not None:
        shown["ManagerStatus"] = pruned(to_json(thing.manager_status))
    return shown


def task_spec(spec: TaskSpec) -> Json:
    shown: Json = pruned(to_json(spec))
    container = shown.setdefault("ContainerSpec", {})
    if spec.container_spec.stop_grace_period == 0:
        container["StopGracePeriod"] = 0
    container["DNSConfig"] = {}
    container["Isolation"] = "default"
    shown["Resources"] = {"Limits": {}, "Reservations": {}}
    shown["RestartPolicy"] = {
        "Condition": spec.restart_policy.condition,
        "Delay": spec.restart_policy.delay,
        "MaxAttempts": spec.restart_policy.max_attempts,
        **({"Window": spec.restart_policy.window} if spec.restart_policy.window else {}),
    }
    shown.setdefault("Placement", {})
    shown["ForceUpdate"] = spec.force_update
    return shown


def _mode(mode: ServiceMode) -> Json:
    if mode.global_ is not None:
        return {"Global": {}}
    return {"Replicated": {"Replicas": mode.replicated.replicas if mode.replicated else 1}}


def service(thing: Service, view: View, status: bool = False) -> Json:
    """With `status`, the counts that `docker service ls` shows."""
    spec = thing.spec
    shown = {
        **_head(thing),
        "Spec": {
            "Name": spec.name,
            "Labels": spec.labels,
            "TaskTemplate": {**task_spec(spec.task_template), "Runtime": "container"},
            "Mode": _mode(spec.mode),
            "EndpointSpec": pruned(to_json(spec.endpoint_spec)),
        },
        "Endpoint": _endpoint(thing),
    }
    if status:
        shown["ServiceStatus"] = _status(thing, view)
    return shown


def _endpoint(thing: Service) -> Json:
    if not thing.endpoint.ports and not thing.endpoint.virtual_ips:
        return {"Spec": {}}
    return {"Spec": {}, **pruned(to_json(thing.endpoint))}


def _status(thing: Service, view: View) -> Json:
    """Swarm counts tasks that run and are wanted to; a global service desires as many tasks as it has."""
    tasks = view.tasks_of.get(thing.id, {}).values()
    desired = sum(wanted(task) and alive(task) for task in tasks)
    if thing.spec.mode.global_ is None:
        desired = thing.spec.mode.replicated.replicas if thing.spec.mode.replicated else 1
    running = sum(task.status.state == "running" and task.desired_state == "running" for task in tasks)
    return {"RunningTasks": running, "DesiredTasks": desired, "CompletedTasks": 0}


def task(thing: Task, view: View) -> Json:
    status: Json = {"Timestamp": thing.status.timestamp, **pruned(to_json(thing.status)), "PortStatus": {}}
    container = thing.status.container_status
    if container is not None:
        status["ContainerStatus"] = to_json(container)
    shown: Json = {
        **_head(thing),
        "Labels": {},
        "Spec": task_spec(thing.spec),
        "ServiceID": thing.service_id,
        "Slot": thing.slot,
        "NodeID": thing.node_id,
        "Status": status,
        "DesiredState": thing.desired_state,
        "NetworksAttachments": [
            {"Network": _attached(view.networks[item.network_id]), "Addresses": list(item.addresses)}
            for item in thing.networks_attachments
            if item.network_id in view.networks
        ],
    }
    always = {"Labels", "Spec", "Status"}
    return {key: item for key, item in shown.items() if key in always or item not in ("", 0, [])}


def _attached(thing: Network) -> Json:
    """A network as Swarm itself describes it, inside a task."""
    spec: Json = {"Name": thing.spec.name, "Labels": thing.spec.labels, "DriverConfiguration": {"Name": "overlay"}}
    for name, value in (
        ("Internal", thing.spec.internal),
        ("Attachable", thing.spec.attachable),
        ("Ingress", thing.spec.ingress),
    ):
        if value:
            spec[name] = True
    return {
        **_head(thing),
        "Spec": {**spec, "Scope": "swarm"},
        "DriverState": {"Name": "overlay", "Options": _options(thing)},
        "IPAMOptions": {"Driver": {"Name": "default"}, "Configs": pruned(to_json(thing.ipam_options.configs))},
    }


def _options(thing: Network) -> dict[str, str]:
    return dict(sorted({**thing.spec.options, VNI_OPTION: str(thing.vni)}.items()))


def network(thing: Network, view: View | None = None, verbose: bool = False) -> Json:
    """A network as `docker network inspect` shows it; with `verbose`, also the services and tasks on it."""
    config = [
        {"Subnet": c.subnet, **({"IPRange": c.range} if c.range else {}), "Gateway": c.gateway}
        for c in thing.ipam_options.configs
    ]
    shown: Json = {
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
        shown["Services"] = _services_on(thing, view)
    return shown


def _services_on(thing: Network, view: View) -> Json:
    """The Engine's verbose view: per service its VIP, ports and tasks with their addresses."""
    shown: Json = {}
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
        shown[service_.spec.name] = {
            "VIP": service_.vip(thing.id) or "<nil>",
            "Ports": ports if thing.spec.ingress else [],
            "LocalLBIndex": 0,
            "Tasks": tasks,
        }
    return shown

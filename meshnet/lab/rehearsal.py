"""Whether a manager would take a stack: its own code is asked, on an empty swarm that exists in memory only.

So what the manager refuses is known, with its place in the file, before anything of the lab is made.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from random import Random

from meshnet.api import validate
from meshnet.api.client import GRPC
from meshnet.control import operations
from meshnet.control.allocator import Ledger
from meshnet.control.objects import Changes, kind_of
from meshnet.control.view import View
from meshnet.errors import MeshnetError
from meshnet.lab.compose import Stack
from meshnet.lab.references import with_ids
from meshnet.model import NetworkSpec, ServiceSpec
from meshnet.secretspec import Config, ConfigSpec, Secret, SecretSpec


def rehearse(stack: Stack, avoid: str, resolver: int = 0) -> None:
    """Complains at each value whose network or service a manager would refuse; `avoid` is the underlay's subnet,
    `resolver` the port of the nodes' resolvers.

    What services name that the stack does not make is taken to be there.
    """
    view, numbers = View(), count(1)

    def new_id() -> str:
        return f"id{next(numbers)}"

    def ledger() -> Ledger:
        return Ledger(view, avoid=(avoid,), resolver=resolver)

    def create_network(spec: NetworkSpec) -> Changes:
        return operations.create_network(view, validate.network_spec(spec, "overlay", ""), ledger(), new_id)

    def create_service(spec: ServiceSpec) -> Changes:
        return operations.create_service(view, validate.service_spec(spec, Random(0)), ledger(), new_id)

    def keep(changes: Changes) -> None:
        for thing in changes.put:
            view.apply(kind_of(thing), thing.id, thing)

    keep(operations.start_cluster(view, ledger(), new_id))
    networks, secrets, configs = _named(stack)
    for name in networks - {network.name for network in stack.networks}:
        keep(create_network(NetworkSpec(name)))
    files = {name: Secret(new_id(), spec=SecretSpec(name)) for name in sorted(secrets)}
    others = {name: Config(new_id(), spec=ConfigSpec(name)) for name in sorted(configs)}
    keep(Changes((*files.values(), *others.values())))
    ids = [{name: one.id for name, one in known.items()} for known in (files, others)]
    for place, network in stack.placed_networks:
        try:
            keep(create_network(network))
        except MeshnetError as error:
            place.error(GRPC.sub("", str(error)))
            with suppress(MeshnetError):  # its services are judged as if it were there
                keep(create_network(NetworkSpec(network.name)))
    for place, service in stack.placed_services:
        try:
            keep(create_service(with_ids(service, *ids)))
        except MeshnetError as error:
            place.error(GRPC.sub("", str(error)))


def _named(stack: Stack) -> tuple[set[str], set[str], set[str]]:
    """Names of the networks, secrets and configs that services want."""
    tasks = [spec.task_template for spec in stack.services]
    return (
        {network.target for task in tasks for network in task.networks},
        {one.secret_name for task in tasks for one in task.container_spec.secrets},
        {one.config_name for task in tasks for one in task.container_spec.configs},
    )

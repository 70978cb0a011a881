"""Whether a manager would take a stack: its own code is asked, on an empty swarm that exists in memory only.

So what the manager refuses is known, with its place in the file, before anything of the lab is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from random import Random

from meshnet.api import validate
from meshnet.api.client import GRPC
from meshnet.control import operations
from meshnet.control.allocator import Ledger
from meshnet.control.objects import Changes, kind_of
from meshnet.control.view import View
from meshnet.errors import MeshnetError
from meshnet.lab.yamlnodes import Value
from meshnet.model import NetworkSpec, ServiceSpec


def rehearse(
    networks: Iterable[tuple[Value, NetworkSpec]], services: Iterable[tuple[Value, ServiceSpec]], avoid: str
) -> None:
    """Complains at each value whose network or service a manager would refuse; `avoid` is the underlay's subnet."""
    view, numbers = View(), count(1)

    def new_id() -> str:
        return f"id{next(numbers)}"

    def ledger() -> Ledger:
        return Ledger(view, avoid=(avoid,))

    def create_network(spec: NetworkSpec) -> Changes:
        return operations.create_network(view, validate.network_spec(spec, "overlay", ""), ledger(), new_id)

    def create_service(spec: ServiceSpec) -> Changes:
        return operations.create_service(view, validate.service_spec(spec, Random(0)), ledger(), new_id)

    def keep(changes: Changes) -> None:
        for thing in changes.put:
            view.apply(kind_of(thing), thing.id, thing)

    keep(operations.start_cluster(view, ledger(), new_id))
    for place, network in networks:
        try:
            keep(create_network(network))
        except MeshnetError as error:
            place.error(GRPC.sub("", str(error)))
    for place, service in services:
        try:
            keep(create_service(service))
        except MeshnetError as error:
            place.error(GRPC.sub("", str(error)))

"""From assignments and records to what a task can look up (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from meshnet.datapath.plan import Located
from meshnet.datapath.rows import ZoneRow
from meshnet.dns.answer import TTL
from meshnet.dns.zone import EndpointView, NetworkView, ServiceView, Zone, build_zone
from meshnet.model import Assignments, Endpoint, Service


class Zones:
    """The zones of one state of the world; tasks on the same networks share one."""

    def __init__(self, assignments: Assignments, records: Iterable[Located]) -> None:
        self._assignments = assignments
        self._by_network: dict[str, list[Located]] = {}
        for record in records:
            self._by_network.setdefault(record.network, []).append(record)
        self._built: dict[tuple[str, ...], Zone] = {}

    def for_networks(self, network_ids: Iterable[str]) -> Zone:
        """The zone of a task on these networks, in the order of its interfaces. Ingress has no names."""
        wanted = tuple(network_ids)
        if wanted not in self._built:
            views = [self._view(network_id) for network_id in wanted]
            self._built[wanted] = build_zone([view for view in views if view is not None])
        return self._built[wanted]

    def rows(self, sandboxes: Mapping[str, Sequence[str]]) -> tuple[ZoneRow, ...]:
        """What the data path may answer itself, for sandboxes (paths) on networks (ids, as in `for_networks`)."""
        together: dict[tuple[str, ...], list[str]] = {}
        for sandbox, networks in sandboxes.items():
            together.setdefault(tuple(networks), []).append(sandbox)
        return tuple(
            ZoneRow(networks, tuple(sorted(together[networks])), TTL, plain_names(self.for_networks(networks)))
            for networks in sorted(together)
        )

    def _view(self, network_id: str) -> NetworkView | None:
        network = self._assignments.networks.get(network_id)
        if network is None or network.spec.ingress:
            return None
        records = self._by_network.get(network_id, [])
        services = tuple(
            _service_view(service, network_id)
            for service in self._assignments.services.values()
            if any(a.target == network_id for a in service.spec.task_template.networks)
        )
        endpoints = tuple(self._endpoint_view(r.owner, r.endpoint) for r in records if r.endpoint.task)
        return NetworkView(network.spec.name, services, endpoints)

    def _endpoint_view(self, owner: str, endpoint: Endpoint) -> EndpointView:
        service = self._assignments.services.get(endpoint.service)
        name = service.spec.name if service else endpoint.service
        full = f"{name}.{endpoint.slot or owner}.{endpoint.task}"
        alone = endpoint.aliases[0] if endpoint.aliases else endpoint.hostname  # of a container without a service
        return EndpointView(
            service_id=endpoint.service,
            service_name=name,
            slot=endpoint.slot,
            task_id=endpoint.task,
            task_name=full if endpoint.service else alone,
            container_id=endpoint.container,
            hostname=endpoint.hostname,
            ip=endpoint.ip,
            aliases=endpoint.aliases,
            ready=endpoint.state == "ready",
        )


def plain_names(zone: Zone) -> tuple[tuple[bytes, tuple[bytes, ...]], ...]:
    """Names and addresses, shortest names first, without names whose answers have more than addresses in them."""
    plain = ((name, found) for name, found in zone.addresses.items() if name not in zone.services)
    return tuple(sorted(plain, key=lambda item: (len(item[0]), item[0])))


def _service_view(service: Service, network_id: str) -> ServiceView:
    aliases = tuple(
        alias
        for attachment in service.spec.task_template.networks
        if attachment.target == network_id
        for alias in attachment.aliases
    )
    vip = service.vip(network_id)
    return ServiceView(
        id=service.id,
        name=service.spec.name,
        aliases=aliases,
        vip=vip,
        mode="dnsrr" if service.spec.endpoint_spec.mode == "dnsrr" else "vip",
        ports=tuple((p.name, p.protocol, p.target_port) for p in service.endpoint.ports),
    )

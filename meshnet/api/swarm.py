"""The swarm itself: what it is, how nodes join it, and the changes of its tokens and its CA."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from meshnet.api import shapes
from meshnet.api.http import answer, body_of, flag, manager_of, version_of
from meshnet.clusterspec import ClusterChange, ClusterSpec
from meshnet.codec import from_json, shown, to_json
from meshnet.control import operations
from meshnet.control.manager import Manager
from meshnet.control.objects import Changes, Cluster
from meshnet.control.refusals import check_version
from meshnet.control.trust.rotation import CAConfig, ca_config, reconfigured
from meshnet.control.view import View
from meshnet.errors import MeshnetError
from meshnet.ipam import DEFAULT_POOLS


async def inspect_swarm(request: web.Request) -> web.Response:
    """GET /swarm: with the join tokens, which only who may use the socket gets to see."""
    manager = manager_of(request)
    return answer({**cluster(manager), "JoinTokens": manager.keeper.tokens()})


async def update_swarm(request: web.Request) -> web.Response:
    """POST /swarm/update: another spec, new join tokens, another CA or another life of certificates, all or none."""
    manager = manager_of(request)
    version, body = version_of(request, "swarm"), await body_of(request)
    change, config = from_json(ClusterChange, body), ca_config(body)
    if flag(request, "rotateManagerUnlockKey"):
        raise MeshnetError("there is no unlock key: managers that must be unlocked are not supported", 501)
    roles = [role for role, name in TOKENS.items() if flag(request, name)]

    def decide(view: View) -> Changes:
        assert view.cluster is not None
        check_version(version, view.cluster.version)
        trusted = manager.keeper.changes(view, lambda trust, now, rng: reconfigured(trust, config, roles, now, rng))
        others = (thing for thing in trusted.put if not isinstance(thing, Cluster))
        return Changes((operations.update_cluster(view.cluster, change), *others))

    await manager.state.write(decide)
    return web.Response()


async def unlock_key(_: web.Request) -> web.Response:
    """GET /swarm/unlockkey: there is none, as in any swarm whose managers are not locked."""
    return answer({"UnlockKey": ""})


TOKENS = {"worker": "rotateWorkerToken", "manager": "rotateManagerToken"}


def cluster(manager: Manager) -> shapes.Json:
    """The swarm without its secrets: what `GET /info` shows, too."""
    view, settings, trust = manager.view, manager.settings, manager.keeper.trust
    found = view.cluster
    assert found is not None
    return {
        "ID": found.id,
        "Version": {"Index": found.version.index},
        "CreatedAt": found.created_at,
        "UpdatedAt": found.updated_at,
        "Spec": _spec(found.spec, CAConfig(trust.expiry, trust.rotations)),
        "TLSInfo": to_json(manager.keeper.tls_info()),
        "RootRotationInProgress": trust.coming is not None,
        "DefaultAddrPool": None if settings.pools == DEFAULT_POOLS else list(settings.pools),
        "SubnetSize": settings.pool_size,
        "DataPathPort": settings.data_path_port,
    }


def _spec(spec: ClusterSpec, config: CAConfig) -> shapes.Json:
    """The spec in the Engine's order, with the authority's part."""
    parts = shown(spec)
    last = {name: parts.pop(name) for name in ("TaskDefaults", "EncryptionConfig")}
    return {**parts, "CAConfig": _ca(config), **last}


def _ca(config: CAConfig) -> dict[str, Any]:
    described: dict[str, Any] = {"NodeCertExpiry": config.node_cert_expiry}
    return {**described, "ForceRotate": config.force_rotate} if config.force_rotate else described

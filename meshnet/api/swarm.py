"""The swarm itself: what it is, how nodes join it, and the changes of its tokens and its CA."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from meshnet.api import shapes
from meshnet.api.http import answer, body_of, flag, manager_of, version_of
from meshnet.codec import to_json
from meshnet.control.manager import Manager
from meshnet.control.trust.rotation import CAConfig, ca_config, reconfigured
from meshnet.errors import MeshnetError


async def inspect_swarm(request: web.Request) -> web.Response:
    """GET /swarm: with the join tokens, which only who may use the socket gets to see."""
    manager = manager_of(request)
    return answer({**cluster(manager), "JoinTokens": manager.keeper.tokens()})


async def update_swarm(request: web.Request) -> web.Response:
    """POST /swarm/update: new join tokens, and another CA or another life of certificates."""
    manager = manager_of(request)
    known = manager.view.cluster
    version, body = version_of(request, "swarm"), await body_of(request)
    if known is None or version != known.version.index:
        raise MeshnetError("rpc error: code = Unknown desc = update out of sequence", 500)
    config = ca_config(body)
    if flag(request, "rotateManagerUnlockKey"):
        raise MeshnetError("there is no unlock key: managers that must be unlocked are not supported", 501)
    roles = [role for role, name in TOKENS.items() if flag(request, name)]
    await manager.keeper.update(lambda trust, now, rng: reconfigured(trust, config, roles, now, rng))
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
        "Spec": {
            "Name": "default",
            "Labels": {},
            "Orchestration": {"TaskHistoryRetentionLimit": settings.history},
            "Raft": RAFT,
            "Dispatcher": {"HeartbeatPeriod": round(settings.heartbeat * 1e9)},
            "CAConfig": _ca(CAConfig(trust.expiry, trust.rotations)),
            "TaskDefaults": {},
            "EncryptionConfig": {"AutoLockManagers": False},
        },
        "TLSInfo": to_json(manager.keeper.tls_info()),
        "RootRotationInProgress": trust.coming is not None,
        "DefaultAddrPool": list(settings.pools),
        "SubnetSize": settings.pool_size,
        "DataPathPort": settings.data_path_port,
    }


# Swarm's defaults: clients print them, and here nothing else is meant by them.
RAFT = {
    "SnapshotInterval": 10000,
    "KeepOldSnapshots": 0,
    "LogEntriesForSlowFollowers": 500,
    "ElectionTick": 10,
    "HeartbeatTick": 1,
}


def _ca(config: CAConfig) -> dict[str, Any]:
    shown: dict[str, Any] = {"NodeCertExpiry": config.node_cert_expiry}
    return {**shown, "ForceRotate": config.force_rotate} if config.force_rotate else shown

"""The swarm as a whole over the API: what it is told, and what follows from that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from api_world import Api, served, service
from swarm import FakeNode, eventually

from meshnet.control.nodes import Heartbeats
from meshnet.model import Node, NodeStatus


def test_the_swarm_is_shown_and_changed(tmp_path: Path) -> None:
    """The spec is a real engine's, a change of a part leaves the rest, and it is there after a restart."""

    async def scenario(api: Api) -> None:
        shown = await api.get("/swarm")
        assert list(shown) == [
            "ID",
            "Version",
            "CreatedAt",
            "UpdatedAt",
            "Spec",
            "TLSInfo",
            "RootRotationInProgress",
            "DefaultAddrPool",
            "SubnetSize",
            "DataPathPort",
            "JoinTokens",
        ]
        expected: dict[str, Any] = {
            "Name": "default",
            "Labels": {},
            "Orchestration": {"TaskHistoryRetentionLimit": 5},
            "Raft": {
                "SnapshotInterval": 10000,
                "KeepOldSnapshots": 0,
                "LogEntriesForSlowFollowers": 500,
                "ElectionTick": 10,
                "HeartbeatTick": 1,
            },
            "Dispatcher": {"HeartbeatPeriod": 5000000000},
            "CAConfig": {"NodeCertExpiry": 7776000000000000},
            "TaskDefaults": {},
            "EncryptionConfig": {"AutoLockManagers": False},
        }
        assert shown["Spec"] == expected
        assert shown["DefaultAddrPool"] is None
        version = shown["Version"]["Index"]
        change = {
            "Orchestration": {"TaskHistoryRetentionLimit": 3},
            "Labels": {"a": "b"},
            "Dispatcher": {"HeartbeatPeriod": 2000000000},
            "CAConfig": {"NodeCertExpiry": 3600000000000},
            "Raft": {"SnapshotInterval": 50},
        }
        await api.post("/swarm/update", change, version=version)
        for part in ("Orchestration", "Labels", "Dispatcher", "CAConfig"):
            expected[part] = change[part]
        expected["Raft"]["SnapshotInterval"] = 50
        changed = await api.get("/swarm")
        assert changed["Spec"] == expected
        assert changed["JoinTokens"] == shown["JoinTokens"]
        info = await api.get("/info")
        assert info["Swarm"]["Cluster"]["Spec"] == expected
        assert await api.refused("POST", "/swarm/update", change, version=version) == (500, "update out of sequence")
        for body, words in (
            ({"Name": "other"}, "modification of cluster name is not allowed"),
            ({"EncryptionConfig": {"AutoLockManagers": True}}, "EncryptionConfig.AutoLockManagers"),
            ({"Dispatcher": {"HeartbeatPeriod": 1}}, "Dispatcher.HeartbeatPeriod"),
            ({"Dispatcher": {"HeartbeatPeriod": -1}}, "Dispatcher.HeartbeatPeriod"),
            ({"Orchestration": {"TaskHistoryRetentionLimit": "5"}}, "Orchestration.TaskHistoryRetentionLimit"),
            ({"CAConfig": {"NodeCertExpiry": 5}}, "minimum certificate expiry time"),
        ):
            now = (await api.get("/swarm"))["Version"]["Index"]
            refusal = await api.refused("POST", "/swarm/update", {**change, **body}, version=now)
            assert words in refusal[1], refusal
        assert (await api.get("/swarm"))["Spec"] == expected
        assert (await api.refused("POST", "/swarm/update", change))[1].startswith("invalid swarm version ''")

    async def later(api: Api) -> None:
        shown = await api.get("/swarm")
        assert shown["Spec"]["Orchestration"] == {"TaskHistoryRetentionLimit": 3}
        assert api.process.manager.heartbeat == 2.0

    served(tmp_path, scenario)
    served(tmp_path, later)


def test_the_history_limit_holds(tmp_path: Path) -> None:
    """A smaller limit forgets tasks at once; a negative one forgets none."""

    async def scenario(api: Api) -> None:
        manager = api.process.manager
        node = FakeNode(manager, "docker-1", tmp_path / "docker-1")
        await node.start()

        async def limit(number: int) -> None:
            version = (await api.get("/swarm"))["Version"]["Index"]
            change = {"Orchestration": {"TaskHistoryRetentionLimit": number}}
            await api.post("/swarm/update", change, version=version)

        async def fail(times: int) -> None:
            for _ in range(times):
                await eventually(node.running, "a task runs")
                node.tell(next(iter(node.running())), "failed")

        try:
            body = service("web")
            body["TaskTemplate"]["RestartPolicy"] = {"Delay": 0, "MaxAttempts": 0}
            await limit(-1)
            await api.post("/services/create", body)
            await fail(2)
            await eventually(lambda: len(manager.view.tasks) == 3, "all are kept")
            await limit(1)
            await eventually(lambda: len(manager.view.tasks) == 1, "the present one alone is kept")
        finally:
            await node.stop()

    served(tmp_path, scenario)


def test_a_longer_heartbeat_loses_no_node() -> None:
    """With a longer period the terms that run are longer at once: nodes hear of it only with their next report."""
    beats = Heartbeats(1.0, 3.0)
    beats.start([Node(id="n", status=NodeStatus("ready"))], 0.0)
    beats.beat("n", 10.0)
    beats.every(5.0)
    assert beats.next_expiry() == 25.0
    beats.beat("n", 12.0)
    assert beats.next_expiry() == 27.0
    beats.every(1.0)
    assert beats.next_expiry() == 27.0
    beats.beat("n", 13.0)
    assert beats.next_expiry() == 16.0

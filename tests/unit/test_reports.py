"""Nodes' reports to the manager: one connection each, which outlives neither its certificate nor its manager."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from peers import FAST, member, reporting, session, shown
from swarm import FakeNode, Swarm, eventually, run, spec, swarm

from meshnet.control import conversation
from meshnet.control.conversation import Conversation
from meshnet.control.manager import Manager
from meshnet.control.operations import remove_node
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.model import TaskStatus

EMPTY = '{"Tasks": {}}'


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where nodes opened connections for their reports."""
    found: list[str] = []
    opens = conversation._opened

    async def counted(http: aiohttp.ClientSession, url: str, context: Any) -> Any:
        found.append(url)
        return await opens(http, url, context)

    monkeypatch.setattr(conversation, "_opened", counted)
    return found


async def _with_tasks(it: Swarm, tasks: int) -> FakeNode:
    """A node that has been given so many tasks, and does nothing with them."""
    node = await it.node("docker-1")
    node.works = False
    await it.service(spec("web", tasks))
    await eventually(lambda: len(node.now.tasks) == tasks, "the node has its tasks")
    return node


def test_one_connection(tmp_path: Path, opened: list[str]) -> None:
    """A node keeps one connection for all its reports, and one more for each time that the manager starts."""

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it:
            node = await it.node("docker-1")
            await eventually(lambda: it.manager.statistics()["reports"] >= 5, "five reports")
            assert len(opened) == it.manager.statistics()["reporting"] == 1
            await it.manager.stop()
            it.manager = Manager(tmp_path / "manager", it.manager.listen_address, FAST)
            await it.manager.start()
            opened.clear()
            await eventually(lambda: it.manager.statistics()["reports"] >= 3, "reports at the new manager")
            assert len(opened) <= 1
            assert it.manager.statistics()["reporting"] == 1
            assert it.manager.view.nodes[node.client.node_id].status.state == "ready"

    run(scenario)


def test_bad_reports(tmp_path: Path) -> None:
    """A report that cannot be read is refused with the reason, and changes nothing; the next one is taken."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            node = await it.node("docker-1")
            ident = node.client.node_id
            async with reporting(http, it.manager, node.credentials.context(), ident) as say:
                for text, words in (
                    ("{", "not JSON"),
                    ("[" * 100_000, "not JSON"),
                    ("[]", "Tasks: an object"),
                    ('{"Tasks": 5}', "Tasks: an object"),
                    ('{"Tasks": {"x": {"State": "odd"}}}', "unknown state 'odd'"),
                    ('{"Tasks": {"x": []}}', "an object is needed"),
                ):
                    answer = await say(text)
                    assert answer["status"] == 400
                    assert words in answer["message"]
                assert await say(EMPTY) == it.manager.terms()
            async with reporting(http, it.manager, node.credentials.context(), ident) as say:
                assert await say("x" * (5 << 20)) is None
            assert it.manager.view.nodes[ident].status.state == "ready"

    run(scenario)


def test_one_bad_status_among_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a node says of its tasks is taken one by one: neither an unknown task nor a status that cannot be read keeps
    the others from the manager, and the log of the node has what was refused."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            node = await _with_tasks(it, 3)
            good, bad, other = sorted(node.now.tasks)
            running, odd = TaskStatus(state="running"), TaskStatus(state="odd")
            node.client.report({"unknown": running, bad: odd, good: running, other: running})
            await node.client.reported()
            states = {ident: it.manager.view.tasks[ident].status.state for ident in (good, bad, other)}
            assert states == {good: "running", bad: "assigned", other: "running"}
            assert f"the manager refused a report: Tasks.{bad}: State: unknown state 'odd'" in caplog.text
            node.tell(bad, "running")
            await node.client.reported()
            assert it.manager.view.tasks[bad].status.state == "running"

    run(scenario)


def test_words_that_others_have_to_read(tmp_path: Path) -> None:
    """What a node says of its tasks is stored so that any client can read it, and no longer than a person would."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            node = await _with_tasks(it, 1)
            (task,) = node.now.tasks
            context = node.credentials.context()
            async with reporting(http, it.manager, context, node.client.node_id) as say:
                odd = {"State": "running", "ContainerStatus": {"ContainerID": "../" * 9_999}}
                answer = await say(json.dumps({"Tasks": {task: odd}}))
                assert "is no container's id" in answer["message"]
                assert len(answer["message"]) < 200
                for time in ("", "bogus", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00.1e999Z", "20260101T000000Z"):
                    status = {"State": "running", "Err": "\ud800", "Message": "m" * 9_999, "Timestamp": time}
                    assert "message" not in await say(json.dumps({"Tasks": {task: status}}))
                    found = it.manager.view.tasks[task].status
                    assert (found.err, len(found.message)) == ("?", 4096)
                    assert found.timestamp.endswith("000Z")
                good = "2026-01-01T00:00:00.123456789Z"
                await say(json.dumps({"Tasks": {task: {"State": "running", "Timestamp": good}}}))
                assert it.manager.view.tasks[task].status.timestamp == good

    run(scenario)


def test_many_statuses_go_in_several_reports(tmp_path: Path) -> None:
    """What a node says of thousands of tasks at once reaches the manager, whatever fits into one message."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            node = await _with_tasks(it, 2)
            long = TaskStatus(state="running", message="m" * 3000)
            before = it.manager.statistics()["reports"]
            first, last = sorted(node.now.tasks)
            node.client.report({first: long} | {f"other{number}": long for number in range(2000)} | {last: long})
            await node.client.reported()
            assert {it.manager.view.tasks[ident].status.state for ident in (first, last)} == {"running"}
            assert it.manager.statistics()["reports"] - before >= 3

    run(scenario)


def test_long_statuses_go_in_several_reports(tmp_path: Path) -> None:
    """What many tasks failed of reaches the manager, however long the words are that tell it."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it:
            node = await _with_tasks(it, 2)
            first, last = sorted(node.now.tasks)
            wordy = {f"other{number}": TaskStatus(state="running", message="\0" * 50_000) for number in range(20)}
            endless = TaskStatus(state="running", err="\0" * 1_000_000)
            node.client.report({first: endless} | wordy | {last: endless})
            async with asyncio.timeout(20):
                await node.client.reported()
            assert {it.manager.view.tasks[ident].status.state for ident in (first, last)} == {"running"}

    run(scenario)


def test_a_node_that_is_refused_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a node says while it is not let in, as with an expired certificate, it says again with what is new."""

    async def scenario() -> None:
        async with swarm(tmp_path, FAST) as it:
            node = await _with_tasks(it, 2)
            refused: list[Any] = []

            async def refuse(_: Conversation, __: aiohttp.ClientSession, ___: str, question: Any) -> Any:
                refused.append(question["Tasks"])
                raise MeshnetError("the certificate has expired", 403)

            first, second = sorted(node.now.tasks)
            with monkeypatch.context() as patch:
                patch.setattr(Conversation, "ask", refuse)
                node.tell(first, "starting")
                await eventually(lambda: len([one for one in refused if one]) > 1, "it is refused, and tries again")
                node.tell(second, "running")
                node.tell(first, "running")
                await eventually(lambda: len(refused[-1]) == 2, "all is said at once")
            await node.client.reported()
            assert [it.manager.view.tasks[ident].status.state for ident in (first, second)] == ["running"] * 2

    run(scenario)


def test_a_certificate_that_expires_while_connected(tmp_path: Path) -> None:
    """A connection that was let in is heard no longer than its certificate lasts; the refusal is counted."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            manager, node = it.manager, await it.node("docker-1")
            me = member(node, manager)
            async with reporting(http, manager, shown(manager, me, life=2.0), me.node) as say, asyncio.timeout(10):
                while "message" not in (answer := await say(EMPTY)):
                    pass
                assert answer == {"message": f"the certificate of node {me.node} has expired", "status": 403}
                assert await say(EMPTY) is None
            assert manager.statistics()["refused_expired"] == 1

    run(scenario)


def test_a_node_that_is_removed_while_connected(tmp_path: Path) -> None:
    """A node that somebody removed hears so with its next report, and is not connected any more."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            manager, node = it.manager, await it.node("docker-1")
            me = member(node, manager)
            async with reporting(http, manager, shown(manager, me), me.node) as say:
                await node.stop()
                await manager.left(me.node)
                await manager.state.write(lambda view: remove_node(view, view.nodes[me.node], force=True))
                answer = await say(EMPTY)
                assert answer["status"] == 404
                assert "not in this swarm any more" in answer["message"]
            await eventually(lambda: not manager.statistics()["reporting"], "nobody is connected")
            it.nodes.remove(node)

    run(scenario)


@asynccontextmanager
async def manager_that(it: Swarm, answers: Callable[[str], str | None]) -> AsyncIterator[str]:
    """Someone with the manager's certificate who answers as `answers` says, or not at all: the URL for reports."""

    async def converse(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if (text := answers(message.data)) is not None:
                await socket.send_str(text)
        return socket

    app = web.Application()
    app.add_routes([web.get("/reports", converse)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=it.manager.keeper.listener.context)
    await site.start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/reports"
    finally:
        await runner.cleanup()


def test_answers_are_not_mixed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that got no answer in time, or was given up, ends the connection: a late answer is to nobody."""
    monkeypatch.setattr(conversation, "TIMEOUT", 0.3)

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            node = await it.node("docker-1")
            held: list[str] = []

            def answers(text: str) -> str | None:
                if "late" in text:
                    held.append(text)
                    return None
                return text

            async with manager_that(it, answers) as url:
                talk = Conversation(node.credentials)
                with pytest.raises(TimeoutError):
                    await talk.ask(http, url, {"n": "late"})
                assert await talk.ask(http, url, {"n": 1}) == {"n": 1}
                waiting = asyncio.create_task(talk.ask(http, url, {"n": "late"}))
                await eventually(lambda: len(held) == 2, "it was asked")
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert await talk.ask(http, url, {"n": 2}) == {"n": 2}
                await talk.close()

    run(scenario)


@pytest.mark.parametrize(
    "text", ["", "5", "[]", '"text"', "[]x", '{"message": "no"}', '{"message": "no", "status": "?"}']
)
def test_answers_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    """They count as a manager that does not answer: another one is asked, or the same again."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            node = await it.node("docker-1")
            async with manager_that(it, lambda _: text) as url:
                talk = Conversation(node.credentials)
                with pytest.raises(aiohttp.ClientError, match="cannot be read"):
                    await talk.ask(http, url, {})
                await talk.close()

    run(scenario)


def test_a_refused_connection(tmp_path: Path) -> None:
    """Who is not let in hears of it as of any refusal: a node that is in no swarm any more stops for it."""

    async def scenario() -> None:
        async with swarm(tmp_path) as it, session() as http:
            node = await it.node("docker-1")
            talk = Conversation(node.credentials)
            url = f"https://{it.manager.listen_address}/v1/nodes"
            with pytest.raises(NotFoundError):
                await talk.ask(http, f"{url}/x/nothing", {})
            with pytest.raises(MeshnetError, match="403") as refusal:
                await talk.ask(http, f"{url}/x/reports", {})
            assert refusal.value.status == 403

    run(scenario)

"""Docker's words and tables, and the words of names, times and ports."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from meshnet.cli import human, render
from meshnet.cli.tasks import ports, task_rows
from meshnet.errors import MeshnetError
from meshnet.lab import words
from meshnet.lab.converge import Progress, Watch, keeps_failing, progress, summary
from meshnet.lab.impair import discipline
from meshnet.lab.spec import LabLink
from meshnet.model import (
    ContainerSpec,
    Global,
    JobStatus,
    Node,
    NodeDescription,
    NodeSpec,
    NodeStatus,
    PortConfig,
    Replicated,
    ReplicatedJob,
    Service,
    ServiceEndpoint,
    ServiceMode,
    ServiceSpec,
    Task,
    TaskSpec,
    TaskStatus,
    Version,
)

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("2026-01-01T12:00:00.5Z", "less than a second ago"),
        ("2026-01-01T11:59:59.999999999Z", "less than a second ago"),
        ("2026-01-01T11:59:58.123456789Z", "1 second ago"),
        ("2026-01-01T11:59:18Z", "42 seconds ago"),
        ("2026-01-01T11:58:30Z", "about a minute ago"),
        ("2026-01-01T11:50:00+00:00", "10 minutes ago"),
        ("2026-01-01T10:50:00Z", "about an hour ago"),
        ("2025-12-31T12:00:00Z", "24 hours ago"),
        ("2025-12-20T12:00:00Z", "12 days ago"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_how_long_ago(time: str, said: str) -> None:
    """Times are told as docker tells them; what is no time is nothing."""
    assert human.ago(time, NOW) == said


def test_counting() -> None:
    """One thing is singular."""
    assert [human.count(number, "node") for number in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]


def test_a_table_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns are as wide as their widest cell and three spaces, without spaces at the end of a line."""
    render.table(("ID", "NAME"), [("1", "a"), ("12345", "")])
    assert capsys.readouterr().out == "ID      NAME\n1       a\n12345\n"


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("0", 0), ("5s", 5 * 10**9), ("1m30s", 90 * 10**9), ("1.5h", 5400 * 10**9), ("500ms", 5 * 10**8), ("1us", 1000)]
    + [(wrong, None) for wrong in ("", "5", "s", "5 s", "-5s", "5s!", "5d", "1e3s")],
)
def test_durations(text: str, nanoseconds: int | None) -> None:
    """Go's notation for times is read, and nothing else."""
    assert words.duration(text) == nanoseconds


def test_ports_in_short() -> None:
    """docker's short notation for ports, with ranges and protocols."""
    assert words.ports("8000") == [PortConfig(target_port=8000)]
    assert words.ports("53:5353/udp") == [PortConfig("", "udp", 5353, 53)]
    assert words.ports("1-2:11-12") == [PortConfig("", "tcp", 11, 1), PortConfig("", "tcp", 12, 2)]
    for wrong in ("", "x", "1:2:3", "0:1", "2-1", "1-2:5", "1/sctp", "65536"):
        with pytest.raises(MeshnetError):
            words.ports(wrong)


def node(name: str, state: str = "ready", availability: str = "active") -> Node:
    spec, status = NodeSpec(availability=availability), NodeStatus(state)
    return Node(name, spec=spec, description=NodeDescription(name), status=status)


def task(slot: int, state: str, on: str = "n1", *, desired: str = "running", err: str = "", image: str = "i") -> Task:
    return Task(
        id=f"t{slot}{state}{on}",
        created_at=state,
        spec=TaskSpec(ContainerSpec(image)),
        service_id="s",
        slot=slot,
        node_id=on,
        status=TaskStatus("2026-01-01T12:00:00Z", state, "", err),
        desired_state=desired,
    )


def service(mode: ServiceMode) -> Service:
    return Service("s", spec=ServiceSpec(name="web", task_template=TaskSpec(ContainerSpec("i")), mode=mode))


def test_progress_of_a_replicated_service() -> None:
    """A task counts when it runs on a node that is ready; the newest failure is told while some are missing."""
    nodes = [node("n1"), node("n2", "down")]
    tasks = [
        task(1, "running"),
        task(2, "running", "n2"),
        task(3, "starting"),
        task(3, "failed", desired="shutdown", err="it broke"),
        task(4, "running", desired="shutdown"),
    ]
    found = progress(service(ServiceMode(Replicated(3))), tasks, nodes)
    assert found == Progress("web", 1, 3, {"1": "running", "2": "running", "3": "starting"}, "it broke")
    assert not found.converged
    assert str(found) == "web: 1 of 3 tasks (3 starting): it broke"
    assert summary([found]) == "1 of 3 tasks run, waiting for web: it broke"


def test_what_failed_and_runs_again_is_no_news() -> None:
    """A failure is told until its own slot runs again, and not when that is replaced or another one is missing."""
    killed = replace(task(1, "failed", desired="shutdown", err="killed"), created_at="1")
    again = replace(task(1, "running", image="before"), created_at="2")
    wanted = service(ServiceMode(Replicated(2)))

    def error(*tasks: Task) -> str:
        return progress(wanted, tasks, [node("n1")], updated=True).error

    assert error(killed, replace(task(1, "starting"), created_at="2")) == "killed"
    assert error(killed, again, task(2, "starting")) == ""
    stopped = replace(again, status=replace(again.status, state="shutdown"), desired_state="shutdown")
    assert error(killed, stopped, replace(task(1, "starting"), created_at="3")) == ""
    assert error(again, replace(task(1, "failed", desired="shutdown", err="it broke"), created_at="3")) == "it broke"


def test_progress_of_an_update() -> None:
    """While a service is updated, tasks of the spec before do not count."""
    tasks = [task(1, "running"), task(2, "running", image="before")]
    assert progress(service(ServiceMode(Replicated(2))), tasks, [node("n1")]).converged
    assert progress(service(ServiceMode(Replicated(2))), tasks, [node("n1")], updated=True).running == 1


def test_progress_of_a_global_service() -> None:
    """A global service wants a task on every node that may have one, also before the first task exists."""
    nodes = [node("n1"), node("n2"), node("n3", availability="drain")]
    assert progress(service(ServiceMode(global_=Global())), [], nodes) == Progress("web", 0, 2, {})
    tasks = [task(0, "running", "n1"), task(0, "running", "n2")]
    assert progress(service(ServiceMode(global_=Global())), tasks, nodes).converged


def test_progress_of_a_job() -> None:
    """A job is done when all its tasks of this run are complete; those of the run before do not count."""
    job = ServiceMode(replicated_job=ReplicatedJob(2, 2))
    wanted = replace(service(job), job_status=JobStatus(Version(2)))
    done = replace(task(0, "complete", desired="complete"), job_iteration=Version(2))
    before = replace(task(1, "complete", desired="complete"), job_iteration=Version(1))
    running = replace(task(1, "running", desired="complete"), job_iteration=Version(2))
    found = progress(wanted, [done, before, running], [node("n1")])
    assert found == Progress("web", 1, 2, {"1": "complete", "2": "running"})
    assert progress(wanted, [done, replace(done, slot=1)], [node("n1")]).converged


def test_rows_of_tasks() -> None:
    """The task that is wanted comes first in its slot, those before it are set in; long errors are cut."""
    tasks = [
        task(1, "failed", desired="shutdown", err="x" * 90),
        task(1, "running"),
        task(2, "running", "n2"),
    ]
    rows = task_rows(tasks, {"s": service(ServiceMode(Replicated(2)))}, {"n1": "one", "n2": "two"})
    assert [(row[1], row[3], row[4]) for row in rows] == [
        ("web.1", "one", "Running"),
        (r" \_ web.1", "one", "Shutdown"),
        ("web.2", "two", "Running"),
    ]
    assert rows[1][6] == '"' + "x" * 77 + '…"'


def test_published_ports_in_a_table() -> None:
    """Ports in ingress mode are shown as docker shows them."""
    endpoint = ServiceEndpoint(ports=(PortConfig("", "udp", 53, 5353), PortConfig("", "tcp", 1, 2, "host")))
    assert ports(Service(endpoint=endpoint)) == "*:5353->53/udp"


@pytest.mark.parametrize(
    ("link", "said"),
    [
        (LabLink("x"), ""),
        (LabLink("x", delay=10_000_000), "netem delay 10000us"),
        (LabLink("x", loss=0.5, rate=10**6), "netem loss 0.5% rate 1000000bit"),
        (LabLink("x", rate=10**9), "tbf rate 1000000000bit burst 1250000 latency 50ms"),
    ],
)
def test_what_a_link_asks_of_the_kernel(link: LabLink, said: str) -> None:
    """Delay and loss are netem's, a rate alone is a token bucket's."""
    assert " ".join(discipline(link)) == said


def test_what_has_failed_must_run_for_a_while() -> None:
    """Tasks that run have settled after a moment, and after a second where one of them failed before."""
    watch = Watch()
    assert watch.settled([], 0.0)
    first = [task(1, "running")]
    assert not watch.settled(first, 0.0)
    assert watch.settled(first, 0.2)
    second = [task(1, "failed", desired="shutdown"), task(1, "running", "n2")]
    assert not watch.settled(second, 0.3)
    assert not watch.settled(second, 1.2)
    assert watch.settled(second, 1.4)


def test_what_keeps_failing() -> None:
    """A slot of the present spec that ended three times keeps failing, and the last reason is told."""
    ended = [task(1, "failed", on, desired="shutdown", err="no") for on in ("n1", "n2", "n3")]
    wanted = service(ServiceMode(Replicated(1)))
    assert keeps_failing(wanted, ended) == "no"
    assert keeps_failing(wanted, ended[:2]) == ""
    assert keeps_failing(wanted, [*ended[:2], task(2, "failed", err="no")]) == ""
    assert keeps_failing(wanted, [*ended[:2], task(1, "failed", err="no", image="before")]) == ""


def test_rows_are_in_the_order_of_slots() -> None:
    """web.10 comes after web.9, and a reason is shown whole."""
    reason = "cannot start: executable file `nosuch` not found in $PATH"
    tasks = [task(slot, "running", err=reason) for slot in (10, 9, 1)]
    rows = task_rows(tasks, {"s": service(ServiceMode(Replicated(3)))}, {})
    assert [row[1] for row in rows] == ["web.1", "web.9", "web.10"]
    assert rows[0][6] == f'"{reason}"'

"""What is remembered of what was made, and what is written from it."""

from __future__ import annotations

import json
from dataclasses import replace

from meshnet.api import shapes
from meshnet.api.listing import ServiceTexts
from meshnet.codec import from_json
from meshnet.control.assignments import for_disk
from meshnet.control.cachetext import CacheText
from meshnet.control.view import View
from meshnet.memo import Memo
from meshnet.model import (
    Assignments,
    Network,
    NetworkSpec,
    Node,
    Secret,
    Service,
    ServiceSpec,
    Task,
    TaskStatus,
    Version,
)


def test_each_thing_is_made_once() -> None:
    """What was made of a thing is given again for that very thing, in any order; of an equal one it is made anew."""
    made: list[str] = []

    def make(thing: list[str]) -> str:
        made.append(thing[0])
        return thing[0].upper()

    one, two = ["one"], ["two"]
    memo = Memo(make)
    assert memo.each([one, two]) == ["ONE", "TWO"]
    assert memo.each([two, one, one]) == ["TWO", "ONE", "ONE"]
    assert made == ["one", "two"]
    assert memo.each([["one"]]) == ["ONE"]
    assert made == ["one", "two", "one"]


def test_what_is_not_there_any_more_is_forgotten() -> None:
    """A thing that was left out once is made anew, so that nothing piles up."""
    made: list[object] = []
    thing = object()
    memo = Memo(made.append)
    memo.each([thing])
    memo.each([])
    memo.each([thing])
    assert made == [thing, thing]


def test_text_of_assignments_is_read_again() -> None:
    """What is written for an agent's disk is what it is told, without secrets, after any change."""
    text = CacheText()
    task = Task(id='t"1', service_id="s1", status=TaskStatus("", "running"))
    told = Assignments(
        node=Node(id="n1"),
        tasks={task.id: task},
        services={"s1": Service(id="s1", spec=ServiceSpec(name="web"))},
        networks={"n": Network(id="n", spec=NetworkSpec(name="demo"), vni=4097)},
        secrets={"x": Secret(id="x")},
    )
    for now in (
        told,
        replace(told, tasks={task.id: replace(task, slot=2)}),
        replace(told, node=None, services={}),
        Assignments(),
        told,
    ):
        assert from_json(Assignments, json.loads(text.of(now))) == for_disk(now)
    assert '"Secrets":{}' in text.of(told)


def test_listed_services_are_as_inspected() -> None:
    """The list says of each service what `inspect` does, also after it or its tasks have changed."""
    view, texts = View(), ServiceTexts()

    def check(status: bool) -> None:
        wanted = [shapes.service(one, view, status) for one in view.services.values()]
        assert json.loads(texts.listing(view.services.values(), view, status)) == wanted

    check(True)
    for number in range(3):
        ident = f"s{number}"
        view.apply("service", ident, Service(id=ident, spec=ServiceSpec(name=f'"{ident}"')))
    check(False)
    check(True)
    view.apply("task", "t", Task(id="t", service_id="s1", desired_state="running", status=TaskStatus("", "running")))
    check(True)
    waiting = TaskStatus("", "pending", "", "no suitable node")
    view.apply("task", "t", Task(id="t", service_id="s1", desired_state="running", status=waiting))
    check(False)
    view.apply("service", "s1", replace(view.services["s1"], version=Version(7)))
    view.apply("service", "s0", None)
    check(True)

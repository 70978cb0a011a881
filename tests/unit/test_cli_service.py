"""`meshnet service`: what it says about what the engine refuses, or takes without doing it."""

from __future__ import annotations

from typing import Any

import pytest
from cli_engine import LAB, answering, meshnet

from meshnet.cli import converge
from meshnet.codec import to_json
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.lab import engine
from meshnet.lab.engine import Engine
from meshnet.model import ContainerSpec, Service, ServiceSpec, TaskSpec

HOW = "name it in the lab's images, or give it a `rootfs:` there (docs/lab.md); see what there is with: meshnet images"


def test_an_image_that_is_nowhere() -> None:
    """Who names an image that does not exist hears where those are listed that do."""
    with pytest.raises(NotFoundError) as refusal:
        engine.check_image(LAB, "nosuch:1")
    assert str(refusal.value) == f"No such image: nosuch:1; {HOW}"


def test_warnings_are_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What of a service is without effect is said when it is made, and when it is changed."""
    spec = ServiceSpec("web", task_template=TaskSpec(ContainerSpec("i")))
    table: dict[str, Any] = {
        "POST /services/create web": {"ID": "s", "Warnings": ["no pids"]},
        "POST /services/s/update web": {"Warnings": ["no swap"]},
        "GET /services": [to_json(Service("s", spec=spec))],
    }
    answering(monkeypatch, table)
    said = meshnet(capsys, monkeypatch, "service", "create", "-d", "--name", "web", "i")
    assert said == (0, "s\n", "warning: no pids\n")
    said = meshnet(capsys, monkeypatch, "service", "update", "-d", "--force", "web")
    assert said == (0, "web\n", "warning: no swap\n")


def test_what_is_not_there_keeps_the_others_from_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several services those that are there are scaled and shown; the others are named, and the exit status is 1."""
    spec = ServiceSpec("web", task_template=TaskSpec(ContainerSpec("i")))
    table: dict[str, Any] = {
        "GET /services": [to_json(Service("s", spec=spec))],
        "GET /services/s": {"ID": "s"},
        "POST /services/s/update web": {},
    }
    client = answering(monkeypatch, table)
    status, out, err = meshnet(capsys, monkeypatch, "service", "scale", "-d", "no=2", "web=3", "nor=4")
    assert (status, out) == (1, "web scaled to 3\n")
    assert "meshnet: service no not found\n" in err
    assert "meshnet: service nor not found\n" in err
    assert client.changes == ["POST /services/s/update web"]
    status, out, err = meshnet(capsys, monkeypatch, "service", "inspect", "no", "web", "-f", "{{.ID}}")
    assert (status, out) == (1, "s\n")
    assert "service no not found" in err


@pytest.mark.parametrize("interrupted", [False, True])
def test_scaling_says_all_that_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    """A service that is not there, and others that do not converge, are each said; Ctrl-C ends it without waiting."""
    waited: list[str] = []

    def wait(_: Engine, name: str, __: bool) -> None:
        waited.append(name)
        raise MeshnetError(f"{name} does not converge")

    services = [to_json(Service(n, spec=ServiceSpec(n, task_template=TaskSpec(ContainerSpec("i"))))) for n in "ab"]
    table: dict[str, Any] = {
        "GET /services": services,
        "POST /services/a/update a": {},
        "POST /services/b/update b": KeyboardInterrupt() if interrupted else {},
    }
    monkeypatch.setattr(converge, "wait", wait)
    answering(monkeypatch, table)
    status, out, err = meshnet(capsys, monkeypatch, "service", "scale", "no=2", "a=3", "b=4")
    if interrupted:
        assert (status, out, waited) == (130, "a scaled to 3\n", [])
        return
    assert (status, out, waited) == (1, "a scaled to 3\nb scaled to 4\n", ["a", "b"])
    assert "service no not found" in err
    assert "a does not converge" in err
    assert "b does not converge" in err

"""What a client says of a service is what it is shown: every field, with the Engine's own rules for empty ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from api_world import Api, served
from hypothesis import given, settings
from hypothesis import strategies as st
from specs import full

from meshnet.api import shapes, validate
from meshnet.codec import compact, from_json
from meshnet.errors import MeshnetError
from meshnet.model import ServiceSpec


def test_every_field_comes_back(tmp_path: Path) -> None:
    """A spec that says everything is shown as it was sent, and sending it back changes nothing."""

    async def scenario(api: Api) -> None:
        network = (await api.post("/networks/create", {"Name": "demo"}))["Id"]
        await api.post("/services/create", full())
        expected = full(network=network)
        shown = await api.get("/services/all", insertDefaults="false")
        assert shown["Spec"] == expected
        assert (await api.get("/services/all", insertDefaults="true"))["Spec"] == expected
        before = api.process.manager.view.services[shown["ID"]]
        await api.post("/services/all/update", shown["Spec"], version=shown["Version"]["Index"])
        assert api.process.manager.view.services[shown["ID"]].spec == before.spec

    served(tmp_path, scenario)


def test_what_is_not_said_is_not_shown(tmp_path: Path) -> None:
    """What a client leaves out stays out, unless it asks for the defaults: those are Swarm's."""

    async def scenario(api: Api) -> None:
        sent = {
            "Name": "few",
            "TaskTemplate": {
                "ContainerSpec": {"Image": "nginx"},
                "Resources": {},
                "RestartPolicy": {"Condition": "on-failure"},
            },
            "UpdateConfig": {"Parallelism": 2, "MaxFailureRatio": 0, "Order": "stop-first"},
            "Surprise": {"Labels": 3},
        }
        await api.post("/services/create", sent)
        shown = (await api.get("/services/few"))["Spec"]
        assert shown == {
            "Name": "few",
            "Labels": {},
            "TaskTemplate": {
                "ContainerSpec": {"Image": "nginx", "Isolation": "default"},
                "Resources": {},
                "RestartPolicy": {"Condition": "on-failure", "MaxAttempts": 0},
                "Placement": {},
                "ForceUpdate": 0,
                "Runtime": "container",
            },
            "Mode": {"Replicated": {"Replicas": 1}},
            "UpdateConfig": {
                "Parallelism": 2,
                "FailureAction": "pause",
                "MaxFailureRatio": 0,
                "Order": "stop-first",
            },
            "EndpointSpec": {"Mode": "vip"},
        }
        whole = (await api.get("/services/few", insertDefaults="true"))["Spec"]
        template = whole["TaskTemplate"]
        assert template["ContainerSpec"] == {
            "Image": "nginx",
            "StopGracePeriod": 10000000000,
            "DNSConfig": {},
            "Isolation": "default",
        }
        assert template["RestartPolicy"] == {"Condition": "on-failure", "Delay": 5000000000, "MaxAttempts": 0}
        assert whole["UpdateConfig"] == {**shown["UpdateConfig"], "Monitor": 5000000000}
        assert whole["RollbackConfig"] == {
            "Parallelism": 1,
            "FailureAction": "pause",
            "Monitor": 5000000000,
            "MaxFailureRatio": 0,
            "Order": "stop-first",
        }

    served(tmp_path, scenario)


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all scalars in a JSON value, maps of free keys left out."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key[0].isupper():
                yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    elif value is not None:
        yield path


def _with(value: Any, path: tuple[Any, ...], item: Any) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = item
    return changed


def _text(path: tuple[Any, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


# The runtime is no field of the model: only containers are run.
LEAVES = sorted((path for path in _leaves(full()) if path[-1] != "Runtime"), key=str)


@pytest.mark.parametrize("path", LEAVES, ids=_text)
def test_a_wrong_type_names_its_field(path: tuple[Any, ...]) -> None:
    """Whichever field has a value of a wrong type: the refusal begins with that field's path."""
    with pytest.raises(MeshnetError) as refusal:
        from_json(ServiceSpec, _with(full(), path, [{}]))
    assert str(refusal.value).startswith(f"{_text(path)}: ")


OUT_OF_RANGE = (
    ("Mode.Replicated.Replicas", -1),
    ("Mode.Replicated.Replicas", 10**6),
    ("TaskTemplate.ForceUpdate", -1),
    ("TaskTemplate.ForceUpdate", 2**64),
    ("TaskTemplate.Placement.MaxReplicas", -1),
    ("TaskTemplate.RestartPolicy.MaxAttempts", -1),
    ("TaskTemplate.RestartPolicy.Delay", -1),
    ("TaskTemplate.RestartPolicy.Window", -1),
    ("TaskTemplate.Resources.Limits.Pids", -1),
    ("TaskTemplate.Resources.Limits.MemoryBytes", -1),
    ("TaskTemplate.ContainerSpec.StopGracePeriod", -1),
    ("TaskTemplate.ContainerSpec.Healthcheck.Interval", -1),
    ("UpdateConfig.Parallelism", -1),
    ("UpdateConfig.Delay", -1),
    ("UpdateConfig.Monitor", 2**63),
)


@pytest.mark.parametrize(("path", "number"), OUT_OF_RANGE)
def test_a_number_out_of_range_names_its_field(path: str, number: int) -> None:
    """Numbers that cannot be are refused with the field's name, and not taken for something else."""
    with pytest.raises(MeshnetError, match=path.split(".", 1)[-1].replace("TaskTemplate.", "")):
        validate.service_spec(from_json(ServiceSpec, _with(full(), tuple(path.split(".")), number)), Random(1))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("UpdateConfig.FailureAction", "explode", "unrecognized update failure action explode"),
        ("RollbackConfig.FailureAction", "rollback", "unrecognized update failure action rollback"),
        ("UpdateConfig.Order", "sideways", "unrecognized update order sideways"),
        ("UpdateConfig.MaxFailureRatio", 1.5, "cannot be less than 0 or bigger than 1"),
        ("TaskTemplate.Resources.Reservations.NanoCPUs", 1, "invalid cpu value 1e-09: Must be at least 0.001"),
        ("TaskTemplate.Resources.Limits.MemoryBytes", 5, "invalid memory value 5: Must be at least 4MiB"),
        ("TaskTemplate.ContainerSpec.Isolation", "hyperv", "Isolation"),
        ("TaskTemplate.ContainerSpec.Mounts", [{"Type": "nfs", "Target": "/a"}], 'invalid MountType: "nfs"'),
        ("Labels", {"meshnet.placement": "best"}, "'best' is none of spread, binpack, random"),
        ("Labels", {"meshnet.update.deadline": "soon"}, "'soon' is no duration"),
    ],
)
def test_a_value_that_is_none_of_those_known(path: str, value: Any, words: str) -> None:
    """Words that mean nothing are refused, in Swarm's words where it has some."""
    with pytest.raises(MeshnetError) as refusal:
        validate.service_spec(from_json(ServiceSpec, _with(full(), tuple(path.split(".")), value)), Random(1))
    assert words in str(refusal.value)


def test_only_containers_run(tmp_path: Path) -> None:
    """A service of plugins or of network attachments is refused, and not run as a service of containers."""

    async def scenario(api: Api) -> None:
        body = _with(full(), ("TaskTemplate", "Runtime"), "plugin")
        assert await api.refused("POST", "/services/create", body) == (
            400,
            "TaskTemplate.Runtime: 'plugin' is not supported; use container",
        )

    served(tmp_path, scenario)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_part_of_a_spec_survives(data: st.DataObject) -> None:
    """Whatever part of it is left out: shown and read again it is the same spec, and stored and read again too."""
    spec = full()
    for path in data.draw(
        st.lists(st.sampled_from(sorted({p[:n] for p in _leaves(spec) for n in range(1, 5)}, key=str)))
    ):
        inner: Any = spec
        for step in path[:-1]:
            inner = inner.get(step, {}) if isinstance(inner, dict) else {}
        if isinstance(inner, dict):
            inner.pop(path[-1], None)
    try:
        checked = validate.service_spec(from_json(ServiceSpec, spec), Random(1))
    except MeshnetError:
        return
    shown = shapes.service_spec(checked)
    assert validate.service_spec(from_json(ServiceSpec, shown), Random(1)) == checked
    assert from_json(ServiceSpec, compact(checked)) == checked

"""Placeholders in hostnames, environment and mounts mean what Swarm documents."""

import pytest

from meshnet.agent.templates import expand, fields
from meshnet.errors import MeshnetError
from meshnet.model import Service, ServiceSpec, Task

VALUES = fields(
    Task(id="t1", service_id="s1", node_id="n1", slot=2),
    Service(id="s1", spec=ServiceSpec(name="web", labels={"tier": "front"})),
    "docker-1",
)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("plain", "plain"),
        ("web-{{.Task.Slot}}", "web-2"),
        ("{{ .Service.Name }}.{{.Node.Hostname}}", "web.docker-1"),
        ("{{.Task.Name}} {{.Task.ID}} {{.Service.ID}} {{.Node.ID}}", "web.2.t1 t1 s1 n1"),
        ("{{.Service.Labels.tier}}/{{.Service.Labels.none}}", "front/"),
    ],
)
def test_placeholders_are_filled_in(text: str, meaning: str) -> None:
    """Each documented field has its value; a label that is not there is empty."""
    assert expand(text, VALUES) == meaning


def test_an_unknown_placeholder_is_named() -> None:
    """A mistake says which one it is and what there is."""
    with pytest.raises(MeshnetError, match=r"unknown placeholder \{\{\.Task\.Color\}\}; known are: \.Node\.Hostname"):
        expand("{{.Task.Color}}", VALUES)

"""Swarm's placeholders in a task's hostname, environment and mounts: `{{.Task.Slot}}` and its kin (pure).

Of Go's template language only the fields that Swarm documents are known:
.Service.ID .Service.Name .Service.Labels.<key> .Node.ID .Node.Hostname .Task.ID .Task.Name .Task.Slot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from meshnet.errors import MeshnetError
from meshnet.model import Service, Task, task_name

_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}")


def fields(task: Task, service: Service | None, hostname: str) -> dict[str, str]:
    """What each placeholder stands for; `hostname` is the node's."""
    name = service.spec.name if service else task.service_id
    labels = service.spec.labels if service else {}
    return {
        ".Service.ID": task.service_id,
        ".Service.Name": name,
        ".Node.ID": task.node_id,
        ".Node.Hostname": hostname,
        ".Task.ID": task.id,
        ".Task.Name": task_name(name, task),
        ".Task.Slot": str(task.slot or task.node_id),
        **{f".Service.Labels.{key}": text for key, text in labels.items()},
    }


def expand(text: str, values: Mapping[str, str]) -> str:
    """`text` with its placeholders filled in. MeshnetError for one that Swarm does not know.

    >>> expand("web-{{.Task.Slot}}", {".Task.Slot": "2"})
    'web-2'
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name.startswith(".Service.Labels."):
            return values.get(name, "")
        if name not in values:
            raise MeshnetError(f"unknown placeholder {match.group(0)}; known are: {', '.join(sorted(values))}")
        return values[name]

    return _PLACEHOLDER.sub(value, text)

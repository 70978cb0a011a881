"""Services from compose files refer to secrets and configs by name; a manager wants their ids, too (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from meshnet.errors import NotFoundError
from meshnet.model import ServiceSpec


def with_ids(spec: ServiceSpec, secrets: Mapping[str, str], configs: Mapping[str, str]) -> ServiceSpec:
    """The service with the ids of what it refers to by name. Raises NotFoundError for what does not exist."""
    container = spec.task_template.container_spec
    for kind, names, known in (
        ("secret", [one.secret_name for one in container.secrets], secrets),
        ("config", [one.config_name for one in container.configs], configs),
    ):
        for name in names:
            if name not in known:
                raise NotFoundError(f"{kind} not found: {name}")
    container = replace(
        container,
        secrets=tuple(replace(one, secret_id=secrets[one.secret_name]) for one in container.secrets),
        configs=tuple(replace(one, config_id=configs[one.config_name]) for one in container.configs),
    )
    return replace(spec, task_template=replace(spec.task_template, container_spec=container))

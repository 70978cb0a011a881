"""Secrets and configs: data that a swarm keeps for its tasks, who get it as files.

`data` is base64, as in the Engine API. What the manager keeps of a secret is `sealed`, its data encrypted; a node is
told the data itself, and only if a task there needs it.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshnet.containerspec import Driver, Version, named


@dataclass(frozen=True, slots=True)
class SecretSpec:
    """`templating` names the language that the data is a template of (`golang`)."""

    name: str = named(default="", always=True)
    labels: dict[str, str] = named(factory=dict, always=True)
    data: str = ""
    driver: Driver | None = None
    templating: Driver | None = None


@dataclass(frozen=True, slots=True)
class Secret:
    id: str = named("ID", "")
    version: Version = Version()
    created_at: str = ""
    updated_at: str = ""
    spec: SecretSpec = SecretSpec()
    sealed: str = ""


@dataclass(frozen=True, slots=True)
class ConfigSpec:
    name: str = named(default="", always=True)
    labels: dict[str, str] = named(factory=dict, always=True)
    data: str = ""
    templating: Driver | None = None


@dataclass(frozen=True, slots=True)
class Config:
    id: str = named("ID", "")
    version: Version = Version()
    created_at: str = ""
    updated_at: str = ""
    spec: ConfigSpec = ConfigSpec()

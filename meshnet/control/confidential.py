"""Secrets and configs: what people may do with them, as functions of the view (swarmkit manager/controlapi)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from meshnet.containerspec import ConfigReference, SecretReference
from meshnet.control.objects import Changes
from meshnet.control.refusals import check_version, exists, invalid
from meshnet.control.vault import Vault
from meshnet.control.view import View
from meshnet.model import ContainerSpec, Service, ServiceSpec
from meshnet.secretspec import Config, ConfigSpec, Secret, SecretSpec

NewId = Callable[[], str]


def create_secret(view: View, spec: SecretSpec, vault: Vault, new_id: NewId) -> Changes:
    """A secret; its data is kept sealed. `spec` is validated."""
    if any(secret.spec.name == spec.name for secret in view.secrets.values()):
        raise exists(f"secret {spec.name} already exists")
    ident = new_id()
    sealed = vault.seal(spec.data, ident)
    return Changes((Secret(id=ident, spec=dataclasses.replace(spec, data=""), sealed=sealed),))


def update_secret(secret: Secret, version: int, spec: SecretSpec, vault: Vault) -> Changes:
    """The secret with other labels; nothing else of it can change."""
    check_version(version, secret.version)
    same = spec.name == secret.spec.name and spec.driver == secret.spec.driver
    if not same or (spec.data and spec.data != vault.open(secret.sealed, secret.id)):
        raise invalid("only updates to Labels are allowed")
    return Changes((dataclasses.replace(secret, spec=dataclasses.replace(secret.spec, labels=spec.labels)),))


def remove_secret(view: View, secret: Secret) -> Changes:
    """Deletes a secret that no service uses."""
    users = [s for s in view.services.values() if any(r.secret_id == secret.id for r in _container(s.spec).secrets)]
    _check_unused("secret", secret.spec.name, users)
    return Changes(drop=(secret,))


def create_config(view: View, spec: ConfigSpec, new_id: NewId) -> Changes:
    """A config. `spec` is validated."""
    if any(config.spec.name == spec.name for config in view.configs.values()):
        raise exists(f"config {spec.name} already exists")
    return Changes((Config(id=new_id(), spec=spec),))


def update_config(config: Config, version: int, spec: ConfigSpec) -> Changes:
    """The config with other labels; nothing else of it can change."""
    check_version(version, config.version)
    if spec.name != config.spec.name or (spec.data and spec.data != config.spec.data):
        raise invalid("only updates to Labels are allowed")
    return Changes((dataclasses.replace(config, spec=dataclasses.replace(config.spec, labels=spec.labels)),))


def remove_config(view: View, config: Config) -> Changes:
    """Deletes a config that no service uses."""
    users = [s for s in view.services.values() if any(r.config_id == config.id for r in _container(s.spec).configs)]
    _check_unused("config", config.spec.name, users)
    return Changes(drop=(config,))


def check_references(view: View, spec: ServiceSpec) -> None:
    """Refuses a service that names a secret or a config that does not exist, or another name than it has."""
    container = _container(spec)
    _check_exist("secret", container.secrets, {ident: secret.spec.name for ident, secret in view.secrets.items()})
    _check_exist("config", container.configs, {ident: config.spec.name for ident, config in view.configs.items()})


def _container(spec: ServiceSpec) -> ContainerSpec:
    return spec.task_template.container_spec


def _check_exist(kind: str, references: Iterable[SecretReference | ConfigReference], names: Mapping[str, str]) -> None:
    asked = [
        (r.secret_id, r.secret_name) if isinstance(r, SecretReference) else (r.config_id, r.config_name)
        for r in references
    ]
    missing = [name for ident, name in asked if names.get(ident) != name]
    if missing:
        raise invalid(f"{kind}{'s' if len(missing) > 1 else ''} not found: {', '.join(missing)}")


def _check_unused(kind: str, name: str, users: Iterable[Service]) -> None:
    names = sorted(service.spec.name for service in users)
    if names:
        what = "service" if len(names) == 1 else "services"
        raise invalid(f"{kind} '{name}' is in use by the following {what}: {', '.join(names)}")

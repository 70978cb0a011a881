"""The values of docker's service flags as parts of a ServiceSpec (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from meshnet.containerspec import (
    BindOptions,
    DiscreteGenericResource,
    Driver,
    GenericResource,
    NamedGenericResource,
    ReferenceFile,
    TmpfsOptions,
    Ulimit,
    VolumeOptions,
)
from meshnet.errors import MeshnetError
from meshnet.lab import words
from meshnet.model import (
    Mount,
    NetworkAttachmentConfig,
    PlacementPreference,
    PortConfig,
    SpreadOver,
)

TRUE, FALSE = ("true", "1"), ("false", "0")
MOUNT = (
    "type",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "bind-propagation",
    "volume-nocopy",
    "volume-driver",
    "volume-label",
    "volume-opt",
    "volume-subpath",
    "tmpfs-size",
    "tmpfs-mode",
)
ID = 2**32 - 2


def wrong(flag: str, text: str, said: str) -> click.UsageError:
    """The one line about a value that cannot be."""
    return click.UsageError(f"{flag} {text!r}: {said}", click.get_current_context(silent=True))


def pairs(items: Iterable[str], flag: str) -> dict[str, str]:
    """NAME=value, as for labels. A name alone has an empty value. Raises click.UsageError."""
    found = {}
    for item in items:
        key, _, value = item.partition("=")
        if not key:
            raise wrong(flag, item, "write NAME=value")
        found[key] = value
    return found


def fields(text: str, flag: str, known: Sequence[str]) -> list[tuple[str, str]]:
    """docker's long notation, `published=8080,target=80`, where a word alone is true. Raises click.UsageError."""
    found = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if key not in known:
            raise wrong(flag, text, f"{key!r} is not known; use {', '.join(known)}")
        found.append((key, value if equals else "true"))
    return found


def ports(items: Iterable[str], flag: str = "--publish") -> tuple[PortConfig, ...]:
    """--publish, short (`8000:80/udp`) or long (`published=8080,target=80`)."""
    found: list[PortConfig] = []
    for item in items:
        try:
            found += [_long_port(item, flag)] if "=" in item else words.ports(item)
        except MeshnetError as error:
            raise click.UsageError(f"{flag}: {error}", click.get_current_context(silent=True)) from None
    for port in found:
        if (port.published_port, port.protocol) in words.RESERVED_PORTS:
            raise MeshnetError(f"port {port.published_port}/{port.protocol} is the nodes' own; publish another one")
    return tuple(found)


def _long_port(text: str, flag: str) -> PortConfig:
    given = dict(fields(text, flag, ("published", "target", "protocol", "mode")))
    if "target" not in given:
        raise MeshnetError(f"{text!r}: target= is missing, the port inside the task")
    protocol, mode = given.get("protocol", "tcp"), given.get("mode", "ingress")
    if protocol not in ("tcp", "udp") or mode not in ("ingress", "host"):
        raise MeshnetError(f"{text!r}: protocol is tcp or udp, mode is ingress or host")
    published = given.get("published")
    plain = words.ports(f"{published}:{given['target']}" if published else given["target"])
    return PortConfig("", protocol, plain[0].target_port, plain[0].published_port, mode)


def network(text: str, flag: str = "--network") -> NetworkAttachmentConfig:
    """--network NAME, or name=NAME,alias=ALIAS,driver-opt=KEY=VALUE."""
    if "=" not in text:
        return NetworkAttachmentConfig(text)
    given = fields(text, flag, ("name", "alias", "driver-opt"))
    name = next((value for key, value in given if key == "name"), "")
    if not name:
        raise wrong(flag, text, "name= is missing")
    aliases = tuple(value for key, value in given if key == "alias")
    return NetworkAttachmentConfig(name, aliases, pairs((v for k, v in given if k == "driver-opt"), flag))


def preference(text: str, flag: str = "--placement-pref") -> PlacementPreference:
    """--placement-pref spread=node.labels.zone."""
    given = dict(fields(text, flag, ("spread",)))
    return PlacementPreference(SpreadOver(given["spread"]))


def mount(text: str, flag: str = "--mount") -> Mount:
    """--mount type=bind,source=/a,target=/b,readonly."""
    listed = fields(text, flag, MOUNT)
    given = dict(listed)
    target = given.get("target") or given.get("dst") or given.get("destination") or ""
    if not target:
        raise wrong(flag, text, "target= is missing")
    kind = given.get("type", "volume")
    for key in given:
        prefix = key.partition("-")[0]
        if prefix in ("bind", "volume", "tmpfs") and prefix != kind:
            raise wrong(flag, text, f"{key} is for type={prefix}")
    many = {key: [value for name, value in listed if name == f"volume-{key}"] for key in ("label", "opt")}
    return Mount(
        kind,
        given.get("source") or given.get("src") or "",
        target,
        any(_flag(given[key], key, text, flag) for key in ("readonly", "ro") if key in given),
        bind_options=BindOptions(given["bind-propagation"]) if "bind-propagation" in given else None,
        volume_options=_volume(given, many, text, flag),
        tmpfs_options=_tmpfs(given, text, flag),
    )


def _volume(given: dict[str, str], many: dict[str, list[str]], text: str, flag: str) -> VolumeOptions | None:
    if not any(key.startswith("volume-") for key in given):
        return None
    driver = Driver(given.get("volume-driver", ""), pairs(many["opt"], flag))
    return VolumeOptions(
        "volume-nocopy" in given and _flag(given["volume-nocopy"], "volume-nocopy", text, flag),
        given.get("volume-subpath", ""),
        pairs(many["label"], flag),
        driver if driver != Driver() else None,
    )


def _tmpfs(given: dict[str, str], text: str, flag: str) -> TmpfsOptions | None:
    if not any(key.startswith("tmpfs-") for key in given):
        return None
    size = words.size(given.get("tmpfs-size", "0"))
    if size is None:
        raise wrong(flag, text, "tmpfs-size is a size such as 50m")
    return TmpfsOptions(size, _octal(given.get("tmpfs-mode", "0"), "tmpfs-mode", text, flag))


def _flag(value: str, key: str, text: str, flag: str) -> bool:
    if value not in TRUE + FALSE:
        raise wrong(flag, text, f"{key} is true or false")
    return value in TRUE


def _octal(value: str, key: str, text: str, flag: str) -> int:
    try:
        mode = int(value, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise wrong(flag, text, f"{key} is a file's mode such as 0444")
    return mode


def reference(text: str, flag: str) -> tuple[str, ReferenceFile]:
    """--secret or --config: NAME, or source=NAME,target=FILE,uid=0,gid=0,mode=0444 -> its name, and the file."""
    given = dict(fields(text, flag, ("source", "src", "target", "uid", "gid", "mode"))) if "=" in text else {}
    name = given.get("source") or given.get("src") or ("" if given else text)
    if not name:
        raise wrong(flag, text, "source= is missing")
    for key in ("uid", "gid"):
        number = given.get(key, "0")
        if not (number.isascii() and number.isdecimal() and int(number[:12]) <= ID):
            raise wrong(flag, text, f"{key} is a number")
    mode = _octal(given.get("mode", "0444"), "mode", text, flag)
    return name, ReferenceFile(given.get("target") or name, given.get("uid", "0"), given.get("gid", "0"), mode)


def host(text: str, flag: str = "--host") -> str:
    """--host NAME:IP -> a line of /etc/hosts."""
    name, _, address = text.partition(":")
    if not name or not address:
        raise wrong(flag, text, "write NAME:ADDRESS")
    return f"{address} {name}"


def ulimit(text: str, flag: str = "--ulimit") -> Ulimit:
    """--ulimit nofile=1024:2048, soft before hard; one number is both."""
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        return Ulimit(name, int(hard or soft), int(soft))
    except ValueError:
        raise wrong(flag, text, "write NAME=SOFT:HARD") from None


def resource(text: str, flag: str = "--generic-resource") -> GenericResource:
    """--generic-resource gpu=2, or gpu=UUID1."""
    kind, _, value = text.partition("=")
    if not kind or not value:
        raise wrong(flag, text, "write KIND=NUMBER or KIND=NAME")
    if value.isascii() and value.isdecimal():
        return GenericResource(discrete_resource_spec=DiscreteGenericResource(kind, int(value[:18])))
    return GenericResource(named_resource_spec=NamedGenericResource(kind, value))

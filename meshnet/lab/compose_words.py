"""Single values of a compose service that only the node running a task would refuse otherwise, again and again."""

from __future__ import annotations

import re
from collections.abc import Callable

from meshnet.agent import templates
from meshnet.errors import MeshnetError
from meshnet.lab.yamlnodes import Value
from meshnet.model import Task
from meshnet.sandbox.container import signal_number

MAX_HOSTNAME = 64  # bytes, sethostname(2)
MAX_ID = 2**32 - 2
_LABEL = r"[a-zA-Z0-9_](?:[a-zA-Z0-9_-]*[a-zA-Z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ACCOUNT = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,254}\$?")


def text(value: Value) -> str:
    """A scalar with `$$` for a dollar sign; variables and NUL bytes are refused."""
    found = value.text()
    if "$" in found.replace("$$", ""):
        value.error("variables are not substituted here; write $$ for a dollar sign")
    if "\0" in found:
        value.error("a NUL byte cannot be part of it")
    return found.replace("$$", "$")


def pairs(value: Value, read: Callable[[Value], str] = text) -> dict[str, str]:
    """Labels or environment: a mapping, or a list of NAME=value; `read` takes one value."""
    if not value.is_list:
        entries = value.map()
        if "" in entries:
            entries.pop("").error("a name is missing before the colon")
        return {key: "" if item.empty else read(item) for key, item in entries.items()}
    found = {}
    for item in value.list():
        key, equals, rest = read(item).partition("=")
        if not equals or not key:
            item.error("write NAME=value; nothing is taken from the environment")
        found[key] = rest
    return found


def template(value: Value) -> str:
    """Text with Swarm's placeholders, which must be known ones."""
    found = text(value)
    _expanded(value, found)
    return found


def hostname(value: Value) -> str:
    """A task's hostname, perhaps with placeholders."""
    found = text(value)
    expanded = _expanded(value, found)
    if expanded is not None and (len(expanded) > MAX_HOSTNAME or not _NAME.fullmatch(expanded)):
        value.error(f"{found!r} is no hostname: up to {MAX_HOSTNAME} letters, digits, -, _ and dots are allowed")
    return found


def alias(value: Value) -> str:
    """A further name of a service on a network."""
    found = text(value)
    if len(found) > 253 or not _NAME.fullmatch(found):
        value.error(f"{found!r} cannot be a DNS name: letters, digits, -, _ and dots are allowed")
    return found


def directory(value: Value) -> str:
    """Where a task's program starts."""
    found = text(value)
    if not found.startswith("/"):
        value.error(f"an absolute path such as /srv is needed, not {found!r}")
    return found


def user(value: Value) -> str:
    """`user[:group]` by name or number, "" after a complaint; whether the image has it is another question."""
    found = text(value)
    name, colon, group = found.partition(":")
    if not _account(name) or (colon and not _account(group)):
        value.error(f"a user such as www-data, 1000 or 1000:1000 is needed, not {found!r}")
        return ""
    return found


def stop_signal(value: Value) -> str:
    """The name or number of a signal."""
    found = text(value)
    try:
        signal_number(found)
    except MeshnetError:
        value.error(f"a signal such as SIGTERM or 15 is needed, not {found!r}")
    return found


def _account(name: str) -> bool:
    return int(name) <= MAX_ID if name.isdecimal() and len(name) < 20 else bool(_ACCOUNT.fullmatch(name))


def _expanded(value: Value, found: str) -> str | None:
    """The text with something in the place of each placeholder; None after a complaint."""
    values = dict.fromkeys(templates.fields(Task(), None, ""), "x")
    try:
        return templates.expand(found, values)
    except MeshnetError as error:
        value.error(str(error))
        return None

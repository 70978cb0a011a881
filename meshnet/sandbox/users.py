"""Who a task runs as: `user[:group]` by name or number, looked up in the image's own passwd and group files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace

from meshnet.errors import MeshnetError

_MAX_ID = 2**32 - 2
_MAX_FILE = 1 << 20  # bytes; the file may be a task's own


@dataclass(frozen=True, slots=True)
class User:
    """Numeric ids, the supplementary groups and the home directory."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/root"


def _rows(text: str, fields: int) -> list[list[str]]:
    rows = (line.split(":") for line in text.splitlines())
    return [row for row in rows if len(row) >= fields and row[2].isdecimal()]


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and int(text) <= _MAX_ID else None


def lookup(user: str, passwd: str, group: str) -> User:
    """Resolves Docker's `user[:group]`; "" is root. `passwd` and `group` are the texts of the image's files.

    A number needs no entry; a name that is not there is a MeshnetError. The named user's supplementary groups
    count only when no group was given, as with Docker.
    """
    name, _, group_name = user.partition(":")
    accounts, groups = _rows(passwd, 6), _rows(group, 4)
    wanted = _number(name) if name else 0
    for row in accounts:
        if row[0] == name or (wanted is not None and int(row[2]) == wanted):
            found = User(int(row[2]), int(row[3]) if row[3].isdecimal() else 0, (), row[5] or "/")
            name = row[0]
            break
    else:
        if wanted is None:
            raise MeshnetError(f"user {user!r}: no such user in the image")
        found = User(wanted, 0, (), "/root" if wanted == 0 else "/")
    if not group_name:
        extra = tuple(int(row[2]) for row in groups if name in row[3].split(","))
        return User(found.uid, found.gid, extra, found.home)
    gid = _number(group_name)
    if gid is None:
        gid = next((int(row[2]) for row in groups if row[0] == group_name), None)
    if gid is None:
        raise MeshnetError(f"user {user!r}: no such group in the image")
    return User(found.uid, gid, (), found.home)


def with_groups(user: User, names: Iterable[str], group: str) -> User:
    """The user with more supplementary groups, by name or number. MeshnetError for a name that is not there."""
    rows = _rows(group, 4)
    found = list(user.groups)
    for name in names:
        gid = _number(name)
        if gid is None:
            gid = next((int(row[2]) for row in rows if row[0] == name), None)
        if gid is None:
            raise MeshnetError(f"Unable to find group {name}: no matching entries in group file")
        found.append(gid)
    return replace(user, groups=tuple(dict.fromkeys(found)))


def read(root: str, name: str) -> str:
    """The text of a file below an image's root, "" if there is none. Only a plain file, never through a link."""
    try:
        descriptor = os.open(os.path.join(root, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return file.read(_MAX_FILE).decode(errors="replace")

"""Kinds of values that flags have. What reads them is loaded when there is one to read."""

from __future__ import annotations

import shlex
from typing import Any

import click


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """A time such as 5s or 1m30s; its value is in nanoseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from meshnet.lab import words

        found = value if isinstance(value, int) else words.duration(value)
        if found is None:
            self.fail(f"{value!r} is no time; write 5s or 1m30s", param, ctx)
        return found


class Bytes(click.ParamType):  # type: ignore[type-arg]  # as above
    """A size such as 50m or 1g (units of 1024); its value is in bytes."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from meshnet.lab import words

        found = value if isinstance(value, int) else words.size(value)
        if found is None:
            self.fail(f"{value!r} is no size; write 50m or 1g", param, ctx)
        return found


class Cpus(click.ParamType):  # type: ignore[type-arg]  # as above
    """Processors such as 0.5; its value is in billionths."""

    name = "decimal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from meshnet.lab import words

        found = value if isinstance(value, int) else words.cpus(value)
        if found is None:
            self.fail(f"{value!r} is no number of processors; write 0.5 or 2", param, ctx)
        return found


class Words(click.ParamType):  # type: ignore[type-arg]  # as above
    """A command line, split like a shell does."""

    name = "command"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        try:
            return tuple(shlex.split(value))
        except ValueError as error:
            self.fail(f"not a command line: {error}", param, ctx)

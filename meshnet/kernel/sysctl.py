"""Settings under /proc/sys, in a namespace where they have one per namespace. Keys as `net/ipv4/ip_forward`: slashes,
because names of devices may contain dots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from meshnet.kernel import netns as namespaces

_ROOT = Path("/proc/sys")


def get(key: str, netns: str | int | None = None) -> str:
    """The value without its line end. Raises FileNotFoundError when this kernel has no such setting."""
    return namespaces.run_maybe_in(netns, lambda: (_ROOT / key).read_text().strip())


def ensure(values: Mapping[str, str], netns: str | int | None = None, *, missing_ok: bool = False) -> dict[str, str]:
    """Writes what differs and returns it, each with its old value. Raises OSError naming the key.

    `missing_ok` passes over settings that do not exist, such as those of a device that has just gone.
    """

    def work() -> dict[str, str]:
        changed = {}
        for key, value in values.items():
            file = _ROOT / key
            try:
                old = file.read_text().strip()
                if old != value:
                    file.write_text(value)
                    changed[key] = old
            except FileNotFoundError:
                if not missing_ok:
                    raise
        return changed

    return namespaces.run_maybe_in(netns, work)

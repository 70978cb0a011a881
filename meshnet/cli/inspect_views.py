"""What `meshnet inspect` shows of an agent's answer, as tables: a heading, columns and rows per table (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from meshnet.cli import human

INGRESS = "ingress"  # has no names
_ID = re.compile(r"\b[0-9a-z]{25}\b")


@dataclass(frozen=True, slots=True)
class Table:
    """A heading of its own, or "", above columns and rows."""

    heading: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Look:
    """How much is shown: `names` of ids (services, networks, nodes); `whole`: full names and ids; `all`: zeros too."""

    names: Mapping[str, str]
    whole: bool = False
    all: bool = False

    def task(self, name: str) -> str:
        """`web.1`, or `web@node` for a task of a global service; with `whole` the full name."""
        words = name.rsplit(".", 2)
        if self.whole or len(words) < 3:
            return self.named(name)
        service, place, _ = words
        return self.named(service) + (f".{place}" if place.isdecimal() else f"@{self.named(place)}")

    def named(self, text: str) -> str:
        """A text with names in place of ids, or with short ids where there is no name."""

        def name(found: re.Match[str]) -> str:
            return self.names.get(found[0], human.short(found[0]))

        return text if self.whole else _ID.sub(name, text)


def tables(view: str, answer: Any, look: Look) -> Iterable[Table]:
    """The tables of a view."""
    if view == "lb":
        return [_lb(answer, look)]
    if view == "dns":
        return _dns(answer, look)
    if view == "endpoints":
        return [_endpoints(answer, look)]
    if view == "statistics":
        return _statistics(answer, look)
    columns = tuple(dict.fromkeys(key for row in answer for key in row))
    ids = look if look.whole else Look({})  # an id in a column of its own stays one, though a short one
    rows = [tuple((ids if key == "ID" else look).named(str(row.get(key, ""))) for key in columns) for row in answer]
    return [Table("", tuple(key.upper() for key in columns), rows)]


def _address(text: str) -> tuple[int, int]:
    try:
        return 0, int(ip_address(text))
    except ValueError:
        return 1, 0  # published ports, at every address, come last


def _lb(answer: list[dict[str, Any]], look: Look) -> Table:
    rows = []
    for row in sorted(answer, key=lambda row: (_address(row["Address"]), row["Port"])):
        front = (look.named(row["Service"]), look.named(row["Network"]), row["Address"], row["Port"])
        for backend in sorted(row["Backends"], key=lambda one: _address(one["IP"])):
            rows.append((*front, backend["IP"], look.task(backend["Task"]), look.named(backend["Node"])))
            front = ("",) * 4
        if not row["Backends"]:
            rows.append((*front, "none", "", ""))
    return Table("", ("SERVICE", "NETWORK", "ADDRESS", "PORT", "BACKEND", "TASK", "NODE"), rows)


def _endpoints(answer: list[dict[str, Any]], look: Look) -> Table:
    ordered = sorted(answer, key=lambda row: _address(row["IP"]))
    rows = [
        (
            look.named(row["Network"]),
            row["IP"],
            look.task(row["Task"]) if row["Task"] else "(the node's own)",
            row["State"],
            look.named(row["Owner"]),
        )
        for row in ordered
    ]
    return Table("", ("NETWORK", "IP", "TASK", "STATE", "NODE"), rows)


def _dns(answer: list[dict[str, Any]], look: Look) -> Iterable[Table]:
    """The names, once for all tasks that see the same; then what each task's name server has counted."""
    if not answer:
        yield Table("no task", (), ())
    seen: dict[tuple[str, ...], list[str]] = {}
    found: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in answer:
        networks = tuple(look.named(name) for name in row["Networks"] if name != INGRESS)
        seen.setdefault(networks, []).append(look.task(row["Task"]))
        found[networks] = row["Names"]
    for networks, asking in seen.items():
        heading = f"{', '.join(sorted(asking))} (on {', '.join(networks) or 'no network'}):"
        yield Table(heading, ("NAME", "TYPE", "ANSWER"), _names(found[networks], networks, look))
    counted = [
        (look.task(row["Task"]), counter, str(value))
        for row in answer
        for counter, value in sorted(row["Statistics"].items())
        if value or look.all
    ]
    if counted:
        yield Table("since their start:", ("TASK", "COUNTER", "COUNT"), counted)


def _names(found: list[dict[str, str]], networks: tuple[str, ...], look: Look) -> list[tuple[str, ...]]:
    """A row per name with all its answers. Each name with its network behind it, and ways back, are among all only."""
    answers: dict[tuple[str, str], list[str]] = {}
    suffixes = tuple(f".{network.lower()}" for network in networks)
    for record in found:
        extra = record["Type"] == "PTR" or record["Name"].rstrip(".").endswith(suffixes) or _ID.search(record["Name"])
        if look.all or not extra:
            answers.setdefault((record["Name"], record["Type"]), []).append(record["Value"])
    return [(name, kind, ", ".join(values)) for (name, kind), values in answers.items()]


def _statistics(answer: Mapping[str, Mapping[str, Any]], look: Look) -> Iterable[Table]:
    meanings = answer.get("Meanings", {})
    for group in (name for name in answer if name != "Meanings"):
        rows = [
            (name, str(value), str(meanings.get(name, "")))
            for name, value in sorted(answer[group].items())
            if value or look.all
        ]
        columns = (group.upper(), "COUNT", "MEANING" if any(row[2] for row in rows) else "")
        yield Table("", columns, rows or [("nothing yet", "", "")])

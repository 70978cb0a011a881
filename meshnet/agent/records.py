"""Endpoint records: from the agent's endpoints to gossip and back.

What other members send is checked here, field by field, before anything else believes it: a record that is not
an endpoint is counted and ignored.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from meshnet.datapath.plan import Gone, Located
from meshnet.model import Endpoint, mac_of

KIND = "endpoint"
STATES = frozenset({"starting", "ready", "draining"})
MAX_TEXT = 256
MAX_ALIASES = 64


def encode(endpoint: Endpoint) -> dict[str, Any]:
    """The record value of an endpoint."""
    value = dataclasses.asdict(endpoint)
    value["aliases"] = list(endpoint.aliases)
    return value


def decode(value: Mapping[str, Any]) -> Endpoint | None:
    """The endpoint of a record value; None if it is not a well-formed one."""
    texts = {}
    for name in ("endpoint", "task", "service", "ip", "mac", "hostname", "container", "state"):
        text = value.get(name, "")
        if not isinstance(text, str) or len(text) > MAX_TEXT:
            return None
        texts[name] = text
    slot, aliases = value.get("slot", 0), value.get("aliases", ())
    if not isinstance(slot, int) or slot < 0 or not isinstance(aliases, list | tuple) or len(aliases) > MAX_ALIASES:
        return None
    if not all(isinstance(alias, str) and len(alias) <= MAX_TEXT for alias in aliases):
        return None
    if texts["state"] not in STATES or not _is_address(texts["ip"]) or texts["mac"] != mac_of(texts["ip"]):
        return None
    return Endpoint(slot=slot, aliases=tuple(aliases), **texts)


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return not (address.is_multicast or address.is_loopback or address.is_unspecified)


class Removals:
    """Remembers addresses that their owner withdrew, until they live again.

    A record that disappears together with its owner is not a removal: the member may only be out of reach, and
    its records come back with it. Bounded: the oldest removal is forgotten first.
    """

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._seen: dict[tuple[str, str], Located] = {}
        self._gone: OrderedDict[tuple[str, str], str] = OrderedDict()

    def update(self, records: Iterable[Located], members: Iterable[str]) -> tuple[Gone, ...]:
        """Takes the visible records and the ids of members that are not dead; returns what is gone by now."""
        present = set(members)
        now = {(r.network, r.endpoint.ip): r for r in records}
        missing = self._seen.keys() - now.keys()
        for key in [key for key in self._seen if key in missing] if missing else ():
            record = self._seen[key]
            if record.owner in present:
                self._gone[key] = record.endpoint.service
                self._gone.move_to_end(key)
            else:
                now[key] = record  # hidden with its owner: judged when the owner is back
        for key in self._gone.keys() & now.keys():
            del self._gone[key]
        while len(self._gone) > self._limit:
            self._gone.popitem(last=False)
        self._seen = now
        return tuple(Gone(network, ip, service) for (network, ip), service in self._gone.items())

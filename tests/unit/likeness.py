"""Comparing an answer with one that a real engine gave: same fields and forms, same values where they can be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

IDENT = re.compile(r"[0-9a-z]{25}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z")
ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+(/\d+)?")
# What is another one in each swarm, by its form; None: anything of the same type.
FORMS: dict[str, re.Pattern[str] | None] = {
    "ID": IDENT,
    "Id": IDENT,
    "ServiceID": IDENT,
    "NodeID": IDENT,
    "NetworkID": IDENT,
    "SecretID": IDENT,
    "ConfigID": IDENT,
    "CreatedAt": TIME,
    "UpdatedAt": TIME,
    "Created": TIME,
    "Timestamp": TIME,
    "Addr": None,
    "Addresses": None,
    "Index": None,
    "TrustRoot": None,
    "CertIssuerSubject": None,
    "CertIssuerPublicKey": None,
    "JoinTokens": None,
}
TARGET = "Target"  # the id of a network, or the path of a mount


def differences(expected: Any, actual: Any, ignore: frozenset[str] = frozenset(), path: str = "") -> Iterator[str]:
    """Where and how `actual` is not like `expected`. `ignore` are names of fields that are not compared."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for name in sorted((expected.keys() | actual.keys()) - ignore):
            inner = f"{path}.{name}"
            if name not in actual:
                yield f"{inner} is missing; the engine has {expected[name]!r}"
            elif name not in expected:
                yield f"{inner} is not there in the engine: {actual[name]!r}"
            elif name in FORMS:
                yield from _form(name, expected[name], actual[name], inner)
            elif name == TARGET and IDENT.fullmatch(str(expected[name])):
                yield from _form("ID", expected[name], actual[name], inner)
            else:
                yield from differences(expected[name], actual[name], ignore, inner)
    elif isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            yield f"{path} has {len(actual)} elements; the engine has {len(expected)}"
        for number, (one, other) in enumerate(zip(expected, actual, strict=False)):
            yield from differences(one, other, ignore, f"{path}[{number}]")
    elif expected != actual or type(expected) is not type(actual):
        yield f"{path} is {actual!r}; the engine has {expected!r}"


def _form(name: str, expected: Any, actual: Any, path: str) -> Iterator[str]:
    pattern = FORMS[name]
    if type(expected) is not type(actual):
        yield f"{path} is {actual!r}; the engine has {expected!r}"
    elif pattern is not None and not pattern.fullmatch(actual):
        yield f"{path} is {actual!r}, which is not formed as {expected!r}"
    elif isinstance(expected, str) and ADDRESS.fullmatch(expected) and not ADDRESS.fullmatch(actual):
        yield f"{path} is {actual!r}, which is no address"

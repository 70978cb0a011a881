"""Dataclasses to the Docker Engine API's JSON and back.

A field `task_template` is `TaskTemplate` in JSON; a field with `metadata={"name": ...}` has that name. None and
missing are the same. Unknown JSON fields are ignored, and a field may be written in another case if it is not there as
it should be, as the Engine does (docker-py sends `{"Mode": {"replicated": ...}}`); a wrong type is refused with the
path of the field, such as `TaskTemplate.ContainerSpec.Env: a list of strings is needed`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from meshnet.errors import MeshnetError

T = TypeVar("T")
Decoder = Callable[[Any, str], Any]
_known: dict[type, tuple[tuple[str, str, Decoder], ...]] = {}


def _fields(cls: type) -> tuple[tuple[str, str, Decoder], ...]:
    known = _known.get(cls)
    if known is not None:
        return known
    hints = typing.get_type_hints(cls)
    rows = []
    for item in dataclasses.fields(cls):
        name = item.metadata.get("name") or "".join(part.capitalize() for part in item.name.split("_"))
        rows.append((item.name, name, _decoder(hints[item.name])))
    _known[cls] = tuple(rows)
    return _known[cls]


def _decoder(hint: Any) -> Decoder:
    if hint is Any:
        return lambda value, path: value
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _decoder(next(arg for arg in typing.get_args(hint) if arg is not type(None)))
    if origin is tuple:
        inner = _decoder(typing.get_args(hint)[0])
        return lambda value, path: _decode_list(inner, value, path)
    if origin is dict:
        inner = _decoder(typing.get_args(hint)[1])
        return lambda value, path: _decode_map(inner, value, path)
    if dataclasses.is_dataclass(hint):
        cls = typing.cast(type, hint)
        return lambda value, path: _decode(cls, value, path)
    return lambda value, path: _decode_scalar(hint, value, path)


def _decode_list(inner: Decoder, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise MeshnetError(f"{path}: a list is needed, not {value!r}")
    return tuple(inner(item, f"{path}[{index}]") for index, item in enumerate(value))


def _decode_map(inner: Decoder, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MeshnetError(f"{path}: an object is needed, not {value!r}")
    return {str(key): inner(item, f"{path}.{key}") for key, item in value.items()}


def _decode_scalar(hint: type, value: Any, path: str) -> Any:
    # bool is an int in Python; JSON keeps them apart.
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        words = {str: "a string", int: "a whole number", bool: "true or false"}
        raise MeshnetError(f"{path}: {words.get(hint, hint.__name__)} is needed, not {value!r}")
    return value


def _decode(cls: type[T], value: Any, path: str) -> T:
    if not isinstance(value, dict):
        raise MeshnetError(f"{path or cls.__name__}: an object is needed, not {value!r}")
    given: dict[str, Any] = {}
    rows = _fields(cls)
    folded = {}
    if not value.keys() <= {name for _, name, _ in rows}:
        folded = {str(name).lower(): item for name, item in value.items()}
    for attribute, name, decode in rows:
        item = value.get(name)
        if item is None and folded:
            item = folded.get(name.lower())
        if item is not None:
            given[attribute] = decode(item, f"{path}.{name}" if path else name)
    return cls(**given)


def from_json(cls: type[T], value: Any) -> T:
    """Builds `cls` from decoded JSON. Raises MeshnetError with the path of the first field of a wrong type."""
    return _decode(cls, value, "")


def to_json(value: Any) -> Any:
    """The JSON-ready form of a dataclass (or list, dict, scalar) with the Engine's names; None is left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            name: to_json(item)
            for attribute, name, _ in _fields(type(value))
            if (item := getattr(value, attribute)) is not None
        }
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value

"""Dataclasses to the Docker Engine API's JSON and back.

A field `task_template` is `TaskTemplate` in JSON; a field with `metadata={"name": ...}` has that name. None and
missing are the same. Unknown JSON fields are ignored, and a field may be written in another case if it is not there as
it should be, as the Engine does (docker-py sends `{"Mode": {"replicated": ...}}`); a wrong type or a number out of
range is refused with the path of the field, such as `TaskTemplate.ContainerSpec.Env: a list is needed, not 5`.

There are three ways to write: `to_json` says everything, `compact` leaves out what is as by default (for the store and
the network between manager and agents), and `shown` leaves out what the Engine leaves out when it is empty.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from meshnet.errors import MeshnetError

T = TypeVar("T")
Decoder = Callable[[Any, str], Any]
LEAST, MOST = -(2**63), 2**63 - 1
WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


class _Field(NamedTuple):
    """`kept`: the Engine writes it also when it is empty (a pointer or a struct, or a field without `omitempty`)."""

    attribute: str
    name: str
    decode: Decoder
    default: Any
    kept: bool
    always: bool


_known: dict[type, tuple[_Field, ...]] = {}
_MISSING = object()


def _fields(cls: type) -> tuple[_Field, ...]:
    known = _known.get(cls)
    if known is not None:
        return known
    hints = typing.get_type_hints(cls)
    rows = []
    for item in dataclasses.fields(cls):
        name = item.metadata.get("name") or "".join(part.capitalize() for part in item.name.split("_"))
        hint = hints[item.name]
        optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
        always = bool(item.metadata.get("always"))
        rows.append(
            _Field(
                item.name,
                name,
                _decoder(hint, item.metadata.get("least", LEAST)),
                _default(item),
                always or optional or dataclasses.is_dataclass(hint),
                always,
            )
        )
    _known[cls] = tuple(rows)
    return _known[cls]


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else _MISSING


def _decoder(hint: Any, least: int = LEAST) -> Decoder:
    if hint is Any:
        return lambda value, path: value
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _decoder(next(arg for arg in typing.get_args(hint) if arg is not type(None)), least)
    if origin is tuple:
        inner = _decoder(typing.get_args(hint)[0])
        return lambda value, path: _decode_list(inner, value, path)
    if origin is dict:
        inner = _decoder(typing.get_args(hint)[1])
        return lambda value, path: _decode_map(inner, value, path)
    if dataclasses.is_dataclass(hint):
        cls = typing.cast(type, hint)
        return lambda value, path: _decode(cls, value, path)
    if hint is int:
        return lambda value, path: _decode_int(least, value, path)
    return lambda value, path: _decode_scalar(hint, value, path)


def _decode_list(inner: Decoder, value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise MeshnetError(f"{path}: a list is needed, not {value!r}")
    return tuple(inner(item, f"{path}[{index}]") for index, item in enumerate(value))


def _decode_map(inner: Decoder, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MeshnetError(f"{path}: an object is needed, not {value!r}")
    return {str(key): inner(item, f"{path}.{key}") for key, item in value.items()}


def _decode_int(least: int, value: Any, path: str) -> int:
    # bool is an int in Python; JSON keeps them apart.
    if not isinstance(value, int) or isinstance(value, bool):
        raise MeshnetError(f"{path}: a whole number is needed, not {value!r}")
    if not least <= value <= MOST:
        wanted = "a number that is not negative" if value < least == 0 else "a number of 64 bits"
        raise MeshnetError(f"{path}: {wanted} is needed, not {_short(value)}")
    return value


def _short(number: int) -> str:
    return str(number) if number.bit_length() < 200 else "one of so many digits"


def _decode_scalar(hint: type, value: Any, path: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if math.isfinite(value):
            return value
    elif isinstance(value, hint):
        return value
    raise MeshnetError(f"{path}: {WORDS.get(hint, hint.__name__)} is needed, not {value!r}")


def _decode(cls: type[T], value: Any, path: str) -> T:
    if not isinstance(value, dict):
        raise MeshnetError(f"{path or cls.__name__}: an object is needed, not {value!r}")
    given: dict[str, Any] = {}
    rows = _fields(cls)
    folded = {}
    if not value.keys() <= {row.name for row in rows}:
        folded = {str(name).lower(): item for name, item in value.items()}
    for row in rows:
        item = value.get(row.name)
        if item is None and folded:
            item = folded.get(row.name.lower())
        if item is not None:
            given[row.attribute] = row.decode(item, f"{path}.{row.name}" if path else row.name)
    return cls(**given)


def from_json(cls: type[T], value: Any) -> T:
    """Builds `cls` from decoded JSON. Raises MeshnetError with the path of the first field that is wrong."""
    return _decode(cls, value, "")


def _mapped(value: Any, write: Callable[[Any], Any]) -> Any:
    if isinstance(value, list | tuple):
        return [write(item) for item in value]
    if isinstance(value, dict):
        return {key: write(item) for key, item in value.items()}
    return value


def to_json(value: Any) -> Any:
    """The JSON-ready form of a dataclass (or list, dict, scalar) with the Engine's names; None is left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            row.name: to_json(item)
            for row in _fields(type(value))
            if (item := getattr(value, row.attribute)) is not None
        }
    return _mapped(value, to_json)


def compact(value: Any) -> Any:
    """As `to_json`, without the fields that have their default: `from_json` reads the same object."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            row.name: compact(item)
            for row in _fields(type(value))
            if (item := getattr(value, row.attribute)) is not None and item is not row.default and item != row.default
        }
    return _mapped(value, compact)


def shown(value: Any) -> Any:
    """As the Engine writes it: without what is empty, unless its field is always there (None is null then)."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return int(value) if isinstance(value, float) and value.is_integer() else _mapped(value, shown)
    written = {}
    for row in _fields(type(value)):
        item = getattr(value, row.attribute)
        if row.always if item is None else (row.kept or item):
            written[row.name] = shown(item)
    return written

"""YAML as values that know where they stand: every complaint names file, line and column.

PyYAML's `compose()` gives the tree before YAML 1.1 guesses types, so `53:53` stays text (and not a number to the
base of 60) and `yes` is what its reader asks for. A reading method complains once and returns something harmless,
so that one run reports every mistake of a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from meshnet.errors import MeshnetError
from meshnet.files import DEVICE, PIPE, instead_of_file
from meshnet.lab import words

MAX_BYTES = 1 << 20
MAX_MERGES = 50
MAX_NODES = 100_000
_MERGE = "tag:yaml.org,2002:merge"
_NULL = "tag:yaml.org,2002:null"
_CORE = "tag:yaml.org,2002:"
_TRUE = ("true", "yes", "on")
_FALSE = ("false", "no", "off")


class LabFileError(MeshnetError):
    """Everything wrong with a lab or compose file: one `file:line:column: text` line per mistake."""

    def __init__(self, lines: Iterable[str]) -> None:
        super().__init__("\n".join(lines))


class Problems:
    """Mistakes found so far, in the order of their places in the files."""

    def __init__(self) -> None:
        self._found: list[tuple[str, int, int, str]] = []

    def add(self, file: str, line: int, column: int, text: str) -> None:
        """`line` and `column` count from 1."""
        if (file, line, column, text) not in self._found:
            self._found.append((file, line, column, text))

    def __bool__(self) -> bool:
        return bool(self._found)

    def check(self) -> None:
        """Raises LabFileError if there is any."""
        if self._found:
            raise LabFileError(f"{file}:{line}:{column}: {text}" for file, line, column, text in sorted(self._found))


class Value:
    """One node of the tree: `name` is its path in the file, such as `nodes.docker-0.address`."""

    __slots__ = ("file", "name", "node", "problems")

    def __init__(self, node: yaml.Node, name: str, file: str, problems: Problems) -> None:
        self.node = node
        self.name = name
        self.file = file
        self.problems = problems

    def error(self, text: str) -> None:
        """Complains about this value."""
        mark = self.node.start_mark
        self.problems.add(self.file, mark.line + 1, mark.column + 1, self._about(text))

    def warning(self, text: str) -> str:
        """A line about this value that a person should see, but which is no mistake."""
        mark = self.node.start_mark
        return f"{self.file}:{mark.line + 1}:{mark.column + 1}: warning: {self._about(text)}"

    def _about(self, text: str) -> str:
        return f"{self.name}: {text}" if self.name else text

    @property
    def empty(self) -> bool:
        """True for `key:` with nothing behind it, and for null."""
        return self.node.tag == _NULL

    @property
    def is_map(self) -> bool:
        return isinstance(self.node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        return isinstance(self.node, yaml.SequenceNode)

    def _child(self, node: yaml.Node, name: str) -> Value:
        return Value(node, name, self.file, self.problems)

    def map(self, known: Iterable[str] | None = None) -> dict[str, Value]:
        """The entries of a mapping. With `known`, other keys are refused, except those that begin with `x-`."""
        if self.empty:
            return {}
        if not isinstance(self.node, yaml.MappingNode):
            self.error(f"a mapping is needed, not {self._kind()}")
            return {}
        allowed = None if known is None else tuple(known)
        entries: dict[str, Value] = {}
        for key, node in self._pairs(self.node, 0):
            name = f"{self.name}.{key.value}" if self.name else str(key.value)
            at_key = self._child(key, name)
            if not isinstance(key, yaml.ScalarNode):
                self._child(key, self.name).error("a key must be plain text")
            elif key.value in entries:
                at_key.error("given twice")
            elif allowed is not None and key.value not in allowed:
                if not key.value.startswith("x-"):
                    at_key.error(f"unknown key; known here: {', '.join(allowed)}")
            else:
                entries[key.value] = self._child(node, name)
        return entries

    def _pairs(self, node: yaml.MappingNode, depth: int) -> list[tuple[yaml.Node, yaml.Node]]:
        """Entries of a mapping with its `<<` merges behind its own; what a merge brings never overrides."""
        own = [(key, value) for key, value in node.value if key.tag != _MERGE]
        names = {key.value for key, _ in own if isinstance(key, yaml.ScalarNode)}
        for key, value in node.value:
            if key.tag != _MERGE:
                continue
            sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for source in sources:
                if not isinstance(source, yaml.MappingNode) or depth >= MAX_MERGES:
                    self._child(key, self.name).error("<< merges a mapping, or a list of mappings")
                    continue
                for inner, item in self._pairs(source, depth + 1):
                    if isinstance(inner, yaml.ScalarNode) and inner.value not in names:
                        names.add(inner.value)
                        own.append((inner, item))
        return own

    def list(self) -> list[Value]:
        """The items of a list; nothing (null) is an empty list."""
        if self.empty:
            return []
        if not isinstance(self.node, yaml.SequenceNode):
            self.error(f"a list is needed, not {self._kind()}")
            return []
        return [self._child(node, f"{self.name}[{index}]") for index, node in enumerate(self.node.value)]

    def text(self) -> str:
        """A scalar as it is written; "" after a complaint."""
        if not isinstance(self.node, yaml.ScalarNode) or self.empty:
            self.error(f"text is needed, not {self._kind()}")
            return ""
        if not self.node.tag.startswith(_CORE):
            self.error(f"the tag {self.node.tag} has no meaning here")
            return ""
        return str(self.node.value)

    def texts(self) -> tuple[str, ...]:
        """A list of scalars."""
        return tuple(item.text() for item in self.list())

    def text_map(self) -> dict[str, str]:
        """A mapping of scalars; an empty value is ""."""
        return {key: "" if value.empty else value.text() for key, value in self.map().items()}

    def swarm_name(self) -> str:
        """A name by Swarm's rule (swarmkit: a DNS name component); "" after a complaint."""
        word = self.text()
        problem = words.name_problem(word) if word else ""
        if problem:
            self.error(problem)
            return ""
        return word

    def integer(self, low: int, high: int) -> int:
        """A whole number from `low` to `high` (both allowed); `low` after a complaint."""
        word = self.node.value if isinstance(self.node, yaml.ScalarNode) else ""
        if re.fullmatch(r"[+-]?\d{1,18}", word) and low <= int(word) <= high:
            return int(word)
        self.error(f"a whole number from {low} to {high} is needed, not {self._kind()}")
        return low

    def flag(self) -> bool:
        """true or false."""
        word = self.node.value.lower() if isinstance(self.node, yaml.ScalarNode) else ""
        if word not in _TRUE + _FALSE:
            self.error(f"true or false is needed, not {self._kind()}")
        return word in _TRUE

    def choice(self, *allowed: str) -> str:
        """One of the words; the first after a complaint."""
        word = self.node.value if isinstance(self.node, yaml.ScalarNode) else None
        if word in allowed:
            return str(word)
        self.error(f"one of {', '.join(allowed)} is needed, not {self._kind()}")
        return allowed[0]

    def duration(self) -> int:
        """A time such as `1m30s`, `500ms` or `0`, in nanoseconds; 0 after a complaint."""
        found = words.duration(self.node.value) if isinstance(self.node, yaml.ScalarNode) else None
        if found is None:
            self.error(f"a time such as 5s or 1m30s is needed, not {self._kind()}")
            return 0
        return found

    def plain(self) -> Any:
        """The value as dicts, lists, text, whole numbers, true and false (None for null), whatever its shape."""
        if self.is_map:
            return {key: value.plain() for key, value in self.map().items()}
        if self.is_list:
            return [value.plain() for value in self.list()]
        if self.empty:
            return None
        word = self.text()
        if self.node.tag == _CORE + "int" and re.fullmatch(r"[+-]?\d{1,18}", word):
            return int(word)
        if self.node.tag == _CORE + "bool" and word.lower() in ("true", "false"):
            return word.lower() == "true"
        return word

    def _kind(self) -> str:
        if isinstance(self.node, yaml.MappingNode):
            return "a mapping"
        if isinstance(self.node, yaml.SequenceNode):
            return "a list"
        return "nothing" if self.empty else repr(self.node.value)


def _larger_than(node: yaml.Node, most: int) -> bool:
    """Whether a tree has more nodes than `most`, counting a node again for every alias of it (or forever)."""
    pending, seen = [node], 0
    while pending and seen <= most:
        seen += 1
        item = pending.pop()
        if isinstance(item, yaml.MappingNode):
            pending.extend(part for pair in item.value for part in pair)
        elif isinstance(item, yaml.SequenceNode):
            pending.extend(item.value)
    return seen > most


def parse(text: str | bytes, file: str, problems: Problems) -> Value:
    """The root of a YAML document. `file` is the name that complaints carry.

    Raises LabFileError if it is no YAML; what is wrong with the values is collected in `problems`.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        said = " ".join(str(error.problem or error.context).split())
        raise LabFileError([f"{file}:{line}:{column}: not YAML: {said}"]) from None
    except yaml.reader.ReaderError as error:
        raise LabFileError([f"{file}:1:1: not YAML: byte {error.position}: {error.reason}"]) from None
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise LabFileError([f"{file}:1:1: not YAML: {said}"]) from None
    except RecursionError:
        raise LabFileError([f"{file}:1:1: nested too deeply"]) from None
    if node is None:
        raise LabFileError([f"{file}:1:1: the file is empty"])
    if _larger_than(node, MAX_NODES):
        raise LabFileError([f"{file}:1:1: more than {MAX_NODES} values once its aliases are followed"])
    return Value(node, "", file, problems)


def read(path: Path, problems: Problems, *, pipes: bool = False) -> Value:
    """The root of a YAML file. Raises MeshnetError if it cannot be read, LabFileError if it is no YAML.

    Without `pipes` only what has an end: opening a pipe would wait for somebody who writes to it.
    """
    kind = instead_of_file(path)
    if kind and not (pipes and kind in (PIPE, DEVICE)):
        raise MeshnetError(f"{path}: cannot be read: it is {kind}, and no regular file")
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise MeshnetError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise LabFileError([f"{path}:1:1: larger than 1 MiB, which no lab file needs to be"])
    return parse(content, str(path), problems)

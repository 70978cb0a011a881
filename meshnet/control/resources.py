"""What is left on a node for tasks to reserve: processors, memory and things that are counted or named."""

from __future__ import annotations

from collections import Counter

from meshnet.containerspec import GenericResource, Resources


class Room:
    """Starts as what a node has; tasks take from it what they reserve. What a task uses plays no part, as in Swarm."""

    def __init__(self, whole: Resources) -> None:
        self._whole = whole
        self._cpus = whole.nano_cpus
        self._memory = whole.memory_bytes
        self._counted, self._named = _generic(whole.generic_resources)

    def holds(self, needed: Resources) -> bool:
        """Whether so much is left."""
        if nothing(needed):
            return True
        counted, named = _generic(needed.generic_resources)
        return (
            needed.nano_cpus <= self._cpus
            and needed.memory_bytes <= self._memory
            and all(number <= self._counted[kind] + len(self._named[kind]) for kind, number in counted.items())
            and all(values <= self._named[kind] for kind, values in named.items())
        )

    def take(self, needed: Resources) -> None:
        """Takes it away; what is not there is owed, so that nothing fits before it has come back."""
        self._cpus -= needed.nano_cpus
        self._memory -= needed.memory_bytes
        counted, named = _generic(needed.generic_resources)
        for kind, values in named.items():
            self._named[kind] = self._named[kind] - values
        for kind, number in counted.items():
            self._counted[kind] -= number

    def reserved_share(self) -> float:
        """How much is taken: the shares of processors and of memory together, 0.0 to 2.0."""
        return sum(
            1.0 - left / whole
            for left, whole in ((self._cpus, self._whole.nano_cpus), (self._memory, self._whole.memory_bytes))
            if whole
        )


def nothing(needed: Resources) -> bool:
    """Whether a task reserves nothing: it fits anywhere."""
    return not (needed.nano_cpus or needed.memory_bytes or needed.generic_resources)


class _Sets(dict[str, frozenset[str]]):
    def __missing__(self, key: str) -> frozenset[str]:
        return frozenset()


def _generic(resources: tuple[GenericResource, ...]) -> tuple[Counter[str], _Sets]:
    """How many of each counted kind, and which of each named kind."""
    counted: Counter[str] = Counter()
    named = _Sets()
    for item in resources:
        if item.discrete_resource_spec is not None:
            counted[item.discrete_resource_spec.kind] += item.discrete_resource_spec.value
        if item.named_resource_spec is not None:
            spec = item.named_resource_spec
            named[spec.kind] = named[spec.kind] | {spec.value}
    return counted, named

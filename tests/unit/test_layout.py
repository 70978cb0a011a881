"""The shape of the house: who may import whom, and what the pure parts keep away from."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "meshnet"

# Imports point from higher to lower numbers.
LAYERS = {
    "errors": 0,
    "files": 0,
    "names": 0,
    "codec": 0,
    "clusterspec": 0,
    "containerspec": 0,
    "secretspec": 0,
    "model": 0,
    "ipam": 0,
    "kernel": 1,
    "datapath": 2,
    "sandbox": 2,
    "dns": 2,
    "gossip": 2,
    "control": 3,
    "agent": 4,
    "api": 5,
    "lab": 6,
    "bench": 6,
    "observe": 6,
    "testing": 7,
    "cli": 8,
}

# A library and the packages that may import it.
RESERVED = {
    "pyroute2": {"kernel"},
    "ctypes": {"kernel"},
    "bcc": {"observe"},
    "dnslib": {"dns", "bench"},  # bench: a server to compare with
    "scapy": {"observe", "testing"},
}

PURE = (
    "model.py",
    "clusterspec.py",
    "containerspec.py",
    "secretspec.py",
    "codec.py",
    "names.py",
    "ipam.py",
    "gossip/*.py",
    "dns/*.py",
    "control/allocator.py",
    "control/scheduler.py",
    "control/orchestrator.py",
    "control/updater.py",
    "control/jobs.py",
    "control/restart.py",
    "control/defaults.py",
    "control/resources.py",
    "control/confidential.py",
    "control/operations.py",
    "control/settle.py",
    "control/nodes.py",
    "control/trust/authority.py",
    "control/trust/gossipkeys.py",
    "control/trust/identity.py",
    "control/trust/rotation.py",
    "control/trust/sealed.py",
    "control/trust/swarm.py",
    "control/trust/tokens.py",
    "datapath/plan.py",
    "datapath/rows.py",
)
EDGES = {
    "gossip/transport.py",
    "dns/server.py",
    "dns/forward.py",
}
FORBIDDEN_IN_PURE = {"asyncio", "socket", "time", "random", "logging", "os", "subprocess", "threading", "aiohttp"}


def _modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "meshnet":
                yield from ((f"meshnet.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno


def _package(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", _modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_inward(path: Path) -> None:
    """No part imports one that stands further out, and reserved libraries stay in their rooms."""
    package = _package(path)
    if package == "__init__":
        return
    wrong = []
    for name, line in _imports(path):
        top, _, rest = name.partition(".")
        if top in RESERVED and package not in RESERVED[top]:
            wrong.append(f"line {line}: {top} belongs to {', '.join(sorted(RESERVED[top]))}")
        target = rest.partition(".")[0]
        if top == "meshnet" and target and target != package and LAYERS[target] >= LAYERS[package] and LAYERS[target]:
            wrong.append(f"line {line}: {package} may not import {target}")
    assert not wrong, f"{path.relative_to(ROOT.parent)}: " + "; ".join(wrong)


def test_pure_parts_do_nothing_by_themselves() -> None:
    """The cores have no I/O, no clock and no randomness of their own: they can be tested by values alone."""
    wrong = []
    for pattern in PURE:
        for path in ROOT.glob(pattern):
            relative = str(path.relative_to(ROOT))
            if relative in EDGES:
                continue
            wrong += [
                f"{relative}:{line}: {name}"
                for name, line in _imports(path)
                if name.partition(".")[0] in FORBIDDEN_IN_PURE
            ]
    assert not wrong, "\n".join(wrong)

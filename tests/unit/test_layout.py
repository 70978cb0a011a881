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
    "memo": 0,
    "rest": 0,
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

# Everything here is pure, a new file too, but for the edges.
PURE = (
    "model.py",
    "memo.py",
    "clusterspec.py",
    "containerspec.py",
    "secretspec.py",
    "codec.py",
    "names.py",
    "ipam.py",
    "gossip/*.py",
    "dns/*.py",
    "control/*.py",
    "control/trust/*.py",
    "datapath/plan.py",
    "datapath/rows.py",
)
EDGES = {
    "gossip/transport.py": "the sockets that the core has none of",
    "dns/server.py": "listens at 127.0.0.11",
    "dns/forward.py": "asks the node's resolvers",
    "control/manager.py": "runs the controllers in rounds, by the clock",
    "control/dispatcher.py": "agents' streams, over HTTP",
    "control/client.py": "the agent's end of these streams",
    "control/reportroutes.py": "nodes' connections for reports",
    "control/conversation.py": "the agent's end of such a connection",
    "control/sqlite.py": "the store on disk",
    "control/state.py": "follows the store's watch",
    "control/logbroker.py": "waits for lines that nodes send, and for clients to take them",
    "control/logroutes.py": "nodes' streams of log lines, over HTTP",
    "control/gate.py": "handshakes of whoever connects, and the time they may take",
    "control/admission.py": "answers nodes that ask for certificates, over HTTP",
    "control/vault.py": "reads the key file beside the store, and needs randomness for each seal",
    "control/trouble.py": "a complaint is made in the log",
    "control/trust/joining.py": "a node's way to its first certificate, over HTTP",
    "control/trust/keeper.py": "keeps a node's certificate on disk, and renews it",
    "control/trust/tls.py": "OpenSSL takes keys from files only: anonymous ones in memory",
}
FORBIDDEN_IN_PURE = {
    "aiohttp",
    "asyncio",
    "concurrent",
    "logging",
    "os",
    "random",
    "secrets",
    "select",
    "socket",
    "sqlite3",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uuid",
}
CLOCKS = {"now", "utcnow", "today"}  # of datetime and date


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


def _own_doings(path: Path) -> list[str]:
    """Where a file has I/O, a clock or randomness of its own."""
    found = [f"{line}: {name}" for name, line in _imports(path) if name.partition(".")[0] in FORBIDDEN_IN_PURE]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS and isinstance(node.value, ast.Name):
            found += [f"{node.lineno}: {node.value.id}.{node.attr}"] * (node.value.id in ("datetime", "date"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            found.append(f"{node.lineno}: open()")
    return found


def test_pure_parts_do_nothing_by_themselves() -> None:
    """The cores have no I/O, no clock and no randomness of their own: they can be tested by values alone."""
    pure = {str(path.relative_to(ROOT)): path for pattern in PURE for path in ROOT.glob(pattern)}
    wrong = [f"{name}:{what}" for name, path in pure.items() if name not in EDGES for what in _own_doings(path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("edge", EDGES)
def test_edges_are_edges(edge: str) -> None:
    """A file that is excepted from the rule needs to be: the list does not outlive its reasons."""
    assert _own_doings(ROOT / edge)

"""nftables rulesets, applied as text in one transaction by the `nft` program inside a namespace.

A ruleset changes only when an agent starts or its data path is repaired, so a process (some 20 ms) is affordable and
spares a second encoding of rules. Whether the kernel still holds what was applied is asked by netlink (0.1 ms).
"""

from __future__ import annotations

import hashlib
import socket
import struct
import subprocess

from meshnet.errors import MeshnetError
from meshnet.kernel import netns as namespaces
from meshnet.kernel.attributes import attribute
from meshnet.kernel.channel import Channel

TABLE = "meshnet"
_NETLINK_NETFILTER, _NFTABLES = 12, 10 << 8
_GETCHAIN, _GETRULE = _NFTABLES | 4, _NFTABLES | 7
_GENERATION = 4  # struct nfgenmsg: family, version and the ruleset's generation, which any change elsewhere moves


def apply(ruleset: str, netns: str | int | None = None) -> None:
    """Runs a ruleset (nft(8) syntax) as one transaction: all or nothing. Raises MeshnetError with nft's reason."""
    done = _nft(["-f", "-"], ruleset, netns)
    if done.returncode:
        raise MeshnetError(f"nft refused the ruleset: {_reason(done.stderr)}")


def replace(table: str, netns: str | int | None = None) -> None:
    """Applies one table's text (`table ip meshnet { ... }`) in place of what the table held, without a gap."""
    head = table[: table.index("{")].strip()
    apply(f"{head}\ndelete {head}\n{table}\n", netns)


def listing(name: str = TABLE, netns: str | int | None = None) -> str:
    """The table as nft prints it, "" when there is none."""
    done = _nft(["list", "table", "ip", name], "", netns)
    return done.stdout if done.returncode == 0 else ""


def delete(name: str = TABLE, netns: str | int | None = None) -> bool:
    """Removes the table; returns whether there was one."""
    if fingerprint(name, netns) == "":
        return False
    return _nft(["delete", "table", "ip", name], "", netns).returncode == 0


def fingerprint(name: str = TABLE, netns: str | int | None = None) -> str:
    """A digest of the table's chains and rules in the kernel: equal while nobody changes them; "" without chains."""

    header = struct.pack("=BBH", socket.AF_INET, 0, 0)
    wanted = name.encode() + b"\0"
    digest = hashlib.sha256()
    found: list[bytes] = []
    empty = True
    with Channel(_NETLINK_NETFILTER, netns) as channel:
        for kind in (_GETCHAIN, _GETRULE):
            found += channel.dump(kind, header + attribute(1, wanted), f"table {name}", bytes)
    for body in found:
        # NFTA_CHAIN_TABLE and NFTA_RULE_TABLE come first; older kernels ignore the filter for chains.
        if body[_GENERATION + 4 : _GENERATION + 4 + len(wanted)] == wanted:
            digest.update(body[_GENERATION:])
            empty = False
    return "" if empty else digest.hexdigest()


def _nft(arguments: list[str], text: str, netns: str | int | None) -> subprocess.CompletedProcess[str]:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["nft", *arguments], input=text, capture_output=True, text=True, check=False)

    try:
        return namespaces.run_maybe_in(netns, run)
    except FileNotFoundError as error:
        if error.filename != "nft":
            raise
        raise MeshnetError("the nft program is missing: apt-get install nftables") from None


def _reason(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    return lines[0] if lines else "no reason given"

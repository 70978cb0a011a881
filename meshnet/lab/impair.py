"""Delay, loss and rate on a lab's cables, by the kernel's own queueing disciplines, in both directions."""

from __future__ import annotations

import subprocess

from meshnet import names
from meshnet.errors import MeshnetError
from meshnet.kernel import netns
from meshnet.lab.spec import Lab, LabLink
from meshnet.lab.topology import DEVICE, port

_NETEM_PROBE = ("netem", "delay", "1ms")
_RATE_PROBE = ("tbf", "rate", "1mbit", "burst", "10kb", "latency", "50ms")


def discipline(link: LabLink) -> tuple[str, ...]:
    """The words behind `tc qdisc add dev DEV root` that do what the link asks for; none if it asks for nothing."""
    words: list[str] = []
    if link.delay:
        words += ["delay", f"{max(1, link.delay // 1000)}us"]
    if link.loss:
        words += ["loss", f"{link.loss:g}%"]
    if words:
        return ("netem", *words, *(("rate", f"{link.rate}bit") if link.rate else ()))
    if link.rate:
        # A bucket of 10 ms, and never smaller than a GSO packet: larger packets would be dropped.
        burst = max(link.rate // 8 // 100, 70_000)
        return ("tbf", "rate", f"{link.rate}bit", "burst", str(burst), "latency", "50ms")
    return ()


def check(lab: Lab) -> None:
    """Raises MeshnetError if this kernel lacks what the lab's links ask for. Changes nothing."""
    wanted = {discipline(link)[:1] for link in lab.links}
    if ("netem",) in wanted and (reason := _probe(_NETEM_PROBE)):
        raise MeshnetError(
            f"links: delay and loss need the kernel's netem (CONFIG_NET_SCH_NETEM), which is not here ({reason}); "
            "take them out of lab.yml, or use another kernel"
        )
    if ("tbf",) in wanted and (reason := _probe(_RATE_PROBE)):
        raise MeshnetError(f"links: rate needs the kernel's tbf (CONFIG_NET_SCH_TBF), which is not here ({reason})")


def apply(lab: Lab) -> None:
    """Sets up what every link asks for."""
    for link in lab.links:
        words = discipline(link)
        if words:
            for where, device in (
                (names.underlay_netns(lab.name), port(link.node)),
                (names.node_netns(lab.name, link.node), DEVICE),
            ):
                reason = netns.run_in(where, lambda device=device, words=words: _tc(device, words))  # type: ignore[misc]  # mypy infers no defaults
                if reason:
                    raise MeshnetError(f"links.{link.node}: {reason}")


def _tc(device: str, words: tuple[str, ...]) -> str:
    command = ["tc", "qdisc", "add", "dev", device, "root", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else " ".join(done.stderr.split()) or f"tc ended with {done.returncode}"


def _probe(words: tuple[str, ...]) -> str:
    """Why a discipline does not work here, tried on the loopback of a namespace that ends with its thread."""
    return netns.run_in_new(lambda: _tc("lo", words))

"""What the engine tells a person to type, in the words of the `meshnet` command (pure).

The engine's refusals are Docker's, since clients of it know them; this command has the same verbs, and --node for whom
it asks.
"""

from __future__ import annotations

import re

from meshnet.lab.spec import Lab

_SWARM = re.compile(r"docker swarm (init|join-token (?:worker|manager)|join|leave|ca)\b")
_OF_MANAGERS = ("join-token", "ca")
_WORKER = "Please run this command on a manager node"


def here(text: str, lab: Lab, node: str) -> str:
    """A refusal by the engine of `node`, with what is typed in this lab."""
    manager = lab.managers[0].name if lab.managers else "MANAGER"

    def typed(found: re.Match[str]) -> str:
        verb = found[1]
        return f"meshnet swarm {verb} --node {manager if verb.split()[0] in _OF_MANAGERS else node}"

    return _SWARM.sub(typed, text).replace(_WORKER, f"{_WORKER} (--node {manager})")

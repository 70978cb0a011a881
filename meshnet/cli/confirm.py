"""Asking before something is removed: docker's question, answered on stdin."""

from __future__ import annotations

import sys

from meshnet.cli.render import message

LONGEST = 4096


def agreed(warning: str) -> bool:
    """Prints what will be done and asks whether to go on. Only `y` means yes, as in docker; no answer means no.

    A no is said on stderr, since docker ends without a word, and with exit status 0.
    """
    print(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    try:
        answer = sys.stdin.readline(LONGEST) if sys.stdin is not None else ""
    except ValueError:  # bytes that are no text, or a closed stdin
        answer = ""
    if not answer.endswith("\n"):
        print(flush=True)
    if answer.strip().lower() == "y":
        return True
    message("nothing was removed; answer y, or add --force to remove without being asked")
    return False

"""Waiting for services, with docker's progress."""

from __future__ import annotations

import sys

from meshnet.cli.render import height, message
from meshnet.errors import MeshnetError
from meshnet.lab import converge
from meshnet.lab.engine import Engine

_BARS = 20  # tasks that have a line each on a terminal, as with docker; of more, only the sum is shown


def wait(manager: Engine, name: str, quiet: bool, back: bool = False) -> None:
    """Waits until a service runs as wanted and shows how far it is. Raises MeshnetError if it does not.

    It also says so, even if `quiet`, when the service has gone back by itself, which is no error, as it is none
    to docker; with `back` that was asked for.
    """
    view = _View(quiet)
    converge.wait(manager, [name], lambda found: view(found[0]) if found else None, converge.PATIENCE)
    _go_back(manager, name, quiet, view.back if not back else None)
    if not quiet:
        message(f"verify: Service {name} converged")


def _go_back(manager: Engine, name: str, quiet: bool, why: str | None) -> None:
    """Waits for a service that goes back to have done so, and says that it has if there is a `why`.

    Raises MeshnetError if that failed.
    """
    status, see = manager.service(name).update_status, f"see: meshnet service ps {name}"
    if status is not None and status.state == "rollback_started":
        if not quiet:
            message("verify: Waiting until the rollback is completed")
        status = converge.gone_back(manager, name)
    state = status.state if status is not None else ""
    if status is not None and state == "rollback_paused":
        raise MeshnetError(f"{name}: {status.message}; {see}")
    if state == "rollback_started":
        message(f"{name}: on its way back: its tasks run, and are still monitored; {see}")
    elif state == "rollback_completed" and why is not None:
        message(f"{name}: {why or 'the update failed and was rolled back'}; {see}")


class _View:
    """On a terminal docker's block of lines, rewritten in place; elsewhere a line per change."""

    def __init__(self, quiet: bool) -> None:
        self.back = ""  # why the service goes, or went, back
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._shown: list[str] = []
        self._rows = 0  # what the lines shown take on the terminal

    def __call__(self, progress: converge.Progress) -> None:
        self.back = progress.back or self.back
        lines = [f"overall progress: {progress.running} out of {progress.wanted} tasks"]
        if self._live and progress.wanted <= _BARS:
            slots = sorted(progress.states.items(), key=lambda item: (len(item[0]), item[0]))
            lines += [f"{slot}/{progress.wanted}: {state}" for slot, state in slots]
        if progress.error:
            lines.append(progress.error)
        if progress.error and "pending" in progress.states.values():
            lines.append(f"waiting up to {converge.PATIENCE:g} s; Ctrl-C leaves the service")
        if self._quiet or lines == self._shown:
            return
        if self._live and self._shown:
            print(f"\x1b[{self._rows}A\x1b[J", end="", file=sys.stderr)
        news = lines if self._live else [line for line in lines if line not in self._shown]
        if news:
            message("\n".join(news))
        self._shown, self._rows = lines, sum(height(line) for line in lines)

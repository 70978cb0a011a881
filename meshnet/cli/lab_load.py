"""`meshnet lab load`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import click

from meshnet.cli import options, render
from meshnet.cli.params import Duration
from meshnet.errors import MeshnetError

SECOND = 10**9
_ALONE, _AFTER = 1.0, 0.5  # s of requests without a command, and after it has ended


@click.command(
    context_settings={"allow_interspersed_args": False},
    short_help="Send requests while a command runs; count those that fail.",
)
@click.argument("where", metavar="NODE|CLIENT|TASK")
@click.argument("url", required=False, default="", metavar="URL")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] [COMMAND...]")
@click.option("--for", "time_", type=Duration(), help="How long (1s), or how long after COMMAND (500ms).")
@click.option("--clients", type=click.IntRange(1, 64), default=4, help="How many ask at once (4).")
@click.option("--every", type=Duration(), default="20ms", help="The rest of each after an answer (20ms).")
@click.option("--timeout", type=Duration(), default="2s", help="When a request has failed (2s).")
@click.option("--at-most", type=click.IntRange(0), default=0, metavar="N", help="Fail if more requests failed (0).")
@options.in_lab
@options.as_json
def load(
    where: str,
    url: str,
    command: tuple[str, ...],
    time_: int | None,
    clients: int,
    every: int,
    timeout: int,
    at_most: int,
    lab_name: str | None,
    json_output: bool,
) -> None:
    """Send HTTP requests to URL from a host or a task while COMMAND runs, and say what became of them.

    Every request has a connection of its own. Exit 1 if more requests failed than --at-most, or if COMMAND failed.
    Ctrl-C ends the asking, and shows what was counted if no COMMAND runs.
    """
    from meshnet.lab import interrupts, state
    from meshnet.lab import load as requests

    _check_order(where, url, command)
    lab = state.current(lab_name)
    words = command[1:] if command[:1] == ("--",) else command
    asked = requests.target(url)
    if os.geteuid() != 0:
        raise MeshnetError("entering a lab needs root; run it with sudo")
    codes = [0]
    longer = (_AFTER if words else _ALONE) if time_ is None else time_ / SECOND

    def work() -> None:
        if words:
            codes.append(_run(words, lab.name))
        try:
            time.sleep(longer)
        except interrupts.Ended:
            raise
        except KeyboardInterrupt:
            pass  # a person has seen enough

    found = requests.during(lab, where, asked, work, clients, every / SECOND, timeout / SECOND)
    if json_output:
        render.as_json(found)
    else:
        _show(where, found)
    if codes[-1]:
        raise MeshnetError(f"{words[0]} ended with exit status {codes[-1]}")
    if found["Failed"] > at_most:
        why = ", ".join(f"{why}: {count}" for why, count in sorted(found["Failures"].items()))
        raise MeshnetError(f"{found['Failed']} requests failed; allowed were {at_most} ({why})")
    if not found["Answered"]:
        raise MeshnetError("no request was answered")


def _check_order(where: str, url: str, command: tuple[str, ...]) -> None:
    """What stands where something else belongs is said, rather than taken for it. Raises click.UsageError."""
    context, example = click.get_current_context(), "meshnet lab load --for 1s client http://172.17.0.2:8080"
    if "://" in where:
        raise click.UsageError(f"say from where to ask, before the URL, as in {example}", context)
    for word in (url, *command[:1]):
        if word.startswith("-") and word != "--":
            raise click.UsageError(f"{word}: options stand before the place and the URL, as in {example}", context)
    if not url or url == "--":
        raise click.UsageError(f"say what to ask, after the place, as in {example}", context)


def _run(words: tuple[str, ...], lab: str) -> int:
    path = f"{os.environ.get('PATH', os.defpath)}:{os.path.dirname(sys.executable)}"
    env = {**os.environ, "MESHNET_LAB": lab, "PATH": path}
    try:
        return subprocess.run(words, env=env, stdout=sys.stderr, check=False).returncode
    except OSError as error:
        raise MeshnetError(f"{words[0]}: {error.strerror}") from None


def _show(where: str, found: dict[str, Any]) -> None:
    total = found["Answered"] + found["Failed"]
    print(
        f"{total} requests from {where} in {found['Seconds']:.1f} s: {found['Answered']} answered, "
        f"{found['Failed']} failed"
    )
    if found["Answered"]:
        milliseconds = {name: found[name] * 1000 for name in ("Median", "Slowest", "Pause")}
        print(
            "median {Median:.1f} ms, slowest {Slowest:.0f} ms, longest time without an answer {Pause:.0f} ms".format(
                **milliseconds
            )
        )
    for who, count in sorted(found["Answers"].items()):
        print(f"  answered  {count:6}  {who}")
    for why, count in sorted(found["Failures"].items()):
        print(f"  failed    {count:6}  {why}")
    if found["Failed"]:
        print(f"failures from {found['FirstFailure']:.1f} s to {found['LastFailure']:.1f} s after the start")

"""The entry of the `meshnet` command. Verbs are imported when they are called, so that the command starts at once."""

from __future__ import annotations

import importlib
import os
import re
import sys

import click

from meshnet.errors import MeshnetError
from meshnet.lab import interrupts

# A verb, and where its click command is.
VERBS = {
    "lab": "meshnet.cli.lab:lab",
    "swarm": "meshnet.cli.swarm:swarm",
    "node": "meshnet.cli.node:node",
    "service": "meshnet.cli.service:service",
    "stack": "meshnet.cli.stack:stack",
    "network": "meshnet.cli.network:network",
    "secret": "meshnet.cli.confidential:secret",
    "config": "meshnet.cli.confidential:config",
    "volume": "meshnet.cli.volume:volume",
    "image": "meshnet.cli.image:image",
    "images": "meshnet.cli.image:ls",
    "container": "meshnet.cli.container:container",
    "ps": "meshnet.cli.container:ps",
    "logs": "meshnet.cli.logs:of_container",
    "exec": "meshnet.cli.container:execute",
    "rm": "meshnet.cli.container:rm",
    "haproxy": "meshnet.cli.haproxy:haproxy",
    "inspect": "meshnet.cli.inspect:inspect",
    "trace": "meshnet.cli.trace:trace",
    "doctor": "meshnet.cli.doctor:doctor",
    "bench": "meshnet.cli.bench:bench",
    "agent": "meshnet.cli.agent:agent",
    "manager": "meshnet.cli.agent:manager",
}


class Stopped(BaseException):
    """A command was interrupted: `error` is how. Click would turn a KeyboardInterrupt into an empty line."""

    def __init__(self, error: KeyboardInterrupt) -> None:
        super().__init__()
        self.error = error


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed: `verbs` maps a name to `module:attribute`."""

    def __init__(self, *args: object, verbs: dict[str, str] | None = None, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # click's, passed on
        self.verbs = verbs or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return None
        module, _, attribute = self.verbs[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped(error) from error


@click.group(
    cls=LazyGroup,
    verbs=VERBS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--lab", "lab_name", metavar="NAME", help="The lab, if several are up ($MESHNET_LAB).")
@click.version_option(package_name="meshnet")
def cli(lab_name: str | None) -> None:
    """Docker Swarm's networking as a data plane you can run, watch, test and measure.

    Begin with: meshnet lab up quickstart
    """
    if lab_name:
        os.environ["MESHNET_LAB"] = lab_name


def main() -> None:
    """Runs the command and ends the process: 0 done, 1 refused or failed (one line on stderr), 2 wrong usage,
    128 and a signal's number if that interrupted it."""
    interrupts.as_ctrl_c()
    try:
        code = cli.main(standalone_mode=False, prog_name="meshnet")
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(2)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "meshnet"
        _say(f"{' '.join(error.format_message().split()).rstrip('.')}; see: {path} --help")
        sys.exit(2)
    except click.ClickException as error:
        _say(error.format_message())
        sys.exit(1)
    except Stopped as stopped:
        for note in getattr(stopped.error, "__notes__", ()):
            _say(f"interrupted; {note}")
        sys.exit(interrupts.exit_status(stopped.error))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone; nothing may be written any more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except MeshnetError as error:
        _say(str(error))
        sys.exit(getattr(error, "exit_code", 1))
    except OSError as error:
        # What the machine refuses: a full disk, a missing right, a socket that is gone.
        _say(str(error))
        sys.exit(1)


def _say(text: str) -> None:
    """A complaint on stderr. Lines that begin with a place in a file stay as they are, for editors."""
    for line in text.splitlines() or [text]:
        placed = re.match(r"\S+:\d+:\d+:", line)
        print(line if placed else f"meshnet: {line}", file=sys.stderr)

"""`meshnet lab up` and `meshnet lab down`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from typing import TYPE_CHECKING

import click

from meshnet.cli import human
from meshnet.cli.render import Progress, message

if TYPE_CHECKING:
    from meshnet.lab.spec import Lab


@click.command(short_help="Bring up a lab and wait until it works.")
@click.argument("directory", default=".", metavar="[DIR|NAME]")
@click.option("--bare", is_flag=True, help="Leave the nodes in no swarm, for docker swarm init and join by hand.")
def up(directory: str, bare: bool) -> None:
    """Bring up the lab in DIR (the current folder by default) and wait until it works.

    Without such a folder, DIR is the name of a lab that comes with meshnet, such as quickstart.
    """
    from meshnet.lab import file
    from meshnet.lab import up as ups

    lab = file.load(directory)
    if bare:
        lab = ups.bare(lab)
    bring_up(lab)
    if settings := exports(lab.name):
        message(f"first: export {settings}")
    if bare:
        first = lab.nodes[0].name
        message(f'make a swarm: eval "$(meshnet lab env {first})"; docker swarm init')
        message(f"or, without docker: meshnet swarm init --node {first}")
    message(f"look around: meshnet lab inspect {lab.name}; meshnet lab exec {lab.hosts[-1].name} -- ip addr")
    message(f"take it down: meshnet lab down {lab.name}")


def bring_up(lab: Lab) -> None:
    """Makes a lab and waits until it works; says on stderr what is being done, and in the end what is up."""
    from meshnet.lab import interrupts
    from meshnet.lab import up as ups

    for warning in lab.warnings:
        message(warning)
    begun = time.monotonic()
    with interrupts.undone(), Progress() as progress:
        ups.up(lab, progress)
    counted = f"{human.count(len(lab.nodes), 'node')}, {human.count(len(lab.clients), 'client')}"
    message(f"{lab.name} is up: {counted} ({time.monotonic() - begun:.1f} s)")


def exports(lab: str) -> str:
    """What a shell must be told before the lines that follow can be typed: where meshnet is, and which lab is meant."""
    from meshnet.lab import state

    settings = []
    folder = os.path.dirname(sys.executable)
    if shutil.which("meshnet") is None and os.path.exists(f"{folder}/meshnet"):
        settings.append(f"PATH={shlex.quote(folder)}:$PATH")
    if os.environ.get("MESHNET_LAB", lab) != lab or len(state.up()) > 1:
        settings.append(f"MESHNET_LAB={lab}")
    return " ".join(settings)


@click.command(short_help="Take down a lab and remove all it made.")
@click.argument("what", required=False, metavar="[DIR|NAME]")
def down(what: str | None) -> None:
    """Take down the lab called NAME, or the lab in DIR, and remove all it made.

    Without either, that is the lab named in $MESHNET_LAB; without that, the lab in the current folder.
    """
    from meshnet.lab import down as downs

    name = downs.resolve(what) if what is not None else downs.meant()
    begun = time.monotonic()
    downs.down(name)
    message(f"{name} is down ({time.monotonic() - begun:.1f} s)")


@click.command(short_help="Unpack the Debian packages that labs use.")
@click.argument("directories", nargs=-1, required=True, metavar="DIR|NAME...")
def get(directories: tuple[str, ...]) -> None:
    """Download the Debian packages that these labs use, and unpack them below /var/cache/meshnet.

    Nothing is installed and no service is started: only tasks and hosts of labs see their programs.
    """
    from meshnet.errors import MeshnetError
    from meshnet.lab import file, packages

    labs = [file.load(directory) for directory in directories]
    wanted = dict.fromkeys(package for lab in labs for package in packages.missing(lab))
    if wanted and os.geteuid() != 0:
        raise MeshnetError(f"unpacking packages below {packages.PLACE} needs root; run it with sudo")
    for package in wanted:
        message(f"getting {package}")
        packages.get(package)

"""Bad input: one clear line on stderr that says what to do, an exit status, and nothing is changed.

Everything here runs the command as a person does, in a process of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshnet.lab import leftovers, state
from meshnet.lab.up import TOOLS
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "meshnet.cli")
LONG = "a" * 64


def meshnet(*words: str, before: tuple[str, ...] = (), **env: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command."""
    done = subprocess.run(
        [*before, *COMMAND, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **env},
    )
    return done.returncode, done.stdout, done.stderr


def refused(answer: tuple[int, str, str], expected: str, lines: int = 1) -> None:
    """One line (or `lines`) on stderr that says `expected`, a pattern; no stdout; status 1 or 2."""
    code, out, err = answer
    assert "Traceback" not in err, err
    assert len(err.splitlines()) == lines, err
    assert re.search(expected, err), f"{expected!r} is not in {err!r}"
    assert (code in (1, 2), out) == (True, "")


@pytest.fixture(scope="module")
def used(lab: LabUnderTest) -> LabUnderTest:
    lab.network("net")
    lab.service("web", networks=["net"], ports=["8000:8000"])
    return lab


@pytest.fixture
def unchanged(used: LabUnderTest) -> Iterator[LabUnderTest]:
    """The lab, which must be the same after the test."""

    def all_of_it() -> Any:
        services = {one.spec.name: (one.version, one.spec) for one in used.engine.services()}
        networks = sorted(one["Name"] for one in used.engine.networks())
        return services, networks, sorted(task.id for task in used.tasks()), used.name in state.up()

    before = all_of_it()
    yield used
    assert all_of_it() == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--network", "nope", "whoami"], "network nope not found"),
        (["no-such-image"], "No such image: no-such-image; name it in the lab's images"),
        (["-p", "8000:80", "whoami"], "port '8000' is already in use by service 'web'"),
        (["-p", "7946:80", "whoami"], "7946.*publish another"),
        (["-p", "2377:80", "whoami"], "2377.*publish another"),
        (["-p", "4789:80/udp", "whoami"], "4789.*publish another"),
        (["-p", "70000:80", "whoami"], "70000"),
        (["-p", "eighty:80", "whoami"], "eighty"),
        (["-p", "80:80/sctp", "whoami"], "sctp"),
        (["--name", "web", "whoami"], "web.*(exists|conflicts)"),
        (["--name", "WEB", "whoami"], "WEB already exists as web; names must differ by more than case"),
        (["--name", LONG, "whoami"], "63 characters"),
        (["--name", "-a", "whoami"], "valid as a DNS name component: letters, digits, - and _ are allowed, a letter"),
        (["--name", "a b", "whoami"], "name.*(letter|DNS|valid)"),
        (["--name", "a.b", "whoami"], "name.*(letter|DNS|valid)"),
        (["--name", "ä", "whoami"], "name.*(letter|DNS|valid)"),
        (["--constraint", "node.role=manager", "whoami"], "constraint|node.role"),
        (["--replicas", "-1", "whoami"], "replicas"),
        (["--replicas", "100001", "whoami"], "100000|replicas"),
        (["--mode", "global", "--replicas", "2", "whoami"], "replicas.*replicated"),
        (["--endpoint-mode", "dnsrr", "-p", "9000:80", "whoami"], "dnsrr|endpoint"),
        (["--mount", "type=bind,source=relative,target=/a", "whoami"], "absolute"),
        (["--stop-grace-period", "soon", "whoami"], "soon"),
        (["-e", "=x", "whoami"], "NAME=value"),
        ([], "(?i)missing argument 'IMAGE'"),
    ],
    ids=lambda value: "_".join(value)[:40] if isinstance(value, list) else "",
)
def test_service_create(unchanged: LabUnderTest, words: list[str], expected: str) -> None:
    """A service that cannot be is not created."""
    refused(meshnet("service", "create", "--lab", unchanged.name, *words), expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["net"], "net already exists"),
        (["Net"], "Net already exists as net; names must differ by more than case"),
        ([""], "a network needs a name"),
        (["ingress"], "ingress"),
        ([LONG], "63 characters"),
        (["a/b"], "valid as a DNS name component: letters, digits, - and _ are allowed"),
        (["--subnet", "172.17.5.0/24", "new"], "172.17"),
        (["--subnet", "10.0.0.128/25", "new"], "overlap"),
        (["--subnet", "10.0.0.0/8", "new"], "overlap"),
        (["--subnet", "banana", "new"], "banana"),
        (["--subnet", "10.5.0.1/24", "new"], "10.5.0"),
        (["--subnet", "fd00::/64", "new"], "fd00::/64; an IPv4 subnet such as 10.0.9.0/24 is needed"),
        (["--subnet", "10.5.0.0/31", "new"], "10.5.0.0/31"),
        (["--subnet", "127.0.0.0/24", "new"], "127"),
        (["--subnet", "224.1.0.0/24", "new"], "224"),
        (["--subnet", "10.5.0.0/24", "--gateway", "10.6.0.1", "new"], "10.6.0.1"),
        (["--gateway", "10.6.0.1", "new"], "subnet"),
        (["-d", "bridge", "new"], "bridge"),
        (["-o", "encrypted", "new"], "encrypted"),
    ],
    ids=lambda value: "_".join(value)[:40] if isinstance(value, list) else "",
)
def test_network_create(unchanged: LabUnderTest, words: list[str], expected: str) -> None:
    """A network that cannot be is not created."""
    refused(meshnet("network", "create", "--lab", unchanged.name, *words), expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["service", "rm", "nope"], "service nope not found"),
        (["service", "scale", "nope=1"], "service nope not found"),
        (["service", "scale", "web"], "web"),
        (["service", "scale", "web=many"], "many"),
        (["service", "scale", "web=-1"], "-1"),
        (["service", "ps", "nope"], "nope"),
        (["service", "inspect", "nope"], "nope"),
        (["service", "update", "nope"], "nope"),
        (["network", "rm", "nope"], "network nope not found"),
        (["network", "rm", "net"], "network net is in use by service web$"),
        (["network", "rm", "ingress"], "ingress"),
        (["network", "inspect", "nope"], "nope"),
        (["node", "inspect", "nope"], "nope"),
        (["node", "update", "--availability", "lazy", "docker-1"], "lazy"),
        (["lab", "exec", "nope", "true"], "no node, client or task nope; hosts are"),
        (["lab", "exec", "docker-0"], "a command is missing"),
        (["lab", "logs", "nope"], "nope"),
        (["lab", "kill", "nope"], "no node, client or task nope; hosts are"),
        (
            ["lab", "kill", "client"],
            "client is a client; nodes and tasks can be killed: nodes are docker-0.*tasks are web",
        ),
        (["lab", "stop", "client"], "no node client; its nodes are"),
        (["lab", "start", "docker-1"], "docker-1 runs already"),
        (["inspect", "--node", "nope", "lb"], "no node nope; its nodes are"),
        (["inspect", "everything"], "everything"),
    ],
    ids=lambda value: "_".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_is_not_there(unchanged: LabUnderTest, words: list[str], expected: str) -> None:
    """Verbs name what they did not find, and what there is."""
    refused(meshnet(*words, MESHNET_LAB=unchanged.name), expected)


@pytest.mark.parametrize(
    "words",
    [
        ["lab", "down", "no-such-lab"],
        ["lab", "inspect", "no-such-lab"],
        ["lab", "check", "no-such-lab"],
        ["lab", "exec", "--lab", "no-such-lab", "docker-0", "true"],
        ["lab", "kill", "--lab", "no-such-lab", "docker-0"],
        ["lab", "logs", "--lab", "no-such-lab", "docker-0"],
        ["lab", "env", "--lab", "no-such-lab", "docker-0"],
        ["service", "ls", "--lab", "no-such-lab"],
        ["network", "ls", "--lab", "no-such-lab"],
        ["node", "ls", "--lab", "no-such-lab"],
        ["inspect", "--lab", "no-such-lab", "lb"],
    ],
    ids=lambda words: "-".join(words),
)
def test_a_lab_that_is_not_up(unchanged: LabUnderTest, words: list[str]) -> None:
    """Verbs say that the lab is not up, and which are."""
    refused(meshnet(*words), f"the lab no-such-lab is not up; up are: .*{unchanged.name}")


def test_a_lab_that_is_up(unchanged: LabUnderTest, tmp_path: Path) -> None:
    """A lab that is up already is not touched."""
    text = (ROOT / "labs/quickstart/lab.yml").read_text()
    (tmp_path / "lab.yml").write_text(text.replace("name: quickstart", f"name: {unchanged.name}"))
    refused(
        meshnet("lab", "up", str(tmp_path)),
        f"the lab {unchanged.name} is up already; take it down with: meshnet lab down {unchanged.name}",
    )
    assert unchanged.client().out("curl -s http://172.17.0.4:8000").startswith("I'm ")


NODES = "nodes: {m: {role: manager}}\n"
LABS = {
    "no nodes": ("name: x\n", r"lab.yml:1:\d+: .*role: manager"),
    "empty": ("", r"lab.yml:1:\d+: "),
    "not yaml": ("nodes: {a\n", r"lab.yml:\d+:\d+: "),
    "a list": ("- a\n", r"lab.yml:1:\d+: "),
    "tab": ("nodes:\n\tm: {}\n", r"lab.yml:2:\d+: "),
    "no manager": ("nodes: {a: {}}\n", r"lab.yml:1:\d+: .*role: manager"),
    "unknown key": (NODES + "colour: red\n", r"lab.yml:2:\d+: .*colour"),
    "bad name": (NODES + "name: a.b\n", r"lab.yml:2:\d+: .*name"),
    "long name": (NODES + f"name: {LONG}\n", r"lab.yml:2:\d+: .*63"),
    "bad node name": ("nodes: {m: {role: manager}, -x: {}}\n", r"lab.yml:1:\d+: "),
    "bad role": ("nodes: {m: {role: king}}\n", r"lab.yml:1:\d+: .*king"),
    "bad address": ("nodes: {m: {role: manager, address: 1.2.3}}\n", r"lab.yml:1:\d+: .*1\.2\.3"),
    "outside": ("nodes: {m: {role: manager, address: 9.9.9.9}}\n", r"lab.yml:1:\d+: .*9.9.9.9 is no host address"),
    "twice": (
        "nodes: {m: {role: manager, address: 172.17.0.2}, n: {address: 172.17.0.2}}\n",
        r"lab.yml:1:\d+: .*172.17.0.2 is the address of",
    ),
    "same key": ("nodes: {m: {role: manager}, m: {}}\n", r"lab.yml:1:\d+: "),
    "overlap": (NODES + "underlay: {subnet: 10.1.0.0/16}\n", r"lab.yml:2:\d+: .*overlaps 10.0.0.0/8"),
    "subnet": (NODES + "underlay: {subnet: wide}\n", r"lab.yml:2:\d+: .*wide"),
    "mtu": (NODES + "underlay: {mtu: 100}\n", r"lab.yml:2:\d+: "),
    "datapath": (NODES + "datapath: magic\n", r"lab.yml:2:\d+: .*magic"),
    "image": (NODES + "images: {a: {rootfs: nowhere}}\n", r"nowhere"),
    "link": (NODES + "links: {z: {delay: 1ms}}\n", r"lab.yml:2:\d+: "),
    "check": (NODES + "checks: [{name: a, on: nobody, run: 'true'}]\n", r"lab.yml:2:\d+: .*nobody"),
    "reserved": (NODES + "name: host\n", r"lab.yml:2:\d+: .*another name"),
    "slash": ("nodes: {'a/b': {role: manager}}\n", r"lab.yml:1:\d+: .*'a/b' is no name"),
    "no file": (NODES + "services: nowhere.yml\n", r"lab.yml:2:\d+: .*nowhere.yml"),
}


@pytest.mark.parametrize("case", list(LABS))
def test_lab_files(tmp_path: Path, case: str) -> None:
    """A bad lab file is refused with file, line and column, before anything is made."""
    directory = tmp_path / "bad-lab"
    directory.mkdir()
    text, expected = LABS[case]
    (directory / "lab.yml").write_text(text)
    refused(meshnet("lab", "up", str(directory)), expected)
    assert leftovers.find("bad-lab") == []


SERVICE = "services:\n  a: {image: whoami}\n"
COMPOSES = {
    "empty": ("", r"compose.yml:1:\d+: "),
    "unknown key": (SERVICE + "builds: {}\n", r"compose.yml:3:\d+: .*builds"),
    "no image": ("services:\n  a: {}\n", r"compose.yml:2:\d+: .*image is missing"),
    "unknown image": ("services:\n  a: {image: nope}\n", r"compose.yml:2:\d+: .*No such image: nope"),
    "unknown network": (
        "services:\n  a: {image: whoami, networks: [n]}\n",
        r"compose.yml:2:\d+: .*the network n is not",
    ),
    "bad name": ("services:\n  a.b: {image: whoami}\n", r"compose.yml:2:\d+: "),
    "long name": (f"services:\n  {LONG}: {{image: whoami}}\n", r"compose.yml:2:\d+: .*63"),
    "reserved": ("services:\n  a: {image: whoami, ports: ['7946:80']}\n", r"compose.yml:2:\d+: .*7946"),
    "port": ("services:\n  a: {image: whoami, ports: ['99999:80']}\n", r"compose.yml:2:\d+: .*99999"),
    "port twice": (
        "services:\n  a: {image: whoami, ports: ['80:80']}\n  b: {image: whoami, ports: ['80:81']}\n",
        r"compose.yml:3:\d+: .*port 80/tcp is published by a already",
    ),
    "variable": ("services:\n  a: {image: whoami, command: $HOME}\n", r"compose.yml:2:\d+: .*\$\$"),
    "constraint": (
        "services:\n  a: {image: whoami, deploy: {placement: {constraints: [x]}}}\n",
        r"compose.yml:2:\d+: .*constraint",
    ),
    "subnets": (
        SERVICE
        + "networks:\n"
        + "  x: {ipam: {config: [{subnet: 10.5.0.0/24}]}}\n"
        + "  y: {ipam: {config: [{subnet: 10.5.0.0/16}]}}\n",
        r"compose.yml:5:\d+: .*overlap",
    ),
    "underlay": (
        SERVICE + "networks:\n  x: {ipam: {config: [{subnet: 172.17.4.0/24}]}}\n",
        r"compose.yml:4:\d+: .*(overlap|underlay)",
    ),
    "duration": ("services:\n  a: {image: whoami, stop_grace_period: soon}\n", r"compose.yml:2:\d+: .*soon"),
    "replicas": ("services:\n  a: {image: whoami, deploy: {replicas: -1}}\n", r"compose.yml:2:\d+: "),
    "case": ("services:\n  a: {image: whoami}\n  A: {image: whoami}\n", r"compose.yml:3:\d+: .*more than case"),
    "alias": (
        "services:\n  a: {image: whoami, networks: {n: {aliases: [a b]}}}\nnetworks: {n: }\n",
        r"compose.yml:2:\d+: .*'a b' cannot be a DNS name",
    ),
    "directory": ("services:\n  a: {image: whoami, working_dir: b}\n", r"compose.yml:2:\d+: .*absolute path"),
    "hostname": ("services:\n  a: {image: whoami, hostname: x y}\n", r"compose.yml:2:\d+: .*no hostname"),
    "user": ("services:\n  a: {image: whoami, user: x y}\n", r"compose.yml:2:\d+: .*a user such as"),
    "no user": ("services:\n  a: {image: whoami, user: nope}\n", r"compose.yml:2:\d+: .*no such user"),
    "build": ("services:\n  a: {build: .}\n", r"compose.yml:2:\d+: .*build"),
}


@pytest.mark.parametrize("case", list(COMPOSES))
def test_compose_files(tmp_path: Path, case: str) -> None:
    """A bad compose file is refused with file, line and column, before anything is made."""
    directory = tmp_path / "bad-lab"
    directory.mkdir()
    text, expected = COMPOSES[case]
    (directory / "lab.yml").write_text(NODES + "services: compose.yml\n")
    (directory / "compose.yml").write_text(text)
    answer = meshnet("lab", "up", str(directory))
    refused(answer, expected, lines=len(answer[2].splitlines()) if case in ("no image", "build") else 1)
    assert leftovers.find("bad-lab") == []


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b"nodes: \x00", b"a: " + b"[" * 5000, b"&a [*a]"])
def test_files_that_are_no_text(tmp_path: Path, text: bytes) -> None:
    """What cannot even be read is refused in one line."""
    (tmp_path / "lab.yml").write_bytes(text)
    refused(meshnet("lab", "up", str(tmp_path)), r"lab.yml:\d+:\d+: ")


@pytest.mark.parametrize("where", ["/nonexistent", "/etc"])
def test_no_lab_there(where: str) -> None:
    """A folder without a lab is named, with what to give instead."""
    refused(meshnet("lab", "up", where), "no lab.yml there; give the folder of a lab, such as labs/quickstart")


@pytest.mark.parametrize("tool", sorted(TOOLS))
def test_a_missing_tool(tmp_path: Path, tool: str) -> None:
    """A tool that is not there is named by its package and the command that installs it."""
    hidden = [f"{folder}/{tool}" for folder in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")]
    hidden = [path for path in {os.path.realpath(path) for path in hidden} if os.path.exists(path)]
    script = "".join(f"mount --bind /dev/null {path} && " for path in hidden) + 'exec "$@"'
    directory = tmp_path / "bad-lab"
    directory.mkdir()
    (directory / "lab.yml").write_text(NODES)
    answer = meshnet("lab", "up", str(directory), before=("unshare", "-m", "sh", "-c", script, "sh"))
    refused(answer, f"apt-get install .*{TOOLS[tool]}")
    assert leftovers.find("bad-lab") == []


@pytest.fixture(scope="module")
def nobody() -> tuple[str, ...]:
    """What runs this project as a user who is not root."""
    words = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv: apt-get install util-linux")
    done = subprocess.run([*words, *COMMAND, "--version"], capture_output=True, check=False, cwd="/")
    if done.returncode != 0:
        pytest.skip("another user cannot run this Python: install it where everybody may read it")
    return words


@pytest.mark.parametrize(
    "words",
    [
        ["lab", "up", str(ROOT / "labs/quickstart")],
        ["lab", "down", "LAB"],
        ["lab", "exec", "--lab", "LAB", "docker-0", "true"],
        ["lab", "kill", "--lab", "LAB", "docker-0"],
        ["lab", "stop", "--lab", "LAB", "docker-0"],
        ["lab", "start", "--lab", "LAB", "docker-0"],
        ["lab", "logs", "--lab", "LAB", "docker-0"],
        ["service", "ls", "--lab", "LAB"],
        ["service", "create", "--lab", "LAB", "whoami"],
        ["network", "create", "--lab", "LAB", "new"],
        ["inspect", "--lab", "LAB", "--node", "docker-0", "lb"],
    ],
    ids=lambda words: "-".join(words[:2]),
)
def test_without_root(unchanged: LabUnderTest, nobody: tuple[str, ...], words: list[str]) -> None:
    """Without root every verb that needs it says so."""
    answer = meshnet(*(word.replace("LAB", unchanged.name) for word in words), before=nobody)
    refused(answer, "root|sudo")

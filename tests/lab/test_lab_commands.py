"""`meshnet lab check`, `graph` and `load`, and `haproxy`, against a lab that is up, and one that is not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from meshnet.lab import cgroups, enter, leftovers, packages
from meshnet.testing import capture, tcp
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
LAB = {
    "name": "commands",
    "nodes": {"a": {"address": "172.17.0.2", "role": "manager"}, "b": {"address": "172.17.0.3"}},
    "clients": {"client": {"address": "172.17.0.10"}},
}


def meshnet(*words: str, lab: str = "") -> tuple[int, str, str]:
    """The command as a person runs it: exit status, stdout, stderr."""
    env = {**os.environ, "MESHNET_LAB": lab}
    command = [sys.executable, "-m", "meshnet.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=50, check=False)
    return done.returncode, done.stdout, done.stderr


def written(folder: Path, name: str, checks: list[dict[str, str]]) -> Path:
    """A lab file of one node and one client."""
    place = folder / name
    place.mkdir()
    nodes = {"a": {"address": "172.17.0.2", "role": "manager"}}
    content = {"name": name, "nodes": nodes, "clients": {"client": None}, "checks": checks}
    (place / "lab.yml").write_text(json.dumps(content))
    return place


def test_checks_of_labs_that_are_not_up(tmp_path: Path) -> None:
    """Without --up they cannot be run (2); with it each lab comes up, is graded, and goes: 0, 1, and 2 for what the
    machine lacks, with the package; one document has all of it. What is being done is said on stderr alone."""
    number = os.getpid()
    there = {"name": "there", "on": "client", "run": "ping -c 1 -W 1 172.17.0.2"}
    good = written(tmp_path, f"good{number}", [there])
    bad = written(tmp_path, f"bad{number}", [{**there, "run": "echo no; exit 3", "within": "3s", "look": "ip addr"}])
    odd = written(tmp_path, f"odd{number}", [{**there, "run": "frobnicate"}])
    code, _, err = meshnet("lab", "check", str(good))
    assert code == 2
    assert f"meshnet: the lab good{number} is not up; " in err
    assert f"bring it up with: meshnet lab up {good}, or add --up" in err
    code, out, err = meshnet("lab", "check", "--up", "--json", str(good))
    assert (code, [one["Passed"] for one in json.loads(out)]) == (0, [True])
    code, out, err = meshnet("lab", "check", "--up", str(bad), str(good), "--junit", str(tmp_path / "out.xml"))
    assert code == 1
    assert "FAILED  there" in out
    again = f"{bad.name} is down again. Some labs' checks hold only once what their README says was done; "
    again += f"to look, bring it up: meshnet lab up {bad}\n"
    for line in ("wiring nodes and clients to 172.17.0.0/16\n", f"{bad.name} is up: 1 node, 1 client (", again):
        assert line in err
        assert line not in out + (tmp_path / "out.xml").read_text()
    for line in ("expected  exit status 0", "seen      3: no", "command   echo no; exit 3", "look      ip addr"):
        assert line in out
    root = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert [(suite.get("name"), suite.get("failures")) for suite in root] == [(bad.name, "1"), (good.name, "0")]
    code, out, _ = meshnet("lab", "check", "--up", str(odd))
    assert code == 2
    assert "none on this machine; find its Debian package with: apt-file search bin/frobnicate" in out
    assert [name for lab in (good, bad, odd) for name in leftovers.find(lab.name)] == []


def test_a_check_that_acts_runs_once(tmp_path: Path) -> None:
    """With `once`, what failed is not tried again, though there is time."""
    run = f"echo x >> {tmp_path}/runs; exit 1"
    lab = written(tmp_path, f"once{os.getpid()}", [{"name": "acts", "on": "client", "run": run, "once": True}])  # type: ignore[dict-item]
    assert meshnet("lab", "check", "--up", str(lab))[0] == 1
    assert (tmp_path / "runs").read_text() == "x\n"


def test_a_picture_of_what_runs(lab: LabUnderTest) -> None:
    """By its name, a lab that is up shows the services and tasks that run in it now."""
    lab.network("shop")
    lab.service("seen", networks=["shop"], ports=["8700:8000"], constraints=["node.hostname==b"])
    data = json.loads(meshnet("lab", "graph", lab.name, "--format", "json")[1])
    assert [node["Tasks"] for node in data["Nodes"]] == [[], ["seen.1"]]
    (box,) = data["Services"]
    assert (box["Name"], box["Networks"], box["Ports"]) == ("seen", ["ingress", "shop"], ["8700->8000/tcp"])
    assert "seen.1" in meshnet("lab", "graph", lab.name)[1]
    lab.remove("seen")


def test_load_counts(lab: LabUnderTest) -> None:
    """Answers and failures are told apart, by who answered and why not; a failure is one too many unless allowed; so is
    a command that fails. From a task, names are its own."""
    lab.network("load")
    lab.service("asked", networks=["load"], ports=["8701:8000"], hostname="me")
    lab.service("box", "debian", "sleep", "1000", networks=["load"])
    code, out, _ = meshnet("lab", "load", "--json", "client", "http://172.17.0.3:8701/", "--", "true", lab=lab.name)
    found = json.loads(out)
    assert (code, found["Failed"], list(found["Answers"])) == (0, 0, ["me"])
    assert found["Answered"] > 5
    code, out, err = meshnet("lab", "load", "--for", "300ms", "client", "http://172.17.0.3:8702", lab=lab.name)
    assert code == 1
    assert "connection refused" in out
    assert "requests failed; allowed were 0 (connection refused: " in err
    code, out, _ = meshnet("lab", "load", "--for", "300ms", "box.1", "http://asked:8000", lab=lab.name)
    assert code == 0
    code, _, err = meshnet("lab", "load", "client", "http://172.17.0.3:8701", "--", "false", lab=lab.name)
    assert (code, err) == (1, "meshnet: false ended with exit status 1\n")
    code, _, err = meshnet("lab", "load", "client", "ftp://x", lab=lab.name)
    assert (code, err) == (1, "meshnet: ftp://x: a URL such as http://172.17.0.2:8080/ is needed\n")
    lab.remove("asked", "box")


@pytest.mark.skipif(
    not (packages.PLACE / "haproxy").is_dir(), reason="Debian's haproxy is not here: meshnet lab get labs/haproxy"
)
def test_haproxy_takes_what_we_write(lab: LabUnderTest, tmp_path: Path) -> None:
    """`haproxy -c` accepts every kind of configuration, and a mistake in one is found by it."""
    lab.network("front")
    lab.service("web", networks=["front"], ports=["8703:8000"])
    program = packages.PLACE / "haproxy/usr/sbin/haproxy"
    libraries = {"LD_LIBRARY_PATH": f"{packages.PLACE}/haproxy/usr/lib/{os.uname().machine}-linux-gnu"}
    kinds = [
        "",
        "--send-proxy",
        "--send-proxy-v2 --tcp",
        "--mode dns",
        "--mode dns --srv --slots 3",
        "--bind 127.0.0.1:81",
    ]
    for kind in kinds:
        code, text, err = meshnet("haproxy", "config", "web", *kind.split(), lab=lab.name)
        assert (code, err) == (0, "")
        (tmp_path / "haproxy.cfg").write_text(text)
        check = [str(program), "-c", "-f", str(tmp_path / "haproxy.cfg")]
        done = subprocess.run(check, capture_output=True, text=True, env={**os.environ, **libraries}, check=False)
        assert (done.returncode, done.stderr) == (0, ""), kind
    (tmp_path / "haproxy.cfg").write_text(text.replace("balance roundrobin", "balance nothing"))
    assert subprocess.run(check, capture_output=True, env={**os.environ, **libraries}, check=False).returncode != 0
    code, _, err = meshnet("haproxy", "config", "web", "--bind", "80 user", lab=lab.name)
    assert (code, err) == (
        2,
        "meshnet: --bind '80 user': write :80 or ADDRESS:80; see: meshnet haproxy config --help\n",
    )
    code, _, err = meshnet("haproxy", "stats", "/nowhere.sock")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("meshnet: no haproxy answers at /nowhere.sock: No such file or directory; start one with ")
    lab.remove("web")


def test_load_is_interrupted(lab: LabUnderTest) -> None:
    """Ctrl-C ends the asking and shows what was counted; SIGTERM shows nothing; neither leaves anybody who asks."""
    lab.service("stopped", ports=["8703:8000"])
    words = [sys.executable, "-m", "meshnet.cli", "lab", "load", "--for", "40s", "client", "172.17.0.3:8703"]
    for number, status, said in ((signal.SIGINT, 0, " 0 failed"), (signal.SIGTERM, 143, "")):
        with capture(lab.client()) as wire:
            process = subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "MESHNET_LAB": lab.name},
                process_group=0,
            )
            wire.wait(tcp(sport=8703, flags="F"), 5, 10.0)
            os.killpg(process.pid, number)
            out, err = process.communicate(timeout=20)
        assert (process.returncode, said in out, bool(out)) == (status, True, bool(said)), err
        assert not [command for command in commands(lab) if b"load.py" in command]


def commands(lab: LabUnderTest) -> Iterator[bytes]:
    """What runs on the client."""
    for pid in cgroups.path(lab.name, "client", enter.EXEC).joinpath("cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):  # it has ended
            yield Path(f"/proc/{pid}/cmdline").read_bytes()

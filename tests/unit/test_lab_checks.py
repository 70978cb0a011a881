"""Checks of labs without a lab: what a command's end says, and what CI systems read of it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from meshnet.cli import lab_check
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.kernel import netns
from meshnet.lab import cgroups, checks, enter, file, packages, tasks, view
from meshnet.lab.checks import CANNOT, FAILED, PASSED, Outcome, judge
from meshnet.lab.junit import Graded, xml
from meshnet.lab.spec import Lab, LabCheck, LabClient, LabNode
from meshnet.lab.yamlnodes import LabFileError

CHECK = LabCheck("it answers", "client", ("sh", "-c", "curl web"), expect="I'm")


def ended(status: int, out: str = "", err: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(CHECK.run, status, out, err)


@pytest.mark.parametrize(
    ("done", "state", "expected", "seen"),
    [
        (ended(0, "I'm web"), PASSED, "", ""),
        (ended(0, "no\nbody"), FAILED, '"I\'m" in the output', "no body"),
        (ended(0), FAILED, '"I\'m" in the output', "nothing"),
        (ended(7, "", "curl: refused"), FAILED, "exit status 0", "7: curl: refused"),
        (ended(1), FAILED, "exit status 0", "1: no output"),
        (ended(1, "\x1b]0;mine\x07\x9b2J"), FAILED, "exit status 0", "1: \ufffd]0;mine\ufffd\ufffd2J"),
        (
            ended(127, "", "sh: 1: haproxy: not found"),
            CANNOT,
            "the program haproxy",
            "Debian's haproxy brings it: name it in the packages of /labs/shop/lab.yml, run meshnet lab get /labs/shop",
        ),
        (
            ended(127, "", "bash: line 1: ip: command not found"),
            CANNOT,
            "the program ip",
            "Debian's iproute2 brings it",
        ),
        (ended(127, "", "sh: 1: frob: not found"), CANNOT, "the program frob", "apt-file search bin/frob"),
        (ended(1, "", "web: not found"), FAILED, "exit status 0", "1: web: not found"),
    ],
)
def test_what_an_end_says(done: subprocess.CompletedProcess[str], state: str, expected: str, seen: str) -> None:
    """Passed, failed with what was expected and seen, or not to be run, with the package that brings the program."""
    verdict = judge(CHECK, done, "/labs/shop")
    assert (verdict.state, verdict.expected) == (state, expected)
    assert seen in verdict.seen


def test_output_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever bytes a command prints, on a host or in a task, its check has an outcome."""
    words = ["printf", r"I'm \377"]
    monkeypatch.setattr(enter, "host_command", lambda *_: words)
    monkeypatch.setattr(enter, "_environment", lambda _: {})
    monkeypatch.setattr(enter, "task_process", lambda *_: (words, os.open(os.devnull, os.O_RDONLY)))
    monkeypatch.setattr(netns, "run_in", lambda _, work: work())
    nothing: Any = SimpleNamespace(name="shop")
    for done in (enter.run_on_host(nothing, "client", words), enter.run_in_task(nothing, words)):
        assert judge(CHECK, done, "/labs/shop").state == PASSED


def test_nothing_is_made_of_a_lab_that_went_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks of a lab that goes down meanwhile end with a line that says so, and leave no group of it behind."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(cgroups, "path", lambda *parts: tmp_path.joinpath(*parts))
    with pytest.raises(enter.GoneError, match=r"^the lab shop is being taken down, or is down$"):
        checks.run(replace(UP, checks=(LabCheck("no", "client", ("true",)),)))
    assert list(tmp_path.iterdir()) == []


def test_junit() -> None:
    """Failures, errors and times are where CI systems look, and what a command printed cannot break the document."""
    outcomes = [
        Outcome(CHECK, judge(CHECK, ended(0, "I'm web"), "/labs/shop"), 0.25, 1),
        Outcome(CHECK, judge(CHECK, ended(1, "\x1b[31m<&\0"), "/labs/shop"), 1.5, 3, "meshnet inspect lb"),
        Outcome(CHECK, judge(CHECK, ended(127, "", "sh: 1: dig: not found"), "/labs/shop"), 0.0, 1),
    ]
    root = ElementTree.fromstring(xml([Graded("shop", outcomes), Graded("gone", (), "the lab gone is not up")]))
    shop, gone = root
    assert {name: shop.get(name) for name in ("name", "tests", "failures", "errors", "time")} == {
        "name": "shop",
        "tests": "3",
        "failures": "1",
        "errors": "1",
        "time": "1.750",
    }
    assert "look: meshnet inspect lb" in str(shop[1][0].get("message"))
    assert (gone.get("errors"), gone[0][0].get("message")) == ("1", "the lab gone is not up")


UP = Lab("shop", "/", "172.17.0.0/16", 1500, (LabNode("a", "172.17.0.2", "manager"),), (LabClient("client", ""),))


@pytest.mark.parametrize(
    ("run", "look", "command", "where"),
    [
        (
            ("sh", "-c", "curl 'web' ||\nexit 1\n"),
            "",
            "curl 'web' ||\nexit 1",
            "meshnet lab exec --lab shop client -- sh",
        ),
        (("curl", "a b"), "", "curl 'a b'", "meshnet lab exec --lab shop client -- curl 'a b'"),
        (("sh", "-c", "curl web"), "ip addr", "curl web", "ip addr"),
        (
            ("true",),
            "meshnet service ps web; meshnet lab exec a -- meshnet ls | meshnet x",
            "true",
            "meshnet --lab shop service ps web; meshnet --lab shop lab exec a -- meshnet ls | meshnet --lab shop x",
        ),
    ],
)
def test_what_a_person_reads_of_a_failure(
    run: tuple[str, ...],
    look: str,
    command: str,
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What was expected, what was seen, the command as it stands in the lab file, and what to type to see more: on
    lines of their own, in the document too; nothing of what passed."""
    check = LabCheck("it answers", "client", run, look=look, once=True)
    monkeypatch.setattr(checks, "run_on_host", lambda *_, **__: ended(7, "", "curl: refused"))
    monkeypatch.setattr(cgroups, "path", lambda _: tmp_path)
    monkeypatch.setattr(view, "hosts", lambda _: [])
    (outcome,) = checks.run(replace(UP, checks=(check,)))
    said = dict(outcome.told)
    assert said == {"expected": "exit status 0", "seen": "7: curl: refused", "command": command, "look": where}
    assert list(said) == ["expected", "seen", "command", "look"]
    lab_check._show(outcome)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAILED  it answers (on client, ")
    assert lines[1:3] == ["        expected  exit status 0", "        seen      7: curl: refused"]
    assert [line.removeprefix("        command ").strip() for line in lines[3:-1]] == command.split("\n")
    assert lines[-1] == f"        look      {where}"
    failure = ElementTree.fromstring(xml([Graded("shop", [outcome])]))[0][0][0]
    assert f"\ncommand: {command}\nlook: {where}" in str(failure.text)
    assert replace(outcome, verdict=judge(CHECK, ended(0, "I'm"), "/labs/shop")).told == ()


def test_what_is_seen_of_a_check_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command printed until its time was over is shown; of a task that is not there, what to type about it."""

    def cut(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("curl", 1.0, output=b"so \xff far", stderr=None)

    def absent(_lab: Lab, word: str) -> None:
        raise NotFoundError(f"the lab shop has no node, client or task {word}")

    monkeypatch.setattr(checks, "run_on_host", cut)
    monkeypatch.setattr(tasks, "find", absent)
    monkeypatch.setattr(view, "hosts", lambda _: [])
    monkeypatch.setattr(cgroups, "path", lambda _: tmp_path)
    lab = replace(
        UP, checks=(LabCheck("ends", "client", ("x",), once=True), LabCheck("is", "web.1", ("x",), once=True))
    )
    ends, there = checks.run(lab)
    assert ends.verdict.expected == "an end"
    assert ends.verdict.seen.endswith(" s; until then: so \N{REPLACEMENT CHARACTER} far")
    assert there.verdict.expected == "a host or a running task web.1"
    assert there.look == "meshnet --lab shop service ps web"


def test_a_node_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that fails while a node is killed says so, and what brings the node back; one that passes does not."""
    rows = [
        {"Name": "a", "Role": "manager", "State": "killed"},
        {"Name": "b", "Role": "worker", "State": view.UP},
        {"Name": "client", "Role": "client", "State": "cut off"},
    ]
    monkeypatch.setattr(checks, "run_on_host", lambda _, __, run, *___, **____: ended(0 if run == ("true",) else 1))
    monkeypatch.setattr(cgroups, "path", lambda _: tmp_path)
    monkeypatch.setattr(view, "hosts", lambda _: rows)
    broken, fine = LabCheck("no", "client", ("false",), once=True), LabCheck("yes", "client", ("true",), once=True)
    failed, passed = checks.run(replace(UP, checks=(broken, fine)))
    said = "a is killed; bring it back with: meshnet --lab shop lab start a"
    assert dict(failed.told)["nodes"] == said
    assert f"; {said}; look: " in failed.reason
    assert (passed.told, passed.absent) == ((), "")


@pytest.mark.parametrize(
    ("words", "variable", "folder", "meant"),
    [
        ([], "", True, "."),
        ([], "", False, None),
        ([], "other", True, None),
        (["--lab", "other"], "", True, "other"),
        (["shop"], "", True, "shop"),
        (["--up"], "", True, "."),
    ],
)
def test_which_lab_is_checked(
    words: list[str], variable: str, folder: bool, meant: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a name, in the folder of a lab, that one is checked, unless $MESHNET_LAB says another."""
    asked: list[str | None] = []

    def graded(word: str | None, *_: object) -> Graded:
        asked.append(word)
        return Graded("shop")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MESHNET_LAB", variable)
    monkeypatch.setattr(lab_check, "_grade", graded)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    if folder:
        (tmp_path / "lab.yml").touch()
    assert CliRunner().invoke(lab_check.check, words).exit_code == 0
    assert asked == [meant]


def test_what_could_not_be_run() -> None:
    """A lab with a problem, or with a check that found no program, is told from one with a check that failed."""
    lacking = Outcome(CHECK, judge(CHECK, ended(127, "", "sh: 1: dig: not found"), "/labs/shop"), 0.0, 1)
    broken = Outcome(CHECK, judge(CHECK, ended(1), "/labs/shop"), 0.0, 1)
    assert (Graded("a", [lacking]).could_not_run, Graded("a", [broken]).could_not_run) == (True, False)
    assert Graded("a", (), "not up").could_not_run
    assert Graded("a", [broken, lacking]).failed == 2


def test_a_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab whose package is not unpacked is refused with the command that gets it; what is no package is a mistake."""
    monkeypatch.setattr(packages, "PLACE", tmp_path / "packages")
    path = tmp_path / "lab.yml"
    path.write_text("name: front\nnodes: {a: {role: manager}}\npackages: [haproxy, nginx]\n")
    (tmp_path / "packages/nginx").mkdir(parents=True)
    lab = file.load(tmp_path)
    with pytest.raises(MeshnetError, match=f"uses Debian's haproxy; get them, .* with: meshnet lab get {tmp_path}"):
        packages.check(lab)
    (tmp_path / "packages/haproxy").mkdir()
    packages.check(lab)
    assert f"{tmp_path}/packages/haproxy/usr/sbin" in packages.environment(lab)["PATH"].split(":")
    path.write_text("name: front\nnodes: {a: {role: manager}}\npackages: [../etc]\n")
    with pytest.raises(LabFileError, match=r"lab.yml:3:12: packages\[0\]: the name of a Debian package is needed"):
        file.load(tmp_path)


def test_unpacked_packages_fit_a_merged_machine(tmp_path: Path) -> None:
    """What a package has in /lib and /sbin goes below /usr, where the machine's links lead: no layer hides a link."""
    for name in ("lib/x86_64-linux-gnu/liba.so", "usr/lib/x86_64-linux-gnu/libb.so", "sbin/tool"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    packages.merge(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "usr/lib/x86_64-linux-gnu/liba.so",
        "usr/lib/x86_64-linux-gnu/libb.so",
        "usr/sbin/tool",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["usr"]


def test_a_long_output_is_cut_in_the_middle() -> None:
    """What is shown of a long output is its beginning and its end, where programs say what was wrong."""
    seen = judge(CHECK, ended(1, "start " + "x" * 1000, "the end"), "/labs/shop").seen
    assert seen.startswith("1: start xxx")
    assert seen.endswith("the end")
    assert len(seen) < 320


def test_a_document_that_cannot_be_written() -> None:
    """A full disk is no failed check, and the line says which file it was."""
    with pytest.raises(lab_check.CannotCheck, match="--junit /dev/full: No space left on device") as refused:
        lab_check._write("/dev/full", "x" * 10)
    assert refused.value.exit_code == lab_check.CANNOT


def test_a_task_that_ends_as_checks_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What killed checks have left is ended, and nothing else, also while groups of tasks come and go."""
    lab = Lab("x", "/", "192.0.2.0/24", 1500, ())
    monkeypatch.setattr(cgroups, "cgroup2_root", lambda: tmp_path)
    ended, scan = list[Path](), os.scandir
    monkeypatch.setattr(cgroups, "end", ended.append)
    root = cgroups.path("x")
    dead = 2**22 + 1  # more than there are
    for name in (f"n0/exec/check-{dead}", f"n0/exec/check-{os.getpid()}", f"check-{dead}/agent", "n0/task"):
        (root / name).mkdir(parents=True)

    def scanned(path: str | Path) -> Any:
        if Path(path).name == "task":
            Path(path).rmdir()
        return scan(path)

    monkeypatch.setattr(os, "scandir", scanned)
    assert checks.run(lab) == []
    assert ended == [root / f"n0/exec/check-{dead}"]
    assert not (root / "n0/task").exists()

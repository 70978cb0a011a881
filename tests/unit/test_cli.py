"""The command itself: it starts at once, and bad usage is one line and a status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_engine import meshnet
from click.testing import CliRunner

from meshnet import names
from meshnet.bench import plots, prober, run
from meshnet.cli import lab_up
from meshnet.cli import main as cli
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.lab import file, logs, nodes, processes, spec, state
from meshnet.lab.spec import Lab, LabNode

NOUNS = ("swarm", "node", "service", "stack", "network", "secret", "config", "volume", "image", "container")
HEAVY = ("pyroute2", "aiohttp", "asyncio", "rich", "yaml", "cryptography", "dnslib", "scapy", "ctypes")


def test_the_command_starts_at_once() -> None:
    """Importing the command takes under 100 ms of CPU time and loads none of the libraries that verbs need."""
    program = (
        "import sys, time; begun = time.process_time(); import meshnet.cli.main; "
        f"print(time.process_time() - begun, *(name for name in {HEAVY} if name in sys.modules))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    assert runs[0][1:] == []
    assert min(float(run[0]) for run in runs) < 0.1


def test_every_verb_can_be_loaded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each verb of each group is where the table says, and explains itself."""
    groups: list[tuple[cli.LazyGroup, tuple[str, ...]]] = [(cli.cli, ())]
    while groups:
        group, path = groups.pop()
        for verb in group.verbs:
            command = group.get_command(None, verb)  # type: ignore[arg-type]
            assert command is not None
            assert command.help
            code, out, _ = meshnet(capsys, monkeypatch, *path, verb, "--help")
            assert (code, "Usage: meshnet" in out) == (0, True)
            if isinstance(command, cli.LazyGroup):
                groups.append((command, (*path, verb)))


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["nonsense"], 2, "meshnet: No such command 'nonsense'; see: meshnet --help"),
        (["lab", "nonsense"], 2, "meshnet: No such command 'nonsense'; see: meshnet lab --help"),
        (
            ["inspect"],
            2,
            "meshnet: Missing argument '{lb|dns|members|endpoints|statistics|capabilities}'. Choose from: lb, ",
        ),
        (["lab", "up", "--fast"], 2, "meshnet: No such option"),
        (
            ["lab", "up", "/none"],
            1,
            "meshnet: /none: no lab.yml there; give the folder of a lab, such as labs/quickstart",
        ),
        (["lab", "down", "no-such-lab"], 1, "meshnet: the lab no-such-lab is not up; no lab is"),
        (["lab", "down"], 1, "meshnet: .: no lab.yml there; give the folder or the name of a lab; no lab is up"),
        (["lab", "inspect", "no-such-lab"], 1, "meshnet: the lab no-such-lab is not up; none is; start one with: "),
        (["lab", "exec", "x", "--", "ls"], 1, "meshnet: no lab is up; start one with: meshnet lab up DIR"),
        (["lab", "check", "no-such-lab"], 2, "meshnet: the lab no-such-lab is not up; no lab is"),
    ],
)
def test_bad_usage_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    line: str,
) -> None:
    """What cannot be done is one line on stderr that says what to do, with nothing on stdout."""
    monkeypatch.setattr("meshnet.names.RUN", str(tmp_path))
    found, out, err = meshnet(capsys, monkeypatch, *words)
    assert (found, out) == (code, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_mistakes_in_a_file_are_lines_for_an_editor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mistake in a lab file is a line that begins with file:line:column."""
    (tmp_path / "lab.yml").write_text("name: x\nnodes: {a: {role: boss}}\nmtu: 5\n")
    code, _, err = meshnet(capsys, monkeypatch, "lab", "up", str(tmp_path))
    assert code == 1
    first, second = err.splitlines()
    assert first == f"{tmp_path}/lab.yml:2:19: nodes.a.role: one of manager, worker is needed, not 'boss'"
    assert second.startswith(f"{tmp_path}/lab.yml:3:1: mtu: unknown key; ")


def test_a_url_is_no_place_in_a_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A complaint about a URL says who complains, as all others do."""
    monkeypatch.setattr("meshnet.lab.state.current", lambda _: None)
    code, _, err = meshnet(capsys, monkeypatch, "lab", "load", "client", "ftp://172.17.0.2:8000")
    assert (code, err) == (
        1,
        "meshnet: ftp://172.17.0.2:8000: a URL such as http://172.17.0.2:8080/ is needed\n",
    )


def test_no_verb_is_cut_in_the_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """--help says of every verb in whole words what it does."""
    groups = [(name,) for name in cli.VERBS if name in ("lab", "bench", "trace", "haproxy", *NOUNS)]
    for group in ((), *groups):
        _, out, _ = meshnet(capsys, monkeypatch, *group, "--help")
        assert [line for line in out.splitlines() if line.startswith("  ") and line.endswith("...")] == []


def test_a_lab_can_be_named_before_the_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--lab NAME is understood by meshnet, by meshnet lab, and by the verbs."""
    monkeypatch.setattr("meshnet.names.RUN", str(tmp_path))
    for words in (
        ["--lab", "this", "service", "ls"],
        ["lab", "--lab", "this", "exec", "x", "ls"],
        ["lab", "check", "--lab", "this"],
        ["lab", "inspect", "--lab", "this"],
    ):
        monkeypatch.setenv("MESHNET_LAB", "other")
        assert meshnet(capsys, monkeypatch, *words)[2].startswith("meshnet: the lab this is not up")


def test_down_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`lab down` means the lab in $MESHNET_LAB, or without that the current folder's; a name that is given wins."""
    monkeypatch.setattr("meshnet.names.RUN", str(tmp_path / "run"))
    monkeypatch.setattr("meshnet.names.BPFFS", str(tmp_path / "bpf"))
    taken: list[str] = []
    monkeypatch.setattr("meshnet.lab.down.down", taken.append)
    for lab in ("here-1", "there-1", "named-1"):
        (tmp_path / "run" / lab).mkdir(parents=True)
    (tmp_path / "lab.yml").write_text("name: here-1\nnodes: {m: {role: manager}}\n")
    monkeypatch.chdir(tmp_path)
    down = CliRunner()
    monkeypatch.delenv("MESHNET_LAB", raising=False)
    assert down.invoke(lab_up.down, []).exit_code == 0
    monkeypatch.setenv("MESHNET_LAB", "there-1")
    assert down.invoke(lab_up.down, []).exit_code == 0
    assert down.invoke(lab_up.down, ["named-1"]).exit_code == 0
    assert down.invoke(lab_up.down, ["."]).exit_code == 0
    monkeypatch.setenv("MESHNET_LAB", "")
    assert down.invoke(lab_up.down, []).exit_code == 0
    assert taken == ["here-1", "there-1", "named-1", "here-1", "here-1"]
    monkeypatch.setenv("MESHNET_LAB", "gone-1")
    with pytest.raises(NotFoundError, match=r"the lab gone-1 \(\$MESHNET_LAB\) is not up"):
        down.invoke(lab_up.down, [], catch_exceptions=False)
    assert len(taken) == 5


@pytest.mark.parametrize(
    ("was", "node", "words"),
    [
        (nodes.Was.KILLED, "worker", "it was killed before, and nothing of it ran; bring it back with: "),
        (nodes.Was.ENDED, "worker", "nothing of it ran; now its cable is cut, too; bring it back with: "),
        (nodes.Was.RUNNING, "boss", "traffic avoids it within a second; nothing can be changed or replaced without"),
        (nodes.Was.RUNNING, "worker", "traffic avoids it within a second; no manager runs that would call it Down; "),
    ],
)
def test_what_a_kill_did_is_told_as_it_is(was: nodes.Was, node: str, words: str) -> None:
    """Whoever kills what was killed, or had ended, hears that, and not what would follow a kill."""
    members = (LabNode("boss", "192.0.2.1", "manager"), LabNode("worker", "192.0.2.2", "worker"))
    told = nodes.after_kill(Lab("no-lab-of-mine", "/", "192.0.2.0/24", 1500, members), node, was)
    assert told.startswith(words)
    assert told.endswith(f"meshnet lab start {node}")


def test_labs_that_come_with_meshnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no such folder, quickstart and two-tier are labs all the same; a folder of that name is first."""
    monkeypatch.chdir(tmp_path)
    assert file.load("quickstart").name == file.load("labs/quickstart").name == "quickstart"
    assert file.load("two-tier").services
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart/lab.yml").write_text("name: mine\nnodes: {m: {role: manager}}\n")
    assert file.load("quickstart").name == "mine"
    with pytest.raises(
        MeshnetError, match=r"no lab\.yml there; give the folder of a lab, such as labs/quickstart, or a"
    ):
        file.load("../_labs")


def test_what_up_prints_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hints after `lab up` begin with what a shell lacks: the command's folder, the lab's name; else nothing."""
    folder = Path(sys.executable).parent
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.delenv("MESHNET_LAB", raising=False)
    monkeypatch.setattr("meshnet.lab.state.up", lambda: ["one", "two"])
    assert lab_up.exports("two") == f"PATH={folder}:$PATH MESHNET_LAB=two"
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("meshnet.lab.state.up", lambda: ["two"])
    assert lab_up.exports("two") == ""
    monkeypatch.setenv("MESHNET_LAB", "one")
    assert lab_up.exports("two") == "MESHNET_LAB=two"


@pytest.mark.parametrize("option", ["--json", "--html", "--png"])
def test_where_nothing_can_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: str
) -> None:
    """A benchmark whose result could not be kept is refused before it measures."""
    monkeypatch.setattr(run, "run", lambda *_: pytest.fail("it measured"))
    monkeypatch.setattr(plots, "check", lambda: None)
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "result" if option == "--png" else tmp_path / "none" / "result"
    code, out, err = meshnet(capsys, monkeypatch, "bench", "paths", option, str(place))
    assert (code, out) == (1, "")
    assert err.startswith(f"meshnet: {place} cannot be written: "), err


def test_a_table_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong table is refused, with the right ones, before anything is made or measured."""
    monkeypatch.setattr(run, "stage", lambda *_: pytest.fail("it made namespaces"))
    monkeypatch.setattr(prober, "build", lambda: pytest.fail("it compiled"))
    code, _, err = meshnet(capsys, monkeypatch, "bench", "paths", "--table", "nope")
    assert (code, err.startswith("meshnet: there is no table nope; there are overlay-remote, ")) == (1, True), err


def test_labs_that_come_and_go_do_not_end_the_list(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`lab ls` leaves out a lab that went down meanwhile, and shows one whose namespaces are not there yet; its JSON
    has what the table has."""
    coming = spec.Lab("coming", "/", "198.51.100.0/24", 1500, (spec.LabNode("node1", "198.51.100.2", "manager"),))
    monkeypatch.setattr(names, "RUN", str(tmp_path))
    (tmp_path / "coming").mkdir()
    (tmp_path / "coming" / "lab.json").write_text(json.dumps(spec.to_json(coming)))
    monkeypatch.setattr(processes, "alive", lambda *_: True)
    monkeypatch.setattr(state, "up", lambda: ["coming", "gone"])
    code, out, err = meshnet(capsys, monkeypatch, "lab", "ls")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["NAME", "coming"]
    (row,) = json.loads(meshnet(capsys, monkeypatch, "lab", "ls", "--json")[1])
    assert row.keys() == {word.capitalize() for word in out.splitlines()[0].split()}
    assert row["Underlay"] == "198.51.100.0/24"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("http://web:8080", "--for", "1s"), "say from where to ask, before the URL"),
        (("http://web:8080",), "say from where to ask, before the URL"),
        (("client", "http://web:8080", "--for", "1s"), "--for: options stand before the place and the URL"),
        (("client", "--for", "1s", "http://web:8080"), "--for: options stand before the place and the URL"),
        (("client",), "say what to ask, after the place"),
        (("client", "--", "true"), "say what to ask, after the place"),
    ],
)
def test_options_of_load_in_the_wrong_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    """An option after the place or the URL is not taken for the URL or the command: one line says where it belongs."""
    code, _, err = meshnet(capsys, monkeypatch, "lab", "load", *words)
    example = "meshnet lab load --for 1s client http://172.17.0.2:8080"
    assert (code, err) == (2, f"meshnet: {said}, as in {example}; see: meshnet lab load --help\n")


@pytest.mark.parametrize(
    ("text", "words", "out", "err"),
    [
        ("", (), "", "whoami has written nothing\n"),
        ("2026-01-01T00:00:00.0Z stdout F hello\n", (), "hello\n", ""),
        ("2026-01-01T00:00:00.0Z stdout F hello\n", ("--tail", "0"), "", ""),
    ],
)
def test_logs_without_a_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
    words: tuple[str, ...],
    out: str,
    err: str,
) -> None:
    """`lab logs` of what has written nothing says so on stderr, and that is no failure."""
    (tmp_path / "log").write_text(text)
    monkeypatch.setattr(state, "current", lambda _: None)
    monkeypatch.setattr(logs, "sources", lambda *_: [logs.Source("whoami.1", tmp_path / "log", True)])
    assert meshnet(capsys, monkeypatch, "lab", "logs", *words, "whoami") == (0, out, err)

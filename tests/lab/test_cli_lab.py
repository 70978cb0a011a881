"""The command against a real lab: docker's tables, and one clear line for what is refused, which changes nothing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meshnet.cli import main as cli
from meshnet.lab import converge, enter, tasks
from meshnet.testing.labs import LabUnderTest

pytestmark = pytest.mark.root
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def meshnet(lab: LabUnderTest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command in this process, for the module's lab: exit status, stdout, stderr."""
    monkeypatch.setenv("MESHNET_LAB", lab.name)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["meshnet", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return (ended.value.code if isinstance(ended.value.code, int) else 0), out, err

    return run


def test_services_as_docker_shows_them(meshnet: Command) -> None:
    """create waits and prints the id; ls, ps, scale, update, inspect and rm have docker's columns and words."""
    code, out, err = meshnet("network", "create", "shown")
    assert (code, err) == (0, "")
    flags = ["--name", "shown", "--replicas", "2", "--network", "shown", "-p", "8100:8000", "-e", "A=b c"]
    code, out, err = meshnet("service", "create", *flags, "whoami")
    assert (code, len(out.strip())) == (0, 25)
    ident = out.strip()
    assert err.partition("\n")[0] in [f"overall progress: {count} out of 2 tasks" for count in range(3)]
    assert err.endswith("overall progress: 2 out of 2 tasks\nverify: Service shown converged\n")
    code, out, _ = meshnet("service", "ls")
    assert out.splitlines()[0].split() == ["ID", "NAME", "MODE", "REPLICAS", "IMAGE", "PORTS"]
    assert out.splitlines()[1].split() == [ident[:12], "shown", "replicated", "2/2", "whoami", "*:8100->8000/tcp"]
    _, out, _ = meshnet("service", "ps", "shown")
    head, *rows = out.splitlines()
    assert head.split("  ")[0] == "ID"
    assert [row.split()[1] for row in rows] == ["shown.1", "shown.2"]
    assert meshnet("service", "scale", "shown=1")[:2] == (0, "shown scaled to 1\n")
    before = {task.id for task in _running(meshnet)}
    assert meshnet("service", "update", "--force", "shown")[:2] == (0, "shown\n")
    after = {task.id for task in _running(meshnet)}
    assert len(after) == 1
    assert not before & after
    spec = json.loads(meshnet("service", "inspect", "shown")[1])[0]["Spec"]
    assert spec["TaskTemplate"]["ContainerSpec"]["Env"] == ["A=b c"]
    assert meshnet("service", "rm", "shown") == (0, "shown\n", "")
    assert meshnet("service", "ps", "shown")[::2] == (1, "meshnet: service shown not found\n")
    assert meshnet("network", "rm", "shown") == (0, "shown\n", "")


class _Row:
    def __init__(self, line: str) -> None:
        self.id = line.split()[0]


def _running(meshnet: Command) -> list[_Row]:
    return [_Row(line) for line in meshnet("service", "ps", "shown")[1].splitlines() if "Running   " in line]


def test_nodes_and_networks(meshnet: Command) -> None:
    """node ls and network ls show what docker shows; availability and labels can be changed."""
    rows = meshnet("node", "ls")[1].splitlines()[1:]
    assert [(row.split()[1], row.split()[2]) for row in rows] == [(f"docker-{n}", "Ready") for n in range(3)]
    assert "Leader" in rows[0]
    rows = meshnet("network", "ls", "-f", "driver=overlay")[1].splitlines()[1:]
    assert [row.split()[1:] for row in rows] == [["ingress", "overlay", "swarm"]]
    assert meshnet("node", "update", "--availability", "drain", "--label-add", "a=b", "docker-2")[0] == 0
    spec = json.loads(meshnet("node", "inspect", "docker-2")[1])[0]["Spec"]
    assert (spec["Availability"], spec["Labels"]) == ("drain", {"a": "b"})
    assert meshnet("node", "update", "--availability", "active", "--label-rm", "a", "docker-2")[0] == 0


def test_looking_around(meshnet: Command, lab: LabUnderTest) -> None:
    """lab ls and inspect, inspect members and lb, and env say what is there, as tables and as JSON."""
    row = next(line.split() for line in meshnet("lab", "ls")[1].splitlines() if line.startswith(lab.name))
    assert row[:4] == [lab.name, "up", "3", "1"]
    hosts = json.loads(meshnet("lab", "inspect", "--json")[1])["Hosts"]
    assert [(host["Name"], host["State"]) for host in hosts] == [
        ("docker-0", "up"),
        ("docker-1", "up"),
        ("docker-2", "up"),
        ("client", "up"),
    ]
    members = json.loads(meshnet("inspect", "members", "--node", "docker-1", "--json")[1])
    assert {member["Node"] for member in members} == {"docker-0", "docker-1", "docker-2"}
    assert meshnet("inspect", "lb")[0] == 0
    lab.service("apart")
    assert "apart.1 (on no network):\n" in meshnet("inspect", "dns")[1]
    lab.remove("apart")
    for node in ("docker-0", "docker-1"):
        code, out, err = meshnet("lab", "env", node)
        assert (code, err) == (0, "")
        exports = [line.removeprefix("export ") for line in out.splitlines() if line.startswith("export ")]
        lines = dict(line.split("=", 1) for line in exports)
        assert lines.keys() == {"MESHNET_LAB", "DOCKER_HOST"}
        assert f"/{node}/" in lines["DOCKER_HOST"]
        assert Path(lines["DOCKER_HOST"].removeprefix("unix://")).is_socket()
        assert f'eval "$(meshnet lab env {node})"' in out


def test_hosts_are_called_by_their_names(lab: LabUnderTest) -> None:
    """A shell on a node or client has its name in its prompt, and a check sees the same; the machine's stays."""
    before = socket.gethostname()
    for host in ("docker-1", "client"):
        words = [sys.executable, "-m", "meshnet.cli", "lab", "exec", "--lab", lab.name, host, "--", "hostname"]
        assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == f"{host}\n"
        assert enter.run_on_host(lab.spec, host, ["hostname"], 10.0).stdout == f"{host}\n"
    assert socket.gethostname() == before


def test_a_node_that_is_dead_hides_no_other(meshnet: Command, lab: LabUnderTest) -> None:
    """inspect shows the nodes that answer, says of the other that it does not, and ends with 1."""
    code, out, err = meshnet("lab", "kill", "docker-2")
    assert (code, out) == (0, "docker-2\n")
    assert err.startswith("traffic avoids it within a second; the manager calls it Down after 3 s; bring it back with")
    try:
        assert meshnet("lab", "inspect", "--lab", lab.name)[1].count("killed") == 1
        assert "2 of 3 nodes up" in meshnet("lab", "ls")[1]
        code, out, err = meshnet("inspect", "members")
        assert code == 1
        assert [line for line in out.splitlines() if line.startswith("---")] == [
            "--- docker-0",
            "--- docker-1",
            "--- docker-2: does not answer",
        ]
        assert out.count("INCARNATION") == 2
        assert err == "meshnet: the agent on docker-2 does not answer; start it with: meshnet lab start docker-2\n"
        code, out, _ = meshnet("inspect", "members", "--json")
        assert (code, sorted(json.loads(out))) == (1, ["docker-0", "docker-1"])
    finally:
        assert meshnet("lab", "start", "docker-2")[0] == 0


def test_a_service_that_ends_at_once_is_no_success(meshnet: Command) -> None:
    """create ends with 1 and the reason when the task ends again and again, though it is seen running."""
    words = ["--name", "bad", "--restart-delay", "1s", "debian", "false"]
    code, _, err = meshnet("service", "create", *words)
    assert code == 1
    assert "verify:" not in err
    said = "meshnet: bad keeps failing: task: non-zero exit (1); see: meshnet service ps bad"
    assert err.splitlines()[-1] == said
    assert meshnet("service", "rm", "bad")[0] == 0


def test_words_for_tasks(meshnet: Command, lab: LabUnderTest) -> None:
    """A task is meant by slot, by node, by a beginning that is no other's; a service's name says what its tasks are."""
    lab.service("words", replicas=2)
    lab.service("all", global_=True)
    first = next(task for task in lab.tasks("words") if task.short == "words.1")
    for word in ("words.1", first.name[:-3], first.id, first.id[:9], "all@docker-1"):
        assert tasks.find(lab.spec, word).short in ("words.1", "all@docker-1")
    code, _, err = meshnet("lab", "kill", "words")
    assert (code, err) == (1, "meshnet: words is a service; its tasks are words.1, words.2\n")
    code, _, err = meshnet("lab", "kill", "words.")
    assert (code, err.startswith("meshnet: several tasks are called words.: words.1.")) == (1, True)
    nothing = meshnet("lab", "logs", "nosuch")[2]
    assert nothing.startswith(f"meshnet: the lab {lab.name} has no node nosuch, and no task of that name or ")
    assert "services with tasks are all, " in nothing
    assert meshnet("service", "logs", "words")[0] == 0
    for command in ("nosuch", "/bin/nosuch"):
        words = [sys.executable, "-m", "meshnet.cli", "lab", "exec", "words.1", "--", command]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        said = f"meshnet: {command}: no such command in words.1\n"
        assert (done.returncode, done.stdout, done.stderr) == (127, "", said)
    words = [sys.executable, "-m", "meshnet.cli", "lab", "exec", "words.1", "--", "sh", "-c", "exit 9"]
    assert subprocess.run(words, check=False).returncode == 9
    lab.remove("words", "all")


def test_a_wait_in_vain_is_announced(meshnet: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a service cannot be scheduled, create says why, for how long it waits, and what Ctrl-C does."""
    monkeypatch.setattr(converge, "PATIENCE", 1.0)
    words = ["--name", "far", "--constraint", "node.hostname==moon", "whoami"]
    code, _, err = meshnet("service", "create", *words)
    assert code == 1
    assert "no suitable node" in err
    assert "waiting up to 1 s; Ctrl-C leaves the service\n" in err
    assert meshnet("service", "rm", "far")[0] == 0


def test_an_update_and_back(meshnet: Command) -> None:
    """update changes what its flags say and waits; rollback brings the spec back; node labels steer tasks."""
    assert meshnet("service", "create", "--name", "turned", "-e", "A=1", "-p", "8300:8000", "whoami")[0] == 0
    flags = [
        "--env-add",
        "A=2",
        "--env-rm",
        "B",
        "--publish-rm",
        "8000",
        "--publish-add",
        "8301:8000",
        "--replicas",
        "2",
    ]
    code, out, err = meshnet("service", "update", *flags, "--update-order", "start-first", "turned")
    assert (code, out, err.splitlines()[-1]) == (0, "turned\n", "verify: Service turned converged")
    row = meshnet("service", "ls", "--format", "{{.Name}} {{.Replicas}} {{.Ports}}", "-f", "name=turned")[1]
    assert row == "turned 2/2 *:8301->8000/tcp\n"
    pretty = meshnet("service", "inspect", "--pretty", "turned")[1].splitlines()
    assert {" Env:\t\tA=2 ", " PublishedPort = 8301", " Update order:      start-first"} <= set(pretty)
    assert meshnet("service", "rollback", "turned")[0] == 0
    assert meshnet("service", "inspect", "--format", "{{json .Spec.TaskTemplate.ContainerSpec.Env}}", "turned") == (
        0,
        '["A=1"]\n',
        "",
    )
    assert meshnet("node", "update", "--label-add", "disk=ssd", "docker-1")[0] == 0
    assert meshnet("service", "update", "--constraint-add", "node.labels.disk==ssd", "turned")[0] == 0
    rows = meshnet("node", "ps", "docker-1", "--format", "{{.Name}} {{.DesiredState}}", "-f", "desired-state=running")
    assert "turned.1 Running\n" in rows[1]
    assert meshnet("node", "update", "--label-rm", "disk", "docker-1")[0] == 0
    assert "Hostname:              \tdocker-0\n" in meshnet("node", "inspect", "self", "--pretty")[1]
    assert meshnet("service", "rm", "turned")[0] == 0


def test_secrets_configs_and_volumes(meshnet: Command, tmp_path: Path) -> None:
    """What is created is listed, found in tasks by the files' names, kept while it is used, and gone after rm."""
    (tmp_path / "pw").write_text("topsecret")
    for kind in ("secret", "config"):
        assert len(meshnet(kind, "create", "-l", "a=b", f"{kind}1", str(tmp_path / "pw"))[1]) == 26
        assert f" {kind}1 " in meshnet(kind, "ls")[1]
        assert json.loads(meshnet(kind, "inspect", f"{kind}1")[1])[0]["Spec"]["Labels"] == {"a": "b"}
    assert "topsecret" not in meshnet("secret", "inspect", "secret1")[1]
    flags = ["--secret", "secret1", "--config", "source=config1,target=/etc/app.cfg", "--mount", "src=vol,dst=/data"]
    assert (
        meshnet("service", "create", "--name", "told", "--constraint", "node.hostname==docker-1", *flags, "whoami")[0]
        == 0
    )
    name = meshnet("ps", "--node", "docker-1", "--format", "{{.Names}}", "-f", "name=told")[1].strip()
    inner = subprocess.run(
        [
            sys.executable,
            "-m",
            "meshnet.cli",
            "exec",
            "--node",
            "docker-1",
            name,
            "cat",
            "/run/secrets/secret1",
            "/etc/app.cfg",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert inner.stdout == "topsecrettopsecret"
    assert meshnet("secret", "rm", "secret1")[2].startswith(
        "meshnet: secret 'secret1' is in use by the following service"
    )
    assert meshnet("volume", "ls", "-q", "--node", "docker-1")[1].split() == ["vol"]
    assert meshnet("service", "update", "--secret-rm", "secret1", "--config-rm", "config1", "told")[0] == 0
    assert meshnet("service", "rm", "told")[0] == 0
    for kind in ("secret", "config"):
        assert meshnet(kind, "rm", f"{kind}1") == (0, f"{kind}1\n", "")


def test_containers_of_a_node(meshnet: Command, lab: LabUnderTest) -> None:
    """ps, logs, exec, inspect and rm speak of the node's containers, and service logs of all tasks of a service."""
    lab.service("seen", "debian", "sh", "-c", "echo out; echo err >&2; exec sleep 1000", replicas=2)
    task = next(one for one in lab.tasks("seen") if one.node == "docker-1")
    head, *rows = meshnet("ps", "--node", "docker-1")[1].splitlines()
    assert head.split("  ")[0] == "CONTAINER ID"
    assert any(row.split()[0] == task.spec.id[:12] and row.endswith(task.name) for row in rows)
    lab.wait_until(lambda: meshnet("logs", "--node", "docker-1", task.name) == (0, "out\n", "err\n"))
    lab.wait_until(lambda: meshnet("service", "logs", "seen")[1].count("\n") == 2)
    label = f"{task.short}.{task.id[:12]}@docker-1    | "
    code, out, err = meshnet("service", "logs", "seen")
    assert (code, label + "out" in out.splitlines(), label + "err" in err.splitlines()) == (0, True, True)
    assert len(out.splitlines()) == 2
    assert sorted(meshnet("service", "logs", "--raw", task.id)[1:]) == ["err\n", "out\n"]
    assert "".join(meshnet("service", "logs", "--raw", "--tail", "1", task.id)[1:]) in ("err\n", "out\n")
    said = meshnet("container", "inspect", "--node", "docker-1", "--format", "{{.State.Status}}", task.name)
    assert said == (0, "running\n", "")
    assert "sleep 1000" in meshnet("container", "top", "--node", "docker-1", task.name)[1]
    words = [sys.executable, "-m", "meshnet.cli", "exec", "--node", "docker-1", "-i", "-e", "A=5", task.name]
    shell = "cat; echo $A; echo bad >&2; exit 7"
    done = subprocess.run([*words, "sh", "-c", shell], input="typed\n", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "typed\n5\n", "bad\n")
    assert meshnet("exec", "--node", "docker-1", task.name, "/bin/nosuch")[0] in (126, 127)
    assert meshnet("rm", "-f", "--node", "docker-1", task.name)[:2] == (0, f"{task.name}\n")
    lab.wait_until(lambda: len([one for one in lab.tasks("seen") if one.id != task.id]) == 2)
    assert "whoami" in meshnet("image", "ls")[1]
    lab.remove("seen")


STACK = """
services:
  web:
    image: whoami
    ports: ["8400:8000"]
    secrets: [pw]
    configs: [{source: cfg, target: /etc/app.cfg}]
    networks: [back]
    volumes: ["data:/data"]
    deploy:
      replicas: REPLICAS
      update_config: {order: start-first}
      resources: {limits: {memory: 500M}, reservations: {memory: 10M}}
  once:
    image: debian
    command: "true"
    deploy: {mode: replicated-job}
networks: {back: {}}
volumes: {data: }
secrets: {pw: {file: ./pw}}
configs: {cfg: {file: ./pw}}
"""


def test_a_stack(meshnet: Command, lab: LabUnderTest, tmp_path: Path) -> None:
    """A compose file with all that a swarm has becomes a stack, is changed in place, and goes without a trace."""
    (tmp_path / "pw").write_text("secret")
    file = tmp_path / "stack.yml"
    file.write_text(STACK.replace("REPLICAS", "1"))
    before = [len(lab.engine.get(path)) for path in ("/services", "/networks", "/secrets", "/configs")]
    code, out, err = meshnet("stack", "deploy", "--no-detach", "-c", str(file), "blog")
    made = ["network blog_back", "network blog_default", "secret blog_pw", "config blog_cfg"]
    made += ["service blog_web", "service blog_once"]
    assert (code, out.splitlines()) == (0, [f"Creating {thing}" for thing in made]), err
    assert meshnet("stack", "ls")[1].splitlines()[1].split() == ["blog", "2"]
    rows = meshnet("stack", "services", "blog", "--format", "{{.Name}} {{.Mode}} {{.Replicas}}")[1].splitlines()
    assert rows == ["blog_once replicated job 0/0 (1/1 completed)", "blog_web replicated 1/1"]
    assert "blog_web.1" in meshnet("stack", "ps", "blog", "-f", "desired-state=running")[1]
    lab.converged("blog_web")
    assert lab.client().out("curl -s http://172.17.0.3:8400").startswith("I'm ")
    assert lab.task("blog_web.1").out("cat /run/secrets/pw /etc/app.cfg") == "secretsecret"
    file.write_text(STACK.replace("REPLICAS", "2"))
    code, out, err = meshnet("stack", "deploy", "--no-detach", "-c", str(file), "blog")
    assert (code, "Updating service blog_web (id: " in out) == (0, True), err
    assert len([task for task in lab.tasks("blog_web") if task.short in ("blog_web.1", "blog_web.2")]) == 2
    file.write_text(STACK.replace("REPLICAS", "1").replace("10M", "1M"))
    code, out, err = meshnet("stack", "deploy", "-c", str(file), "blog")
    assert (code, out) == (1, "")
    assert err.startswith(f"{file}:4:5: services.web: invalid memory value 1048576: Must be at least 4MiB")
    file.write_text(STACK.replace("REPLICAS", "many"))
    code, out, err = meshnet("stack", "deploy", "-c", str(file), "blog")
    assert (code, out) == (1, "")
    assert err.startswith(f"{file}:11:17: services.web.deploy.replicas: a whole number from 0 to 10000 is needed")
    code, out, err = meshnet("stack", "rm", "blog")
    assert (code, err, out.splitlines()[-1]) == (0, "", "Removing network blog_default")
    assert [len(lab.engine.get(path)) for path in ("/services", "/networks", "/secrets", "/configs")] == before
    assert meshnet("stack", "ps", "blog") == (1, "", "meshnet: nothing found in stack: blog\n")
    lab.wait_until(lambda: not lab.tasks("blog_web"))


def test_the_swarm_itself(meshnet: Command) -> None:
    """join-token, update and ca show and change what holds for the whole swarm."""
    code, out, _ = meshnet("swarm", "join-token", "worker")
    token = meshnet("swarm", "join-token", "-q", "worker")[1].strip()
    assert (code, token.startswith("SWMTKN-1-"), token in out, "172.17.0.2:2377" in out) == (0, True, True, True)
    assert meshnet("swarm", "join-token", "--rotate", "-q", "worker")[1].strip() not in ("", token)
    assert meshnet("swarm", "update", "--task-history-limit", "3") == (0, "Swarm updated.\n", "")
    before = meshnet("swarm", "ca")[1]
    assert before.startswith("-----BEGIN CERTIFICATE-----\n")
    code, after, _ = meshnet("swarm", "ca", "--rotate")
    assert (code, after.startswith("-----BEGIN CERTIFICATE-----\n"), after != before) == (0, True, True)
    assert meshnet("node", "ls")[1].count("Ready") == 3


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ("service create --name x --network nosuch whoami", 1, "network nosuch not found"),
        ("service create --name x nosuch:1", 1, "No such image: nosuch:1; name it in the lab's images, or give it a"),
        ("service create --name -x whoami", 1, "name must be valid as a DNS name component"),
        ("service create --name taken whoami", 1, "name conflicts with an existing object: service taken already"),
        ("service create --name x -p 8200:8000 whoami", 1, "port '8200' is already in use by service 'taken' ("),
        ("service create --name x -p 4789:1/udp whoami", 1, "port 4789/udp is the nodes' own; publish another one"),
        ("service create --name x -p 99999:80 whoami", 2, "--publish: ports go from 1 to 65535, and ranges upward:"),
        ("service create --name x -p published=1 whoami", 2, "--publish: 'published=1': target= is missing"),
        ("service create --name x --constraint a=b whoami", 1, "constraint expected one operator from ==, !="),
        ("service create --name x --replicas 2 --mode global whoami", 1, "replicas can only be used with replicated"),
        ("service create --name x --endpoint-mode dnsrr -p 1:1 whoami", 1, "EndpointSpec: port published with ingress"),
        (
            "service create --name x --health-interval soon whoami",
            2,
            "Invalid value for '--health-interval': 'soon' is",
        ),
        ("service create --name x --label =1 whoami", 2, "--label '=1': write NAME=value; see: meshnet service create"),
        ("service create --name x", 2, "Missing argument 'IMAGE'; see: meshnet service create --help"),
        ("service scale taken=many", 2, "'taken=many': write SERVICE=REPLICAS; see: meshnet service scale --help"),
        ("service scale nosuch=2", 1, "service nosuch not found"),
        ("service update --image nosuch taken", 1, "No such image: nosuch; name it in the lab's images"),
        ("service rm nosuch", 1, "service nosuch not found"),
        ("service ls --node docker-1", 1, "This node is not a swarm manager. Worker nodes can't be used to view or"),
        ("service ls --node nosuch", 1, "the lab {lab} has no node nosuch; its nodes are docker-0, docker-1, docker-2"),
        ("service ls --filter x", 2, "--filter 'x': write key=value; see: meshnet service ls --help"),
        ("service ls --format {{range}}", 1, "--format: {{range}} is not understood; write {{.Field}} or {{json"),
        ("service scale global=2", 1, "global: scale can only be used with replicated or replicated-job mode"),
        ("service update --rollback --force taken", 2, "other flags may not be combined with --rollback; see: meshnet"),
        ("service update --publish-rm 8200 taken", 1, "--publish-rm 8200: no port is published with that target port;"),
        ("service update --secret-add nosuch taken", 1, "secret not found: nosuch"),
        ("service update --limit-cpu many taken", 2, "Invalid value for '--limit-cpu': 'many' is no number of proces"),
        ("service rollback taken", 1, "service "),
        ("service logs nosuch", 1, "no such task or service: nosuch"),
        ("node promote docker-1", 1, "a swarm has one manager so far: a worker cannot be promoted"),
        ("node rm docker-1", 1, "node "),
        (
            "swarm init",
            1,
            'This node is already part of a swarm. Use "meshnet swarm leave --node docker-0" to leave this swarm',
        ),
        ("swarm leave", 1, "You are attempting to leave the swarm on a node that is participating as a manager."),
        ("swarm update", 2, "say what to change; see: meshnet swarm update --help"),
        ("swarm join 172.17.0.2:2377 --node docker-1", 1, "This node is already part of a swarm."),
        ("swarm ca --cert-expiry 1h", 2, "--ca-cert, --ca-key and --cert-expiry need --rotate; see: meshnet swarm ca"),
        ("secret create x /nosuch", 1, "/nosuch: No such file or directory"),
        ("secret create x /dev/null", 1, "secret data must be larger than 0 and less than 512000 bytes"),
        ("secret inspect nosuch", 1, "secret nosuch not found"),
        ("config rm nosuch", 1, "config nosuch not found"),
        ("volume inspect nosuch", 1, "get nosuch: no such volume"),
        ("volume create -d nfs x", 1, ""),
        ("image inspect nosuch", 1, "no such image: nosuch: No such image: nosuch:latest"),
        ("logs nosuch", 1, "No such container: nosuch"),
        ("exec nosuch ls", 1, "No such container: nosuch"),
        ("rm nosuch", 1, "No such container: nosuch"),
        ("network create --subnet 10.0.300.0/24 x", 1, "Invalid subnet 10.0.300.0/24 : invalid CIDR address"),
        ("network create --subnet 172.17.0.0/24 x", 1, "subnet 172.17.0.0/24 contains the address 172.17.0."),
        (
            "network create --gateway 10.9.0.1 x",
            2,
            "--gateway and --ip-range need --subnet; see: meshnet network create",
        ),
        ("network rm ingress", 1, "without ingress no port can be published; to remove it all the same, add --force"),
        ("network inspect nosuch", 1, "network nosuch not found"),
        ("node inspect nosuch", 1, "node nosuch not found"),
        ("inspect lb --node nosuch", 1, "the lab {lab} has no node nosuch; its nodes are docker-0, docker-1, docker-2"),
        ("lab exec nosuch ls", 1, "the lab {lab} has no node, client or task nosuch; hosts are docker-0, docker-1,"),
        ("lab exec docker-0", 2, "a command is missing; see: meshnet lab exec --help"),
        ("lab kill nosuch", 1, "the lab {lab} has no node, client or task nosuch; hosts are docker-0, docker-1,"),
        ("lab start docker-0", 1, "docker-0 runs already"),
        (
            "lab logs nosuch",
            1,
            "the lab {lab} has no node nosuch, and no task of that name or of a service nosuch; nodes are docker-0, "
            "docker-1, docker-2; services with tasks are",
        ),
        ("agent --settings /nosuch", 1, "/nosuch: not the settings of an agent: "),
        ("manager --settings /nosuch", 1, "/nosuch: not the settings of a manager: "),
    ],
)
def test_what_is_refused(meshnet: Command, lab: LabUnderTest, words: str, code: int, line: str) -> None:
    """One line on stderr that says what was wrong and what to do, a status, and nothing changed."""
    if not any(service.spec.name == "taken" for service in lab.engine.services()):
        lab.service("taken", ports=["8200:8000"])
        lab.service("global", global_=True)
    before = [lab.engine.get(path) for path in ("/services", "/networks", "/nodes")]
    found, out, err = meshnet(*words.split())
    assert (found, out) == (code, "")
    assert err.splitlines()[-1].startswith("meshnet: " + line.replace("{lab}", lab.name)), err
    assert err.count("\n") == 1
    assert [lab.engine.get(path) for path in ("/services", "/networks", "/nodes")] == before

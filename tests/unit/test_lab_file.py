"""lab.yml: what a right file means, and the exact words for a wrong one."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

import pytest

from meshnet.errors import MeshnetError
from meshnet.lab import spec
from meshnet.lab.file import MAPS, load
from meshnet.lab.spec import Lab, LabCheck, LabClient, LabLink, LabNode
from meshnet.lab.yamlnodes import LabFileError

FULL = """\
name: everything
underlay: {subnet: 192.168.7.0/28, mtu: 9000}
datapath: ebpf
return: via
maps: {flows: 8192}
nodes:
  a: {role: manager, labels: {zone: east, "1": 2}}
  b: {address: 192.168.7.2, datapath: ebpf}
  c:
clients:
  outside:
links:
  b: {delay: 10ms, loss: 0.5%, rate: 100mbit}
resolvers: [192.168.7.9]
resolver: 53
images:
  who: {entrypoint: [whoami, -v], writable: 1000}
  plain: alpine
x-anything: [1, 2]
checks:
  - {name: up, on: outside, run: "curl -s http://192.168.7.2", expect: "I'm", within: 1m}
  - {name: list, on: a, run: [ip, -j, link]}
"""


def lab_of(tmp_path: Path, text: str | bytes) -> Lab:
    path = tmp_path / "lab.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(tmp_path)


def complaints(tmp_path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(LabFileError) as caught:
        lab_of(tmp_path, text)
    return [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()]


def test_maps_are_those_of_the_programs() -> None:
    """Every map that a lab file can size is one of bpf/maps.h."""
    text = (Path(__file__).resolve().parents[2] / "bpf/maps.h").read_text()
    assert set(MAPS) <= set(re.findall(r"^} (\w+) SEC", text, re.MULTILINE))


def test_a_full_file(tmp_path: Path) -> None:
    """Every key arrives in the resolved lab, and addresses not given are the lowest free ones after the first."""
    lab = lab_of(tmp_path, FULL)
    assert lab.name == "everything"
    assert (lab.subnet, lab.prefix, lab.mtu) == ("192.168.7.0/28", 28, 9000)
    assert lab.nodes == (
        LabNode("a", "192.168.7.3", "manager", {"zone": "east", "1": "2"}, "ebpf"),
        LabNode("b", "192.168.7.2", "worker", {}, "ebpf"),
        LabNode("c", "192.168.7.4", "worker", {}, "ebpf"),
    )
    assert lab.clients == (LabClient("outside", "192.168.7.5"),)
    assert lab.links == (LabLink("b", 10_000_000, 0.5, 100_000_000),)
    assert (lab.resolvers, lab.resolver) == (("192.168.7.9",), 53)
    assert lab.map_sizes == {"flows": 8192}
    assert lab.images == {"who": {"entrypoint": ["whoami", "-v"], "writable": 1000}, "plain": "alpine"}
    assert not lab.direct_return
    assert lab.checks == (
        LabCheck("up", "outside", ("sh", "-c", "curl -s http://192.168.7.2"), "I'm", 60 * 10**9),
        LabCheck("list", "a", ("ip", "-j", "link")),
    )
    assert [node.name for node in lab.managers] == ["a"]


def test_the_least_that_is_a_lab(tmp_path: Path) -> None:
    """A file with one manager is enough: the folder gives the name, the defaults the rest."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    lab = lab_of(folder, "nodes: {m: {role: manager}}")
    assert (lab.name, lab.subnet, lab.mtu, lab.direct_return) == ("tiny", "172.17.0.0/16", 1500, True)
    assert lab.nodes == (LabNode("m", "172.17.0.2", "manager"),)


def test_a_lab_survives_its_json(tmp_path: Path) -> None:
    """The resolved lab kept on disk is read back as the same lab."""
    lab = lab_of(tmp_path, FULL)
    assert spec.from_json(json.loads(json.dumps(spec.to_json(lab)))) == lab


def test_every_mistake_at_once(tmp_path: Path) -> None:
    """One run reports every mistake of a file, each with line and column, in the order of the file."""
    text = """\
name: bad name
underlay: {subnet: 172.17.0.5/24, mtu: 12}
nodes:
  n1: {address: 10.9.9.9, rol: manager}
  n1: {}
  n2: {address: 172.17.0.9, role: boss}
  n3: {address: 172.17.0.9}
  -x:
clients:
  n2:
links:
  n9: {delay: soon, loss: 200%, rate: fast}
colour: blue
return: maybe
resolvers: [here]
checks:
  - {on: nowhere, run: []}
  - just text
"""
    assert complaints(tmp_path, text) == [
        "lab.yml:1:7: name: 'bad name' is no name: letters, digits, - and _ are allowed, a letter or digit first and"
        " last",
        "lab.yml:2:20: underlay.subnet: an IPv4 subnet such as 172.17.0.0/16 is needed: 172.17.0.5/24 has host bits"
        " set",
        "lab.yml:2:40: underlay.mtu: a whole number from 626 to 9216 is needed, not '12'",
        "lab.yml:4:17: nodes.n1.address: 10.9.9.9 is no host address of the underlay's subnet 172.17.0.0/16",
        "lab.yml:4:27: nodes.n1.rol: unknown key; known here: address, role, labels, datapath",
        "lab.yml:5:3: nodes.n1: given twice",
        "lab.yml:6:35: nodes.n2.role: one of manager, worker is needed, not 'boss'",
        "lab.yml:7:17: nodes.n3.address: 172.17.0.9 is the address of nodes.n2 already",
        "lab.yml:8:6: nodes.-x: '-x' is no name: letters, digits, - and _ are allowed, a letter or digit first and"
        " last",
        "lab.yml:10:6: clients.n2: a node has this name already",
        "lab.yml:12:7: links.n9: no node or client is called n9; there are n1, n2, n3",
        "lab.yml:12:15: links.n9.delay: a time such as 5s or 1m30s is needed, not 'soon'",
        "lab.yml:12:27: links.n9.loss: a share such as 0.5% is needed",
        "lab.yml:12:39: links.n9.rate: a rate such as 100mbit is needed (bit, kbit, mbit, gbit)",
        "lab.yml:13:1: colour: unknown key; known here: name, underlay, nodes, clients, links, resolvers, resolver,"
        " images, packages, services, datapath, maps, return, checks",
        "lab.yml:14:9: return: one of direct, via is needed, not 'maybe'",
        "lab.yml:15:13: resolvers[0]: an IPv4 address such as 172.17.0.2 is needed, not 'here'",
        "lab.yml:17:5: checks[0]: name is missing; a check has name, on and run",
        "lab.yml:17:10: checks[0].on: no node, client or task (service.1) is called nowhere; there are n1, n2, n3",
        "lab.yml:17:24: checks[0].run: a command is needed",
        "lab.yml:18:5: checks[1]: a mapping is needed, not 'just text'",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "lab.yml:1:1: the file is empty"),
        ("- a\n- b", "lab.yml:1:1: a mapping is needed, not a list"),
        ("nodes: [", "lab.yml:1:9: not YAML: expected the node content, but found '<stream end>'"),
        ("a: b: c", "lab.yml:1:5: not YAML: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2", "lab.yml:2:1: not YAML: but found another document"),
        (b"a: \xff", "lab.yml:1:1: not YAML: byte 3: invalid start byte"),
        ("nodes: {m: {role: manager, labels: !!python/name:os.system x}}", "nodes.m.labels: a mapping is needed"),
        ("[" * 5000, "lab.yml:1:1: nested too deeply"),
        ("nodes: &x {<<: *x}", "lab.yml:1:1: more than 100000 values once its aliases are followed"),
        ("images: &x {a: [*x, *x]}", "lab.yml:1:1: more than 100000 values once its aliases are followed"),
        ("nodes: {<<: 1}", "lab.yml:1:9: nodes: << merges a mapping, or a list of mappings"),
        ("#" * (1 << 21), "lab.yml:1:1: larger than 1 MiB"),
        (
            "nodes: {m: {role: manager}, n: {role: manager}}",
            "lab.yml:1:39: nodes.n.role: only one manager is supported",
        ),
        ("nodes: {m: {role: manager}}\nservices: none.yml", "lab.yml:2:11: services: there is no compose file"),
        ("underlay: {subnet: 10.2.0.0/16}", "overlaps 10.0.0.0/8, where overlay networks get their subnets"),
        ("underlay: {subnet: 127.1.0.0/16}", "underlay.subnet: no host can have an address of 127.1.0.0/16; take one"),
        ("underlay: {subnet: 224.0.0.0/16}", "underlay.subnet: no host can have an address of 224.0.0.0/16; take one"),
        ("underlay: {subnet: 192.168.0.0/31}", "too small: /30 is the smallest that holds two hosts"),
        ("underlay: {subnet: fe80::/64}", "underlay.subnet: an IPv4 subnet such as 172.17.0.0/16 is needed"),
        (
            "maps: {flaws: 9}",
            "lab.yml:1:15: maps.flaws: no map of the data path is called flaws; there are interfaces,",
        ),
        ("resolver: 7946", "lab.yml:1:11: resolver: port 7946 is the nodes' own; take another one, such as 53"),
        ("resolver: 0", "lab.yml:1:11: resolver: a whole number from 1 to 65535 is needed"),
        ("maps: {flows: 0}", "lab.yml:1:15: maps.flows: a whole number from 1 to 16777216 is needed, not"),
        ("images: {a: {colour: red}}", "lab.yml:1:13: images.a: colour: not known; use command, entrypoint, env,"),
        ("images: {a: {rootfs: none}}", "lab.yml:1:13: images.a: rootfs: /"),
        ("images: {a: {writable: 1.5}}", "lab.yml:1:13: images.a: writable: int is needed, not '1.5'"),
        (
            "underlay: {subnet: 192.168.0.0/30}\nnodes: {a: {role: manager}, b: }",
            "lab.yml:2:31: nodes.b: the underlay's subnet 192.168.0.0/30 has no address left for it",
        ),
        ("name: " + "x" * 64 + "\nnodes: {m: {role: manager}}", "has 64 characters; at most 63 are allowed"),
        (
            "name: " + "x" * 60 + "\nnodes: {" + "y" * 60 + ": {role: manager}}",
            "this name and the lab's are 40 characters too long together for a socket's path",
        ),
    ],
)
def test_what_is_no_lab(tmp_path: Path, text: str | bytes, line: str) -> None:
    """Whatever is in the file, the answer is lines with places, never a traceback."""
    found = complaints(tmp_path, text)
    assert any(line in complaint for complaint in found), found


def test_no_lab_at_all(tmp_path: Path) -> None:
    """A folder without lab.yml, and a path that is not there, are named."""
    with pytest.raises(MeshnetError, match=r"no lab\.yml there; give the folder of a lab"):
        load(tmp_path)
    with pytest.raises(MeshnetError, match=r"no lab\.yml there"):
        load(tmp_path / "nothing")


def test_a_file_without_an_end(tmp_path: Path) -> None:
    """A pipe, a socket, a device or a folder for a file is one clear line that says so; nobody waits for a writer."""
    (tmp_path / "dir" / "lab.yml").mkdir(parents=True)
    os.mkfifo(tmp_path / "lab.yml")
    kinds = {tmp_path: "a pipe", tmp_path / "dir": "a directory", Path("/dev/zero"): "a device"}
    for place, kind in kinds.items():
        with pytest.raises(MeshnetError, match=f"cannot be read: it is {kind}, and no regular file"):
            load(place)
    os.unlink(tmp_path / "lab.yml")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "sock"))
    for name, kind in {"fifo": "a pipe", "dir": "a directory", "/dev/zero": "a device", "sock": "a socket"}.items():
        (found,) = complaints(tmp_path, f"nodes: {{m: {{role: manager}}}}\nservices: {name}\n")
        said = f"services: the compose file {tmp_path / name} cannot be read: it is {kind}, and no regular file"
        assert found.endswith(f"lab.yml:2:11: {said}")


def test_a_compose_file_that_is_too_large(tmp_path: Path) -> None:
    """It is refused by its size, which is all that is read of it."""
    with (tmp_path / "stack.yml").open("wb") as sparse:
        sparse.truncate(1 << 40)
    found = complaints(tmp_path, "nodes: {m: {role: manager}}\nservices: stack.yml")
    assert found == ["stack.yml:1:1: larger than 1 MiB, which no lab file needs to be"]


def test_services_are_checked_against_the_lab(tmp_path: Path) -> None:
    """What a compose file asks of the lab and cannot have is reported with the compose file's lines."""
    (tmp_path / "stack.yml").write_text(
        "services:\n"
        "  a: {image: unheard/of:1, networks: [near]}\n"
        "  b: {image: 'docker.io/library/alpine:3', networks: [far]}\n"
        "networks:\n"
        "  near: {ipam: {config: [{subnet: 172.17.9.0/24}]}}\n"
        "  far: {external: true}\n"
    )
    found = complaints(tmp_path, "nodes: {m: {role: manager}}\nservices: stack.yml")
    assert found == [
        "stack.yml:2:14: services.a.image: No such image: unheard/of:1; name it in the lab's images, or give it a"
        " `rootfs:` there (docs/lab.md)",
        "stack.yml:5:35: networks.near.ipam.config[0].subnet: 172.17.9.0/24 overlaps the underlay's subnet"
        " 172.17.0.0/16",
        "stack.yml:6:8: networks.far: nothing external exists in a lab that starts; describe it instead",
    ]


def test_the_port_of_the_nodes_resolvers(tmp_path: Path) -> None:
    """No service may publish it, in either mode; without a resolver it is a port like others."""
    (tmp_path / "stack.yml").write_text("services:\n  a: {image: alpine, ports: ['53:53/udp']}\n")
    text = "nodes: {m: {role: manager}}\nservices: stack.yml\n"
    assert lab_of(tmp_path, text).resolver == 0
    assert complaints(tmp_path, f"{text}resolver: 53\n") == [
        "stack.yml:2:6: services.a: port '53/udp' is that of the nodes' resolvers for clients outside; publish another"
        " port"
    ]


VNI = "com.docker.network.driver.overlay.vxlanid_list"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "services:\n  a: {image: alpine, user: no-such-user}\n",
            "stack.yml:2:28: services.a.user: user 'no-such-user': no such user in the image",
        ),
        (
            f"services:\n  a: {{image: alpine}}\nnetworks:\n  n: {{driver_opts: {{{VNI}: many}}}}\n",
            f"stack.yml:4:6: networks.n: invalid {VNI} 'many': one number from 1 to 16777215 is needed",
        ),
        (
            "services:\n  a: {image: alpine, networks: [n]}\nnetworks:\n"
            "  n: {ipam: {config: [{subnet: 10.9.0.0/24, ip_range: 10.9.0.1/32}]}}\n",
            "stack.yml:2:6: services.a: no address is left on network n (10.9.0.1/32)",
        ),
    ],
)
def test_what_a_manager_would_refuse(tmp_path: Path, text: str, line: str) -> None:
    """What only a running swarm used to refuse is known with its place before anything is made."""
    (tmp_path / "stack.yml").write_text(text)
    assert complaints(tmp_path, "nodes: {m: {role: manager}}\nservices: stack.yml") == [line]


def test_an_image_with_nothing_to_run(tmp_path: Path) -> None:
    """A root file system that names no command needs one in the compose file."""
    (tmp_path / "root").mkdir()
    lab = "nodes: {m: {role: manager}}\nimages: {app: {rootfs: root}}\nservices: stack.yml"
    (tmp_path / "stack.yml").write_text("services:\n  a: {image: app}\n")
    assert complaints(tmp_path, lab) == [
        "stack.yml:2:6: services.a: a command is missing: the image app names none",
    ]
    (tmp_path / "stack.yml").write_text("services:\n  a: {image: app, command: /bin/app}\n")
    assert lab_of(tmp_path, lab).services


def test_one_mistake_is_one_complaint(tmp_path: Path) -> None:
    """A manager whose name is refused is not said to be missing as well; `host` is no lab's name."""
    bad = "'a/b' is no name: letters, digits, - and _ are allowed, a letter or digit first and last"
    assert complaints(tmp_path, 'nodes: {"a/b": {role: manager}}') == [f"lab.yml:1:16: nodes.a/b: {bad}"]
    assert complaints(tmp_path, "name: host\nnodes: {m: {role: manager}}") == [
        "lab.yml:1:7: name: host is what agents outside labs are kept under; give the lab another name"
    ]


def test_secrets_stay_out_of_what_everybody_can_read(tmp_path: Path) -> None:
    """A lab's compose file may have secrets; what is kept of the lab while it is up has none of their data."""
    (tmp_path / "lab.yml").write_text("name: x\nnodes: {a: {role: manager}}\nservices: c.yml\n")
    (tmp_path / "pw").write_text("topsecret")
    (tmp_path / "c.yml").write_text(
        "services: {a: {image: whoami, secrets: [pw], deploy: {mode: global-job}}}\nsecrets: {pw: {file: pw}}\n"
    )
    lab = load(tmp_path)
    assert [secret.data for secret in lab.secrets] == ["dG9wc2VjcmV0"]
    assert "dG9wc2VjcmV0" not in json.dumps(spec.to_json(lab))

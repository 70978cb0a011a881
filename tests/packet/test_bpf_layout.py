"""The structures in Python are those of the compiled programs."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import struct
import subprocess
from typing import Any

import pytest

from meshnet.datapath.ebpf import layout, names
from meshnet.dns import RESOLVER_PORT
from meshnet.dns.query import MAX_QUERY
from meshnet.kernel import bpfbuild

pytestmark = [
    pytest.mark.skipif(shutil.which("bpftool") is None, reason="needs bpftool: apt-get install bpftool"),
    pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang: apt-get install clang"),
]
CLASSES: dict[str, type[layout.Packed]] = {
    "config": layout.Config,
    "interface": layout.Interface,
    "endpoint_key": layout.EndpointKey,
    "endpoint": layout.Endpoint,
    "network": layout.Network,
    "subnet_key": layout.SubnetKey,
    "service": layout.Service,
    "published_key": layout.PublishedKey,
    "backend_key": layout.BackendKey,
    "peer": layout.Peer,
    "attached_key": layout.AttachedKey,
    "peer_name": layout.PeerName,
    "socket_key": layout.SocketKey,
    "zone_key": layout.ZoneKey,
    "name_key": layout.NameKey,
    "name_value": layout.NameValue,
}


@pytest.fixture(scope="module")
def structures() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in bpfbuild.objects():
        if path.stem in ("socket", "lo"):
            dump = subprocess.run(["bpftool", "-j", "btf", "dump", "file", str(path)], capture_output=True, check=True)
            types = json.loads(dump.stdout)["types"]
            found |= {kind["name"]: kind for kind in types if kind["kind"] == "STRUCT"}
    return found


def offsets(kind: type[layout.Packed]) -> dict[str, int]:
    """Byte offset of every field, from the format."""
    found, at = {}, 0
    fields = iter(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]
    for item in re.findall(r"\d*[A-Za-z]", kind.FORMAT):
        if not item.endswith("x"):
            found[next(fields)] = at
        at += struct.calcsize("=" + item)
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_structure_is_that_of_the_object(name: str, structures: dict[str, dict[str, Any]]) -> None:
    """Size, field names and offsets equal the type information of the compiled object."""
    compiled = structures[name]
    assert struct.calcsize(CLASSES[name].FORMAT) == compiled["size"]
    members = {m["name"]: m["bits_offset"] // 8 for m in compiled["members"] if m["name"] != "unused"}
    assert offsets(CLASSES[name]) == members


def test_values_survive_packing() -> None:
    """What was packed is unpacked again as the same value."""
    for kind in CLASSES.values():
        assert kind.unpack(kind().pack()) == kind()


def test_constants_are_those_of_the_header() -> None:
    """The numbers of kinds and flags equal the header's."""
    header = (bpfbuild.source_dir() / "types.h").read_text()
    defined = {name: int(value) for name, value in re.findall(r"#define (\w+) (\d+)", header)}
    ours = {
        "CONFIG_DIRECT_RETURN": layout.CONFIG_DIRECT_RETURN,
        "INTERFACE_OUTSIDE": layout.INTERFACE_OUTSIDE,
        "INTERFACE_INGRESS": layout.INTERFACE_INGRESS,
        "INTERFACE_NODE_LOCAL": layout.INTERFACE_NODE_LOCAL,
        "ENDPOINT_LOCAL": layout.LOCAL,
        "ENDPOINT_REMOTE": layout.REMOTE,
        "ENDPOINT_VIP": layout.VIP,
        "ENDPOINT_REMOVED": layout.REMOVED,
        "ENDPOINT_GATEWAY": layout.GATEWAY,
        "ENDPOINT_NODE_LOCAL": layout.ENDPOINT_NODE_LOCAL,
        "ENDPOINT_IPVS": layout.ENDPOINT_IPVS,
        "ENDPOINT_CLOSED": layout.ENDPOINT_CLOSED,
        "ENDPOINT_LEAVING": layout.ENDPOINT_LEAVING,
        "PEER_IPVS": layout.PEER_IPVS,
        "NETWORK_INTERNAL": layout.NETWORK_INTERNAL,
    }
    assert {name: defined[name] for name in ours} == ours


def test_constants_of_the_name_server() -> None:
    """What both name servers must know alike is written alike: sizes, how many addresses, payload and port."""
    text = "".join((bpfbuild.source_dir() / name).read_text() for name in ("dns.h", "lo.c"))
    defined = {name: int(value) for name, value in re.findall(r"#define (\w+)\s+(\d+)\b(?!x)", text)}
    assert defined["DNS_NAME_WORDS"] * 8 == names.NAME_SIZE
    assert defined["DNS_MAX_ANSWERS"] == names.MAX_ANSWERS
    assert defined["DNS_OUR_PAYLOAD"] == MAX_QUERY
    assert defined["RESOLVER_PORT"] == RESOLVER_PORT

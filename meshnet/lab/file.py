"""Reads `lab.yml` into a resolved Lab: every mistake is reported with its place, every address is filled in."""

from __future__ import annotations

import os
import re
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from pathlib import Path
from typing import Any

from meshnet import names
from meshnet.errors import MeshnetError, NotFoundError
from meshnet.files import instead_of_file
from meshnet.lab import compose, packages
from meshnet.lab.rehearsal import rehearse
from meshnet.lab.spec import SHELL, Lab, LabCheck, LabClient, LabLink, LabNode
from meshnet.lab.words import RESERVED_PORTS, name_problem
from meshnet.lab.yamlnodes import Problems, Value, read
from meshnet.sandbox import users
from meshnet.sandbox.images import Images, from_mapping

FILE = "lab.yml"
RESERVED = "host"
PACKAGED = Path(__file__).parents[1] / "_labs"
DEFAULT_SUBNET = "172.17.0.0/16"
DEFAULT_MTU = 1500
# 50 bytes of VXLAN and the 576 that every IPv4 host takes.
MIN_MTU, MAX_MTU = 626, 9216
OVERLAY_POOL = IPv4Network("10.0.0.0/8")
# This network, loopback, multicast and what is reserved above it: the kernel takes no such address from a wire.
NO_HOSTS = tuple(IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"))
DATAPATHS = ("ebpf",)
# The tables of bpf/maps.h whose size is a matter of how much there is; a test compares the names.
MAPS = (
    "interfaces",
    "networks",
    "endpoints",
    "services",
    "backends",
    "peers",
    "flows",
    "ingress_flows",
    "backend_flows",
    "moved",
    "masquerades",
    "fragments",
)
MAX_ENTRIES = 1 << 24
# A unix socket's path has 107 bytes (sockaddr_un); the longest in a node's directory is this one.
MAX_SOCKET_PATH = 107
_LONGEST_SOCKET = "manager.sock"
_RATE_UNITS = {"": 1, "bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_KEYS = (
    "name",
    "underlay",
    "nodes",
    "clients",
    "links",
    "resolvers",
    "resolver",
    "images",
    "packages",
    "services",
    "datapath",
    "maps",
    "return",
    "checks",
)


def load(directory: str | Path) -> Lab:
    """The lab in a folder (or in a lab file, given by its own path).

    Raises MeshnetError if there is none, LabFileError with a line per mistake if it is not right.
    """
    path = Path(directory)
    if not path.exists():
        path = packaged(str(directory)) or path
    if path.is_dir():
        path = path / FILE
    if not path.exists():
        known = ", ".join(sorted(lab.name for lab in PACKAGED.iterdir()))
        raise MeshnetError(
            f"{directory}: no {FILE} there; give the folder of a lab, such as labs/quickstart, or a name: {known}"
        )
    problems = Problems()
    return resolve(read(path, problems), path.parent, problems)


def packaged(name: str) -> Path | None:
    """The folder of a lab that comes with meshnet, by its name or as `labs/NAME`; None if there is none."""
    name = name.removeprefix("labs/").rstrip("/")
    return PACKAGED / name if name and "/" not in name and (PACKAGED / name / FILE).is_file() else None


def resolve(root: Value, directory: Path, problems: Problems) -> Lab:
    """The lab that a file's content describes; other files are looked for in `directory`.

    Raises LabFileError with a line per mistake.
    """
    lab = _lab(root, directory, problems)
    problems.check()
    return lab


def _lab(root: Value, directory: Path, problems: Problems) -> Lab:
    keys = root.map(_KEYS)
    name = keys["name"].swarm_name() if "name" in keys else _name_of(directory.resolve(), root)
    if name == RESERVED:
        keys.get("name", root).error(
            f"{RESERVED} is what agents outside labs are kept under; give the lab another name"
        )
    subnet, mtu = _underlay(keys.get("underlay"))
    datapath = keys["datapath"].choice(*DATAPATHS) if "datapath" in keys else DATAPATHS[0]
    node_values, client_values = _hosts(keys.get("nodes"), name), _hosts(keys.get("clients"), name)
    for host in node_values.keys() & client_values.keys():
        client_values[host].error("a node has this name already")
    addresses = _addresses(subnet, (*node_values.values(), *client_values.values()))
    nodes = tuple(_node(host, value, addresses[value.name], datapath) for host, value in node_values.items())
    refused = len(keys["nodes"].map()) - len(nodes) if "nodes" in keys else 0
    if root.is_map and not refused and not any(node.role == "manager" for node in nodes):
        keys.get("nodes", root).error("a lab needs nodes, and one of them with role: manager")
    for node in [node for node in nodes if node.role == "manager"][1:]:
        node_values[node.name].map()["role"].error("only one manager is supported")
    images = _images(keys.get("images"), directory)
    resolver = _resolver(keys["resolver"]) if "resolver" in keys else 0
    stack = _stack(keys.get("services"), directory, subnet, problems)
    catalogue = Images(images)
    for value, image in stack.images:
        try:
            catalogue.check(image)
        except MeshnetError as error:
            value.error(str(error))
    _check_images(stack, catalogue)
    if not problems:
        rehearse(stack, str(subnet), resolver)
    return Lab(
        name=name,
        directory=str(directory.resolve()),
        subnet=str(subnet),
        mtu=mtu,
        nodes=nodes,
        clients=tuple(_client(host, value, addresses[value.name]) for host, value in client_values.items()),
        links=_links(keys.get("links"), {*node_values, *client_values}),
        resolvers=tuple(text for value in _list(keys, "resolvers") if (text := _address_text(value))),
        resolver=resolver,
        images=images,
        packages=_packages(keys),
        datapath=datapath,
        map_sizes=_map_sizes(keys.get("maps")),
        direct_return="return" not in keys or keys["return"].choice("direct", "via") == "direct",
        checks=tuple(_check(value, {*node_values, *client_values}, stack) for value in _list(keys, "checks")),
        networks=stack.networks,
        services=stack.services,
        secrets=stack.secrets,
        configs=stack.configs,
        warnings=stack.warnings,
    )


def _list(keys: dict[str, Value], key: str) -> list[Value]:
    return keys[key].list() if key in keys else []


def _name_of(directory: Path, root: Value) -> str:
    """Without `name:`, a lab is called like its folder."""
    problem = name_problem(directory.name)
    if problem:
        root.error(f"add name: to the file, because its folder's does not do: {problem}")
        return ""
    return directory.name


def _underlay(value: Value | None) -> tuple[IPv4Network, int]:
    keys = value.map(("subnet", "mtu")) if value else {}
    subnet, mtu = IPv4Network(DEFAULT_SUBNET), DEFAULT_MTU
    if "mtu" in keys:
        mtu = keys["mtu"].integer(MIN_MTU, MAX_MTU)
    if "subnet" in keys:
        text = keys["subnet"].text()
        try:
            given = IPv4Network(text)
        except (AddressValueError, NetmaskValueError, ValueError) as error:
            keys["subnet"].error(f"an IPv4 subnet such as {DEFAULT_SUBNET} is needed: {error}")
            return subnet, mtu
        if given.prefixlen > 30:
            keys["subnet"].error("too small: /30 is the smallest that holds two hosts")
        elif given.overlaps(OVERLAY_POOL):
            keys["subnet"].error(f"overlaps {OVERLAY_POOL}, where overlay networks get their subnets")
        elif any(given.overlaps(reserved) for reserved in NO_HOSTS):
            keys["subnet"].error(f"no host can have an address of {given}; take one such as {DEFAULT_SUBNET}")
        else:
            subnet = given
    return subnet, mtu


def _hosts(value: Value | None, lab: str) -> dict[str, Value]:
    """Entries of `nodes` or `clients` with right names; each value is the (perhaps empty) mapping of one host."""
    hosts = {}
    for host, entry in (value.map() if value else {}).items():
        problem = name_problem(host)
        room = MAX_SOCKET_PATH - len(f"{names.node_dir(lab, host)}/{_LONGEST_SOCKET}")
        if problem:
            entry.error(problem)
        elif room < 0:
            entry.error(f"this name and the lab's are {-room} characters too long together for a socket's path")
        else:
            hosts[host] = entry
    return hosts


def _addresses(subnet: IPv4Network, hosts: tuple[Value, ...]) -> dict[str, str]:
    """Addresses by the hosts' path in the file: those given, then the lowest free ones. The first is left free."""
    found: dict[str, str] = {}
    owner: dict[str, str] = {}
    for host in hosts:
        value = host.map().get("address") if host.is_map else None
        text = _address_text(value) if value else ""
        if value and text:
            address = IPv4Address(text)
            if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
                value.error(f"{text} is no host address of the underlay's subnet {subnet}")
            elif text in owner:
                value.error(f"{text} is the address of {owner[text]} already")
            owner.setdefault(text, host.name)
            found[host.name] = text
    free = (str(address) for index, address in enumerate(subnet.hosts()) if index and str(address) not in owner)
    for host in hosts:
        if host.name not in found:
            found[host.name] = next(free, "")
            if not found[host.name]:
                host.error(f"the underlay's subnet {subnet} has no address left for it")
    return found


def _address_text(value: Value) -> str:
    text = value.text()
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        if text:
            value.error(f"an IPv4 address such as 172.17.0.2 is needed, not {text!r}")
        return ""


def _node(name: str, value: Value, address: str, datapath: str) -> LabNode:
    keys = value.map(("address", "role", "labels", "datapath"))
    return LabNode(
        name=name,
        address=address,
        role=keys["role"].choice("manager", "worker") if "role" in keys else "worker",
        labels=keys["labels"].text_map() if "labels" in keys else {},
        datapath=keys["datapath"].choice(*DATAPATHS) if "datapath" in keys else datapath,
    )


def _client(name: str, value: Value, address: str) -> LabClient:
    value.map(("address",))
    return LabClient(name, address)


def _map_sizes(value: Value | None) -> dict[str, int]:
    """Entries of BPF maps that shall be larger or smaller than by default."""
    sizes = {}
    for name, entry in (value.map() if value else {}).items():
        if name not in MAPS:
            entry.error(f"no map of the data path is called {name}; there are {', '.join(MAPS)}")
        sizes[name] = entry.integer(1, MAX_ENTRIES)
    return sizes


def _resolver(value: Value) -> int:
    """The port where every node answers names to clients outside."""
    port = value.integer(1, 65535)
    if any((port, protocol) in RESERVED_PORTS for protocol in ("tcp", "udp")):
        value.error(f"port {port} is the nodes' own; take another one, such as 53")
    return port


def _links(value: Value | None, hosts: set[str]) -> tuple[LabLink, ...]:
    links = []
    for host, entry in (value.map() if value else {}).items():
        keys = entry.map(("delay", "loss", "rate"))
        if host not in hosts:
            entry.error(f"no node or client is called {host}; there are {', '.join(sorted(hosts))}")
        links.append(
            LabLink(
                node=host,
                delay=keys["delay"].duration() if "delay" in keys else 0,
                loss=_percent(keys["loss"]) if "loss" in keys else 0.0,
                rate=_rate(keys["rate"]) if "rate" in keys else 0,
            )
        )
    return tuple(links)


def _percent(value: Value) -> float:
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)%?", value.text())
    if match is None or float(match[1]) > 100:
        value.error("a share such as 0.5% is needed")
        return 0.0
    return float(match[1])


def _rate(value: Value) -> int:
    """Bits per second, in tc's notation for bits: 100mbit."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([a-z]*)", value.text().lower())
    if match is None or match[2] not in _RATE_UNITS or float(match[1]) == 0:
        value.error("a rate such as 100mbit is needed (bit, kbit, mbit, gbit)")
        return 0
    return round(float(match[1]) * _RATE_UNITS[match[2]])


def _check(value: Value, hosts: set[str], stack: compose.Stack) -> LabCheck:
    keys = value.map(("name", "on", "run", "expect", "within", "look", "once"))
    for needed in ("name", "on", "run"):
        if needed not in keys and value.is_map:
            value.error(f"{needed} is missing; a check has name, on and run")
    on = keys["on"].text() if "on" in keys else ""
    service, _, slot = on.rpartition(".")
    is_task = slot.isdecimal() and any(spec.name == service for spec in stack.services)
    if on and on not in hosts and not is_task:
        keys["on"].error(f"no node, client or task (service.1) is called {on}; there are {', '.join(sorted(hosts))}")
    run: tuple[str, ...] = ()
    if "run" in keys:
        run = keys["run"].texts() if keys["run"].is_list else (*SHELL, keys["run"].text())
        if not run:
            keys["run"].error("a command is needed")
    return LabCheck(
        name=keys["name"].text() if "name" in keys else "",
        on=on,
        run=run,
        expect=keys["expect"].text() if "expect" in keys else "",
        within=keys["within"].duration() if "within" in keys else 10 * 10**9,
        look=keys["look"].text() if "look" in keys else "",
        once="once" in keys and keys["once"].flag(),
    )


def _packages(keys: dict[str, Value]) -> tuple[str, ...]:
    found = []
    for value in _list(keys, "packages"):
        if packages.NAME.fullmatch(value.text()):
            found.append(value.text())
        else:
            value.error("the name of a Debian package is needed, such as haproxy")
    return tuple(found)


def _images(value: Value | None, directory: Path) -> dict[str, Any]:
    """The lab's catalogue as plain data; `rootfs` paths, which start at the lab's folder, are made absolute."""
    found: dict[str, Any] = {}
    for name, entry in (value.map() if value else {}).items():
        found[name] = entry.plain()
        if isinstance(found[name], dict) and isinstance(found[name].get("rootfs"), str):
            found[name]["rootfs"] = str((directory / found[name]["rootfs"]).resolve())
        try:
            from_mapping({name: found[name]})
        except MeshnetError as error:
            entry.error(str(error).removeprefix(f"images.{name}").lstrip(".: "))
            del found[name]
    return found


def _check_images(stack: compose.Stack, catalogue: Images) -> None:
    """Users that an image does not have, and images with nothing to run, are known now, unless the image is an
    archive, which is unpacked later."""
    users_at = {value.name.removesuffix(".user"): value for value in stack.users}
    for place, service in stack.placed_services:
        container = service.task_template.container_spec
        try:
            image = catalogue.find(container.image)
        except NotFoundError:
            continue
        if not os.path.isdir(image.lower):
            continue
        if not (container.command or container.args or image.entrypoint or image.command):
            place.error(f"a command is missing: the image {container.image} names none")
        if place.name in users_at:
            try:
                passwd, group = users.read(image.lower, "etc/passwd"), users.read(image.lower, "etc/group")
                users.lookup(container.user, passwd, group)
            except MeshnetError as error:
                users_at[place.name].error(str(error))


def _stack(value: Value | None, directory: Path, underlay: IPv4Network, problems: Problems) -> compose.Stack:
    if value is None:
        return compose.Stack()
    path = directory / value.text()
    if kind := instead_of_file(path):
        value.error(f"the compose file {path} cannot be read: it is {kind}, and no regular file")
        return compose.Stack()
    if not path.is_file():
        value.error(f"there is no compose file {path}")
        return compose.Stack()
    stack = compose.parse(read(path, problems), path.parent)
    for external, _ in stack.external:
        external.error("nothing external exists in a lab that starts; describe it instead")
    for network, subnet in stack.subnets:
        if subnet.overlaps(underlay):
            network.error(f"{subnet} overlaps the underlay's subnet {underlay}")
    return stack

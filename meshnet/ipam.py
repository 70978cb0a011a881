"""Subnets, addresses, VNIs and ports: which is next, and what may not be had.

Everything is handed out serially: the search starts after what was handed out last and wraps, so a freed address is
the last to be used again (libnetwork's rule; it gives removals time to reach every node). The caller keeps what
is taken and the last one; nothing is kept here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from netaddr import AddrFormatError, IPAddress, IPNetwork

from meshnet.errors import ConflictError, MeshnetError

DEFAULT_POOLS = ("10.0.0.0/8",)
DEFAULT_SIZE = 24
FIRST_VNI = 4096
LAST_VNI = 2**24 - 1
FIRST_PORT = 30000
LAST_PORT = 32767
# What the nodes themselves listen on: VXLAN, gossip, the manager.
RESERVED_PORTS = frozenset({("udp", 4789), ("tcp", 7946), ("udp", 7946), ("tcp", 2377)})
# Not usable as overlay addresses: this-network, loopback, link-local, multicast and reserved (RFC 6890).
UNUSABLE = tuple(IPNetwork(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"))


def next_number(first: int, last: int, taken: Collection[int], after: int) -> int | None:
    """The first number from `first` to `last` that is not taken, searching upward from `after` and wrapping.

    `after` outside the range starts at `first`. None when all are taken.
    """
    start = after + 1 if first <= after < last else first
    for number in range(start, last + 1):
        if number not in taken:
            return number
    return next((number for number in range(first, start) if number not in taken), None)


def parse_subnet(text: str) -> IPNetwork:
    """The subnet of a `--subnet`. Raises MeshnetError for what is no IPv4 network that can hold tasks."""
    address, slash, _ = text.partition("/")
    try:
        if not slash or address.count(".") != 3:
            raise AddrFormatError
        network = IPNetwork(text)
    except (AddrFormatError, ValueError):
        hint = "; an IPv4 subnet such as 10.0.9.0/24 is needed" if ":" in text else ""
        raise MeshnetError(f"Invalid subnet {text} : invalid CIDR address: {text}{hint}") from None
    if network.ip != network.network:
        raise MeshnetError(f"Invalid subnet {text} : it has host bits set; write {network.cidr}")
    if network.prefixlen > 30:
        raise MeshnetError(f"Invalid subnet {text} : it has no room for a gateway and a task; use /30 or larger")
    for unusable in UNUSABLE:
        if network in unusable or unusable in network:
            raise MeshnetError(f"Invalid subnet {text} : addresses of {unusable} cannot be used on a network")
    return network


def parse_gateway(text: str, subnet: IPNetwork) -> IPAddress:
    """The gateway given for a subnet. Raises MeshnetError if it is not one of its host addresses."""
    gateway = _address(text, "gateway")
    if gateway not in subnet:
        raise MeshnetError(f"no matching subnet for gateway {text}")
    if gateway in (subnet.network, subnet.broadcast):
        raise MeshnetError(f"gateway {text} is not a host address of {subnet}")
    return gateway


def parse_aux(text: str, subnet: IPNetwork) -> IPAddress:
    """An address of a subnet that is kept for something else (`--aux-address`). Raises MeshnetError."""
    address = _address(text, "auxiliary")
    if address not in subnet or address in (subnet.network, subnet.broadcast):
        raise MeshnetError(f"no matching subnet for aux-address {text}")
    return address


def parse_range(text: str, subnet: IPNetwork) -> IPNetwork:
    """The part of a subnet that tasks get their addresses from (`--ip-range`). Raises MeshnetError."""
    try:
        network = IPNetwork(text).cidr
    except (AddrFormatError, ValueError):
        raise MeshnetError(f"invalid CIDR address for range: {text}") from None
    if network not in subnet:
        raise MeshnetError(f"no matching subnet for range {text}")
    return network


def _address(text: str, what: str) -> IPAddress:
    try:
        return IPAddress(text, version=4)
    except (AddrFormatError, ValueError):
        raise MeshnetError(f"invalid {what} address: {text}") from None


def check_overlap(subnet: IPNetwork, others: Iterable[tuple[str, str]]) -> None:
    """Refuses a subnet that shares addresses with one of `others`, pairs of (subnet or address, whose it is).

    Raises ConflictError naming both.
    """
    for text, owner in others:
        other = IPNetwork(text)
        if subnet in other or other in subnet:
            shares = f"contains the address {other.ip}" if other.prefixlen == 32 else f"overlaps with {other.cidr}"
            raise ConflictError(f"subnet {subnet} {shares} of {owner}; choose another subnet")


def next_subnet(pools: Iterable[str], size: int, taken: Iterable[str], last: str = "") -> str:
    """The next free subnet of prefix length `size` out of the pools, after `last`.

    `taken` are subnets, or addresses as /32, that must not be inside. Raises MeshnetError when none is left.
    """
    width = 2 ** (32 - size)
    used = sorted((int(net.first), int(net.last)) for net in map(IPNetwork, taken))
    blocks = [(int(pool.first), int(pool.last)) for pool in map(IPNetwork, pools)]
    after = int(IPNetwork(last).first) if last else -1
    ahead = [(max(first, after + width), end) if first <= after <= end else (first, end) for first, end in blocks]
    turn = next((index for index, (first, end) in enumerate(blocks) if first <= after <= end), 0)
    # From the last one to the end of its pool, through the other pools, and round to where it began.
    for first, end in ahead[turn:] + blocks[:turn] + blocks[turn : turn + 1]:
        start = _free_block(first, end, width, used)
        if start is not None:
            return f"{IPAddress(start)}/{size}"
    raise MeshnetError("no free subnet is left in the default address pools; give one with --subnet")


def _free_block(first: int, end: int, width: int, used: list[tuple[int, int]]) -> int | None:
    """Start of the first aligned free block; `used` is sorted, so one walk over it is enough."""
    start = -(-first // width) * width
    for low, high in used:
        if low > start + width - 1:
            break
        if high >= start:
            start = -(-(high + 1) // width) * width
    return start if start + width - 1 <= end else None


def default_gateway(subnet: str) -> str:
    """The first host address."""
    return str(IPAddress(int(IPNetwork(subnet).first) + 1))


def next_address(subnet: str, taken: Collection[int], last: int = 0, within: str = "") -> str | None:
    """The next free host address with prefix length (`10.0.1.2/24`), or None if the subnet is exhausted.

    `taken` and `last` are addresses as integers; the gateway must be among those taken. `within` limits the choice.
    """
    network = IPNetwork(subnet)
    part = IPNetwork(within) if within else network
    low, high = max(int(network.first) + 1, int(part.first)), min(int(network.last) - 1, int(part.last))
    number = next_number(low, high, taken, last)
    return None if number is None else f"{IPAddress(number)}/{network.prefixlen}"


def number_of(address: str) -> int:
    """An address, with or without prefix length, as the integer that `taken` holds."""
    return int(IPAddress(address.partition("/")[0]))

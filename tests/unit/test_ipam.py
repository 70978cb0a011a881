"""Addresses, subnets, VNIs and ports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netaddr import IPNetwork

from meshnet import ipam
from meshnet.errors import ConflictError, MeshnetError


def test_addresses_are_serial_and_not_reused_at_once() -> None:
    """Addresses go upward from .2; a freed one comes back only after the subnet has wrapped."""
    taken, last, given_out = {ipam.number_of("10.0.1.1")}, 0, []
    for _ in range(3):
        address = ipam.next_address("10.0.1.0/24", taken, last)
        assert address is not None
        given_out.append(address)
        last = ipam.number_of(address)
        taken.add(last)
    assert given_out == ["10.0.1.2/24", "10.0.1.3/24", "10.0.1.4/24"]
    taken.discard(ipam.number_of("10.0.1.2"))
    assert ipam.next_address("10.0.1.0/24", taken, last) == "10.0.1.5/24"
    assert ipam.next_address("10.0.1.0/24", taken, ipam.number_of("10.0.1.254")) == "10.0.1.2/24"


def test_exhaustion() -> None:
    """A /30 has one address beside its gateway; then there is none, and neither outside an ip-range."""
    taken = {ipam.number_of("10.1.0.1")}
    assert ipam.next_address("10.1.0.0/30", taken) == "10.1.0.2/30"
    assert ipam.next_address("10.1.0.0/30", taken | {ipam.number_of("10.1.0.2")}) is None
    assert ipam.next_address("10.2.0.0/24", set(), 0, "10.2.0.128/25") == "10.2.0.128/24"
    assert ipam.next_address("10.2.0.0/24", set(range(*_bounds("10.2.0.128/25"))), 0, "10.2.0.128/25") is None


def _bounds(text: str) -> tuple[int, int]:
    network = IPNetwork(text)
    return int(network.first), int(network.last) + 1


@given(
    st.sets(st.integers(10, 40)),
    st.integers(0, 60),
)
def test_next_number_is_free_and_found_if_any(taken: set[int], after: int) -> None:
    """A number is given exactly when one is free, is in range, and is the nearest after the last one."""
    number = ipam.next_number(10, 40, taken, after)
    free = [n for n in range(10, 41) if n not in taken]
    if not free:
        assert number is None
        return
    later = [n for n in free if n > after] if 10 <= after < 40 else free
    assert number == (later or free)[0]


def test_first_subnets() -> None:
    """The default pool is cut into /24 from its start, going on after the last one given."""
    first = ipam.next_subnet(ipam.DEFAULT_POOLS, 24, [])
    assert first == "10.0.0.0/24"
    assert ipam.next_subnet(ipam.DEFAULT_POOLS, 24, [first], first) == "10.0.1.0/24"
    assert ipam.next_subnet(ipam.DEFAULT_POOLS, 24, [], "10.0.7.0/24") == "10.0.8.0/24"
    assert ipam.next_subnet(ipam.DEFAULT_POOLS, 24, ["10.0.0.0/22", "10.0.4.9/32"]) == "10.0.5.0/24"
    assert ipam.next_subnet(ipam.DEFAULT_POOLS, 24, ["10.0.0.0/24"], "10.255.255.0/24") == "10.0.1.0/24"


def test_pools_run_out() -> None:
    """The pools are used one after the other, and their end is an error that says what to do."""
    pools = ("10.9.0.0/24", "192.168.0.0/24")
    assert ipam.next_subnet(pools, 25, ["10.9.0.0/24"], "10.9.0.128/25") == "192.168.0.0/25"
    assert ipam.next_subnet(pools, 25, ["192.168.0.0/24"], "192.168.0.128/25") == "10.9.0.0/25"
    with pytest.raises(MeshnetError, match="--subnet"):
        ipam.next_subnet(pools, 25, pools)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(20, 32)), max_size=30), st.integers(0, 255))
def test_subnets_never_overlap(taken: list[tuple[int, int]], last: int) -> None:
    """A subnet that is handed out shares no address with any that is taken."""
    used = [str(IPNetwork(f"10.0.{third}.0/{size}").cidr) for third, size in taken]
    try:
        subnet = IPNetwork(ipam.next_subnet(("10.0.0.0/16",), 24, used, f"10.0.{last}.0/24"))
    except MeshnetError:
        covered = {third for text in used for third in range(256) if _meets(text, f"10.0.{third}.0/24")}
        assert len(covered) == 256
    else:
        assert not any(_meets(text, str(subnet)) for text in used)


def _meets(one: str, other: str) -> bool:
    a, b = IPNetwork(one), IPNetwork(other)
    return bool(a.first <= b.last and b.first <= a.last)


@pytest.mark.parametrize(
    ("subnet", "words"),
    [
        ("10.0.300.0/24", "Invalid subnet 10.0.300.0/24 : invalid CIDR address: 10.0.300.0/24"),
        ("300.0.0.0/8", "invalid CIDR address: 300.0.0.0/8"),
        ("10.1/16", "invalid CIDR"),
        ("10.1.0.0", "invalid CIDR"),
        ("fd00::/64", "invalid CIDR"),
        ("", "invalid CIDR"),
        ("10.30.0.5/24", "write 10.30.0.0/24"),
        ("10.35.0.0/31", "/30 or larger"),
        ("10.36.0.0/32", "/30 or larger"),
        ("127.0.0.0/24", "127.0.0.0/8"),
        ("224.0.0.0/24", "cannot be used"),
        ("0.0.0.0/0", "cannot be used"),
    ],
)
def test_bad_subnets(subnet: str, words: str) -> None:
    """A subnet that cannot hold tasks is refused with a line that says why."""
    with pytest.raises(MeshnetError) as refused:
        ipam.parse_subnet(subnet)
    assert words in str(refused.value)


def test_gateway_and_range() -> None:
    """A gateway must be a host address of the subnet, a range inside it; the messages are the Engine's."""
    subnet = ipam.parse_subnet("10.31.0.0/24")
    assert str(ipam.parse_gateway("10.31.0.254", subnet)) == "10.31.0.254"
    assert str(ipam.parse_range("10.31.0.128/25", subnet)) == "10.31.0.128/25"
    with pytest.raises(MeshnetError, match="no matching subnet for gateway 10\\.99\\.0\\.1"):
        ipam.parse_gateway("10.99.0.1", subnet)
    with pytest.raises(MeshnetError, match="no matching subnet for range 10\\.33\\.0\\.0/25"):
        ipam.parse_range("10.33.0.0/25", subnet)
    with pytest.raises(MeshnetError, match="host address"):
        ipam.parse_gateway("10.31.0.255", subnet)
    with pytest.raises(MeshnetError, match="invalid gateway"):
        ipam.parse_gateway("nonsense", subnet)


def test_overlaps_are_refused() -> None:
    """A subnet that meets another network, or a node's own address, is refused with both names."""
    others = [("10.0.9.0/24", "network 'my-network'"), ("172.17.0.2/32", "node docker-0")]
    ipam.check_overlap(IPNetwork("10.0.8.0/24"), others)
    for subnet in ("10.0.9.0/25", "10.0.0.0/8", "10.0.9.0/24"):
        with pytest.raises(ConflictError, match="overlaps with 10\\.0\\.9\\.0/24 of network 'my-network'"):
            ipam.check_overlap(IPNetwork(subnet), others)
    with pytest.raises(ConflictError, match="contains the address 172\\.17\\.0\\.2 of node docker-0"):
        ipam.check_overlap(IPNetwork("172.17.0.0/16"), others)

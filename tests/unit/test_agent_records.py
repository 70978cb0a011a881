"""Records from other members are believed only when they are well-formed; removals are told from absences."""

import pytest

from meshnet.agent.records import Removals, decode, encode
from meshnet.datapath.plan import Gone, Located
from meshnet.model import Endpoint

GOOD = Endpoint("e1", "t1", 1, "s1", "10.0.1.3", "02:42:0a:00:01:03", "h", "c", ("a",), "ready")


def test_an_endpoint_survives_gossip() -> None:
    """What one agent publishes is what the others read."""
    assert decode(encode(GOOD)) == GOOD


@pytest.mark.parametrize(
    "change",
    [
        {"ip": "10.0.1"},
        {"ip": "127.0.0.1", "mac": "02:42:7f:00:00:01"},
        {"mac": "02:42:0a:00:01:04"},
        {"state": "up"},
        {"slot": "1"},
        {"slot": -1},
        {"aliases": "a"},
        {"aliases": [5]},
        {"hostname": "h" * 300},
        {"task": None},
    ],
)
def test_a_malformed_record_is_no_endpoint(change: dict[str, object]) -> None:
    """Wrong types, foreign addresses and oversized texts are refused."""
    assert decode({**encode(GOOD), **change}) is None


def test_a_withdrawn_address_is_gone_until_it_lives_again() -> None:
    """Only the owner's withdrawal makes a removal; an owner out of reach takes its records along and back."""
    removals = Removals()
    here = [Located("n1", "net", GOOD)]
    assert removals.update(here, ["n1"]) == ()
    assert removals.update([], []) == ()
    assert removals.update([], ["n1"]) == (Gone("net", "10.0.1.3", "s1"),)
    assert removals.update(here, ["n1"]) == ()


def test_removals_are_bounded() -> None:
    """The oldest removal is forgotten first."""
    removals = Removals(limit=1)
    other = Endpoint("e2", "t2", 2, "s1", "10.0.1.4", "02:42:0a:00:01:04", state="ready")
    removals.update([Located("n1", "net", GOOD), Located("n1", "net", other)], ["n1"])
    removals.update([Located("n1", "net", other)], ["n1"])
    assert removals.update([], ["n1"]) == (Gone("net", "10.0.1.4", "s1"),)

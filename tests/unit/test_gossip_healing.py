"""Each way of healing by itself: what one engine sends when it hears something particular."""

from __future__ import annotations

from gossip_net import Net

from meshnet.gossip import codec
from meshnet.gossip.codec import Ack, Alive, Message, Nack, Ping, Suspect, encode_message
from meshnet.gossip.types import Address

VERSIONS = codec.PROTOCOL + bytes(3)


def _after_a_death() -> Net:
    """Three nodes, of which n2 has just been declared dead, on a network that then carries nothing."""
    net = Net(1)
    net.start(3)
    net.until(net.agree, 1)
    net.kill("n2")
    net.until(lambda: net.states("n0")["n2"] == "dead", 3)
    net.link.loss = 1.0
    net.engines["n0"].datagrams_to_send()
    return net


def _sent(net: Net, name: str) -> list[tuple[Address, Message]]:
    """What the engine wants sent, message by message."""
    sent = []
    for data, address in net.engines[name].datagrams_to_send():
        parts, dropped = codec.split_datagram(data)
        assert dropped is None
        sent += [(address, codec.decode_message(part)) for part in parts]
    return sent


def test_a_stale_alive_is_answered_with_the_accusation() -> None:
    """A dead member that says it is alive, too weakly, is told what it must outbid; not more than twice a second."""
    net = _after_a_death()
    where = ("10.0.0.3", 7946)
    stale = encode_message(Alive(1, "n2", where, b"", VERSIONS))
    for _ in range(5):
        net.engines["n0"].receive_datagram(stale, where, net.now)
    assert _sent(net, "n0") == [(where, Suspect(1, "n2", "n0"))]


def test_a_dead_member_that_pings_is_told() -> None:
    """A ping of a member believed dead is answered, and followed by the accusation."""
    net = _after_a_death()
    where = ("10.0.0.3", 7946)
    net.engines["n0"].receive_datagram(encode_message(Ping(9, "n0", where, "n2")), where, net.now)
    sent = _sent(net, "n0")
    assert [type(message) for _, message in sent] == [Ack, Suspect]
    assert {address for address, _ in sent} == {where}


def test_an_accused_node_answers_its_accuser_directly() -> None:
    """A refutation goes to where the accusation came from, besides to everyone by gossip."""
    net = _after_a_death()
    where = ("10.0.0.3", 7946)
    net.engines["n0"].receive_datagram(encode_message(Suspect(1, "n0", "n2")), where, net.now)
    direct = [message for address, message in _sent(net, "n0") if address == where]
    assert [(message.name, message.incarnation) for message in direct if isinstance(message, Alive)] == [("n0", 2)]


def test_the_dead_are_looked_for() -> None:
    """A dead member is pinged now and then, with the accusation; when it answers, state is exchanged with it."""
    net = _after_a_death()
    where = ("10.0.0.3", 7946)
    engine = net.engines["n0"]
    pings: list[Ping] = []
    end = net.now + 10
    while not pings:
        net.now = engine.next_timer() or end
        assert net.now < end
        engine.handle_timer(net.now)
        pings = [message for address, message in _sent(net, "n0") if address == where and isinstance(message, Ping)]
    engine.streams_to_open()
    engine.receive_datagram(encode_message(Ack(pings[0].seq)), where, net.now)
    assert [request.address for request in engine.streams_to_open()] == [where]


def test_a_late_node_listens_before_it_accuses() -> None:
    """Timers that run late do not turn an answer that waits to be read into an accusation."""
    net = Net(2)
    net.start(2)
    net.until(net.agree, 1)
    engine = net.engines["n0"]
    probes = engine.statistics()["probes"]
    net.until(lambda: engine.statistics()["probes"] > probes, 1)
    late = net.now + 5
    for _ in range(3):
        engine.handle_timer(late)
    assert net.states("n0")["n1"] == "alive"
    while (due := engine.next_timer()) is not None and due < late + 1:
        engine.handle_timer(due)
    assert net.states("n0")["n1"] != "alive"  # it had its time, and still no answer


def test_a_lost_record_is_pushed_again() -> None:
    """A push that was lost is repeated within the resend time, without waiting for a digest to tell."""
    net = Net(3)
    net.start(4)
    net.until(net.agree, 1)
    net.run(2)
    engine = net.engines["n1"]
    vectors = sum(each.statistics()["vectors_sent"] for each in net.engines.values())
    net.link.loss = 1.0
    seq = engine.publish("demo", "endpoint", "k", {}, net.now)
    net.run(0.02)
    net.link.loss = 0.0
    net.until(lambda: not engine.acknowledged(seq)[1], 0.03)
    assert sum(each.statistics()["vectors_sent"] for each in net.engines.values()) == vectors


def test_hidden_records_are_forgotten_in_the_end() -> None:
    """The log of a member that stays dead is dropped after its time."""
    net = Net(4, forget_after=30.0)
    net.start(3)
    net.until(net.agree, 1)
    net.engines["n2"].publish("demo", "endpoint", "k", {}, net.now)
    net.until(net.same_records, 1)
    net.kill("n2")
    net.run(20)
    assert net.engines["n0"].statistics()["logs"] == 3
    net.run(20)
    assert net.engines["n0"].statistics()["logs"] == 2


def test_a_relay_says_when_the_target_is_silent() -> None:
    """Asked to ping a silent member, a node says so before the asker's interval ends."""
    net = _after_a_death()
    engine = net.engines["n0"]
    asker = ("10.0.0.2", 7946)
    ask = codec.IndirectPing(77, ("10.0.0.3", 7946), "n2", True, asker, "n1")
    engine.receive_datagram(encode_message(ask), asker, net.now)
    answers: list[tuple[Address, Message]] = []
    end = net.now + engine.settings.probe_interval - engine.settings.probe_timeout
    while (due := engine.next_timer()) is not None and due < end:
        engine.handle_timer(due)
        answers += _sent(net, "n0")
    assert (asker, Nack(77)) in answers

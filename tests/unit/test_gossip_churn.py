"""Everything at once, from a seed: loss, crashes, farewells, restarts with and without state, cuts and pauses."""

from __future__ import annotations

from collections.abc import ItemsView

import pytest
from gossip_net import Link, Net

from meshnet.gossip.engine import Engine

SEEDS = ("n0", "n1", "n2")


class _Churn:
    """A cluster under churn, and what its records must be once it is left alone."""

    def __init__(self, seed: int, count: int, direct: int) -> None:
        self.net = Net(seed, Link(loss=(0.0, 0.05, 0.2)[seed % 3], repeat=0.05, delay=(0.0005, 0.02)))
        self.rng = self.net.rng
        self.direct = direct
        self.names = [f"n{number}" for number in range(count)]
        self.epochs = dict.fromkeys(self.names, 0)
        self.wanted: dict[str, dict[str, int]] = {}
        for name in self.names:
            self.begin(name)

    def begin(self, name: str, keep_epoch: bool = True) -> None:
        """A new life of the node: it knows three addresses, and its epoch unless that was lost."""
        self.epochs[name] += 100
        settings = self.net.settings(name, epoch=self.epochs[name] if keep_epoch else 0, direct_members=self.direct)
        self.net.add(name, settings.local())
        self.wanted[name] = {}
        seeds = [self.net.settings(seed) for seed in SEEDS if seed != name]
        self.net.engines[name].join([(seed.address, seed.port) for seed in seeds], self.net.now)
        self.net.flush(name)

    def end(self, name: str) -> None:
        self.net.kill(name)
        del self.wanted[name]

    def step(self, number: int) -> None:
        """One random thing happens, then a little time passes."""
        name, key, dice = self.rng.choice(self.names), f"k{self.rng.randrange(6)}", self.rng.random()
        engine = self.net.engines.get(name)
        if engine is None:
            self.begin(name, keep_epoch=dice < 0.7)
        elif dice < 0.55:
            engine.publish("demo", "endpoint", key, {"step": number}, self.net.now)
            self.wanted[name][key] = number
        elif dice < 0.75:
            engine.withdraw("demo", "endpoint", key, self.net.now)
            self.wanted[name].pop(key, None)
        elif dice < 0.81:
            self.end(name)
        elif dice < 0.85:
            engine.leave(self.net.now)
            self.net.run(0.2)
            self.end(name)
        elif dice < 0.91:
            left = [each for each in self.net.engines if self.rng.random() < 0.5]
            right = [each for each in self.net.engines if each not in left]
            self.net.partition(left, right, both=dice < 0.88)
        elif dice < 0.95:
            self.net.heal()
        else:
            self.net.paused[name] = self.net.now + self.rng.random()
        self.net.run(self.rng.choice([0.01, 0.05, 0.3, 1.0]))

    def settled(self) -> bool:
        """Whether everyone sees everyone, and exactly the records that were published last."""
        wanted = {(name, key, step) for name, keys in self.wanted.items() for key, step in keys.items()}
        return self.net.agree() and all(
            {(r.owner, r.key, r.value["step"]) for r in engine.records() if r.value} == wanted
            for engine in self.net.engines.values()
        )


@pytest.mark.parametrize("seed", range(10))
def test_a_cluster_left_alone_settles(seed: int) -> None:
    """Whatever happened before, 15 s after the network is well again everyone knows the truth, and it stays so."""
    churn = _Churn(seed, (3, 5, 8)[seed % 3], direct=3 if seed % 4 == 0 else 64)
    for number in range(40):
        churn.step(number)
    churn.net.heal()
    churn.net.link.loss = 0.0
    for name in SEEDS:
        if name not in churn.net.engines:
            churn.begin(name)
    churn.net.until(churn.settled, 15)
    churn.net.run(3)
    assert churn.settled()
    sequences = {name: engine.withdraw("demo", "endpoint", "-", churn.net.now) for name, engine in _all(churn.net)}
    churn.net.until(lambda: not any(engine.acknowledged(sequences[name])[1] for name, engine in _all(churn.net)), 5)


def _all(net: Net) -> ItemsView[str, Engine]:
    return net.engines.items()

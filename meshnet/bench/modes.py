"""What `meshnet bench vip-vs-dnsrr` compares: services, clients and events. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

VIP, DNSRR = "vip", "dnsrr"
MODES = (DNSRR, VIP)  # the first is the baseline: a request goes straight to the backend
PORT = 8000
REPLICAS, WORKERS = 3, 3
CONNECTIONS = 6  # of a closed loop
RATE, LIVING = 1000, 52  # requests a second of an open loop: for the wait, and while backends change

# How long a client keeps an address, in modes.c's words -> in words.
POLICIES = {
    "each": "asks for every connection",
    "ttl": "keeps it as the answer says",
    "600": "keeps it 600 s (Swarm's TTL)",
    "once": "asks once, keeps one address",
}
# What happens -> in words.
EVENTS = {
    "add": "A backend is added (scale up)",
    "drain": "A backend is drained (scale down)",
    "update": "All backends are replaced (update, one by one)",
    "kill": "A backend is killed",
    "node": "A node is lost with its backends",
}
RATES, WAITS = "rates", "latency"
TABLES = (RATES, WAITS, *EVENTS)


@dataclass(frozen=True, slots=True)
class Client:
    """A client, see modes.c: one of several that are told of as one kind where `policy` is `once`, since with one
    address each they live through different things."""

    mode: str
    policy: str
    keep: bool
    operation: str = "request"
    open_loop: bool = False
    amount: int = CONNECTIONS

    @property
    def key(self) -> str:
        """Its name among all clients."""
        loop = "open" if self.open_loop else "closed"
        return f"{self.mode}-{self.policy}-{'keep' if self.keep else 'new'}-{self.operation}-{loop}{self.amount}"

    @property
    def kind(self) -> tuple[str, str, bool]:
        """What it is told of as: mode, policy in the words of `POLICIES`, and whether connections are kept."""
        return self.mode, self.policy.partition(":")[0], self.keep

    @property
    def row(self) -> str:
        """Its row's key in a table of rates."""
        return f"{self.mode}-{self.policy}"

    @property
    def line(self) -> str:
        """The command that makes it."""
        loop = "open" if self.open_loop else "closed"
        keep = "keep" if self.keep else "new"
        return f"user {self.key} {self.mode} {PORT} {self.policy} {keep} {self.operation} {loop} {self.amount}"

    @property
    def connections(self) -> str:
        """What it does with them, in a word."""
        return "kept" if self.keep else "new"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.mode.upper() if self.mode == VIP else self.mode}, {POLICIES[self.kind[1]]}"


def rate_clients() -> tuple[Client, ...]:
    """Closed loops. With connections that are kept it makes no difference who asks for names how often."""
    kept = [Client(mode, "600", True, what) for mode in MODES for what in ("request", "bulk")]
    return (*kept, *(Client(mode, policy, False) for policy in ("600", "each") for mode in MODES))


def wait_clients() -> tuple[Client, ...]:
    """Open loops."""
    found = [Client(mode, "600", True) for mode in MODES]
    found += [Client(mode, policy, False) for policy in ("600", "each") for mode in MODES]
    return tuple(Client(one.mode, one.policy, one.keep, open_loop=True, amount=RATE) for one in found)


def living_clients(backends: int) -> tuple[Client, ...]:
    """Every kind of client that lives through an event, each kind with the same requests a second; of those that keep
    one address, one for each of the backends that there are before it."""
    return tuple(
        Client(mode, each, keep, open_loop=True, amount=LIVING // len(policies))
        for mode in MODES
        for policies in (("each",), ("ttl",), ("600",), tuple(f"once:{pick}" for pick in range(backends)))
        for each in policies
        for keep in (False, True)
    )

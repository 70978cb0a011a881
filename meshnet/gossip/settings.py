"""Settings of one gossip node: who it is, and how patient it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from meshnet.errors import MeshnetError
from meshnet.gossip.meta import EPOCH_LIMIT, MemberMeta

PORT = 7946
"""The port of memberlist and of Swarm's gossip, TCP and UDP."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Times are seconds, sizes bytes. The defaults are memberlist's for a LAN."""

    name: str
    """The member's unique name: its node id."""
    address: str
    """The IP address that others reach it at; the transport binds it."""
    port: int = PORT
    epoch: int = 0
    """Grows with every start of the node: a persisted counter, or milliseconds since 1970 where none was kept.
    A log of a newer epoch replaces the older one as a whole."""
    meta: MemberMeta = field(default_factory=MemberMeta)
    keys: tuple[bytes, ...] = ()
    """AES keys of 16, 24 or 32 bytes; the first one seals, all of them open. None: no encryption."""
    label: bytes = b""
    """memberlist's label: keeps clusters apart that could reach each other. At most 255 bytes."""
    delegate_versions: tuple[int, int, int] = (0, 0, 0)
    """The last three bytes of Vsn. A serf cluster wants (2, 5, 5)."""

    probe_interval: float = 1.0
    """One member is probed per interval. Shorter: failures are seen sooner, for proportionally more packets."""
    probe_timeout: float = 0.5
    """Wait for a direct answer before asking others. Set it above the 99th percentile of the round trip."""
    indirect_checks: int = 3
    suspicion_mult: float = 4.0
    """Least time a suspect has to refute: suspicion_mult * max(1, log10(members)) * probe_interval."""
    suspicion_max_mult: float = 6.0
    """The time before anyone else confirms a suspicion, in multiples of the least time."""
    awareness_max: int = 8
    gossip_interval: float = 0.2
    gossip_nodes: int = 3
    gossip_to_the_dead: float = 30.0
    """How long a dead or left member stays in the member list."""
    push_pull_interval: float = 30.0
    stream_timeout: float = 10.0
    reconnect_interval: float = 10.0
    """One dead member, or one seed when alone, is tried per interval."""
    forget_after: float = 86400.0
    """Hidden records and addresses of dead members are dropped after this time."""

    packet_size: int = 1400
    """Largest datagram that is sent."""
    direct_members: int = 64
    """Up to this many live members a new record goes to every one of them at once, and each answers what it has.
    Above it records spread by gossip, and acknowledgements come with probes."""
    resend_interval: float = 0.2
    """First wait for such an answer; doubles with each of `resend_limit` tries."""
    resend_limit: int = 5
    sync_interval: float = 0.5
    """At most one exchange of version vectors per peer and interval."""

    stream_limit: int = 20 << 20
    """Largest message on a stream, also after decompression."""
    value_limit: int = 8192
    """Largest encoded value of a record."""
    log_limit: int = 65536
    """Most records of one owner."""
    member_limit: int = 16384

    def __post_init__(self) -> None:
        if not 0 < len(self.name.encode()) <= 255:
            raise MeshnetError("a gossip name takes 1 to 255 bytes")
        if not 0 <= self.epoch < EPOCH_LIMIT:
            raise MeshnetError(f"a gossip epoch is a number from 0 to {EPOCH_LIMIT - 1}")
        if len(self.label) > 255:
            raise MeshnetError("a gossip label takes at most 255 bytes")
        if any(len(key) not in (16, 24, 32) for key in self.keys):
            raise MeshnetError("a gossip key takes 16, 24 or 32 bytes")
        if self.packet_size < 900:
            raise MeshnetError("a gossip packet needs at least 900 bytes for a member's metadata")

    def local(self, members: int = 0) -> Settings:
        """The same node for labs on one machine: a crash is suspected after 0.7 s, certain after 1.6 to 2.8 s.

        Probes are what a node costs at rest, some 0.3 ms of processor time for each.

        With many `members` it takes longer, see `patience`.
        """
        return replace(
            self,
            probe_interval=0.4 * patience(members),
            probe_timeout=0.1 * patience(members),
            suspicion_mult=3.0,
            suspicion_max_mult=2.0,
            gossip_interval=0.05,
            gossip_to_the_dead=15.0,
            push_pull_interval=10.0,
            stream_timeout=2.0,
            reconnect_interval=1.0,
            resend_interval=0.04,
            sync_interval=0.1,
        )


def patience(members: int) -> float:
    """How many times as long as otherwise a node of a lab is waited for: with more than ten they are proportionally
    slower, since they share the machine's processors, and one that waits for its turn must not be taken for a dead one.
    """
    return max(1.0, members / 10)

"""One peer: where it is, how its heartbeats are known, and what they have told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from hostagent.heartbeat.link import Link
from hostagent.heartbeat.order import NETWORKS, NetworkKind, Order, Refusal
from hostagent.heartbeat.seal import Seal


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a peer's host record says of it, and the key that follows from its certificate there.

    Without a key nothing is sent to it and nothing heard of it.
    """

    addresses: Mapping[NetworkKind, str]
    key: bytes = field(default=b"", repr=False)
    incarnation: int = 0
    unheard_because: str = ""  # why there is no key

    def is_at_the_same(self, other: Introduction) -> bool:
        """Whether nothing changes in how the peer is reached and known."""
        return (self.addresses, self.key) == (other.addresses, other.key)


@dataclass(slots=True)
class Peer:
    """What is known of it. `seals_out` are for what it is sent, `seals_in` for what it sends."""

    introduction: Introduction
    order: Order
    links: dict[NetworkKind, Link]
    seals_out: dict[NetworkKind, Seal] = field(default_factory=dict)
    seals_in: dict[NetworkKind, Seal] = field(default_factory=dict)
    heard: int = 0  # incarnation of the last heartbeat that counted
    refused: Counter[Refusal] = field(default_factory=Counter)
    dead: tuple[tuple[str, int], ...] = ()
    lineage: int = 0
    suspected: dict[NetworkKind, bool] = field(default_factory=lambda: dict.fromkeys(NETWORKS, False))
    is_deaf: bool = False  # it says that it does not hear this host on the replication network
    deaf_at_s: float = float("inf")  # since when it says so
    deafness_counts: bool = False  # it has said so for long enough
    settles_at_s: float = float("-inf")  # of its replication network, since the last break

    @classmethod
    def introduced(
        cls, own: str, name: str, introduction: Introduction, order: Order, links: dict[NetworkKind, Link]
    ) -> Peer:
        """A peer of which nothing has been heard at these addresses."""
        peer = cls(introduction, order, links)
        if key := introduction.key:
            peer.seals_out = {network: Seal(key, own, name, network) for network in introduction.addresses}
            peer.seals_in = {network: Seal(key, name, own, network) for network in introduction.addresses}
        return peer

    @property
    def incarnation(self) -> int:
        """The highest that is known: what it was heard under, or what its host record says."""
        return max(self.order.incarnation, self.introduction.incarnation)

    @property
    def works(self) -> bool:
        """Whether the replication network is heard both ways."""
        return not self.suspected["replication"] and not self.is_deaf

    def is_settled(self, now_s: float) -> bool:
        """Whether it has been for long enough."""
        return self.works and now_s >= self.settles_at_s

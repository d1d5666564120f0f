"""Which heartbeats of one peer count: each once, none of an older start of its agent, none for an older one of ours.

A start of an agent is an *incarnation*, a number that only grows (hostagent.agent.incarnation). What was heard of a
peer's never shrinks while this agent runs, whatever its host record says; after a restart of this agent nothing that
was recorded before counts, since it names another incarnation of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from hostagent.heartbeat.message import Heading

NetworkKind = Literal["management", "replication"]
NETWORKS: tuple[NetworkKind, ...] = ("management", "replication")


class Refusal(StrEnum):
    """Why a datagram from a peer's address does not count."""

    FORGED = "forged"  # not sealed with the key that we share with the peer, for this direction and network
    OLDER_AGENT = "older-agent"  # a later start of its agent is known
    REPEATED = "repeated"  # that one, or a later one, has been heard
    NOT_FOR_US = "not-for-us"  # for an earlier start of our agent: its sender has not heard of this one yet
    UNREADABLE = "unreadable"  # of a version that is too old


@dataclass(slots=True)
class Order:
    """What has come from one peer, as long as this agent runs."""

    incarnation: int = 0  # the highest that it has sent under
    sequences: dict[NetworkKind, int] = field(default_factory=dict)  # the highest heard of that incarnation
    told: int = -1  # sequence of the newest content, on whichever network that came

    def refuse(self, heading: Heading, network: NetworkKind, own: int, least: int) -> Refusal | None:
        """Why an authentic heartbeat does not count, if it does not; one that does is taken note of.

        `own` is our incarnation, `least` the peer's on record. That the peer's agent was started again is learnt from
        one that does not count, too: it is true whenever that was sent, and our next heartbeat has to name the new
        incarnation to be heard there.
        """
        if heading.incarnation > self.incarnation:
            self.incarnation = heading.incarnation
            self.sequences.clear()
            self.told = -1
        if heading.incarnation < max(self.incarnation, least):
            return Refusal.OLDER_AGENT
        if heading.receiver != own:
            return Refusal.NOT_FOR_US
        if heading.sequence <= self.sequences.get(network, -1):
            return Refusal.REPEATED
        self.sequences[network] = heading.sequence
        return None

    def is_news(self, sequence: int) -> bool:
        """Whether content is not older than what came on the other network; the newest is remembered."""
        if sequence < self.told:
            return False
        self.told = sequence
        return True

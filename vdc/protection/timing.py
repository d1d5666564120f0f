"""The durations that failover depends on, checked against each other. Pure.

Each rule is a sentence about two or more durations that the protection relies on, with the reason. None of them
is about safety: that comes from the compare-and-swap and holds whatever the clocks do. They are about false
alarms, about who should win a race, and about a guest that is paused though somebody could have decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MAX_WIDENING = 3.0  # jitter makes a silence suspicious after this many times `suspect_ms` at most
STORE_SILENT_LEAST_MS = 2_500.0
STORE_SILENT_SUSPECTS = 4


@dataclass(frozen=True, slots=True)
class Durations:
    """Everything that has a place in a rule, in milliseconds. The defaults are the product's own constants."""

    heartbeat_ms: float = 50
    suspect_ms: float = 200
    secondary_delay_ms: float = 30
    isolated_pause_ms: float = 8_000
    liveness_ttl_ms: float = 3_000
    leader_ttl_ms: float = 3_000
    reprotect_backoff_ms: float = 30_000
    etcd_heartbeat_ms: float | None = 20  # None: another cluster's etcd, whose timing is not known
    etcd_election_ms: float | None = 150
    checkpoint_budget_ms: float = 2_000
    stall_head_start_ms: float = 500
    look_ms: float = 500  # an agent looks at a pair in lockstep at least this often
    probe_ms: float = 300  # QEMU's own answer before a stalled checkpoint is acted on
    arbitration_ms: float = 3_000  # one compare-and-swap, repeated until then
    commit_ms: float = 10  # an ordinary compare-and-swap
    echo_every_ms: float = 25
    echo_answer_ms: float = 75
    first_retry_ms: float = 1_000
    longest_retry_ms: float = 60_000
    longest_backoff_ms: float = 600_000

    @property
    def widest_suspect_ms(self) -> float:
        """The longest silence before a peer is suspected, on a link with the worst jitter."""
        return MAX_WIDENING * self.suspect_ms

    @property
    def secondary_head_start_ms(self) -> float:
        """How much longer than suspicion the secondary waits where replication alone is silent."""
        return self.suspect_ms + self.secondary_delay_ms

    @property
    def store_silent_ms(self) -> float:
        """From when on the store counts as silent."""
        return store_silent_after_ms(self.suspect_ms)

    @property
    def renewal_ms(self) -> float:
        """How often leases are renewed."""
        return min(self.liveness_ttl_ms, self.leader_ttl_ms) / 3

    @property
    def decided_ms(self) -> float:
        """From the last sign of a host that lost its power to the commit that replaces it, at the worst."""
        return self.widest_suspect_ms + (self.etcd_election_ms or 0) * 2 + self.commit_ms


def store_silent_after_ms(suspect_ms: float) -> float:
    """Longer than an election and two renewals of a lease take."""
    return max(STORE_SILENT_LEAST_MS, STORE_SILENT_SUSPECTS * suspect_ms)


@dataclass(frozen=True, slots=True)
class Rule:
    """`holds` is the check, `says` the requirement, `why` what would happen otherwise."""

    says: str
    why: str
    holds: Callable[[Durations], bool]


RULES: tuple[Rule, ...] = (
    Rule(
        "suspect_ms must be at least three times heartbeat_ms",
        "two datagrams that get lost in a row would be a failover",
        lambda d: d.suspect_ms >= 3 * d.heartbeat_ms,
    ),
    Rule(
        "half of suspect_ms must leave room for an echo to be sent and answered",
        "a host whose agent restarts would be suspected though its kernel answers",
        lambda d: d.suspect_ms / 2 >= d.echo_every_ms + d.echo_answer_ms,
    ),
    Rule(
        "secondary_delay_ms + suspect_ms must exceed heartbeat_ms and a commit",
        "the secondary would win the race for the epoch where only the replication network was lost",
        lambda d: d.secondary_head_start_ms > d.heartbeat_ms + d.commit_ms,
    ),
    Rule(
        "suspect_ms must stay below the checkpoint budget (2,000 ms unless a manifest says otherwise)",
        "a host without power would be noticed as a slow checkpoint and not by its silence",
        lambda d: d.suspect_ms + d.heartbeat_ms < d.checkpoint_budget_ms,
    ),
    Rule(
        "the secondary's wait after a stalled checkpoint must cover the probe and one look of the primary",
        "the secondary would ask first though the primary is well",
        lambda d: d.stall_head_start_ms >= max(d.look_ms, d.probe_ms + d.commit_ms),
    ),
    Rule(
        "isolated_pause_ms must exceed the time after which the store counts as silent, and an arbitration",
        "a guest would be paused while its host may still win the right to go on",
        lambda d: d.isolated_pause_ms > d.store_silent_ms + d.arbitration_ms,
    ),
    Rule(
        "isolated_pause_ms must exceed three times suspect_ms",
        "a guest would be paused before its secondary can be suspected",
        lambda d: d.isolated_pause_ms > d.widest_suspect_ms,
    ),
    Rule(
        "etcd.embedded.election_ms must be at least five times etcd.embedded.heartbeat_ms",
        "etcd's rule; a late heartbeat would cost an election",
        lambda d: d.etcd_election_ms is None or d.etcd_election_ms >= 5 * (d.etcd_heartbeat_ms or 0),
    ),
    Rule(
        "three elections of etcd must fit into an arbitration",
        "the death of etcd's leader would leave the outcome of a failover unknown",
        lambda d: d.etcd_election_ms is None or 3 * d.etcd_election_ms <= d.arbitration_ms,
    ),
    Rule(
        "two elections of etcd must fit into the time after which the store counts as silent",
        "every change of etcd's leader would look like a loss of the store",
        lambda d: d.etcd_election_ms is None or 2 * d.etcd_election_ms + d.renewal_ms <= d.store_silent_ms,
    ),
    Rule(
        "liveness_ttl_s must exceed suspect_ms three times, and an election twice",
        "a host would lose its liveness, and be passed over by placement, in a change of etcd's leader",
        lambda d: d.liveness_ttl_ms > max(d.widest_suspect_ms, 2 * (d.etcd_election_ms or 0)),
    ),
    Rule(
        "leader_ttl_s must exceed two elections of etcd",
        "the controller would change hosts with every change of etcd's leader",
        lambda d: d.leader_ttl_ms > 2 * (d.etcd_election_ms or 0),
    ),
    Rule(
        "reprotect_backoff_s must not exceed the longest back-off",
        "the back-off doubles up to that, and would shrink instead",
        lambda d: d.reprotect_backoff_ms <= d.longest_backoff_ms,
    ),
    Rule(
        "the first retry must not come after the longest",
        "the pause between attempts doubles up to that, and would shrink instead",
        lambda d: d.first_retry_ms <= d.longest_retry_ms,
    ),
)


def contradictions(durations: Durations) -> tuple[str, ...]:
    """One sentence for each rule that does not hold, with its reason; empty where all hold."""
    return tuple(f"timings: {rule.says}, else {rule.why}" for rule in RULES if not rule.holds(durations))


def consequences(durations: Durations) -> tuple[tuple[str, float], ...]:
    """What follows from the durations, for people: a name and milliseconds."""
    d = durations
    return (
        ("a silent host is suspected after", d.suspect_ms),
        ("the same on a link with the worst jitter", d.widest_suspect_ms),
        ("the primary's head start where only replication is lost", d.secondary_head_start_ms),
        ("a failover is decided at the latest after", d.decided_ms),
        ("a stalled checkpoint ends protection after", d.checkpoint_budget_ms),
        ("the store counts as silent after", d.store_silent_ms),
        ("without store and secondary the guest is paused after", d.isolated_pause_ms),
    )

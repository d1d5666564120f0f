"""The transition table of a host's part in a pair: rows of data, first match wins.

A row reads: in this state, when this event holds, do this and say that. Events are predicates over a
Snapshot (events.py); for each state the rows are tried in the order in which they stand here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vdc.protection.events import Event


class State(StrEnum):
    """This host's part: `p_` while the record names it primary, `s_` while it names it secondary."""

    OUTSIDE = "outside"  # not named, no copy here
    STRAY = "stray"  # not named, or named under a newer epoch in another part, yet a copy is here
    P_ABSENT = "p_absent"
    P_PREPARING = "p_preparing"
    P_RUNNING = "p_running"
    P_ENTERING = "p_entering"
    P_CHECKPOINTING = "p_checkpointing"
    P_LOCKSTEP = "p_lockstep"
    P_PROMOTING = "p_promoting"  # won the arbitration as secondary, is taking over
    P_LEAVING = "p_leaving"  # won the arbitration as primary, takes the lockstep parts out
    P_PAUSED = "p_paused"
    P_ISOLATED = "p_isolated"
    P_DEAD = "p_dead"
    P_FAILED = "p_failed"
    S_ABSENT = "s_absent"
    S_PREPARING = "s_preparing"
    S_READY = "s_ready"
    S_CHECKPOINTING = "s_checkpointing"
    S_LOCKSTEP = "s_lockstep"
    S_DEAD = "s_dead"
    S_FAILED = "s_failed"


class Action(StrEnum):
    """What the supervisor executes. Those marked CAS touch QEMU only after their commit succeeded."""

    HOLD = "hold"  # let things go on
    NOTE = "note"  # nothing to do but to remember the new state
    DISCARD = "discard"  # kill this host's copy, remove its files
    SWEEP = "sweep"  # remove files of a copy that no longer runs
    START = "start"  # power the guest on from this host's disk
    ADOPT_EPOCH = "adopt_epoch"  # same part under a newer epoch
    ENTER = "enter"  # copy disk and memory to the secondary, enter lockstep
    MARK = "mark"  # CAS: in sync
    GO_ALONE = "go_alone"  # CAS, then leave lockstep
    LEAVE = "leave"  # leave lockstep; the record says already that this copy is alone
    PREPARE = "prepare"  # make the secondary's QEMU wait for the migration
    PROMOTE = "promote"  # CAS, then speak
    INHERIT = "inherit"  # the record names this host the primary, and its copy has ended: remember that
    TAKE_OVER = "take_over"  # speak; the record says already that this copy is the primary
    POWER_DOWN = "power_down"  # ask the guest, then end QEMU
    SWITCH_OFF = "switch_off"  # QEMU has ended: its ports go, its disks stay
    PAUSE = "pause"
    RESUME = "resume"
    ISOLATE = "isolate"  # pause until the store or the other copy answers again
    RETRY_DISK = "retry_disk"  # let a guest that its disk stopped try again, after a while
    RECORD_POWER_OFF = "record_power_off"  # the guest ended by itself: note it as the user's wish


@dataclass(frozen=True, slots=True)
class Row:
    """One transition. `to` is the state that the action leads to when it succeeds."""

    state: State
    event: Event
    action: Action
    to: State
    sentence: str


S, E, A = State, Event, Action

# fmt: off
TABLE: tuple[Row, ...] = (
    Row(S.OUTSIDE, E.RECORD_UNKNOWN, A.HOLD, S.OUTSIDE, "waits to learn what belongs here"),
    Row(S.OUTSIDE, E.RECORD_OLDER, A.HOLD, S.OUTSIDE, "the record as seen here is older than this copy"),
    Row(S.OUTSIDE, E.ORPHANED, A.HOLD, S.OUTSIDE, "kept: the cluster knows neither this VM nor that it was deleted"),
    Row(S.OUTSIDE, E.LEFTOVERS, A.SWEEP, S.OUTSIDE, "removing the files of an old copy"),
    Row(S.OUTSIDE, E.ALWAYS, A.HOLD, S.OUTSIDE, "not on this host"),
    Row(S.STRAY, E.RECORD_UNKNOWN, A.HOLD, S.STRAY, "waits to learn who may speak"),
    Row(S.STRAY, E.RECORD_OLDER, A.HOLD, S.STRAY, "the record as seen here is older than this copy"),
    Row(S.STRAY, E.ORPHANED, A.HOLD, S.STRAY, "left alone: the cluster knows neither this VM nor that it was deleted"),
    Row(S.STRAY, E.TOOK_OVER_ALREADY, A.TAKE_OVER, S.P_RUNNING, "promoted under epoch {epoch}; taking over"),
    Row(S.STRAY, E.WON_AND_DIED, A.INHERIT, S.P_DEAD, "promoted under epoch {epoch}, and the copy ended since"),
    Row(S.STRAY, E.ALWAYS, A.DISCARD, S.OUTSIDE, "a newer epoch ({epoch}) is in force; ending this host's copy"),
    # ---- primary
    Row(S.P_ABSENT, E.DELETION_WANTED, A.SWEEP, S.P_ABSENT, "removing the disks"),
    Row(S.P_ABSENT, E.STOP_WANTED, A.HOLD, S.P_ABSENT, "stopped"),
    Row(S.P_ABSENT, E.PROTECTION_UNWANTED, A.GO_ALONE, S.P_ABSENT, "protection is not wanted"),
    Row(S.P_ABSENT, E.SECONDARY_MAY_SPEAK, A.HOLD, S.P_ABSENT, "the copy here is gone; {secondary} may take over"),
    Row(S.P_ABSENT, E.HAS_SECONDARY, A.GO_ALONE, S.P_ABSENT, "starting again without {secondary}"),
    Row(S.P_ABSENT, E.ALWAYS, A.START, S.P_RUNNING, "starting on {me}"),
    Row(S.P_PREPARING, E.ALWAYS, A.HOLD, S.P_RUNNING, "starting on {me}"),
    Row(S.P_RUNNING, E.QEMU_GONE, A.NOTE, S.P_DEAD, "the guest's process ended"),
    Row(S.P_RUNNING, E.EPOCH_MOVED, A.ADOPT_EPOCH, S.P_RUNNING, "running under epoch {epoch}"),
    Row(S.P_RUNNING, E.SECONDARY_USELESS, A.GO_ALONE, S.P_RUNNING, "{secondary} could not be made a secondary"),
    Row(S.P_RUNNING, E.PROTECTION_UNWANTED, A.GO_ALONE, S.P_RUNNING, "protection is not wanted"),
    Row(S.P_RUNNING, E.STOP_WANTED, A.POWER_DOWN, S.P_ABSENT, "stopping"),
    Row(S.P_RUNNING, E.GUEST_POWERED_OFF, A.RECORD_POWER_OFF, S.P_RUNNING, "the guest powered itself off"),
    Row(S.P_RUNNING, E.PAUSE_WANTED, A.PAUSE, S.P_PAUSED, "pausing"),
    Row(S.P_RUNNING, E.DISK_FULL, A.RETRY_DISK, S.P_RUNNING, "paused: no room for the disk on {me}; goes on when there is"),
    Row(S.P_RUNNING, E.DISK_STOPPED, A.RETRY_DISK, S.P_RUNNING, "paused: the disk on {me} fails; it is tried again"),
    Row(S.P_RUNNING, E.SECONDARY_READY, A.ENTER, S.P_CHECKPOINTING, "copying disk and memory to {secondary}"),
    Row(S.P_RUNNING, E.PEER_LOST, A.GO_ALONE, S.P_RUNNING, "{secondary} does not answer; another host is chosen"),
    Row(S.P_RUNNING, E.HAS_SECONDARY, A.HOLD, S.P_RUNNING, "running on {me}; {secondary} is getting ready"),
    Row(S.P_RUNNING, E.ALWAYS, A.HOLD, S.P_RUNNING, "running on {me}, unprotected"),
    Row(S.P_ENTERING, E.QEMU_GONE, A.NOTE, S.P_DEAD, "the guest's process ended while protection began"),
    Row(S.P_ENTERING, E.SECONDARY_WITHDRAWN, A.LEAVE, S.P_RUNNING, "protection was called off"),
    Row(S.P_ENTERING, E.PROTECTION_UNWANTED, A.GO_ALONE, S.P_RUNNING, "protection is not wanted any more"),
    Row(S.P_ENTERING, E.SECONDARY_USELESS, A.GO_ALONE, S.P_RUNNING, "{secondary} was lost while protection began"),
    Row(S.P_ENTERING, E.PEER_LOST, A.GO_ALONE, S.P_RUNNING, "{secondary} does not answer; protection is called off"),
    Row(S.P_ENTERING, E.ALWAYS, A.HOLD, S.P_CHECKPOINTING, "copying disk and memory to {secondary}"),
    Row(S.P_CHECKPOINTING, E.QEMU_GONE, A.NOTE, S.P_DEAD, "the guest's process ended"),
    Row(S.P_CHECKPOINTING, E.SECONDARY_WITHDRAWN, A.LEAVE, S.P_RUNNING, "protection was called off"),
    Row(S.P_CHECKPOINTING, E.PROTECTION_UNWANTED, A.GO_ALONE, S.P_RUNNING, "protection is not wanted any more"),
    Row(S.P_CHECKPOINTING, E.SECONDARY_USELESS, A.GO_ALONE, S.P_RUNNING, "{secondary} was lost; going on alone"),
    Row(S.P_CHECKPOINTING, E.PEER_DISK_FAILED, A.GO_ALONE, S.P_RUNNING, "the disk on {secondary} takes no writes; going on alone"),
    Row(S.P_CHECKPOINTING, E.DISK_FAILED, A.GO_ALONE, S.P_RUNNING, "the disk on {me} failed, {secondary} has no full copy yet"),
    Row(S.P_CHECKPOINTING, E.PEER_LOST, A.GO_ALONE, S.P_RUNNING, "{secondary} does not answer; going on alone"),
    Row(S.P_CHECKPOINTING, E.GUEST_RESET, A.GO_ALONE, S.P_RUNNING, "the guest was reset; a fresh secondary is made"),
    Row(S.P_CHECKPOINTING, E.STALLED, A.GO_ALONE, S.P_RUNNING, "a checkpoint took too long; going on alone"),
    Row(S.P_CHECKPOINTING, E.IN_SYNC, A.NOTE, S.P_LOCKSTEP, "the record says in sync already"),
    Row(S.P_CHECKPOINTING, E.PROVEN, A.MARK, S.P_LOCKSTEP, "three checkpoints completed"),
    Row(S.P_CHECKPOINTING, E.ALWAYS, A.HOLD, S.P_CHECKPOINTING, "first checkpoints with {secondary}"),
    Row(S.P_LOCKSTEP, E.QEMU_GONE, A.NOTE, S.P_DEAD, "the guest's process ended; {secondary} may take over"),
    Row(S.P_LOCKSTEP, E.SECONDARY_WITHDRAWN, A.LEAVE, S.P_RUNNING, "protection was ended"),
    Row(S.P_LOCKSTEP, E.PROTECTION_UNWANTED, A.GO_ALONE, S.P_RUNNING, "protection is not wanted any more"),
    Row(S.P_LOCKSTEP, E.CUT_OFF, A.ISOLATE, S.P_ISOLATED, "neither the store nor {secondary} answers; paused"),
    Row(S.P_LOCKSTEP, E.SECONDARY_USELESS, A.GO_ALONE, S.P_RUNNING, "{secondary} lost its copy; going on alone"),
    Row(S.P_LOCKSTEP, E.PEER_DISK_FAILED, A.GO_ALONE, S.P_RUNNING, "the disk on {secondary} takes no writes; going on alone"),
    Row(S.P_LOCKSTEP, E.PEER_LOST, A.GO_ALONE, S.P_RUNNING, "{secondary} does not answer; going on alone"),
    Row(S.P_LOCKSTEP, E.DISK_FAILED, A.NOTE, S.P_DEAD, "the disk on {me} failed; {secondary} takes over"),
    Row(S.P_LOCKSTEP, E.GUEST_RESET, A.GO_ALONE, S.P_RUNNING, "the guest was reset; a fresh secondary is made"),
    Row(S.P_LOCKSTEP, E.STALLED, A.GO_ALONE, S.P_RUNNING, "a checkpoint took too long; going on alone"),
    Row(S.P_LOCKSTEP, E.ALWAYS, A.HOLD, S.P_LOCKSTEP, "primary on {me} in lockstep with {secondary}"),
    Row(S.P_PROMOTING, E.QEMU_GONE, A.NOTE, S.P_DEAD, "the guest's process ended during the promotion"),
    Row(S.P_PROMOTING, E.ALWAYS, A.TAKE_OVER, S.P_RUNNING, "taking over on {me}"),
    Row(S.P_LEAVING, E.QEMU_GONE, A.NOTE, S.P_DEAD, "the guest's process ended while it left lockstep"),
    Row(S.P_LEAVING, E.HAS_SECONDARY, A.GO_ALONE, S.P_RUNNING, "giving {secondary} up"),
    Row(S.P_LEAVING, E.ALWAYS, A.LEAVE, S.P_RUNNING, "going on alone on {me}"),
    Row(S.P_PAUSED, E.QEMU_GONE, A.NOTE, S.P_DEAD, "the guest's process ended"),
    Row(S.P_PAUSED, E.EPOCH_MOVED, A.ADOPT_EPOCH, S.P_PAUSED, "paused under epoch {epoch}"),
    Row(S.P_PAUSED, E.HAS_SECONDARY, A.GO_ALONE, S.P_PAUSED, "a paused guest is not protected"),
    Row(S.P_PAUSED, E.STOP_WANTED, A.POWER_DOWN, S.P_ABSENT, "stopping"),
    Row(S.P_PAUSED, E.PAUSE_WANTED, A.HOLD, S.P_PAUSED, "paused on {me}"),
    Row(S.P_PAUSED, E.ALWAYS, A.RESUME, S.P_RUNNING, "resuming"),
    Row(S.P_ISOLATED, E.QEMU_GONE, A.NOTE, S.P_DEAD, "the guest's process ended"),
    Row(S.P_ISOLATED, E.CUT_OFF, A.HOLD, S.P_ISOLATED, "paused: neither the store nor {secondary} answers"),
    Row(S.P_ISOLATED, E.STORE_SILENT, A.HOLD, S.P_ISOLATED, "paused: the store does not answer"),
    Row(S.P_ISOLATED, E.SECONDARY_WITHDRAWN, A.LEAVE, S.P_RUNNING, "the store answers again; going on alone"),
    Row(S.P_ISOLATED, E.ALWAYS, A.GO_ALONE, S.P_RUNNING, "the store answers again; asking to go on alone"),
    Row(S.P_DEAD, E.GUEST_POWERED_OFF, A.RECORD_POWER_OFF, S.P_DEAD, "the guest powered itself off"),
    Row(S.P_DEAD, E.SECONDARY_USELESS, A.GO_ALONE, S.P_ABSENT, "both copies are gone; starting again on {me}"),
    Row(S.P_DEAD, E.PROTECTION_UNWANTED, A.GO_ALONE, S.P_DEAD, "protection is not wanted"),
    Row(S.P_DEAD, E.PEER_SILENT_LONG, A.GO_ALONE, S.P_DEAD, "{secondary} has not answered for long; starting again here"),
    Row(S.P_DEAD, E.SECONDARY_MAY_SPEAK, A.HOLD, S.P_DEAD, "the copy here is gone; {secondary} may take over"),
    Row(S.P_DEAD, E.HAS_SECONDARY, A.GO_ALONE, S.P_ABSENT, "the copy here is gone and {secondary} had no full copy"),
    Row(S.P_DEAD, E.STOP_WANTED, A.SWITCH_OFF, S.P_ABSENT, "stopped"),
    Row(S.P_DEAD, E.ALWAYS, A.START, S.P_RUNNING, "the guest's process ended; starting again on {me}"),
    Row(S.P_FAILED, E.STOP_WANTED, A.SWITCH_OFF, S.P_ABSENT, "stopped"),
    Row(S.P_FAILED, E.RETRY_DUE, A.START, S.P_RUNNING, "trying again to start on {me}"),
    Row(S.P_FAILED, E.ALWAYS, A.HOLD, S.P_FAILED, "could not be started on {me}"),
    # ---- secondary
    Row(S.S_ABSENT, E.IN_SYNC, A.HOLD, S.S_ABSENT, "the copy here is gone"),
    Row(S.S_ABSENT, E.ALWAYS, A.PREPARE, S.S_READY, "preparing a secondary on {me}"),
    Row(S.S_PREPARING, E.ALWAYS, A.HOLD, S.S_READY, "preparing a secondary on {me}"),
    Row(S.S_READY, E.QEMU_GONE, A.NOTE, S.S_DEAD, "the secondary's process ended"),
    Row(S.S_READY, E.DISK_FAILED, A.NOTE, S.S_FAILED, "the disk on {me} failed; {primary} goes on alone"),
    Row(S.S_READY, E.IN_SYNC, A.NOTE, S.S_LOCKSTEP, "in lockstep with {primary}"),
    Row(S.S_READY, E.QEMU_LEFT, A.NOTE, S.S_FAILED, "the primary called the copying off"),
    Row(S.S_READY, E.CHECKPOINT_SEEN, A.NOTE, S.S_CHECKPOINTING, "the memory of {primary} arrived"),
    Row(S.S_READY, E.ALWAYS, A.HOLD, S.S_READY, "waits for the memory of {primary}"),
    Row(S.S_CHECKPOINTING, E.QEMU_GONE, A.NOTE, S.S_DEAD, "the secondary's process ended"),
    Row(S.S_CHECKPOINTING, E.DISK_FAILED, A.NOTE, S.S_FAILED, "the disk on {me} failed; {primary} goes on alone"),
    Row(S.S_CHECKPOINTING, E.IN_SYNC, A.NOTE, S.S_LOCKSTEP, "in lockstep with {primary}"),
    Row(S.S_CHECKPOINTING, E.QEMU_LEFT, A.NOTE, S.S_FAILED, "lockstep ended before it was proven"),
    Row(S.S_CHECKPOINTING, E.GUEST_CRASHED, A.NOTE, S.S_FAILED, "the secondary's guest crashed"),
    Row(S.S_CHECKPOINTING, E.ALWAYS, A.HOLD, S.S_CHECKPOINTING, "first checkpoints with {primary}"),
    Row(S.S_LOCKSTEP, E.QEMU_GONE, A.NOTE, S.S_DEAD, "the secondary's process ended"),
    Row(S.S_LOCKSTEP, E.DISK_FAILED, A.NOTE, S.S_FAILED, "the disk on {me} failed; {primary} goes on alone"),
    Row(S.S_LOCKSTEP, E.PEER_COPY_DEAD, A.PROMOTE, S.P_PROMOTING, "{primary} says that its copy died; taking over"),
    Row(S.S_LOCKSTEP, E.QEMU_LEFT, A.PROMOTE, S.P_PROMOTING, "the primary on {primary} is gone; taking over"),
    Row(
        S.S_LOCKSTEP, E.PEER_LOST_UNDECIDED, A.PROMOTE, S.P_PROMOTING,
        "{primary} does not answer, and a majority of the cluster is needed to decide; "
        "vdc promote replica {name} --force after you made sure that {primary} is off",
    ),
    Row(S.S_LOCKSTEP, E.PEER_LOST_LATER, A.PROMOTE, S.P_PROMOTING, "{primary} does not answer; taking over"),
    Row(S.S_LOCKSTEP, E.STALLED_LATER, A.PROMOTE, S.P_PROMOTING, "no checkpoint comes from {primary}; taking over"),
    Row(S.S_LOCKSTEP, E.GUEST_CRASHED, A.NOTE, S.S_FAILED, "the secondary's guest crashed; a fresh one is made"),
    Row(S.S_LOCKSTEP, E.ALWAYS, A.HOLD, S.S_LOCKSTEP, "secondary on {me} in lockstep with {primary}"),
    Row(S.S_DEAD, E.ALWAYS, A.HOLD, S.S_DEAD, "the secondary's copy is gone; {primary} goes on alone"),
    Row(S.S_FAILED, E.ALWAYS, A.HOLD, S.S_FAILED, "this host could not be made a secondary"),
)
# fmt: on

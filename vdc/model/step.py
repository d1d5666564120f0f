"""The named steps of every operation that has several effects, in their order, with what is true at each.

A step is reached *between* two effects: what stands before it is done, what stands after it is not. Reaching
one writes a line into the VM's journal and passes a failpoint of the same name (docs/development.md). Every
step is reached in exactly one place of the code; a test counts.

To add an operation: its steps here, the last one `done`; in the code `await copy.reach(...)` between the
effects; then `python -m tests.docs`. An operation that runs within others (`power_on`, `speak`, `tidy`,
`leave`) has its own steps, so that a line says exactly how far it came.
"""

from __future__ import annotations

from enum import StrEnum

DONE = "done"


class Step(StrEnum):
    """`OPERATION.STEP`; `sentence` says what has been done when it is reached."""

    sentence: str

    def __new__(cls, name: str, sentence: str) -> Step:
        """A member with its sentence."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.sentence = sentence
        return member

    @property
    def operation(self) -> str:
        """The operation that it belongs to."""
        return self.value.partition(".")[0]

    @property
    def ends_operation(self) -> bool:
        """Whether nothing of its operation is left to do."""
        return self.value.partition(".")[2] == DONE

    # ---- the leader
    PLACE_COMMITTED = "place.committed", "the first record of who may speak is stored"
    PROTECT_COMMITTED = "protect.committed", "the record names a secondary"
    DELETE_READY = "delete.ready", "every copy is gone, the records are still there"
    DELETE_COMMITTED = "delete.committed", "the records are gone"
    # ---- powering on, on either side
    POWER_ON_PORTS = "power_on.ports", "the taps exist"
    POWER_ON_SPAWNED = "power_on.spawned", "QEMU runs and its pidfile names it"
    POWER_ON_DONE = "power_on.done", "QEMU answers"
    START_BEGUN = "start.begun", "this host is remembered as the primary that prepares"
    START_DISKS = "start.disks", "the disks are made, or fit to be booted"
    START_DONE = "start.done", "the guest is remembered as running"
    PREPARE_BEGUN = (
        "prepare.begun",
        "an earlier copy is gone; this host is remembered as the secondary that prepares",
    )
    PREPARE_LISTENING = "prepare.listening", "the primary's channels are open"
    PREPARE_DISKS = "prepare.disks", "the empty disks are made"
    PREPARE_CREDENTIALS = (
        "prepare.credentials",
        "the primary has signed this side's certificate, which is kept",
    )
    PREPARE_WAITING = "prepare.waiting", "QEMU waits for the primary's memory, which nobody was told yet"
    PREPARE_DONE = "prepare.done", "the copy is remembered as ready"
    # ---- protecting
    ADOPT_LEFT = "adopt.left", "the parts of an earlier lockstep are out"
    ADOPT_EPOCH = "adopt.epoch", "the newer epoch is remembered"
    ADOPT_PLANNED = "adopt.planned", "the plan of the lockstep is remembered"
    ADOPT_CREDENTIALS = "adopt.credentials", "the pair has an authority and the primary its certificate"
    ADOPT_OPENED = "adopt.opened", "the channels are open, which nobody was told yet"
    ADOPT_DONE = "adopt.done", "the open channels are remembered"
    ENTER_BEGUN = "enter.begun", "the entry is remembered"
    ENTER_CONFIGURED = "enter.configured", "the migration's capabilities are set"
    ENTER_MIRRORED = "enter.mirrored", "the disks are equal and written on both sides"
    ENTER_COPIED = "enter.copied", "little memory is left to copy; the guest still runs"
    ENTER_STOPPED = "enter.stopped", "the guest stands still and all memory is copied"
    ENTER_DISKS = "enter.disks", "the quorum writes to both disks"
    ENTER_FILTERS = "enter.filters", "the guest's packets are mirrored and held back"
    ENTER_LOCKSTEP = "enter.lockstep", "the guest runs in lockstep, which is not remembered yet"
    ENTER_DONE = "enter.done", "the first checkpoints are awaited"
    MARK_CONSENT = "mark.consent", "the kernel watches the secondary; the record does not say in sync"
    MARK_COMMITTED = "mark.committed", "the record says that the secondary may be promoted"
    MARK_DONE = "mark.done", "the primary remembers that it is in lockstep"
    SYNCED_DISKS = "synced.disks", "the secondary's disks are marked as complete"
    SYNCED_DONE = "synced.done", "it remembers that it is in lockstep"
    # ---- ending protection
    CALL_OFF_LEFT = "call_off.left", "what an unfinished entry made is taken out"
    CALL_OFF_COMMITTED = "call_off.committed", "the record names no secondary any more"
    CALL_OFF_DONE = "call_off.done", "the primary is remembered as alone"
    ALONE_COMMITTED = "alone.committed", "the epoch is won; the lockstep is still in the guest"
    ALONE_DONE = "alone.done", "the primary goes on alone"
    LEAVE_PARTS = "leave.parts", "the lockstep is out of QEMU; the guest may stand still"
    LEAVE_RESUMED = "leave.resumed", "the guest runs"
    LEAVE_DISKS = "leave.disks", "its disks belong to the new epoch"
    LEAVE_DONE = "leave.done", "the primary is remembered as running alone"
    # ---- taking over
    HANDOVER_LISTENING = "handover.listening", "the secondary's tap hears, and its guest cannot speak"
    HANDOVER_FENCED = "handover.fenced", "nothing of the primary's guest gets out any more"
    HANDOVER_HELD = "handover.held", "what the secondary's guest sends is held back, for the commit"
    HANDOVER_CUT = "handover.cut", "the epoch is won, and no checkpoint comes any more"
    HANDOVER_SPOKEN = "handover.spoken", "the guest speaks here; lockstep is not left yet"
    PROMOTE_BEGUN = "promote.begun", "nothing is done yet"
    PROMOTE_COMMITTED = (
        "promote.committed",
        "the epoch is won and on this host's disk; the guest does not speak yet",
    )
    PROMOTE_DONE = "promote.done", "the promotion is over"
    SPEAK_LIVE = "speak.live", "the guest speaks here"
    SPEAK_ANNOUNCED = "speak.announced", "the switches were told where it is"
    SPEAK_DONE = "speak.done", "its translated code is fresh"
    TIDY_BEGUN = "tidy.begun", "the promoted copy is remembered with its rewriter"
    TIDY_SETTLED = "tidy.settled", "QEMU wrote its layers back; the disks' record does not say so yet"
    TIDY_DISKS = "tidy.disks", "the disks' record names the parents"
    TIDY_DONE = "tidy.done", "the copy is a primary like any other"
    INHERIT_DONE = "inherit.done", "a promotion whose copy ended is remembered"
    # ---- snapshots, beside everything else
    SNAPSHOT_BEGUN = "snapshot.begun", "its record says that it is being made"
    SNAPSHOT_FIXED = "snapshot.fixed", "the moment is fixed; the disks are being copied"
    SNAPSHOT_COPIED = "snapshot.copied", "the copies of the disks are complete, in the guest's folder"
    SNAPSHOT_STORED = "snapshot.stored", "the image store has them; the record does not say so"
    SNAPSHOT_DONE = "snapshot.done", "its record says that it is ready"
    SAVE_SAVED = "save.saved", "the guest's memory is in a file of its folder; its disks are not copied yet"
    LOAD_LOADED = "load.loaded", "QEMU has the memory, which could be loaded once more"
    LOAD_USED = "load.used", "the disks' record says that the memory is used up; the guest stands still"
    LOAD_DONE = "load.done", "the guest goes on"
    # ---- pausing and ending
    ISOLATE_STOPPED = "isolate.stopped", "the guest was paused because nobody answers"
    ISOLATE_DONE = "isolate.done", "the isolation is remembered"
    PAUSE_STOPPED = "pause.stopped", "the guest was paused for the user"
    PAUSE_DONE = "pause.done", "the pause is remembered"
    RESUME_RUNNING = "resume.running", "the guest runs again"
    RESUME_DONE = "resume.done", "that is remembered"
    POWER_DOWN_ASKED = "power_down.asked", "the guest was asked, and has ended or had its time"
    POWER_DOWN_DONE = "power_down.done", "the guest is off"
    SWITCH_OFF_ENDED = "switch_off.ended", "QEMU is gone"
    SWITCH_OFF_PORTS = "switch_off.ports", "its taps are gone"
    SWITCH_OFF_DONE = "switch_off.done", "the copy is remembered as off"
    RECORD_OFF_DONE = "record_off.done", "that the guest powered itself off is recorded as the user's wish"
    DISCARD_ENDED = "discard.ended", "QEMU is gone"
    DISCARD_PORTS = "discard.ports", "its taps are gone"
    DISCARD_DONE = "discard.done", "its files are gone"

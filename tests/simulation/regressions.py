"""Runs that once ended in a violation, sentence by sentence; each has to be possible still, and to end well.

To add one, paste the numbered sentences that the search printed (without the numbers) and say what was wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.simulation.searches import after_usual, in_lockstep, planned_switch
from tests.simulation.world import World


class Regression(NamedTuple):
    """`broken` names the rule without which it happens again (mutants.py)."""

    name: str
    start: Callable[[], World]
    broken: str
    sentences: tuple[str, ...]


def _preparing() -> World:
    return after_usual("h2: notes that it is ready")


REGRESSIONS: tuple[Regression, ...] = (
    Regression(
        # The agent of the old primary was killed while its guest was fenced, and the next one lifted the fence though
        # its record showed the newer epoch: two guests on the wire, until the old one was ended.
        "a new agent leaves a guest fenced whose epoch is lost",
        planned_switch,
        "a new agent lifts the fence of a lost epoch",
        (
            "h1 fences its guest; what h2 sends is held back",
            "h1: the agent is killed",
            "h2: the commit of epoch 3 (promote) is won",
            "h1: an agent starts and takes over",
            "h2: epoch 3 is on its disk",
            "h2: QEMU takes no checkpoint and agrees to nothing any more",
            "h2: the guest's tap joins the bridge",
            "h2: what was held back goes out, and the guest speaks",
        ),
    ),
    Regression(
        # QEMU stood still when the new agent asked how far it was, and nobody asked again: what the guest had done
        # meanwhile was never known. Here it is off and wanted, for ever.
        "a process that does not answer at once is asked again",
        in_lockstep,
        "a QEMU that did not answer a new agent is not asked again",
        (
            "h1: the guest powers itself off",
            "h1: the agent is killed",
            "h1: QEMU stands still",
            "h1: an agent starts and takes over",
        ),
    ),
    Regression(
        # Its own commit to go alone was applied late. While it left lockstep, its copy had the new epoch and the
        # old stage, so that no row of the table went on with it: it asked for the in-sync mark for ever.
        "leaving lockstep after a commit that arrived late is gone on with",
        lambda: after_usual("h1: begins to copy disk and memory"),
        "leaving lockstep is not gone on with",
        (
            "h1: memory is copied, both are in lockstep",
            "h1: notes the lockstep",
            "h1 and h2: a checkpoint completes",
            "h2 decides: the memory of h1 arrived",
            "h1 and h2: three checkpoints completed",
            "operator: stops the VM",
            "h1 decides: protection is not wanted any more",
            "h1: the commit of epoch 3 (alone) is sent and no answer comes",
            "the forgotten commit of h1 (epoch 3) arrives",
        ),
    ),
    Regression(
        # The entry was cancelled, going alone found no majority, and when all was well again the primary waited
        # for a copying that nobody did: unprotected for ever.
        "an entry that is cancelled while the store is away is begun anew",
        _preparing,
        "a cancelled entry into lockstep is left as it is",
        (
            "h1 decides: copying disk and memory to h2",
            "h1: begins to copy disk and memory",
            "h1 is cut off (management and replication)",
            "time: h1: hears nothing of h2",
            "h1 decides: h2 does not answer; protection is called off",
            "h1: the commit of epoch 3 (alone) finds no majority of the store",
            "the networks are well again",
        ),
    ),
    Regression(
        # The promotion was committed and its agent killed before the disks' record named the layers; the next
        # agent took over, and a power cut after that booted a disk without the newest writes.
        "a take-over by a new agent notes where the newest writes are before the guest speaks",
        in_lockstep,
        "a repeated take-over does not remember",
        (
            "h1: QEMU is killed",
            "h2 decides: h1 says that its copy died; taking over",
            "h2: is told to take over without asking",
            "h2: the commit of epoch 3 (promote) is won",
            "h2: the agent is killed",
            "h2: an agent starts and takes over",
            "h2 decides: promoted under epoch 3; taking over",
        ),
    ),
    Regression(
        "going alone in the name of a commit whose agent was killed writes the epoch down first",
        in_lockstep,
        "leaving lockstep does not remember the epoch",
        (
            "h2: QEMU is killed",
            "h1 decides: h2 lost its copy; going on alone",
            "h1: the commit of epoch 3 (alone) is won",
            "h1: the agent is killed",
            "h1: an agent starts and takes over",
            "h1 decides: protection was ended",
        ),
    ),
)

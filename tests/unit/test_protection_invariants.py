"""`check_invariants`: each invariant is noticed where it is broken, and nothing is where all is well."""

from __future__ import annotations

from dataclasses import replace

import pytest
from protection_world import UID, pair

from vdc.protection.invariants import DiskFacts, GuestFacts, HostFacts, WorldFacts, check_invariants

SPEAKER = GuestFacts(
    uid=UID, boot=0, mode="primary", executing=True, emits=True, consent_of="h2", is_tap_live=True, epoch=2
)
SHADOW = GuestFacts(
    uid=UID,
    boot=0,
    mode="secondary",
    executing=True,
    emits=False,
    consent_of=None,
    is_tap_live=False,
    epoch=2,
)
DISK = DiskFacts(UID, 2, is_clean=True, is_complete=True)
H1 = HostFacts("h1", SPEAKER, DISK, UID, 2)
H2 = HostFacts("h2", SHADOW, DISK, UID, 2)
H3 = HostFacts("h3")
WELL = WorldFacts(pair(), (H1, H2, H3))
ALONE = replace(SPEAKER, mode="alone", consent_of=None)
PROMOTED = pair(3, primary="h2", secondary=None)


def world(h1=H1, h2=H2, *, record=None, **more):
    return WorldFacts(record or pair(), (h1, h2, H3), **more)


def names(found):
    return {sentence.partition(":")[0] for sentence in found}


def test_a_pair_in_lockstep_breaks_nothing():
    assert check_invariants(WELL, WELL) == ()


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (world(replace(H1, guest=ALONE), replace(H2, guest=ALONE), record=pair(3, secondary=None)), "I1"),
        (world(replace(H1, guest=ALONE), record=PROMOTED), "I1"),
        (world(replace(H1, guest=ALONE)), "I3"),
        (world(h2=replace(H2, guest=replace(SHADOW, is_tap_live=True))), "I4"),
        (world(h2=replace(H2, guest=replace(SHADOW, mode="alone", epoch=3))), "I4"),
        (world(replace(H1, told_dead=((UID, 2),))), "I6"),
        (world(h2=replace(H2, believed_dead=(("h1", UID, 2),))), "I6"),
        (world(replace(H1, disk=replace(DISK, is_complete=False))), "durable"),
    ],
)
def test_a_moment_that_must_not_be(broken, name):
    assert name in names(check_invariants(broken))


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (WELL, world(record=pair(1)), "I2"),
        (WELL, world(replace(H1, remembered=1)), "I2"),
        (WELL, world(replace(H1, guest=replace(ALONE, epoch=3)), record=pair(3, secondary=None)), "I2"),
        (WELL, world(record=pair(3, primary="h3", secondary=None, spares=())), "I3"),
        (world(replace(H1, guest=None)), world(replace(H1, guest=ALONE)), "I5"),
        (world(h2=replace(H2, guest=None)), world(h2=replace(H2, guest=ALONE)), "I5"),
        (
            world(replace(H1, guest=None), record=pair(secondary=None)),
            world(replace(H1, guest=ALONE, disk=replace(DISK, is_clean=False)), record=pair(secondary=None)),
            "I7",
        ),
        (WELL, world(replace(H1, guest=replace(SPEAKER, executing=False)), only_agents=True), "I8"),
    ],
)
def test_a_step_that_must_not_be(before, after, name):
    assert name in names(check_invariants(after, before))


def test_a_primary_may_speak_by_the_consent_of_the_copy_that_has_just_won():
    """The new primary's QEMU has not been told yet: both still say the same, in lockstep."""
    assert "I1" not in names(check_invariants(world(record=PROMOTED)))

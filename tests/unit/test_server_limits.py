"""`vdc describe` says what lockstep does not cover, and what becomes of it."""

from __future__ import annotations

import pytest
from protection_world import endophyte

from hostagent.server.views import limits_of
from vdc.model.manifest import EndophyteManifest, MemorySync, UncoveredTraffic


def with_spec(**changes):
    plain = endophyte()
    spec = plain.manifest.spec.model_copy(update=changes)
    return plain.with_(manifest=plain.manifest.model_copy(update={"spec": spec}))


def tuned(**changes):
    tuning = endophyte().manifest.spec.protection.model_copy(update=changes)
    return with_spec(protection=tuning)


@pytest.mark.parametrize(
    ("made", "is_gated", "word"),
    [
        (endophyte(), True, "held back"),
        (tuned(uncovered_traffic=UncoveredTraffic.LET_THROUGH), False, "passes"),
    ],
    ids=["default", "allowed by the user"],
)
def test_traffic_that_is_not_compared_is_held_unless_the_user_allows_it(made, is_gated, word):
    assert made.manifest.spec.is_gated is is_gated
    assert word in limits_of(made)[0]


def test_a_vm_without_protection_has_no_limits():
    computer = endophyte().manifest.spec.virtual_computer.model_copy(update={"memory_sync": MemorySync.NONE})
    alone = with_spec(virtual_computer=computer)
    assert not alone.manifest.spec.is_gated
    assert not limits_of(alone)


def test_what_cannot_be_protected_is_not_held():
    assert not endophyte(nodes=1).manifest.spec.is_gated
    assert not limits_of(endophyte(nodes=1))
    assert endophyte(nodes=2).manifest.spec.is_gated


def test_the_manifest_names_it_in_camel_case():
    manifest = EndophyteManifest.model_validate(
        {
            "kind": "Endophyte",
            "metadata": {"name": "web"},
            "spec": {"image": "mycelium/mini", "protection": {"uncoveredTraffic": "pass"}},
        }
    )
    assert not manifest.spec.is_gated

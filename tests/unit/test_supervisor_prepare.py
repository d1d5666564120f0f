"""A host that is to be a secondary compares itself with the guest that runs, not with what its host has since.

And what a primary says of its links to others, by which a host is chosen.
"""

from __future__ import annotations

import pytest
from protection_world import UID, host, observed, pair
from test_supervisor_resync import FACTS, Bench, P

from hostagent.supervisor import secondary
from hostagent.supervisor.view import observed as observed_of
from vdc.model.endophyte import CopyStage
from vdc.model.errors import ConflictError, RefusedError
from vdc.store import keys


async def _ensure(endophyte):
    """The images are here."""
    return dict.fromkeys(endophyte.image_digests)


def _disks(*_):
    raise ConflictError("the judgement is over", code="disks")


@pytest.mark.parametrize(
    ("here", "there", "code"),
    [
        ("11.1.3", "11.1.3", "disks"),
        ("11.1.3", "12.0.0", "disks"),
        ("12.0.0", "12.0.0", "lockstep-impossible"),
    ],
    ids=["the same", "the primary's runtime was upgraded", "both were, the guest runs the old one"],
)
async def test_the_guest_counts_as_it_was_started(tmp_path, monkeypatch, here, there, code):
    monkeypatch.setattr(secondary, "require_disk", _disks)
    bench = await Bench().fill()
    await bench.put((keys.host("h1"), host("h1", version=there).to_json()))
    listening = observed("h1", P, CopyStage.RUNNING, epoch=3, machine=FACTS, listening_epoch=3)
    copy = await bench.copy(tmp_path, "h2", listening)
    copy.host.record = host("h2", version=here)
    copy.host.ensure_images, copy.host.heartbeats.untell = _ensure, lambda uid: None
    copy.process = copy.qmp = None
    with pytest.raises((RefusedError, ConflictError)) as caught:
        await secondary.prepare(copy, bench.mirror.endophyte("web"), pair(3, sync="syncing"))
    assert caught.value.code == code


async def test_a_primary_says_which_links_settle(tmp_path):
    bench = await Bench().fill()
    copy = await bench.copy(tmp_path, "h1", role=P, stage=CopyStage.RUNNING, uid=UID)
    copy.host.record = host("h1")
    copy.host.heartbeats.unsettled, copy.host.heartbeats.settling = lambda: ("h2", "h3"), lambda: ("h3",)
    said = observed_of(copy, "", "")
    assert (said.unreachable, said.settling) == (("h2", "h3"), ("h3",))

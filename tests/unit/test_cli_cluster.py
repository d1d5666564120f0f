"""`vdc cluster status` says whether the cluster can decide, and what cut its history."""

from __future__ import annotations

from vdc.api.models import ClusterStatus
from vdc.cli.commands.cluster import status_text
from vdc.model.lineage import Lineage

WELL = ClusterStatus(
    version="1", host="h1", leader="h2", store="ok", may_lose=1, witnesses=("w1",),
    members=({"endpoint": "http://a", "healthy": True, "leader": True, "error": ""},),
)  # fmt: skip


def test_a_healthy_cluster() -> None:
    text = "\n".join(status_text(WELL))
    assert "Majority:  yes, 1 more may be lost" in text
    assert "Witnesses: w1" in text and "http://a  leader" in text
    assert "Lineage" not in text and "note" not in text


def test_a_lost_majority_and_a_cut_history() -> None:
    lost = WELL.with_(
        majority=False,
        members=({"endpoint": "http://b", "healthy": False, "leader": False, "error": "no answer in time"},),
        lineage=Lineage(number=2, host="h1", left_out=("h2",), by="root@h1", at="2026-01-01"),
        notes=("bring them back",),
    )
    text = "\n".join(status_text(lost))
    assert "NO: nothing can be decided" in text and "http://b  lost: no answer in time" in text
    assert "Lineage:   2 (since 2026-01-01, from h1, by root@h1, left out: h2)" in text
    assert text.endswith("note: bring them back")

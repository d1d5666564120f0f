"""How long it takes to decide when a thousand pairs lose their primary's host at once. Needs no lab.

One agent's work, without the network: a snapshot of each pair, the real `decide`, the next version of its record,
the check of the transition, and the compare-and-swap in a store in memory.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.bench.figures import Figure
from tests.bench.suite import Suite
from vdc.model.endophyte import CopyRole, CopyStage, Endophyte, Nic
from vdc.model.manifest import EndophyteManifest
from vdc.model.pair import Pair, SyncState
from vdc.protection.arbitration import promote_secondary
from vdc.protection.decide import decide
from vdc.protection.invariants import check_transition
from vdc.protection.snapshot import CopyView, PeerView, Snapshot
from vdc.protection.table import Action
from vdc.store import keys
from vdc.store.memory_state import MemoryCluster
from vdc.store.protocol import Put, Unchanged

PAIRS = 1_000


@dataclass(frozen=True)
class Decided:
    """Milliseconds: all decisions, all of them with their commits, and the slowest single pair."""

    decide_ms: float
    total_ms: float
    slowest_ms: float


def decide_all(count: int = PAIRS) -> Decided:
    """Let `count` secondaries of one host notice at once that their primaries' host is silent, and promote them."""
    cluster, snapshots = MemoryCluster(), [_snapshot(number) for number in range(count)]
    revisions = {}
    for one in snapshots:
        assert one.pair is not None
        revisions[one.pair.name] = cluster.commit(
            [], [Put(keys.pair(one.pair.name), one.pair.to_json())]
        ).revision
    decided_s, slowest_s, began = 0.0, 0.0, time.perf_counter()
    for one in snapshots:
        at = time.perf_counter()
        decision = decide(one)
        decided_s += time.perf_counter() - at
        assert decision.action is Action.PROMOTE and one.pair is not None
        after = promote_secondary(one.pair, reason=decision.sentence, request_id=one.pair.name, now="")
        check_transition(one.pair, after)
        key = keys.pair(after.name)
        won = cluster.commit([Unchanged(key, revisions[after.name])], [Put(key, after.to_json())])
        assert won.succeeded
        slowest_s = max(slowest_s, time.perf_counter() - at)
    return Decided(decided_s * 1000, (time.perf_counter() - began) * 1000, slowest_s * 1000)


async def decisions(suite: Suite) -> None:
    """The figures of the report."""
    runs = [decide_all() for _ in range(suite.options.runs)]
    note = "in simulation: one agent, no network"
    suite.add(
        [
            Figure(
                "decide_1000",
                "1,000 pairs fail at once: decided",
                "ms",
                tuple(r.decide_ms for r in runs),
                note=note,
            ),
            Figure(
                "commit_1000", "the same with the commits", "ms", tuple(r.total_ms for r in runs), note=note
            ),
        ]
    )


def _snapshot(number: int) -> Snapshot:
    name, uid = f"vm{number}", f"uid-{number}"
    pair = Pair(
        name=name, uid=uid, epoch=2, primary="h1", secondary="h2", sync=SyncState.IN_SYNC, spares=("h3",),
        slot=number,
    )  # fmt: skip
    manifest = EndophyteManifest.model_validate(
        {
            "apiVersion": "v1", "kind": "Endophyte", "metadata": {"name": name},
            "spec": {"image": "mycelium/mini", "virtualComputer": {"dedicatedNodes": 3, "memorySync": "continuous"}},
        }
    )  # fmt: skip
    endophyte = Endophyte(
        manifest=manifest, uid=uid, image_digest="sha256:" + "0" * 64, created_at="",
        nics=(Nic(network="default", mac="52:54:00:00:00:01", address="10.77.0.10"),),
    )  # fmt: skip
    copy = CopyView(
        role=CopyRole.SECONDARY, stage=CopyStage.LOCKSTEP, epoch=2, alive=True, has_files=True, checkpoints=9,
        lockstep_for_s=60.0,
    )  # fmt: skip
    silent = PeerView(management_silent_ms=260.0, replication_silent_ms=260.0)
    return Snapshot(me="h2", endophyte=endophyte, pair=pair, copy=copy, peer=silent)

"""What an agent knows, what follows from it by the real `decide`, and what it tells (hostagent/supervisor/view.py)."""

from __future__ import annotations

from functools import lru_cache

from tests.simulation import qemu
from tests.simulation.rules import remembers
from tests.simulation.store import endophyte_of, pair_of, uid_of
from tests.simulation.world import ALONE, HOSTS, NOBODY, ON, Agent, Body, Told, Wish, World
from vdc.model.endophyte import CopyRole, CopyStage, Observed
from vdc.protection.decide import Decision, decide
from vdc.protection.snapshot import CopyView, PeerView, Snapshot

IN_LOCKSTEP = (CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP)
_SILENCE_MS = (
    0.0,
    300.0,
    500.0,
    9_000.0,
)  # heard, suspected, beyond the head start, beyond isolated_pause_ms
_STORE_MS = (0.0, 3_000.0, 9_000.0)
_STALL_MS = (0.0, 2_100.0, 2_600.0)


@lru_cache(200_000)
def _decide(
    me: int, wish: Wish | None, body: Body | None, copy: tuple, peer: tuple, told: Told | None, store: int
) -> Decision:
    role, stage, epoch, alive, files, restarts, ended, seen, stall, reset, off, due = copy
    peer_host = NOBODY
    if body is not None and me in (body.primary, body.secondary):
        peer_host = body.secondary if body.primary == me else body.primary
    observed = None
    if told is not None and peer_host != NOBODY:
        observed = Observed(
            name="web", host=HOSTS[peer_host], uid=uid_of(told.uid), epoch=told.epoch, role=told.role,
            stage=told.stage, error="trouble" if told.error else "", listening_epoch=told.listening,
        )  # fmt: skip
    management, replication, says_dead = peer
    return decide(
        Snapshot(
            me=HOSTS[me],
            endophyte=endophyte_of(wish) if wish else None,
            pair=pair_of(body) if body else None,
            copy=CopyView(
                role=role, stage=stage, epoch=epoch, alive=alive, has_files=files, restarts=restarts,
                colo_ended=ended, checkpoints=seen, lockstep_for_s=3.0 if seen >= 3 else 0.5 if seen else 0.0,
                stalled_ms=_STALL_MS[stall], guest_reset=reset, powered_off=off, retry_due=due,
            ),
            peer=PeerView(
                management_silent_ms=_SILENCE_MS[management], replication_silent_ms=_SILENCE_MS[replication],
                copy_dead=says_dead,
            ),
            peer_observed=observed,
            store_silent_ms=_STORE_MS[store],
        )
    )  # fmt: skip


remembers(_decide.cache_clear)


def peer_of(body: Body | None, h: int) -> int:
    """The host of the other copy."""
    if body is None or h not in (body.primary, body.secondary):
        return NOBODY
    return body.secondary if body.primary == h else body.primary


def known_body(agent: Agent) -> Body | None:
    """The record as the mirror shows it, where it is this VM's."""
    rec, wish = agent.mirror.rec, agent.mirror.wish
    if rec is None or (wish is not None and rec.body.uid != wish.uid):
        return None
    return rec.body


def decision(world: World, h: int) -> Decision:
    """view.snapshot, then the real decide."""
    host = world.hosts[h]
    agent = host.agent
    mem, wish, body = agent.mem, agent.mirror.wish, known_body(agent)
    is_other = body is not None and mem.uid not in (0, body.uid)
    role = mem.role
    if is_other:
        role = CopyRole.SECONDARY if body.primary == h else CopyRole.PRIMARY
    copy = (
        role, mem.stage, 0 if is_other else mem.epoch, host.qemu is not None and not is_other,
        host.saved is not None or host.disk is not None, mem.restarts, agent.colo_ended, agent.seen,
        agent.stall if mem.stage in IN_LOCKSTEP else 0, agent.reset, agent.off, agent.due,
    )  # fmt: skip
    peer = peer_of(body, h)
    silence, told = (0, 0, False), None
    if peer != NOBODY:
        says_dead = (peer, body.uid, body.epoch) in agent.heard
        silence = (*agent.silence[1:], says_dead) if agent.silence[0] == peer else (0, 0, says_dead)
        told = agent.mirror.told[peer]
        if told is not None and (wish is None or told.uid != wish.uid):
            told = None
    return _decide(h, wish, body, copy, silence, told, agent.store_silent)


def published(world: World, h: int) -> Told | None:
    """What the agent wants the others to see of its copy (view.observed)."""
    agent = world.hosts[h].agent
    mem = agent.mem
    uid = mem.uid or (agent.mirror.wish.uid if agent.mirror.wish else 0)
    if not uid or (not mem.uid and agent.mirror.wish is None):
        return None
    return Told(uid, mem.epoch, mem.role, mem.stage, mem.listening, agent.failed is not None, mem.restarts)


def is_stalled(world: World, h: int) -> bool:
    """Whether no checkpoint completes for a copy that should be in lockstep."""
    process = world.hosts[h].qemu
    if process is None or world.hosts[h].agent.mem.stage not in IN_LOCKSTEP or process.mode == ALONE:
        return False
    primary = h if process.mode == "primary" else process.peer
    if primary == NOBODY or not (world.hosts[primary].qemu and world.hosts[primary].power == ON):
        return True
    if world.hosts[primary].qemu.fence > 0:  # it makes no checkpoint meanwhile
        return True
    return qemu.partner(world, primary) == NOBODY or world.hosts[primary].qemu.hung

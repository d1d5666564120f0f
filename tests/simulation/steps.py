"""Everything that may happen next in a world, each with a sentence and a price.

What goes on by itself (agents, QEMU, the leader, time) is ordered as it usually happens. The first of it is
free, and so is the end of a fault while nothing but time passes; a fault, its end at any other moment, a
command and anything out of the usual order cost 1. So a search by
price finds every run with at most so many surprises, however long it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hostagent.supervisor.jobs import URGENT
from tests.simulation import adoption, control, faults, jobs, network, qemu, view
from tests.simulation import agent as agents
from tests.simulation.outcomes import failed
from tests.simulation.power import lingers
from tests.simulation.rules import kept
from tests.simulation.settling import settle
from tests.simulation.world import CLEAN, ENDED, HOSTS, NOBODY, ON, OPEN, PRIMARY, TORN, World
from vdc.model.endophyte import CopyStage
from vdc.protection.table import Action

NORMAL, FAULT, COMMAND, RECOVERY = "normal", "fault", "command", "recovery"


class Step(NamedTuple):
    """One possibility."""

    cost: int
    text: str
    after: World
    kind: str = NORMAL
    only_agents: bool = False


def steps(world: World, *, surprises: bool = True, cuts: bool = True) -> Iterator[Step]:
    """All steps; settled. Without `surprises` only those that are free; without `cuts` the networks stay whole."""
    usual, quiet = True, True
    for text, after, cost, only_agents in _by_itself(world):
        price = cost if cost else 0 if usual else 1
        if usual and not cost:
            usual, quiet = False, text.startswith("time: ")
        if not price or surprises:
            yield Step(price, text, settle(after), NORMAL if not cost else FAULT, only_agents)
        if not usual and not surprises:
            break
    for text, after in faults.recoveries(world):
        if quiet or surprises:
            yield Step(0 if quiet else 1, text, settle(after), RECOVERY)
    if not surprises:
        return
    for text, after in faults.faults(world, cuts=cuts):
        yield Step(1, text, settle(after), FAULT, "the agent" in text)
    for text, after in faults.commands(world):
        yield Step(1, text, settle(after), COMMAND)


def own_steps(world: World) -> list[Step]:
    """What may happen by itself, in any order, with nothing going wrong."""
    return [
        Step(0, text, settle(after), NORMAL, only_agents)
        for text, after, cost, only_agents in _by_itself(world)
        if not cost
    ]


def usual_step(world: World) -> Step | None:
    """The first of what happens by itself; None where nothing does."""
    for text, after, cost, only_agents in _by_itself(world):
        if not cost:
            return Step(0, text, settle(after), NORMAL, only_agents)
    return None


def _by_itself(world: World) -> Iterator[tuple[str, World, int, bool]]:
    """(text, world, 1 where something goes wrong in it, whether only an agent changes), as it usually goes."""
    awake = [
        h
        for h, host in enumerate(world.hosts)
        if host.power == ON and host.agent is not None and not host.agent.slow
    ]
    for h in range(len(HOSTS)):
        if qemu.hears_its_primary_leave(world, h):
            after = qemu.ended(world, h)
            if after.hosts[h].agent is not None:
                after = after.agent(h, colo_ended=True)
            yield f"{HOSTS[h]}: QEMU tells that its primary left", after, 0, False
    for h in awake:
        process = world.hosts[h].qemu
        if world.hosts[h].agent.unread and (process is None or not process.hung):
            after = adoption.adopt(world, h) if process is not None else world.agent(h, unread=False)
            yield f"{HOSTS[h]}: QEMU answers the agent that took it over", after, 0, False
    for h in awake:
        found = view.decision(world, h)
        if agents.is_news(world, h, found):
            yield f"{HOSTS[h]} decides: {found.sentence}", agents.do_pass(world, h, found), 0, False
        elif world.hosts[h].agent.job is not None:
            for cost, text, after in jobs.run_step(world, h):
                yield text, after, cost, False
    led = control.step(world)
    if led is not None:
        yield led[0], led[1], 0, False
    yield from _checkpoints(world)
    for h, host in enumerate(world.hosts):
        if host.power == ON and host.agent is None and network.store_answers(world, h):
            after = adoption.adopt(adoption.start_agent(world, h), h)
            process = host.qemu
            is_switching = process is not None and (process.fence > 0 or process.hold)
            spared = host.saved is not None and host.saved.stage not in _UNFINISHED and not is_switching
            yield f"{HOSTS[h]}: an agent starts and takes over", after, 0, spared
    waits = [(*one, True) for h in awake for one in _waits(world, h)]
    waits += [(*one, False) for h in range(len(HOSTS)) for one in _switch_times(world, h)]
    for _, text, after, only_agents in sorted(waits, key=lambda one: one[0]):
        yield f"time: {text}", after, 0, only_agents


def _checkpoints(world: World) -> Iterator[tuple[str, World, int, bool]]:
    for p, host in enumerate(world.hosts):
        if host.qemu is None or host.qemu.mode != PRIMARY or host.qemu.hung or host.power != ON:
            continue
        s = qemu.partner(world, p)
        if s == NOBODY or host.qemu.fence > 0:
            continue
        after, words = world, "a checkpoint completes"
        if not host.qemu.running and not host.qemu.off:
            after = after.qemu(p, running=True)  # a stopped guest in lockstep runs again after a checkpoint
        if world.hosts[s].qemu.hold == CLEAN and not _holds(world, s):
            after = after.qemu(
                s, hold=TORN
            )  # nobody puts a new buffer there: what is in the old one is undone
        for h in (p, s):
            agent = world.hosts[h].agent
            if agent is not None and agent.seen < 3 and agent.mem.stage in _COUNTING:
                after = after.agent(h, seen=3 if agent.seen else 1)
                words = "three checkpoints completed" if agent.seen else words
        if after is not world:
            yield f"{HOSTS[p]} and {HOSTS[s]}: {words}", after, 0, False


_UNFINISHED = (CopyStage.PREPARING, CopyStage.DEAD, CopyStage.FAILED)
_COUNTING = (CopyStage.READY, CopyStage.CHECKPOINTING, CopyStage.LOCKSTEP)


def _waits(world: World, h: int) -> Iterator[tuple[int, str, World]]:
    """What time alone brings about on host `h`: (milliseconds, sentence, world)."""
    agent, name = world.hosts[h].agent, HOSTS[h]
    if not agent.due:
        text = f"{name}: the pause after a failure passes"
        yield (50 if agent.failed in URGENT else 1_000), text, world.agent(h, due=True)
    yield from _silences(world, h)
    waits = agent.job is not None and agent.job.action is Action.PREPARE and agent.job.at == 2
    if waits and not jobs.run_step(world, h):  # secondary.PRIMARY_DEADLINE_S
        (late,) = failed(world, h, f"{name}: the primary has not opened its channels for 60 s")
        yield 60_000, late.text, late.world
    if agent.job is not None and agent.job.action is Action.DISCARD and lingers(world, h):
        yield 300, f"{name}: passes on no longer what comes to its old copy", world.agent(h, fence=0)
    if agent.store_silent < 2 and not network.store_answers(world, h):
        limit = (2_500, 8_000)[agent.store_silent]
        after = world.agent(h, store_silent=agent.store_silent + 1)
        yield limit, f"{name}: the store has not answered for {limit} ms", after
    if agent.stall < 2 and view.is_stalled(world, h):
        limit = (2_000, 2_500)[agent.stall]
        after = world.agent(h, stall=agent.stall + 1)
        yield limit, f"{name}: no checkpoint has completed for {limit} ms", after
    if not kept("silence is not death") and agent.silence[1]:
        peer = agent.silence[0]
        body = view.known_body(agent)
        claim = (peer, body.uid, body.epoch)
        if body is not None and claim not in agent.heard:
            yield 1, f"{name}: takes the silence for death", world.agent(h, heard=agent.heard | {claim})


def _holds(world: World, h: int) -> bool:
    """Whether an agent looks after what is held back."""
    agent = world.hosts[h].agent
    return agent is not None and not agent.slow and agent.job is not None and agent.job.planned


def _switch_times(world: World, h: int) -> Iterator[tuple[int, str, World]]:
    """What ends a planned switch by itself. A hold is over (and known to be) before the fence of the same moment is
    lifted: `Handover._is_whole` stops at 0.8 of HOLD_S, counted from before the fence."""
    host, name = world.hosts[h], HOSTS[h]
    process, agent = host.qemu, host.agent
    if process is None or host.power != ON or process.hung:
        return
    if process.hold in (CLEAN, TORN):
        lost = process.mode == ENDED and process.tap  # the comparison is out, and the port is open
        after = world.qemu(h, hold=OPEN if lost and process.hold == CLEAN else "")
        yield 1_000, f"{name}: what QEMU held back is let go", after
    if agent is None or agent.slow or not agent.fence:
        return
    rec, mem = agent.mirror.rec, agent.mem
    is_ours = rec is not None and rec.body.epoch == agent.fence == mem.epoch
    if is_ours and mem.stage in view.IN_LOCKSTEP and process.fence > 0:
        after = world.qemu(h, fence=-process.fence).agent(h, fence=0)
        s = process.peer
        other = after.hosts[s].qemu if s != NOBODY else None
        if other is not None and other.hold == CLEAN:
            after = after.qemu(s, hold="")
        yield 1_001, f"{name}: the switch did not come; the fence is lifted", after


def _silences(world: World, h: int) -> Iterator[tuple[int, str, World]]:
    agent, name = world.hosts[h].agent, HOSTS[h]
    peer = view.peer_of(view.known_body(agent), h)
    if peer == NOBODY:
        return
    quiet = [n for n in network.NETWORKS if not network.serves(world, h, peer, n)]
    if not quiet:
        return
    of, m, r = agent.silence
    m, r = (m, r) if of == peer else (0, 0)
    if len(quiet) == 2:
        if min(m, r) == 0:
            after = world.agent(h, silence=(peer, 1, 1))
            yield 200, f"{name}: hears nothing of {HOSTS[peer]}", after
        elif min(m, r) < 3 and not network.hears(world, h, peer, network.REPLICATION):
            after = world.agent(h, silence=(peer, 3, 3))
            yield 8_001, f"{name}: has heard nothing of {HOSTS[peer]} for long", after
    elif quiet == [network.REPLICATION] and r < (1 if network.hears(world, h, peer, quiet[0]) else 2):
        after = world.agent(h, silence=(peer, 0, r + 1))
        yield (200, 430)[r], f"{name}: hears {HOSTS[peer]} on the management network alone", after
    elif quiet == [network.MANAGEMENT] and m == 0:
        after = world.agent(h, silence=(peer, 1, 0))
        yield 200, f"{name}: hears {HOSTS[peer]} on the replication network alone", after

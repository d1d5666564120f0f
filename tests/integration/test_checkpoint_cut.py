"""A copy fails in the middle of a checkpoint: exactly one goes on, with everything that was acknowledged.

One chain of pairs: each round protects the survivor again, waits for a checkpoint to begin, and kills or freezes
one of the two at a moment within it. Then both sides' agents do what they do: whose QEMU still answers asks
for the next epoch, and who wins goes on.

    VDC_CUT_ROUNDS=100 .venv/bin/pytest tests/integration/test_checkpoint_cut.py -s

runs as many rounds as are wanted (6 by default) and shows each; VDC_CUT_SEED=n repeats the moments of a run.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from lockstep_clients import Store, Talker, load, wait_for
from lockstep_support import Copy, Pair, missing

from hostagent.drivers.qemu import primary
from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpError
from vdc.model import pair as records
from vdc.protection import arbitration
from vdc.protection.invariants import check_transition
from vdc.store import keys
from vdc.store.arbitration import Won, arbitrate
from vdc.store.memory import MemoryStore
from vdc.store.protocol import Put

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

ROUNDS = int(os.environ.get("VDC_CUT_ROUNDS", "6"))
SEED = int(os.environ.get("VDC_CUT_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
PROBE_S = 0.3  # as the agent
CRASHES = ("Kernel panic", "BUG: ", "Oops: ", "general protection fault")
ROLES, FAULTS = ("primary", "secondary"), (signal.SIGKILL, signal.SIGSTOP)


@dataclass
class Record:
    """The pair's record in a store, and who asked for what."""

    store: MemoryStore
    revision: int
    present: records.Pair

    @classmethod
    async def begin(cls) -> Record:
        store = MemoryStore()
        first = arbitration.new_pair("cut", "uid", "q1", (), 0, request_id="r", now="now")
        answer = await store.commit([], [Put(keys.pair("cut"), first.to_json())])
        return cls(store, answer.revision, first)

    async def put(self, after: records.Pair) -> bool:
        """Compare-and-swap against the version that this side last saw."""
        check_transition(self.present, after)
        outcome = await arbitrate(
            self.store, keys.pair("cut"), self.revision, after.to_json(), after.request_id, deadline_s=3.0
        )
        if isinstance(outcome, Won):
            self.present, self.revision = after, outcome.revision
        return isinstance(outcome, Won)


async def committed(record: Record, change: object, *arguments: str) -> None:
    after = change(record.present, *arguments, request_id=uuid.uuid4().hex, now="now")  # type: ignore[operator]
    assert await record.put(after)


async def asks(record: Record, copy: Copy, *, is_primary: bool) -> bool:
    """One side's agent: a copy that does not answer must not ask. Whether it won."""
    seen = Record(record.store, record.revision, record.present)
    try:
        await copy.qmp.execute_oob(Command.QUERY_YANK, deadline_s=PROBE_S)
    except QmpError:
        return False
    change = arbitration.go_alone if is_primary else arbitration.promote_secondary
    won = await seen.put(change(seen.present, reason="cut", request_id=uuid.uuid4().hex, now="now"))
    if won:
        record.present, record.revision = seen.present, seen.revision
    return won


def took_effect(pid: int) -> bool:
    """Whether no thread of the process runs any more: on another core one may go on for a moment."""
    states = set()
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):
            states.add(stat.read_text().rpartition(")")[2].split()[0])
    return states <= set("TtZX")


async def strike(prime: Copy, second: Copy, victim: Copy, fault: signal.Signals, after_s: float) -> str:
    """Wait for a checkpoint to begin, and hit within it; how far it was then."""
    began, seen = asyncio.Event(), list[str]()
    ended = asyncio.Event()

    def on_prime(event: str, _data: object, _at: float) -> None:
        if event == "STOP" and not seen:
            began.set()
        elif event == "RESUME" and began.is_set():
            ended.set()

    removals = [
        second.qmp.add_listener(lambda event, _d, _a: began.set() if event == "STOP" else None),
        prime.qmp.add_listener(on_prime),
    ]
    await asyncio.wait_for(began.wait(), 30)
    end = time.monotonic() + after_s
    while time.monotonic() < end:
        await asyncio.sleep(0)
    victim.signal(fault)
    await wait_for(lambda: took_effect(victim.pid), "the signal's effect", 5)
    where = "after it" if ended.is_set() else "within"
    for remove in removals:
        remove()
    return where


async def one_round(
    pair: Pair, record: Record, prime: Copy, role: str, fault: signal.Signals, after_s: float
) -> tuple[Copy, str]:
    """Returns the survivor and whether the fault was within the checkpoint."""
    second = await pair.start_secondary()
    await committed(record, arbitration.add_secondary, second.name)
    plan, _ = await pair.protect(prime, second)
    await pair.in_sync(prime, second)
    await committed(record, arbitration.mark_in_sync)
    victim = prime if role == "primary" else second
    where = await strike(prime, second, victim, fault, after_s)
    p_won, s_won = await asyncio.gather(
        asks(record, prime, is_primary=True), asks(record, second, is_primary=False)
    )
    if not p_won and not s_won:
        raise AssertionError("nobody went on")
    assert p_won != s_won, "both won the same epoch"
    survivor = prime if p_won else second
    assert survivor is not victim, "a copy that does not answer went on"
    assert record.present.primary == survivor.name
    await go_on(pair, prime, second, plan, is_promotion=s_won)
    await pair.kill(victim)
    return survivor, where


async def go_on(pair: Pair, prime: Copy, second: Copy, plan: LockstepPlan, *, is_promotion: bool) -> None:
    """The survivor's sequence, while the other process may still be there, frozen."""
    if is_promotion:
        await pair.take_over(second, plan)
        await pair.settle(second, plan)
    else:
        await primary.leave(prime.qmp, plan)
        await primary.resume(prime.qmp)
        pair.epoch += 1


async def answers(talker: Talker, store: Store, what: str) -> None:
    before, stored = talker.answers, len(store.acknowledged)
    await wait_for(
        lambda: (
            (talker.answers > before + 5 and len(store.acknowledged) > stored + 2)
            or bool(talker.failure or store.failure)
        ),
        f"answers after {what}",
        20,
    )
    assert not talker.failure, what
    assert not store.failure, what


async def test_one_copy_goes_on_whole_whatever_a_checkpoint_was_doing() -> None:
    chance = random.Random(SEED)
    found: Counter[str] = Counter()
    async with Pair() as pair:
        survivor = await pair.start_primary()
        await pair.guest_is_up()
        record = await Record.begin()
        async with load(pair) as (talker, store):
            for number in range(ROUNDS):
                role, fault = ROLES[number % 2], FAULTS[number // 2 % 2]
                pause_ms = survivor.meter.p50_ms or 15.0
                after_s = chance.uniform(0, 1.1 * pause_ms / 1000)
                what = f"seed {SEED}, round {number + 1}: {role} {fault.name} {after_s * 1000:.1f} ms in"
                began = time.monotonic()
                survivor, where = await one_round(pair, record, survivor, role, fault, after_s)
                await answers(talker, store, what)
                crashed = [sign for sign in CRASHES if sign in survivor.serial()]
                assert not crashed, f"{what}: {crashed}"
                found[f"{role} {fault.name} {where}"] += 1
                print(f"{what} ({where}), {time.monotonic() - began:.1f} s", flush=True)
                if (number + 1) % 10 == 0 or number + 1 == ROUNDS:
                    assert await store.audit() == [], what
        print(f"{ROUNDS} rounds, {len(store.acknowledged)} writes acknowledged: {dict(found)}")
    assert sum(count for what, count in found.items() if what.endswith("within")) >= ROUNDS // 2

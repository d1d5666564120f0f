"""An agent that was stopped, or whose host was suspended, looks at the epoch before it does anything.

What it holds in memory is as old as its sleep, and others may have acted. Nothing that it could decide on an
old view has an effect (every change is a compare-and-swap), but a stale copy is to be ended, not looked after.
The store has not been silent for the time of the sleep either: else a primary would be paused for nothing.
"""

from __future__ import annotations

from hostagent.supervisor.host import HostContext
from vdc.model.errors import UnavailableError
from vdc.store import keys

ASLEEP_S = 2.0  # a pass that is so late found this agent asleep, not busy


async def read_epoch_after_sleep(host: HostContext, name: str, due_s: float) -> None:
    """Bring the mirror's view of one pair up to date where the pass that was due then (boot time) comes late."""
    late_s = host.clock.boottime_s() - due_s
    if late_s < ASLEEP_S:
        return
    host.store_heard_at_s = host.clock.boottime_s()  # what was not asked was not silent
    host.log.warning("was asleep; reads the epoch first", endophyte=name, late_s=round(late_s, 1))
    try:
        await host.mirror.refresh(keys.pair(name))
    except UnavailableError as error:
        host.log.warning("the epoch could not be read", endophyte=name, why=str(error))

"""The two QEMU processes of a pair, as docs/failover.md and the lab describe them: gate, consent, death.

- `primary`: the filters are in place. A packet leaves only while the other copy, in the same lockstep, agrees.
- `secondary`: its tap is on no bridge. `ended`: COLO_EXIT came; it waits behind the gate to be told.
- For a planned switch the primary may be fenced (nothing of it leaves) and the secondary hold back what it sends (it
  agrees to nothing then); once won, it lets that out before it leaves lockstep.
- `alone`: no filters. Whatever the guest sends leaves.
"""

from __future__ import annotations

from tests.simulation.network import REPLICATION, connected
from tests.simulation.world import (
    ALONE,
    ENDED,
    NOBODY,
    ON,
    OPEN,
    OPEN_TORN,
    PRIMARY,
    SECONDARY,
    World,
)


def executes(world: World, h: int) -> bool:
    """Whether the guest on `h` makes progress."""
    host = world.hosts[h]
    return host.power == ON and host.qemu is not None and host.qemu.running and not host.qemu.hung


def partner(world: World, h: int) -> int:
    """The host whose copy is in lockstep with the primary's on `h` and agrees to what it sends."""
    mine = world.hosts[h].qemu
    if mine is None or mine.mode != PRIMARY:
        return NOBODY
    qemu = world.hosts[mine.peer].qemu
    agrees = (
        qemu is not None and qemu.mode == SECONDARY and qemu.plan == mine.plan and qemu.uid == mine.uid
        and not qemu.hung and connected(world, h, mine.peer, REPLICATION)
    )  # fmt: skip
    return mine.peer if agrees else NOBODY


def emits(world: World, h: int) -> tuple[bool, int]:
    """Whether packets of the guest on `h` reach the wire, and the host that agrees to each (or NOBODY)."""
    qemu = world.hosts[h].qemu
    if qemu is None or not qemu.tap or not executes(world, h):
        return False, NOBODY
    if qemu.mode == ALONE or qemu.hold in (OPEN, OPEN_TORN):
        return True, NOBODY
    other = partner(world, h)
    if other == NOBODY or qemu.fence > 0 or world.hosts[other].qemu.hold:
        return False, NOBODY
    return True, other


def age_disks(world: World) -> World:
    """Clients write all the time: whoever emits has acknowledged something that the uninvolved copies lack."""
    for h in range(len(world.hosts)):
        speaks, other = emits(world, h)
        if not speaks:
            continue
        for n, host in enumerate(world.hosts):
            disk = host.disk
            if (
                n not in (h, other)
                and disk is not None
                and disk.fresh
                and disk.uid == world.hosts[h].qemu.uid
            ):
                world = world.host(n, disk=disk._replace(fresh=False))
    return world


def hears_its_primary_leave(world: World, s: int) -> bool:
    """Whether QEMU on `s` gets COLO_EXIT: its connection was closed, by a process or by a kernel that lives."""
    mine = world.hosts[s].qemu
    if mine is None or mine.mode != SECONDARY or mine.hung or not connected(world, s, mine.peer, REPLICATION):
        return False
    other = world.hosts[mine.peer].qemu
    return other is None or other.mode != PRIMARY or other.plan != mine.plan or other.uid != mine.uid


def killed(world: World, h: int) -> World:
    """The process ends, and with it the tap."""
    return world.host(h, qemu=None)


def ended(world: World, h: int) -> World:
    """COLO_EXIT."""
    return world.qemu(h, mode=ENDED)

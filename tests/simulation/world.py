"""The state of the simulated world: nested tuples, so that two equal worlds are found to be equal.

One VM on three hosts, each with an agent, a member of the store, a disk and at most one QEMU process. Hosts are
numbered from 0 and called h1, h2, h3; -1 stands for "none". There is no clock: that time has passed is a step,
possible wherever it is possible at all, so what holds here holds for any timing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from vdc.model.endophyte import CopyRole, CopyStage
from vdc.protection.table import Action

HOSTS = ("h1", "h2", "h3")
NOBODY = -1
ON, OFF, FROZEN, GONE = "on", "off", "frozen", "gone"  # gone: without power for good
# What a secondary holds back for a planned switch: all since the latest checkpoint; something that a checkpoint may
# have taken back; nothing any more: its guest speaks (of a torn one: what it should not say).
CLEAN, TORN, OPEN, OPEN_TORN = "clean", "torn", "open", "open and torn"
ALONE, PRIMARY, WAITING, SECONDARY, ENDED = "alone", "primary", "waiting", "secondary", "ended"


class Body(NamedTuple):
    """What an arbitration record says."""

    uid: int
    epoch: int
    primary: int
    secondary: int
    sync: str
    spares: tuple[int, ...] = ()


class Rec(NamedTuple):
    """One version of it in the store."""

    rev: int
    request: str
    body: Body


class Wish(NamedTuple):
    """The desired state that an operator stored."""

    uid: int = 1
    run: str = "running"
    protect: bool = True
    deleting: bool = False
    restarts: int = 0


class Told(NamedTuple):
    """The Observed record of one host."""

    uid: int
    epoch: int
    role: CopyRole | None
    stage: CopyStage
    listening: int
    error: bool
    restarts: int


class Store(NamedTuple):
    """All records; an agent's mirror is one of these as it once was."""

    rec: Rec | None
    wish: Wish | None
    told: tuple[Told | None, ...]
    drained: int = NOBODY  # the host that an operator empties


class Saved(NamedTuple):
    """hostagent.supervisor.state.CopyState."""

    uid: int = 0
    role: CopyRole | None = None
    stage: CopyStage = CopyStage.ABSENT
    epoch: int = 0
    highest: int = 0
    plan: int = 0  # the epoch of the lockstep that it is in; 0: none
    listening: int = 0
    restarts: int = 0
    machine: bool = False


class Job(NamedTuple):
    """An action under way: the next step, and the record that it began with."""

    action: Action
    at: int
    rec: Rec | None
    planned: bool = False
    probe: bool = False
    restarts: int = 0  # of the desired state at its beginning


class Agent(NamedTuple):
    """The memory of a running agent."""

    mem: Saved
    mirror: Store
    job: Job | None = None
    colo_ended: bool = False
    seen: int = 0  # checkpoints: 0, 1, 3 (then proven)
    reset: bool = False
    off: bool = False  # the guest shut itself down
    failed: Action | None = None
    due: bool = True  # the pause after a failure has passed
    attempt: int = 0
    silence: tuple[int, int, int] = (NOBODY, 0, 0)  # peer, management, replication: see `agent.silence`
    store_silent: int = 0
    stall: int = 0
    dead: frozenset[tuple[int, int]] = frozenset()  # what it tells of its own copies: (uid, epoch)
    heard: frozenset[tuple[int, int, int]] = frozenset()  # what it heard: (host, uid, epoch)
    slow: bool = False  # the process stands still
    deaf: bool = False  # its watch delivers nothing
    unread: bool = False  # QEMU has not answered since this agent began
    mute: bool = False  # what it publishes does not arrive
    fence: int = 0  # its timer lifts the fence of a planned switch from this epoch


class Qemu(NamedTuple):
    """A process. `boot` is 0: no step ends one and starts another. `epoch` is the one in whose name it was last told
    something, `plan` that of its lockstep."""

    boot: int
    uid: int
    mode: str
    epoch: int
    plan: int = 0
    peer: int = NOBODY  # where the other end of its lockstep is
    running: bool = True
    hung: bool = False
    tap: bool = False
    off: bool = False  # its guest shut itself down
    fence: int = (
        0  # primary: mute for a switch under this epoch; lifted again: that epoch as a negative number
    )
    hold: str = ""  # secondary: what it sends waits; see HOLDS


class Disk(NamedTuple):
    """The files of a copy: `state` as its record says, `fresh` whether every acknowledged write is in them, `hidden`
    whether the newest ones are in layers that the record does not name (a promoted guest writes there)."""

    uid: int
    epoch: int
    state: str  # clean, dirty, unsettled
    fresh: bool
    hidden: bool = False


class Host(NamedTuple):
    """A machine."""

    power: str = ON
    agent: Agent | None = None
    saved: Saved | None = None
    qemu: Qemu | None = None
    disk: Disk | None = None


class Swap(NamedTuple):
    """A commit of the record that nobody waits for any more, and that may still arrive."""

    host: int
    base: int
    after: Rec


class World(NamedTuple):
    """Everything."""

    store: Store
    hosts: tuple[Host, ...]
    cuts: frozenset[tuple[int, int, str]] = frozenset()  # (from, to, network)
    flights: tuple[Swap, ...] = ()
    commands: int = 0  # that operators gave

    def host(self, h: int, **changes: Any) -> World:
        """The world with another host `h`."""
        return self._replace(hosts=(*self.hosts[:h], self.hosts[h]._replace(**changes), *self.hosts[h + 1 :]))

    def agent(self, h: int, **changes: Any) -> World:
        """The world with other memory in the agent of host `h`."""
        agent = self.hosts[h].agent
        assert agent is not None
        return self.host(h, agent=agent._replace(**changes))

    def qemu(self, h: int, **changes: Any) -> World:
        """The world with another state of the process on host `h`."""
        qemu = self.hosts[h].qemu
        assert qemu is not None
        return self.host(h, qemu=qemu._replace(**changes))

    def mem(self, h: int, **changes: Any) -> World:
        """As `Copy.mark_stage`: in memory alone."""
        agent = self.hosts[h].agent
        assert agent is not None
        return self.agent(h, mem=agent.mem._replace(**changes))

    def save(self, h: int, **changes: Any) -> World:
        """As `Copy.save`: in memory and durably on disk."""
        agent = self.hosts[h].agent
        assert agent is not None
        mem = agent.mem._replace(**changes)
        if mem.uid and mem.uid != agent.mem.uid:
            mem = mem._replace(highest=0)
        mem = mem._replace(highest=max(mem.highest, mem.epoch))
        return self.host(h, agent=agent._replace(mem=mem), saved=mem)


def first_world() -> World:
    """A VM was just created; nothing of it is placed."""
    store = Store(rec=None, wish=Wish(), told=(None, None, None))
    return World(store, tuple(Host(agent=Agent(Saved(), store)) for _ in HOSTS))

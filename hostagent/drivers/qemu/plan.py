"""The plan of one lockstep: addresses, ports and the names of everything that is added for it. Pure.

Both sides derive the same plan from the pair's record. Names carry the epoch, so that what an earlier
lockstep left behind can neither collide with this one nor be taken for its own. The rewriter alone has a name
without an epoch: it stays with the guest for as long as that QEMU runs, since live TCP sessions need its
offsets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from hostagent.drivers.qemu.spec import VM_DIR
from vdc.model.manifest import MAX_NICS

FIRST_PORT: Final = 21000
PORTS_PER_SLOT: Final = 16
LAST_SLOT: Final = (65535 - FIRST_PORT) // PORTS_PER_SLOT - 1

_EPOCH_IN_ID = re.compile(r"[a-z]+[0-9]+-e([0-9]+)")


def epoch_in(name: str) -> int | None:
    """The epoch that a dynamic name carries; None for any other name."""
    match = _EPOCH_IN_ID.fullmatch(name)
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class LockstepPorts:
    """TCP ports of one pair. The primary listens on mirror and compare, the secondary on nbd and migration.

    The secondary's two rotate with the epoch, so that a primary of an earlier epoch finds nobody. The
    primary's need not: a secondary connects once and never again.
    """

    mirror: tuple[int, ...]
    compare: tuple[int, ...]
    nbd: int
    migration: int

    @classmethod
    def for_slot(cls, slot: int, epoch: int) -> Self:
        """The ports of the pair that holds `slot` (0 to `LAST_SLOT`)."""
        if not 0 <= slot <= LAST_SLOT:
            raise ValueError(f"slot {slot} is not in 0..{LAST_SLOT}")
        base = FIRST_PORT + slot * PORTS_PER_SLOT
        return cls(
            mirror=tuple(base + j for j in range(MAX_NICS)),
            compare=tuple(base + MAX_NICS + j for j in range(MAX_NICS)),
            nbd=base + 2 * MAX_NICS + epoch % 4,
            migration=base + 2 * MAX_NICS + 4 + epoch % 4,
        )


@dataclass(frozen=True, slots=True)
class LockstepPlan:
    """Everything that both sides of one pair have to agree on for one epoch."""

    epoch: int
    disks: int
    nics: int
    primary_address: str
    secondary_address: str
    ports: LockstepPorts
    insert_behind_rewriter: bool = False  # the primary was promoted before and still has its rewriters
    checkpoint_ms: int = 300
    downtime_limit_ms: int = 0  # anything else lets stale pages through; the memory test's control uses it
    min_passes: int = 2  # over the guest's memory while it runs
    stop_below_bytes: int = 4 * 1024**2
    live_copy_limit_s: float = 60.0  # then the guest is stopped however much remains
    stopped_limit_s: float = 15.0  # longest the guest may stand still before the attempt is undone
    bases: tuple[bool, ...] = ()  # per disk: the secondary's image has the same base below it
    changes_since: str = ""  # the dirty bitmap that tells what the secondary's older copy lacks
    copy_bytes_per_s: int = 0  # of each disk and of the memory; 0: as fast as it goes
    is_encrypted: bool = True  # only the control of a measurement or a test says no

    def _id(self, stem: str, index: int) -> str:
        return f"{stem}{index}-e{self.epoch}"

    @property
    def server_credentials(self) -> str:
        """Both sides: the TLS object of what accepts connections."""
        return self._id("tlss", 0)

    @property
    def client_credentials(self) -> str:
        """Both sides: the TLS object of what connects."""
        return self._id("tlsc", 0)

    @property
    def nbd_server(self) -> str:
        """Secondary: the descriptor on which it offers its disks."""
        return self._id("nbds", 0)

    @property
    def migration(self) -> str:
        """Both sides: the descriptor of the connection for memory and checkpoints."""
        return self._id("mig", 0)

    def mirror_chardev(self, nic: int) -> str:
        """Primary: copies of what the guest receives, to the secondary."""
        return self._id("mirror", nic)

    def compare_chardev(self, nic: int) -> str:
        """Primary: what the secondary's guest sends."""
        return self._id("cmps", nic)

    def local_chardevs(self, nic: int) -> tuple[str, str, str, str]:
        """Primary: two socket pairs in one process, as (server, client) twice: to and from the comparer."""
        return self._id("cmp", nic), self._id("cmpc", nic), self._id("out", nic), self._id("outc", nic)

    def local_socket(self, chardev: str) -> str:
        """The path, inside the sandbox, of a local pair whose server is `chardev`."""
        return f"{VM_DIR}/{chardev}.sock"

    def mirror_filter(self, nic: int) -> str:
        """Primary: filter-mirror."""
        return self._id("m", nic)

    def inbound_filter(self, nic: int) -> str:
        """Primary: filter-redirector from the comparer to the wire."""
        return self._id("ra", nic)

    def outbound_filter(self, nic: int) -> str:
        """Primary: filter-redirector from the guest to the comparer."""
        return self._id("rb", nic)

    def iothread(self, nic: int) -> str:
        """Primary: the comparer's thread."""
        return self._id("iot", nic)

    def comparer(self, nic: int) -> str:
        """Primary: colo-compare; deleting it opens the gate."""
        return self._id("comp", nic)

    def nbd_node(self, disk: int) -> str:
        """Primary: the secondary's disk."""
        return self._id("nbd", disk)

    def changes_node(self, disk: int) -> str:
        """Primary: the secondary's disk once more, for what changed since its older copy."""
        return self._id("nbdc", disk)

    def changes_job(self, disk: int) -> str:
        """Primary: the copy of what changed."""
        return self._id("diff", disk)

    def has_base(self, disk: int) -> bool:
        """Whether only what lies above the base has to be copied."""
        return disk < len(self.bases) and self.bases[disk]

    def replication_node(self, disk: int) -> str:
        """Primary: what the quorum writes to beside its own image."""
        return self._id("repl", disk)

    def watch_node(self, disk: int) -> str:
        """Primary: tells of writes that the secondary's disk refused; the replication driver keeps them quiet."""
        return self._id("watch", disk)

    def pair_node(self, disk: int) -> str:
        """Primary: own disk and the secondary's; a write that one of them refused is not done."""
        return self._id("pair", disk)

    def wall_node(self, disk: int) -> str:
        """Primary: refuses all I/O, for the moment in which the node below the guest is exchanged."""
        return self._id("wall", disk)

    def mirror_job(self, disk: int) -> str:
        """Primary: the first copy of the disk."""
        return self._id("sync", disk)

    def red_chardevs(self, nic: int) -> tuple[str, str]:
        """Secondary: from the primary's mirror, to the primary's comparer."""
        return self._id("redm", nic), self._id("redc", nic)

    def secondary_filters(self, nic: int) -> tuple[str, str]:
        """Secondary: f1 feeds the guest, f2 takes what the guest sends."""
        return self._id("fa", nic), self._id("fb", nic)

    def hold_filter(self, nic: int) -> str:
        """Secondary: holds back what the guest sends during a planned switch."""
        return self._id("hold", nic)

    def rewriter(self, nic: int) -> str:
        """Secondary: filter-rewriter, which a promoted VM keeps."""
        return f"rew{nic}"

    def export(self, disk: int) -> str:
        """Secondary: the NBD export of the disk's parent."""
        return self._id("exp", disk)

    def primary_chardevs(self) -> Iterator[str]:
        """Every chardev that the primary gets."""
        for j in range(self.nics):
            yield from (self.mirror_chardev(j), self.compare_chardev(j))
            # Clients before their servers: a server whose client has gone listens again.
            server1, client1, server2, client2 = self.local_chardevs(j)
            yield from (client1, client2, server1, server2)

    def primary_objects(self) -> Iterator[str]:
        """Every object that the primary gets, in the order of their removal."""
        for j in range(self.nics):
            yield self.comparer(j)
            yield self.iothread(j)
            yield from (self.mirror_filter(j), self.inbound_filter(j), self.outbound_filter(j))

"""A second gate for a primary in lockstep, in the kernel: its guest is heard while its secondary is.

QEMU's gate lets some packets of a primary go whose secondary has left: acknowledgements without data, what was
agreed to before and is sent again, ARP. While the agent lives it ends such a copy; where the agent is dead or
asleep, or QEMU was asleep with it, clients would hear a guest that has lost the arbitration.

So the kernel watches the TCP connection of the checkpoints, to the secondary's migration port. Each packet that
comes from there opens the guest's taps for `lapse_ms`; its end (FIN or RST: the secondary took over, or died)
closes them at once, and so does silence. What the comparer releases follows such a packet within that time, so
nothing is lost that lockstep lets go. When the guest goes on alone, its taps have to open before QEMU's gate does.

One nftables table per pair, of family netdev: its ingress hooks come before the bridge, and a set can be shared
by the hooks of several interfaces only within a table. The set has one element at most, the 0 that `numgen inc
mod 1` counts: a constant is not allowed as the key of a lookup.

Dangers: on a host that was suspended as a whole the timer stood still as well: up to `lapse_ms` may pass. A table
outlives taps and agents; it has to be taken away before a guest goes on alone, and before another QEMU uses the taps.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hostagent.drivers.net import nft
from hostagent.drivers.net.names import consent_table

LEAST_LAPSE_MS = 1500  # longer than the fence of a planned switch that is given up
_INTERVALS = 3
_KEY = "numgen inc mod 1"


def lapse_ms(checkpoint_ms: int) -> int:
    """How long the taps stay open after a packet: an idle pair sends once per checkpoint."""
    return max(LEAST_LAPSE_MS, _INTERVALS * checkpoint_ms)


@dataclass(frozen=True, slots=True)
class Consent:
    """Whose packets open which taps. `interface` is the one of the replication network."""

    uid: str
    taps: tuple[str, ...]
    interface: str
    secondary_address: str
    migration_port: int
    lapse_ms: int = LEAST_LAPSE_MS

    def rules(self) -> str:
        """The table for `nft -f`, open at first, in the place of an earlier one."""
        table, taps = consent_table(self.uid), ", ".join(f'"{tap}"' for tap in self.taps)
        return f"""{_removal(table)}table netdev {table} {{
  set heard {{ typeof {_KEY}; flags dynamic,timeout; timeout {self.lapse_ms}ms; }}
  chain from_secondary {{
    type filter hook ingress devices = {{ "{self.interface}" }} priority 0; policy accept;
    ip saddr {self.secondary_address} tcp sport {self.migration_port} jump checkpoints
  }}
  chain checkpoints {{
    tcp flags & (fin | rst) != 0 delete @heard {{ {_KEY} }} return
    update @heard {{ {_KEY} }}
  }}
  chain from_guest {{
    type filter hook ingress devices = {{ {taps} }} priority 0; policy accept;
    {_KEY} != @heard counter drop
  }}
}}
add element netdev {table} heard {{ 0 timeout {self.lapse_ms}ms }}
"""


async def require(consent: Consent) -> None:
    """From now on the guest is heard by its secondary's consent alone. Idempotent; raises NftError."""
    if not consent.taps:
        return
    await nft.apply(consent.rules())


async def end(uid: str) -> None:
    """The guest needs nobody's consent. Harmless where it did not; raises NftError."""
    await nft.apply(_removal(consent_table(uid)))


async def present() -> frozenset[str]:
    """The names of all tables that are in force (`consent_table` makes them); none where nft cannot say."""
    try:
        return frozenset(name for name in await nft.tables("netdev") if name.startswith(consent_table()))
    except nft.NftError:
        return frozenset()  # without nft, or netdev tables, there was never one


async def end_if_any(uid: str) -> None:
    """As `end`, for one that a QEMU before this one may have left. Raises NftError where it is there and stays."""
    if consent_table(uid) in await present():
        await end(uid)


async def sweep(known: Collection[str]) -> list[str]:
    """Remove the tables of all VMs but these (uids); returns their names. Raises NftError."""
    stale = sorted(await present() - {consent_table(uid) for uid in known})
    if stale:
        await nft.apply("".join(map(_removal, stale)))
    return stale


def _removal(table: str) -> str:
    return f"add table netdev {table}\ndelete table netdev {table}\n"

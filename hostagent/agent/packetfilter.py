"""Keeps this host's packet filter: what guests may send and reach, and who is let in from the other networks.

The hosts are those of the records, and of the configuration where it names etcd's members. What was let in last is
on this host's disk, so that an agent that starts without a store neither locks out the peer of a running lockstep
nor lets strangers in; an agent that never knew the cluster waits for its records. A host whose record is gone is
let in for `FORGET_S` more: a store that is being replaced is empty for a moment.

Rules stay when the agent ends, and are put back when somebody takes them away (a firewall that is loaded anew).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import NamedTuple

import structlog

from hostagent.config import AgentConfig
from hostagent.drivers.net import OverlayNetwork, guard, nft, underlay
from hostagent.drivers.process.files import write_atomically
from vdc.control.clock import Clock
from vdc.model.errors import VdcError
from vdc.model.host import Host
from vdc.store import keys
from vdc.store.mirror import Mirror

FILE = "hosts-let-in.json"
FORGET_S = 30.0
KEEP_EVERY_S = 5.0


class Legs(NamedTuple):
    """A host's addresses on the two networks; `replication` is empty where it has none."""

    management: str
    replication: str


class PacketFilter:
    """One per agent; a witness has no overlay. `trouble` says in a sentence what could not be set, for `vdc doctor`."""

    def __init__(self, config: AgentConfig, clock: Clock, overlay: OverlayNetwork | None = None) -> None:
        self._config = config
        self._clock = clock
        self._overlay = overlay
        self._file = config.state_dir / FILE
        self._heard_at_s: dict[Legs, float] = {}
        self._in_force = ""  # the underlay's rules
        self._log = structlog.get_logger()
        self.trouble = ""

    async def begin(self) -> None:
        """Before a guest's port is made: guests' confinement, and the hosts of the last time."""
        now_s = self._clock.boottime_s()
        self._heard_at_s = dict.fromkeys(self._remembered(), now_s)
        await self._put_right()

    async def run(self, mirror: Mirror) -> None:
        """Follow the records and look after the rules, for ever."""
        changed = asyncio.Event()
        mirror.subscribe(lambda key: changed.set() if not key or key.startswith(keys.HOSTS) else None)
        while True:
            if mirror.synced.is_set():
                self._hear(found.value for found in mirror.hosts.values())
            await self._put_right()
            try:
                async with asyncio.timeout(KEEP_EVERY_S):
                    await changed.wait()
            except TimeoutError:
                continue
            changed.clear()

    def _hear(self, hosts: Iterable[Host]) -> None:
        now_s = self._clock.boottime_s()
        recent = {legs: at for legs, at in self._heard_at_s.items() if now_s - at < FORGET_S}
        heard = (Legs(host.management_address, host.replication_address) for host in hosts)
        self._heard_at_s = {**recent, self._own_legs(): now_s, **dict.fromkeys(heard, now_s)}

    async def _put_right(self) -> None:
        try:
            await self._set_rules()
            trouble = ""
        except VdcError as error:
            trouble = f"the packet filter cannot be set: {error}"
        if trouble and trouble != self.trouble:
            self._log.warning(trouble)
        self.trouble = trouble

    async def _set_rules(self) -> None:
        overlay, is_there = self._overlay, await nft.are_present(self._tables())
        if overlay is not None and not (is_there and overlay.is_secured):
            await guard.ensure()
            await overlay.secure()
        if not self._heard_at_s:
            return
        wanted = underlay.rules(self._underlay(), self._admitted())
        if not is_there or wanted != self._in_force:
            await self._remember()  # first: who is let in now must be after a restart
            await nft.apply(wanted)
            self._in_force = wanted

    def _tables(self) -> frozenset[str]:
        own = {guard.NAME, *self._overlay.tables} if self._overlay is not None else set()
        return frozenset(own | ({underlay.NAME} if self._in_force else set()))

    def _own_legs(self) -> Legs:
        config = self._config
        return Legs(
            str(config.management.address), str(config.replication.address) if config.has_replication else ""
        )

    def _underlay(self) -> underlay.Underlay:
        config, embedded = self._config, self._config.etcd.embedded
        return underlay.Underlay(
            management_interface=config.management.interface,
            replication_interface=config.replication.interface,
            replication_address=config.replication.address if config.has_replication else None,
            heartbeat_port=config.heartbeat_port,
            etcd_peer_port=embedded.peer_port if embedded else None,
        )

    def _admitted(self) -> underlay.Admitted:
        config, embedded = self._config, self._config.etcd.embedded
        management = _addresses(legs.management for legs in self._heard_at_s)
        replication = _addresses(legs.replication for legs in self._heard_at_s)
        members = frozenset(embedded.members.values()) if embedded else frozenset()
        return underlay.Admitted(
            hosts=management | replication | members,
            replication=replication,
            endpoints=management | _addresses(config.network.external_vteps),
        )

    def _remembered(self) -> list[Legs]:
        try:
            return [Legs(str(one), str(other)) for one, other in json.loads(self._file.read_text())]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            self._log.warning(
                "the hosts of the last time cannot be read", file=str(self._file), why=str(error)
            )
            return []

    async def _remember(self) -> None:
        text = json.dumps(sorted(self._heard_at_s))
        try:
            await asyncio.to_thread(write_atomically, self._file, text)
        except OSError as error:  # a full disk lets nobody in
            self._log.warning("who is let in cannot be remembered", file=str(self._file), why=str(error))


def _addresses(texts: Iterable[str]) -> frozenset[IPv4Address]:
    """Those that are addresses: a record with anything else in it lets nobody in."""
    found = set()
    for text in texts:
        try:
            found.add(IPv4Address(text))
        except ValueError:
            continue
    return frozenset(found)

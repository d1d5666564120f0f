"""One overlay network on this host: the supervisor's way to bridges, taps and forwarding entries.

Invariants:
- Each method is one job on the netlink thread: jobs run one after the other and whole, so concurrent callers
  never see or leave half a state, and every method may be repeated.
- A guest's MAC has a static entry on every host: where it lives, a black hole towards the outside;
  elsewhere, its primary's endpoint. The kernel drops frames that claim the MAC from anywhere else: a second
  fence.
- Only interfaces that carry the ownership tag are changed or deleted.
- What a guest may send (portsecurity.py) is in force before its tap is made, and is not touched when it goes live.

Dangers: `go_live` gives a guest its voice; call it only after the arbitration was won. Before a MAC is placed
elsewhere its tap here has to be silent.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from typing import TypeVar

from hostagent.drivers.net import doors, messages, names, nft, ports, portsecurity, segment
from hostagent.drivers.net.errors import KernelRefusedError
from hostagent.drivers.net.netlink import Netlink
from hostagent.drivers.net.nudge import Nudger
from hostagent.drivers.net.placement import plan_placements
from hostagent.drivers.net.ports import Port, PortState
from hostagent.drivers.net.portsecurity import Binding
from hostagent.drivers.net.segment import Segment
from vdc.model.network import Network

T = TypeVar("T")

_STALE_INDEX = frozenset({errno.ENODEV, errno.ENXIO, errno.EINVAL, errno.EOPNOTSUPP})


class OverlayNetwork:
    """This host's end of one overlay. Works in the network namespace of the process."""

    def __init__(
        self,
        network: Network,
        *,
        vtep_address: IPv4Address | str,
        overlay_address: IPv4Address | str,
        underlay_interface: str,
        netlink: Netlink | None = None,
    ) -> None:
        self._segment = Segment(network, IPv4Address(vtep_address), IPv4Address(overlay_address))
        self._underlay = underlay_interface
        self._netlink = netlink or Netlink()
        self._owns_netlink = netlink is None
        self._bridge = 0  # interface indexes; 0: not looked up yet
        self._vxlan = 0
        self._taps: dict[str, int] = {}
        self._nudger: Nudger | None = None
        self._filtering = asyncio.Lock()  # taps and the rules for them change together
        self.is_secured = False  # the rules are those of the taps; where not, `secure` is due

    @property
    def tables(self) -> frozenset[str]:
        """The nftables tables that `secure` makes, each with its family."""
        name = self._segment.network.name
        own = {f"{family} {names.doors_table(name)}" for family in doors.FAMILIES}
        return frozenset({f"bridge {names.ports_table(name)}", *own})

    @property
    def bridge(self) -> str:
        """The bridge's interface name (dnsmasq listens there)."""
        return self._segment.bridge

    @property
    def vxlan(self) -> str:
        """The VXLAN's interface name."""
        return self._segment.vxlan

    async def close(self) -> None:
        """Release the socket; everything in the kernel stays as it is."""
        if self._nudger is not None:
            self._nudger.close()
        if self._owns_netlink:
            await self._netlink.close()

    async def ensure(self, peers: Sequence[str]) -> tuple[str, ...]:
        """Bring bridge, VXLAN, address and flood list to what they should be; returns what was changed.

        `peers` are the VXLAN endpoints of the other hosts. Raises ForeignLinkError, KernelRefusedError.
        """

        def job() -> tuple[str, ...]:
            self._bridge, self._vxlan, changes = segment.reconcile(self._netlink, self._segment, peers)
            return tuple(changes)

        return await self._netlink.run(f"ensure {self.bridge}", job)

    async def check_underlay(self) -> str:
        """Say in one sentence what is wrong with the underlay interface; empty when nothing is."""
        needed = self._segment.network.mtu + segment.VXLAN_OVERHEAD_BYTES

        def job() -> str:
            link = segment.find_link(self._netlink, self._underlay)
            if link is None:
                return f"underlay interface {self._underlay} does not exist"
            if not link.is_up:
                return f"underlay interface {self._underlay} is down"
            if link.mtu < needed:
                return f"underlay interface {self._underlay} has MTU {link.mtu}; the overlay needs {needed}"
            return ""

        return await self._netlink.run(f"check {self._underlay}", job)

    async def secure(self) -> None:
        """Set the rules for what guests may send and reach, of the taps that are there. Raises NftError."""
        async with self._filtering:
            await self._secure([])

    async def attach_port(self, port: Port, *, live: bool, owner: int | None = None) -> None:
        """Make the tap (or adopt it) and put it into (`live`) or beside the bridge; QEMU opens it by name.

        Raises NftError, and makes none, where the rules for what it may send cannot be set.
        """
        network, binding = self._segment.network, port.binding

        def job() -> None:
            link = ports.prepare(self._netlink, network.name, network.mtu, port, owner)
            self._taps[port.ifname] = link.index
            if live:
                self._join([(port.ifname, port.mac)])
            else:
                self._netlink.batch_now(
                    [*ports.silence_requests([port.ifname]), messages.set_up(port.ifname, noarp=True)]
                )

        async with self._filtering:
            await self._admit(binding)
            try:
                await self._netlink.run(f"attach {port.ifname}", job)
            except BaseException:
                await self._refill(await self.list_ports())
                raise

    async def go_live(self, members: Sequence[tuple[str, str]]) -> None:
        """Promotion: let (tap, MAC) speak. One `sendmsg`; the taps have been attached before."""
        await self._netlink.run("go live", lambda: self._join(members))

    async def go_listen(self, *ifnames: str) -> None:
        """Before a planned promotion: let taps receive from the bridge while what they send is dropped."""

        def job() -> None:
            self._netlink.batch_now(ports.listen_requests(self._indexes()[0], ifnames))

        await self._netlink.run("go listen", lambda: self._with_fresh_indexes(job))

    async def go_silent(self, *ifnames: str) -> None:
        """Fencing: take taps out of the bridge. A tap that does not exist is silent."""
        await self._netlink.run("go silent", lambda: self._netlink.batch_now(ports.silence_requests(ifnames)))

    def nudge(self, *ifnames: str) -> None:
        """A guest ran on: let QEMU's rewriter hand on what it put aside meanwhile (nudge.py)."""
        if self._nudger is None:
            self._nudger = Nudger()
        self._nudger.nudge(ifnames)

    async def place(self, placements: Mapping[str, str | None]) -> None:
        """Write where MACs live: their host's endpoint, or None for this host. Others stay as they are."""
        wanted = self._normalised(placements)

        def job() -> None:
            vxlan = self._indexes()[1]
            self._netlink.batch_now([messages.place_mac(vxlan, mac, vtep) for mac, vtep in wanted.items()])

        await self._netlink.run("place", lambda: self._with_fresh_indexes(job))

    async def sync_placements(self, placements: Mapping[str, str | None]) -> tuple[str, ...]:
        """Make these the only placements; returns what was changed."""
        wanted = self._normalised(placements)

        def job() -> tuple[str, ...]:
            vxlan = self._indexes()[1]
            plan = plan_placements(wanted, segment.read_fdb(self._netlink, vxlan))
            requests = [
                *(messages.place_mac(vxlan, mac, vtep) for mac, vtep in plan.write),
                *(messages.unplace_mac(vxlan, mac) for mac in plan.forget),
            ]
            self._netlink.batch_now(requests)
            return tuple(request.what for request in requests)

        return await self._netlink.run("sync placements", lambda: self._with_fresh_indexes(job))

    async def placements(self) -> dict[str, str | None]:
        """Read the static placements that the kernel has now."""

        def job() -> dict[str, str | None]:
            entries = segment.read_fdb(self._netlink, self._indexes()[1])
            return {e.mac: e.vtep for e in entries if e.is_static and e.mac != messages.FLOOD_MAC}

        return await self._netlink.run("read placements", lambda: self._with_fresh_indexes(job))

    async def list_ports(self) -> list[PortState]:
        """Every tap of this network, of whichever run of the agent."""
        return await self._netlink.run("list ports", lambda: [state for _, state in self._find_ports()])

    async def remove_port(self, ifname: str) -> None:
        """Delete a tap and, where its MAC was placed here, that placement. A missing tap is fine."""
        async with self._filtering:
            left = await self._netlink.run(f"remove {ifname}", lambda: self._remove_ports({ifname}))
            await self._refill(left)

    async def sweep(self, known: Collection[str]) -> list[str]:
        """Delete the taps whose Endophyte's uid is not known; returns their names."""

        def job() -> tuple[list[str], list[PortState]]:
            stale = {state.ifname for _, state in self._find_ports() if state.uid not in known}
            return sorted(stale), self._remove_ports(stale)

        async with self._filtering:
            stale, left = await self._netlink.run("sweep ports", job)
            if stale:
                await self._refill(left)
        return stale

    async def remove(self) -> None:
        """Delete everything of this network: taps, VXLAN, bridge, rules."""

        def job() -> None:
            tag = names.network_tag(self._segment.network.name)
            requests = [messages.delete_link(link.index, link.name) for link, _ in self._find_ports()]
            for ifname, kind in ((self.vxlan, "vxlan"), (self.bridge, "bridge")):
                link = segment.find_own(self._netlink, ifname, kind, tag)
                if link is not None:
                    requests.append(messages.delete_link(link.index, ifname))
            self._netlink.batch_now(requests)
            self._forget_indexes()

        async with self._filtering:
            await self._netlink.run(f"remove {self.bridge}", job)
            with suppress(nft.NftError):  # without nft there are none
                await nft.apply(portsecurity.removal(self._segment) + doors.removal(self._segment))

    async def _admit(self, binding: Binding) -> None:
        added = doors.admission(self._segment, [binding.ifname])
        try:
            await nft.apply(portsecurity.admission(self._segment, [binding]) + added)
        except nft.NftError:  # most likely somebody took the tables away
            await self._secure([binding])

    async def _secure(self, more: Iterable[Binding]) -> None:
        bindings = [*ports.bindings_of(await self.list_ports()), *more]
        taps = [binding.ifname for binding in bindings]
        await nft.apply(portsecurity.rules(self._segment, bindings) + doors.rules(self._segment, taps))
        self.is_secured = True

    async def _refill(self, left: Iterable[PortState]) -> None:
        """After taps went: their guests' addresses may be given to others now, on other hosts."""
        bindings = ports.bindings_of(left)
        taps = [binding.ifname for binding in bindings]
        script = portsecurity.refilling(self._segment, bindings) + doors.refilling(self._segment, taps)
        try:
            await nft.apply(script)
        except nft.NftError:  # taps can go without nft too
            self.is_secured = False

    # What follows runs within jobs.

    def _normalised(self, placements: Mapping[str, str | None]) -> dict[str, str | None]:
        """Lower-case MACs; this host's own endpoint means "here", or frames would come back in a loop."""
        own = str(self._segment.vtep_address)
        return {
            mac.lower(): None if vtep is None or str(vtep) == own else str(vtep)
            for mac, vtep in placements.items()
        }

    def _indexes(self) -> tuple[int, int]:
        """(bridge, VXLAN) from memory or, after a restart of the agent, from the kernel."""
        if not self._bridge or not self._vxlan:
            tag = names.network_tag(self._segment.network.name)
            bridge = segment.find_own(self._netlink, self.bridge, "bridge", tag)
            vxlan = segment.find_own(self._netlink, self.vxlan, "vxlan", tag)
            if bridge is None or vxlan is None:
                missing = self.bridge if bridge is None else self.vxlan
                raise KernelRefusedError(f"look up {missing}", errno.ENODEV)
            self._bridge, self._vxlan = bridge.index, vxlan.index
        return self._bridge, self._vxlan

    def _tap_index(self, ifname: str) -> int:
        if ifname not in self._taps:
            link = segment.find_link(self._netlink, ifname)
            if link is None:
                raise KernelRefusedError(f"look up {ifname}", errno.ENODEV)
            self._taps[ifname] = link.index
        return self._taps[ifname]

    def _forget_indexes(self) -> None:
        self._bridge = self._vxlan = 0
        self._taps.clear()

    def _with_fresh_indexes(self, job: Callable[[], T]) -> T:
        """Run a job; where an interface has another index than remembered, look it up and run it again."""
        try:
            return job()
        except KernelRefusedError as error:
            if error.number not in _STALE_INDEX:
                raise
            self._forget_indexes()
            return job()

    def _join(self, members: Sequence[tuple[str, str]]) -> None:
        def job() -> None:
            bridge, vxlan = self._indexes()
            resolved = [(ifname, self._tap_index(ifname), mac.lower()) for ifname, mac in members]
            self._netlink.batch_now(ports.join_requests(bridge, vxlan, resolved))

        self._with_fresh_indexes(job)

    def _find_ports(self) -> list[tuple[messages.Link, PortState]]:
        bridge = segment.find_link(self._netlink, self.bridge)
        return ports.find_ports(self._netlink, self._segment.network.name, bridge.index if bridge else 0)

    def _remove_ports(self, ifnames: Collection[str]) -> list[PortState]:
        """Returns those that are left."""
        found = self._find_ports()
        doomed = [(link, state) for link, state in found if state.ifname in ifnames]
        requests = [messages.delete_link(link.index, link.name) for link, _ in doomed]
        vxlan = segment.find_link(self._netlink, self.vxlan)
        if doomed and vxlan is not None:
            macs = {state.mac for _, state in doomed}
            for entry in segment.read_fdb(self._netlink, vxlan.index):
                if entry.mac in macs and entry.is_static and entry.vtep is None:
                    requests.append(messages.unplace_mac(vxlan.index, entry.mac))
        self._netlink.batch_now(requests)
        for ifname in ifnames:
            self._taps.pop(ifname, None)
        return [state for _, state in found if state.ifname not in ifnames]

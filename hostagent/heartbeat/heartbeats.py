"""Sending and hearing heartbeats on the management and the replication network.

Every `heartbeat_ms` one datagram to every peer on each network. A peer whose heartbeats stay out for half the
time that makes it suspect is asked by ICMP echo; one that answers neither way for the whole of that time is
suspect. A look that comes late (this process was starved, the machine was suspended) judges nothing: what
waits in the sockets is read first. That keeps a busy machine from suspecting the whole world.

A replication network that has just come back may go again: it is *settled* once both ends have heard each
other without a break for `SETTLED_S`. That changes no decision about a copy that exists; it keeps a new one
from being filled over a dead or flapping link.

A peer that does not hear us says so (`Content.deaf_to`): where only our direction is cut, we learn it from it.

A heartbeat counts only if the peer itself sealed it for us and for this network, if it was not heard before, and if
it names the present start of our agent (`Seal`, `Order`). Between agents that know each other this takes no store:
who has been restarted is heard with its first heartbeat, and hears the next one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping

from hostagent.heartbeat.echo import Echo
from hostagent.heartbeat.link import Link
from hostagent.heartbeat.message import Content, Heading, decode, encode, parse
from hostagent.heartbeat.order import NetworkKind, Order, Refusal
from hostagent.heartbeat.peer import Introduction, Peer
from vdc.control.clock import Clock

_LATE_S = 0.03
_ASK_EVERY_S = 0.025
SETTLED_S = 3.0
_DEAF_S = 0.1  # less than a secondary's own head start: the primary is to be first (see `is_deaf`)
_ANSWER_S = (
    0.075  # three questions long: that an echo is given before silence counts, however long it has lasted
)


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, hear: Callable[[bytes, str], None]) -> None:
        self._hear = hear

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._hear(data, addr[0])

    def error_received(self, exc: Exception) -> None:
        """A peer's port is closed or the network is down: silence says it all."""


class Heartbeats:
    """One per agent. `on_change` is called when a link falls silent, is heard again, or a copy's death is told."""

    def __init__(
        self,
        host: str,
        incarnation: int,
        addresses: Mapping[NetworkKind, str],
        port: int,
        *,
        heartbeat_ms: int,
        suspect_ms: int,
        clock: Clock,
        on_change: Callable[[str], None],
    ) -> None:
        self._host = host
        self._incarnation = incarnation
        self._addresses = addresses
        self._port = port
        self._interval_s = heartbeat_ms / 1000
        self._suspect_ms = float(suspect_ms)
        self._clock = clock
        self._on_change = on_change
        self._peers: dict[str, Peer] = {}
        self._at: dict[tuple[NetworkKind, str], list[tuple[str, Peer]]] = {}  # who may send from an address
        self._orders: dict[
            bytes, Order
        ] = {}  # by key: that a peer was gone for a while lets nothing count twice
        self._dead: dict[tuple[str, int], None] = {}
        self._transports: dict[NetworkKind, asyncio.DatagramTransport] = {}
        self._echoes: dict[NetworkKind, Echo] = {}
        self._sequence = 0
        self._lineage = 0
        self._body = self._content()

    async def start(self) -> None:
        """Open both sockets. Raises OSError where an address is not this host's."""
        loop = asyncio.get_running_loop()
        for network in self._addresses:
            transport, _ = await loop.create_datagram_endpoint(
                lambda network=network: _Receiver(lambda data, source: self._hear(network, data, source)),  # type: ignore[misc]
                local_addr=(self._addresses[network], self._port),
            )
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
            self._transports[network] = transport
            self._echoes[network] = Echo(
                self._addresses[network],
                self._clock.boottime_s,
                lambda source, asked_at_s, network=network: self._hear_echo(network, source, asked_at_s),  # type: ignore[misc]
            )

    def close(self) -> None:
        """Close the sockets."""
        for echo in self._echoes.values():
            echo.close()
        for transport in self._transports.values():
            transport.close()

    def set_peers(self, peers: Mapping[str, Introduction]) -> None:
        """The other hosts as their records introduce them; what is known of those that stay is kept."""
        now = self._clock.boottime_s()
        for name in self._peers.keys() - peers.keys():
            del self._peers[name]
        for name, introduction in peers.items():
            known = self._peers.get(name)
            if known is None or not known.introduction.is_at_the_same(introduction):
                links = {network: Link(now, self._interval_s) for network in introduction.addresses}
                order = self._orders.setdefault(introduction.key, Order()) if introduction.key else Order()
                known = self._peers[name] = Peer.introduced(self._host, name, introduction, order, links)
            known.introduction = introduction
        self._at = {}
        for name, peer in self._peers.items():
            for network, address in peer.introduction.addresses.items():
                self._at.setdefault((network, address), []).append((name, peer))

    def tell_dead(self, uid: str, epoch: int) -> None:
        """Tell every peer, now and with each heartbeat, that this host's copy under `epoch` has ended."""
        self._dead[uid, epoch] = None
        while len(self._dead) > 64:
            del self._dead[next(iter(self._dead))]
        self._body = self._content()
        self._send_all()

    def untell(self, uid: str) -> None:
        """A new copy of `uid` begins here; what was told of older ones is no longer of use."""
        for key in [key for key in self._dead if key[0] == uid]:
            del self._dead[key]
        self._body = self._content()

    def tell_lineage(self, lineage: int) -> None:
        """Tell every peer which lineage this host's etcd member belongs to."""
        self._lineage = lineage
        self._body = self._content()

    def newest_lineage(self) -> tuple[int, tuple[str, ...]]:
        """The highest lineage that any peer tells of, and who does."""
        newest = max((peer.lineage for peer in self._peers.values()), default=0)
        return newest, tuple(sorted(name for name, peer in self._peers.items() if peer.lineage == newest))

    def _content(self) -> bytes:
        deaf_to = tuple(name for name, peer in self._peers.items() if peer.suspected.get("replication"))
        return Content(tuple(self._dead), deaf_to, self._lineage).encode()

    def unheard_because(self, host: str) -> str:
        """Why `host` can never be heard as it is on record; empty where it can."""
        peer = self._peers.get(host)
        return peer.introduction.unheard_because if peer else ""

    def refused(self, host: str) -> Mapping[Refusal, int]:
        """How many datagrams from the addresses of `host` did not count, and why."""
        peer = self._peers.get(host)
        return peer.refused if peer else {}

    def silent_ms(self, host: str, network: NetworkKind) -> float:
        """Silence of a peer; 0 for one that is not known."""
        link = peer.links.get(network) if (peer := self._peers.get(host)) else None
        return link.silent_ms(self._clock.boottime_s()) if link else 0.0

    def suspect_ms(self, host: str) -> float:
        """The silence on both networks that is suspicious for this peer at present."""
        peer = self._peers.get(host)
        if peer is None:
            return self._suspect_ms
        return min(link.suspect_ms(self._suspect_ms) for link in peer.links.values())

    def says_dead(self, host: str, uid: str, epoch: int) -> bool:
        """Whether `host` told that its copy under `epoch` has ended."""
        peer = self._peers.get(host)
        return peer is not None and (uid, epoch) in peer.dead

    def is_suspected(self, host: str, network: NetworkKind) -> bool:
        """Whether the link was silent for too long when it was last looked at."""
        peer = self._peers.get(host)
        return peer is not None and peer.suspected[network]

    def unsettled(self) -> tuple[str, ...]:
        """Hosts with which the replication network does not work both ways, or has not for long enough."""
        now = self._clock.boottime_s()
        return tuple(sorted(name for name, peer in self._peers.items() if not peer.is_settled(now)))

    def settling(self) -> tuple[str, ...]:
        """Those of `unsettled` whose network works again, and only has to go on for a while."""
        now = self._clock.boottime_s()
        peers = [(name, peer) for name, peer in self._peers.items() if not peer.is_settled(now)]
        return tuple(sorted(name for name, peer in peers if peer.works))

    def is_deaf(self, host: str) -> bool:
        """Whether `host` has said for a while that it does not hear us on the replication network.

        A primary takes that for a cut and goes on alone before the secondary takes over: with only its own
        direction cut, QEMU lets bare TCP acknowledgements of it out that the secondary knows nothing of, and a
        client would never repeat what they acknowledge.
        """
        peer = self._peers.get(host)
        return peer is not None and peer.deafness_counts

    def is_silent(self, host: str) -> bool:
        """Whether nothing was heard of a known peer for too long, on any network that both have."""
        peer = self._peers.get(host)
        common = [network for network in peer.links if network in self._addresses] if peer else []
        return bool(common) and all(peer.suspected[network] for network in common if peer)

    async def run(self) -> None:
        """Send, ask and judge, for ever."""
        send_at = self._clock.boottime_s()
        while True:
            now = self._clock.boottime_s()
            if now >= send_at:
                self._send_all()
                send_at = max(send_at + self._interval_s, now)
            wake_at = min(send_at, self._judge(now))
            await asyncio.sleep(max(0.001, wake_at - self._clock.boottime_s()))
            if self._clock.boottime_s() - wake_at > _LATE_S:
                await asyncio.sleep(0.001)  # the loop reads every waiting socket before it comes back here

    # ---- inside

    def _send_all(self) -> None:
        self._sequence += 1
        for peer in self._peers.values():
            heading = Heading(self._incarnation, self._sequence, peer.incarnation)
            for network, seal in peer.seals_out.items():
                if (transport := self._transports.get(network)) is not None:
                    address = peer.introduction.addresses[network]
                    transport.sendto(encode(heading, self._body, seal), (address, self._port))

    def _hear(self, network: NetworkKind, data: bytes, source: str) -> None:
        for name, peer in self._at.get((network, source), ()):  # two only where a record is out of date
            seal = peer.seals_in.get(network)
            if seal is None:
                continue
            opened = decode(data, seal)
            if opened is None:
                peer.refused[Refusal.FORGED] += 1
                continue
            heading, body = opened
            least = peer.introduction.incarnation
            if (refusal := peer.order.refuse(heading, network, self._incarnation, least)) is not None:
                peer.refused[refusal] += 1
            elif (content := parse(body)) is None:
                peer.refused[Refusal.UNREADABLE] += 1
            else:
                self._count(name, peer, network, heading, content)
            return

    def _count(self, name: str, peer: Peer, network: NetworkKind, heading: Heading, content: Content) -> None:
        """Take in what a heartbeat says that counts."""
        now = self._clock.boottime_s()
        if heading.incarnation != peer.heard:
            peer.heard = heading.incarnation
            for link in peer.links.values():
                link.restart(now)
        peer.links[network].hear(now, heading.sequence)
        has_news = False
        if peer.suspected[network]:
            peer.suspected[network] = False
            has_news = True
            if network == "replication":
                peer.settles_at_s = now + SETTLED_S
                self._body = self._content()
        if peer.order.is_news(heading.sequence):
            has_news = self._take_in(peer, content, now) or has_news
        if has_news:
            self._on_change(name)

    def _take_in(self, peer: Peer, content: Content, now: float) -> bool:
        """Whether the newest content of a peer differs from what it said before."""
        has_news = (content.dead, content.lineage) != (peer.dead, peer.lineage)
        peer.dead, peer.lineage = content.dead, content.lineage
        if (is_deaf := self._host in content.deaf_to) is not peer.is_deaf:
            peer.is_deaf, peer.settles_at_s = is_deaf, now + SETTLED_S
            peer.deaf_at_s = now if is_deaf else float("inf")
            peer.deafness_counts = False
            has_news = True
        return has_news

    def _hear_echo(self, network: NetworkKind, source: str, asked_at_s: float) -> None:
        for _, peer in self._at.get((network, source), ()):
            peer.links[network].echo(asked_at_s)

    def _judge(self, now: float) -> float:
        """Ask who is late, suspect who has been silent for too long; returns when to look again."""
        again = now + self._interval_s
        is_deaf_now = False
        for name, peer in self._peers.items():
            changed = self._has_settled(peer, now)
            if not peer.deafness_counts and now >= peer.deaf_at_s + _DEAF_S:
                peer.deafness_counts = changed = True
            elif not peer.deafness_counts:
                again = min(again, peer.deaf_at_s + _DEAF_S)
            threshold = self.suspect_ms(name)
            for network, link in peer.links.items():
                if peer.suspected[network] or network not in self._echoes:
                    continue
                if link.agent_silent_ms(now) >= threshold / 2:
                    self._echoes[network].ask(peer.introduction.addresses[network])
                    link.asked_at_s = min(link.asked_at_s, now)
                    again = min(again, now + _ASK_EVERY_S)
                left_s = max((threshold - link.silent_ms(now)) / 1000, link.asked_at_s + _ANSWER_S - now)
                if left_s <= 0:
                    peer.suspected[network] = changed = True
                    is_deaf_now = is_deaf_now or network == "replication"
                else:
                    again = min(again, now + left_s)
            if changed:
                self._on_change(name)
        if is_deaf_now:
            self._body = self._content()
            self._send_all()
        return again

    @staticmethod
    def _has_settled(peer: Peer, now: float) -> bool:
        """Whether a network that had been broken has just become settled: told once."""
        if peer.settles_at_s == float("-inf") or not peer.is_settled(now):
            return False
        peer.settles_at_s = float("-inf")
        return True

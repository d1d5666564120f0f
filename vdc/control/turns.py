"""Whose turn it is to be copied to a secondary: one copy at a time per host, longest unprotected first.

A copy takes a network and two disks. Two at once on one host take longer until the first VM is safe, and never
less until the last is; so each host is in one copy at a time, as its source or as its target. Nobody waits for
ever: the hosts of the first in the queue are kept free for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from vdc.model.pair import Pair, SyncState


class Turns:
    """What one leader remembers of the queue: since when it has seen a VM wait, and what it has just begun."""

    def __init__(self) -> None:
        self._waiting_since_s: dict[str, float] = {}
        self._begun: dict[str, Pair] = {}
        self._reserved: frozenset[str] = frozenset()

    def began(self, pair: Pair) -> None:
        """This version was committed; the mirror may show it later."""
        self._begun[pair.name] = pair

    def in_turn(self, names: Iterable[str], pairs: Mapping[str, Pair], now_s: float) -> list[str]:
        """The names in the order in which they are looked at.

        First come those that this leader has seen without a trusted secondary for longest. Of those that it saw
        at the same time (a host failed, or the leader is new) the records' wall clocks tell; a wrong clock makes
        the order unfair and nothing else.
        """
        self._reserved = frozenset()
        unprotected = {name for name, pair in pairs.items() if pair.sync is not SyncState.IN_SYNC}
        self._waiting_since_s = {name: self._waiting_since_s.get(name, now_s) for name in unprotected}

        def rank(name: str) -> tuple[float, str, str]:
            if name not in unprotected:
                return (now_s, "~", name)
            return (self._waiting_since_s[name], pairs[name].unprotected_since, name)

        return sorted(names, key=rank)

    def reserve(self, *hosts: str) -> None:
        """A VM has to wait for these; until the next pass only the first such VM counts."""
        self._reserved = self._reserved or frozenset(hosts)

    def busy_hosts(self, pairs: Mapping[str, Pair], alive: Set[str]) -> frozenset[str]:
        """Hosts that are in a copy now, or are about to be. One whose other side is silent holds nobody up."""
        for name, begun in list(self._begun.items()):
            shown = pairs.get(name)
            if shown is None or shown.uid != begun.uid or shown.epoch >= begun.epoch:
                del self._begun[name]
        present = {**pairs, **self._begun}
        return self._reserved | frozenset(
            host
            for pair in present.values()
            if pair.sync is SyncState.SYNCING and set(pair.hosts) <= alive
            for host in pair.hosts
        )

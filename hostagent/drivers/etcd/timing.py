"""Whether the members are near enough to each other for their heartbeat and election timeouts.

etcd's tuning guide: heartbeat about the round trip between members, election at least ten times that.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping

from hostagent.config import EmbeddedEtcd

_SAMPLES = 5
_CONNECT_DEADLINE_S = 1.0


async def measure_rtt_ms(config: EmbeddedEtcd, host: str) -> dict[str, float | None]:
    """The median time of a TCP handshake with each other member; None where one does not listen."""
    others = [one for one in sorted(config.members) if one != host]
    found = await asyncio.gather(
        *(_handshake_ms(str(config.members[one]), config.peer_port) for one in others)
    )
    return dict(zip(others, found, strict=True))


async def _handshake_ms(address: str, port: int) -> float | None:
    samples = []
    for _ in range(_SAMPLES):
        started = time.monotonic()
        try:
            async with asyncio.timeout(_CONNECT_DEADLINE_S):
                _, writer = await asyncio.open_connection(address, port)
        except (OSError, TimeoutError):
            return None
        samples.append((time.monotonic() - started) * 1000)
        writer.close()
    return statistics.median(samples)


def timing_warnings(config: EmbeddedEtcd, rtt_ms: Mapping[str, float | None]) -> tuple[str, ...]:
    """One sentence for each member that is too far away; members without a measurement are passed over."""
    found = []
    for host, measured in sorted(rtt_ms.items()):
        if measured is None:
            continue
        if config.heartbeat_ms < measured or config.election_ms < 10 * measured:
            found.append(
                f"etcd's heartbeat of {config.heartbeat_ms} ms and election timeout of "
                f"{config.election_ms} ms are too short for the {measured:.1f} ms round trip to {host}: "
                f"use at least {max(5, round(measured + 0.5))} and {max(50, round(10 * measured + 0.5))} ms"
            )
    return tuple(found)

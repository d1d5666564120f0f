"""Requests to one agent for some seconds, over its unix socket and over TLS in turn; prints one JSON object.

    python -m tests.bench.apiload SOCKET CONTEXT_FILE CONTEXT ROUNDS SECONDS

Run where the agent's address leads to it. Each way has one connection, which is kept.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from vdc.api.client import ApiClient
from vdc.api.context import find_context, load_contexts


async def rate(client: ApiClient, seconds: float) -> float:
    """Requests per second."""
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        await client.health()
        count += 1
    return count / took


async def main(socket: str, file: str, name: str, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Each way in each round; the first request of each, with its handshake, is not counted."""
    context = find_context(load_contexts(Path(file)), name)
    found: dict[str, list[float]] = {"unix": [], "tls": []}
    async with (
        ApiClient([f"unix://{socket}"]) as plain,
        ApiClient.of(context, context.endpoints[0]) as secure,
    ):
        for client in (plain, secure):
            await rate(client, 0.2)
        for _ in range(rounds):
            found["unix"].append(await rate(plain, seconds))
            found["tls"].append(await rate(secure, seconds))
    return found


if __name__ == "__main__":
    answer = asyncio.run(main(*sys.argv[1:4], int(sys.argv[4]), float(sys.argv[5])))
    sys.stdout.write(json.dumps(answer) + "\n")

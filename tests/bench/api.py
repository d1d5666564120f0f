"""What TLS costs on the API: requests per second with a connection that is kept, against the unix socket in clear.

Both ways lead to the same agent in the same run, so that the machine's own speed does not matter.
"""

from __future__ import annotations

import asyncio
import json
import sys

from tests.bench.figures import Figure
from tests.bench.suite import Suite
from tests.bench.world import LAB, BenchError
from vdc.lab import api as lab_api
from vdc.lab import survey
from vdc.lab.settings import Settings

MOST_RATIO = 1.5
SECONDS = 1.0
ROUNDS = 5


async def requests(suite: Suite) -> None:
    """Ask h1's agent from the client's namespace."""
    plan, _ = survey.recorded_plan(LAB, Settings.from_environment())
    words = [sys.executable, "-m", "tests.bench.apiload", str(plan.hosts[0].api_socket), str(plan.admin_file)]
    argv = lab_api.exec_argv(LAB, "client", [*words, plan.context, str(ROUNDS), str(SECONDS)])
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    if process.returncode:
        raise BenchError(f"the requests could not be measured (exit status {process.returncode})")
    found: dict[str, list[float]] = json.loads(output)
    suite.raw["api"] = found
    suite.add(api_figures(found))


def api_figures(found: dict[str, list[float]]) -> list[Figure]:
    """How many times slower TLS is, round by round."""
    ratios = tuple(plain / secure for plain, secure in zip(found["unix"], found["tls"], strict=True))
    note = (
        f"{max(found['unix']):.0f} requests/s at most over the unix socket, {max(found['tls']):.0f} over TLS"
    )
    return [
        Figure("api.tls", "API requests: unix socket against TLS", "", ratios, target=MOST_RATIO, note=note)
    ]

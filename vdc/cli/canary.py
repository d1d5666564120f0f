"""Proving hosts with a canary: a small VM of its own that runs in lockstep on one pair of hosts after the other.

Each pair that comes up is compared (`vdc verify`), and left by a promotion. It goes on until every able host has
been a primary and a secondary. Whatever happens, the canary is removed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from vdc.api.client import ApiClient
from vdc.api.models import Check
from vdc.cli.waiting import LOCKSTEP, wait_for, wait_gone
from vdc.model.errors import NotFoundError, VdcError
from vdc.model.host import NodeStatus
from vdc.model.manifest import EndophyteManifest
from vdc.model.units import MIB

DEFAULT_IMAGE = "mycelium/mini"
MEMORY_BYTES = 256 * MIB
LOCKSTEP_S = 180.0
GONE_S = 60.0
Say = Callable[[str], None]


@dataclass
class Canary:
    """One canary, and what it proved."""

    api: ApiClient
    image: str
    say: Say
    name: str = field(default_factory=lambda: f"canary-{secrets.token_hex(3)}")
    checks: list[Check] = field(default_factory=list)
    _primaries: set[str] = field(default_factory=set)
    _secondaries: set[str] = field(default_factory=set)

    async def run(self) -> list[Check]:
        """The findings; a pair that does not come up or is not the same is an error among them."""
        hosts = {node.host.name for node in (await self.api.list_nodes()).items if _is_able(node)}
        if len(hosts) < 2:
            self._add("error", "two hosts that can do lockstep are needed", "vdc get nodes -o wide")
            return self.checks
        uid = ""
        try:
            self.say(f"creating {self.name}")
            uid = (await self.api.create_endophyte(self._manifest(len(hosts)))).metadata.uid
            await self._visit(hosts)
        except VdcError as error:
            self._add("error", str(error), error.problem.hint)
        finally:
            await self._remove(uid)
        return self.checks

    def _manifest(self, hosts: int) -> EndophyteManifest:
        return EndophyteManifest.model_validate(
            {
                "metadata": {"name": self.name},
                "spec": {
                    "image": self.image,
                    "virtualComputer": {"dedicatedNodes": min(hosts, 16)},
                    "resources": {"memory": MEMORY_BYTES},
                },
            }
        )

    async def _visit(self, hosts: set[str]) -> None:
        for _ in range(2 * len(hosts)):
            self.say(f"waiting for lockstep of {self.name}")
            status = (await wait_for(self.api, self.name, LOCKSTEP, LOCKSTEP_S)).status
            assert status.primary and status.secondary
            primary, secondary = status.primary.host, status.secondary.host
            await self._compare(primary, secondary)
            self._primaries.add(primary)
            self._secondaries.add(secondary)
            if self._primaries >= hosts and self._secondaries >= hosts:
                return
            to = min(hosts - self._primaries - {primary}, default=secondary)
            self.say(f"promoting {to}")
            await self.api.promote_endophyte(self.name, to=to)
        missing = sorted(hosts - (self._primaries & self._secondaries))
        if missing:
            self._add("warning", f"not every role was tried on {', '.join(missing)}", "run it again")

    async def _compare(self, primary: str, secondary: str) -> None:
        self.say(f"comparing {primary} and {secondary}")
        found = await self.api.verify_endophyte(self.name)
        if found.is_same:
            self._add("ok", f"{primary} and {secondary} ran in lockstep; {found.sentence}")
        else:
            self._add(
                "error",
                f"{primary} and {secondary} differ: {found.sentence}",
                "do not use this pair; report it",
            )

    async def _remove(self, uid: str) -> None:
        try:
            await self.api.delete_endophyte(self.name)
            await wait_gone(self.api, self.name, uid, GONE_S)
        except NotFoundError:
            return
        except VdcError as error:
            self._add("warning", f"the canary was not removed: {error}", f"vdc delete endophyte {self.name}")

    def _add(self, level: str, sentence: str, hint: str = "") -> None:
        self.checks.append(Check(name="canary", level=level, sentence=sentence, hint=hint))


def _is_able(node: NodeStatus) -> bool:
    return node.alive and node.host.schedulable and node.host.qemu.lockstep

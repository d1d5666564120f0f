"""The etcd member of this host: taken over from the last agent or started, kept running, asked how it is.

It outlives the agent: `run` may be cancelled at any time, the member goes on. Only `stop` ends it.

A member that has lost its data must not simply start again: under its old identity it would vote a second
time on what it has voted on already, and acknowledged writes could be lost. So the first healthy start leaves
a mark beside the data, and a member with the mark and without data is refused. `rejoin` brings it back under
a new identity; it is for an operator to ask for, because only people know that the data will not come back.

`go_on_alone` is for an operator too. It writes a decision into the mark while the member is down, together with
the lineage that begins. From then on the member starts by going on alone until its log tells that it has, and
never again after that: no crash continues the old lineage, and none cuts off who has joined the new one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from pathlib import Path

from hostagent.config import EmbeddedEtcd
from hostagent.drivers.etcd.argv import (
    FAMILIES,
    SANDBOX_CREDENTIALS,
    SANDBOX_DATA_DIR,
    client_url,
    client_urls,
    member_argv,
    peer_url,
    sandboxed,
)
from hostagent.drivers.etcd.credentials import FOLDER as CREDENTIALS_FOLDER
from hostagent.drivers.etcd.credentials import copy_credentials, copy_for_start, files_in, is_start_due
from hostagent.drivers.etcd.mark import Mark, MarkFile
from hostagent.drivers.etcd.membership import initial_cluster, replaced
from hostagent.drivers.etcd.wal import decided, make_durable
from hostagent.drivers.process import (
    Backoff,
    ProcessHandle,
    Supervised,
    User,
    finished,
    in_thread,
    spawn_in_sandbox,
)
from hostagent.drivers.process.users import own_by
from hostagent.drivers.trust import Trust
from vdc.model.errors import BugError, RefusedError, UnavailableError, VdcError
from vdc.store import keys
from vdc.store.etcd import EtcdStore
from vdc.store.etcd_admin import MemberStatus
from vdc.store.protocol import StoreUnavailableError

_LOG = logging.getLogger(__name__)
_POLL_S = 0.05
_MARK_POLL_S = 5.0
_REJOIN_POLL_S = 0.5
_SUSPEND_GRACE_S = 5.0
_LOG_TAIL_BYTES = 64 << 10


class EmbeddedMember:
    """One member. Use: start `run` in a task group, await `wait_healthy`, later maybe `stop`."""

    def __init__(
        self,
        host: str,
        config: EmbeddedEtcd,
        *,
        state_dir: Path,
        runtime: Path | None,
        user: User,
        trust: Trust,
        backoff: Backoff | None = None,
    ) -> None:
        """`runtime`: the root that holds etcd; None: the host's own etcd. It runs as `user`.

        `trust`: what it shows and whom it admits.
        """
        self.user = user
        self.host = host
        self.config = config
        self.data_dir = state_dir / "etcd"
        self.log_path = state_dir / "log" / "etcd.log"
        self.mark_path = state_dir / "etcd-joined.json"
        self.pidfile = state_dir / "etcd.pid"
        self._runtime = runtime
        self._trust = trust
        self._mark = MarkFile(self.mark_path)
        self._process = Supervised(f"etcd member {host}", self._start, self.pidfile, backoff=backoff)

    @property
    def endpoint(self) -> str:
        """Where this member serves clients."""
        return client_url(self.host, self.config)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every member for a client on this host, its own first."""
        return client_urls(self.host, self.config)

    @property
    def handle(self) -> ProcessHandle | None:
        """The process as it runs now."""
        return self._process.handle

    @property
    def is_adopted(self) -> bool:
        """Whether an earlier agent started it."""
        return self._process.is_adopted

    @property
    def starts(self) -> int:
        """How often it was started by this agent."""
        return self._process.starts

    async def run(self) -> None:
        """Keep the member running until `stop`. Cancelled: leaves it alive."""
        marking = asyncio.create_task(self._mark_when_healthy(), name=f"etcd mark {self.host}")
        try:
            await self._process.run()
        finally:
            marking.cancel()
            await asyncio.gather(marking, return_exceptions=True)

    async def stop(self, grace_s: float = 5.0) -> None:
        """End the member. Raises ProcessStuckError."""
        await self._process.stop(grace_s)

    async def wait_healthy(self, deadline_s: float = 30.0) -> MemberStatus:
        """Wait until the member serves a cluster that has a quorum.

        Raises RefusedError `etcd-data-lost`, UnavailableError `etcd-not-running` (with what it complained
        of), `etcd-no-answer` or `etcd-no-quorum`.
        """
        self.check_data()
        status = MemberStatus(self.endpoint, is_healthy=False, error="not asked yet")
        starts = self.starts
        store = EtcdStore([self.endpoint], ssl=self._trust.client)
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    status = await store.admin.member_status(self.endpoint)
                    if status.is_healthy and await _serves(store):
                        await in_thread(self._mark.change, self._joined)
                        return status
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            has_died = self.starts > starts + 1 or self.handle is None
            raise await self._unhealthy(status, deadline_s, has_died=has_died) from None
        finally:
            await store.close()

    async def status(self, *, deadline_s: float = 1.0) -> MemberStatus:
        """Ask the member; never raises for its failure."""
        store = EtcdStore([self.endpoint], ssl=self._trust.client)
        try:
            return await store.admin.member_status(self.endpoint, deadline_s=deadline_s)
        finally:
            await store.close()

    def check_data(self) -> None:
        """Raise RefusedError where this member has joined before and its data is gone."""
        if self._mark.read().joined and not self.has_data:
            raise RefusedError(
                f"the data of etcd member {self.host} is gone from {self.data_dir}; it must not vote again",
                code="etcd-data-lost",
                hint="if the data will not come back, run `hostagent rejoin` on this host",
            )

    @property
    def has_data(self) -> bool:
        """Whether it has data of its own; then the initial cluster is of no concern to it."""
        return (self.data_dir / "member").exists()

    async def running(self, deadline_s: float = 10.0) -> None:
        """Wait until `run` has taken the process over or started it; UnavailableError `etcd-not-running`."""
        try:
            async with asyncio.timeout(deadline_s):
                await self._process.running()
        except TimeoutError:
            raise UnavailableError(
                f"etcd member {self.host} does not start: {self._process.last_error}",
                code="etcd-not-running", hint=f"see {self.log_path}",
            ) from None  # fmt: skip

    async def renew_credentials(self, turn: AbstractAsyncContextManager[object] | None = None) -> bool:
        """Let the member have what the host's folder holds now; whether it had to be started again for that.

        A new certificate or revocation list it reads by itself; not a new authority, nor a first revocation list.
        `turn` is entered before it is ended, and left when it is healthy again. Raises as `wait_healthy`.
        """
        if not await in_thread(copy_credentials, self._trust.folder, self.user.uid):
            return False
        async with turn or nullcontext():
            async with self.suspended():
                pass
            await self.wait_healthy()
        return True

    async def knows_authorities(self) -> bool:
        """Whether it was started with those that the host trusts now."""
        return not await in_thread(is_start_due, self._trust.folder)

    def suspended(self) -> AbstractAsyncContextManager[None]:
        """The process has ended with its log written out, and is not started before this is left."""
        return self._process.suspended(_SUSPEND_GRACE_S)

    @property
    def lineage(self) -> int:
        """The lineage that its data began, where a human has let it go on alone; else 0."""
        return self._mark.read().lineage

    async def is_going_alone(self) -> bool:
        """Whether a human has decided that it goes on alone, and its log does not tell yet that it has."""
        try:
            return (await in_thread(self._mark.change, self._settled)).alone
        except (OSError, ValueError):
            return self._mark.read().alone  # while etcd writes to its log nobody has to be able to read it

    async def go_on_alone(
        self, look: Callable[[Path], None], lineage: int, remember: Callable[[], Awaitable[None]]
    ) -> None:
        """Decide that this member becomes the only one of its cluster, with the data that it has, and begins `lineage`.

        Only for a human to ask for: a majority was lost for good, and the others may have decided something
        that this one has not heard of. `look` is given the data folder while nothing writes to it, in a thread,
        and may raise; then nothing was changed. On return the decision is durable, and `run` carries it out.
        `remember` is awaited before: no request is served under the lineage that the caller does not know of.

        Cancelled: all of that is done, or nothing. Raises RefusedError without data, BugError where the log
        cannot be read.
        """
        async with self.suspended():
            self.check_data()
            await in_thread(look, self.data_dir)
            await finished(self._decide(lineage, remember))

    async def _decide(self, lineage: int, remember: Callable[[], Awaitable[None]]) -> None:
        known = await in_thread(self._durably_decided)
        mark = Mark(joined=True, lineage=lineage, alone=True, decided=known)
        await in_thread(self._mark.change, lambda before: mark)
        await remember()

    async def rejoin(self, deadline_s: float = 20.0, *, replaces: str = "", discard: bool = False) -> None:
        """Replace this host's member by a new one with empty data; the next start of `run` joins.

        For a member whose data is gone for good, or of an older lineage (`discard`: it is put aside), and for
        a new host that takes the place of another (`replaces`: its name). The other members need a quorum
        without it. Raises RefusedError where it has data, UnavailableError where the others do not do it in
        time. Repeatable.
        """
        if len(self.endpoints) == 1:
            raise RefusedError("the only etcd member has nobody to rejoin", code="etcd-alone")
        if self.has_data and not discard:
            raise RefusedError(
                f"etcd member {self.host} has its data in {self.data_dir}", code="etcd-has-data"
            )
        peer = peer_url(self.host, self.config)
        store = EtcdStore(self.endpoints[1:], ssl=self._trust.client)
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    if await replaced(store, {self.host, replaces} - {""}, peer):
                        cluster = await initial_cluster(store, self.host, peer)
                        break
                    await asyncio.sleep(_REJOIN_POLL_S)
        except TimeoutError:
            raise UnavailableError(
                f"the other etcd members did not take {self.host} back within {deadline_s:g} s",
                code="etcd-rejoin",
                hint="more than half of all members must be healthy",
            ) from None
        finally:
            await store.close()
        if self.has_data:
            await in_thread(_put_aside, self.data_dir)
        await in_thread(self._mark.change, lambda before: Mark(rejoining=True, cluster=cluster))

    async def _start(self) -> ProcessHandle:
        self.check_data()
        await in_thread(own_by, self.data_dir, self.user.uid)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        mark = await in_thread(self._mark_to_start_by)
        await in_thread(copy_for_start, self._trust.folder, self.user.uid)
        files = files_in(self._trust.folder, SANDBOX_CREDENTIALS)
        argv = member_argv(
            self.host, self.config, SANDBOX_DATA_DIR, files,
            is_rejoining=mark.rejoining, initial_cluster=mark.cluster, is_alone=mark.alone,
        )  # fmt: skip
        if mark.alone:
            _LOG.warning("etcd member %s goes on alone; lineage %d begins", self.host, mark.lineage)
        return await spawn_in_sandbox(
            sandboxed(argv, self.user, self._runtime, self.data_dir, self._trust.folder / CREDENTIALS_FOLDER),
            pidfile=self.pidfile,
            log_path=self.log_path,
            tag="etcd",
            families=FAMILIES,
        )

    async def _mark_when_healthy(self) -> None:
        while True:
            try:
                await self.wait_healthy()
                return
            except (VdcError, OSError) as error:
                _LOG.warning("%s", error)
            await asyncio.sleep(_MARK_POLL_S)

    def _mark_to_start_by(self) -> Mark:
        try:
            return self._mark.change(self._settled)
        except (OSError, ValueError) as error:
            raise _unreadable(error) from error

    def _settled(self, mark: Mark) -> Mark:
        """The decision to go on alone ends where the log tells that it was carried out."""
        return mark.with_(alone=False) if mark.alone and decided(self.data_dir) > mark.decided else mark

    def _joined(self, mark: Mark) -> Mark:
        with suppress(OSError, ValueError):  # as in `is_going_alone`; the next start asks again
            mark = self._settled(mark)
        return mark.with_(joined=True, rejoining=False, cluster="")

    def _durably_decided(self) -> int:
        try:
            make_durable(self.data_dir)
            return decided(self.data_dir)
        except (OSError, ValueError) as error:
            raise _unreadable(error) from error

    async def _unhealthy(
        self, status: MemberStatus, deadline_s: float, *, has_died: bool
    ) -> UnavailableError:
        where = f"etcd member {self.host} ({self.endpoint})"
        complaint = await asyncio.to_thread(self._complaint)
        if has_died:
            reason = complaint or self._process.last_error or "it was not started"
            return UnavailableError(
                f"{where} does not stay up: {reason}", code="etcd-not-running", hint=f"see {self.log_path}"
            )
        if status.version:
            others = ", ".join(sorted(self.config.members.keys() - {self.host}))
            return UnavailableError(
                f"{where} has found no quorum within {deadline_s:g} s",
                code="etcd-no-quorum",
                hint=f"more than half of the members must run; the others are {others or 'none'}",
            )
        return UnavailableError(
            f"{where} does not answer after {deadline_s:g} s: {complaint or status.error}",
            code="etcd-no-answer",
            hint=f"see {self.log_path}",
        )

    def _complaint(self) -> str:
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - _LOG_TAIL_BYTES))
                return last_complaint(log.read().decode("utf-8", "replace"))
        except OSError:
            return ""


def _unreadable(error: Exception) -> BugError:
    return BugError(f"etcd's log cannot be read: {error}")


async def _serves(store: EtcdStore) -> bool:
    """Whether a linearizable read passes, which takes a quorum."""
    try:
        await store.get(keys.LEADER, deadline_s=1.0)
    except StoreUnavailableError:
        return False
    return True


def _put_aside(data_dir: Path) -> None:
    """Keep the data of a history that was cut, once: somebody may want to look at it."""
    aside = data_dir.with_name(data_dir.name + ".old")
    shutil.rmtree(aside, ignore_errors=True)
    data_dir.rename(aside)


def last_complaint(log: str) -> str:
    """The last fatal line of etcd's log in a few words; empty where there is none."""
    for line in reversed(log.splitlines()):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and entry.get("level") in ("fatal", "panic"):
            return ": ".join(str(entry[part]) for part in ("msg", "error") if entry.get(part))
    return ""

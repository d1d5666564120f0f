"""The part of the client that is about backups: `ApiClient.backups`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

from vdc.api import backups
from vdc.api import models as wire
from vdc.api.answers import LOST_ERRORS
from vdc.api.call import make_call
from vdc.api.identity_client import Send
from vdc.api.transport import Transport
from vdc.model.errors import UnavailableError

PATIENCE_S: Final = 4 * 3600.0  # for copying all disks on the host
_READ_S: Final = 60.0
_CHUNK_BYTES: Final = 1024**2


class BackupClient:
    """One per client."""

    def __init__(self, call: Send, transport: Transport) -> None:
        self._call = call
        self._transport = transport

    async def create(self, name: str, request: backups.BackupRequest) -> backups.BackupView:
        """Copy the disks on the primary's host. ConflictError, RefusedError (`no-space`), UnavailableError."""
        values: dict[str, Any] = {"json_body": request.to_json(), "first_byte_s": PATIENCE_S}
        return await self._call(backups.BackupView, make_call("create_backup", {"name": name}, **values))

    async def read(
        self, name: str, backup: str, host: str, disk: int, first: int
    ) -> AsyncGenerator[bytes, None]:
        """A disk from the byte `first` on, see vdc.api.backups. NotFoundError (`backup-gone`), `backup-cut`."""
        path = {"name": name, "backup": backup, "disk": str(disk)}
        query: dict[str, str | int | bool | None] = {"host": host, "first": first}
        call = make_call("read_backup", path, query, first_byte_s=_READ_S)
        async with self._transport.open(call) as response:
            try:
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    yield chunk
            except LOST_ERRORS as error:
                raise UnavailableError("the copy of the disk broke off", code="backup-cut") from error

    async def end(self, name: str, backup: str, host: str, *, kept: bool) -> wire.Acknowledged:
        """Give the copy up. `kept`: it is in a repository, and the next one may be of the changes since."""
        path = {"name": name, "backup": backup}
        query: dict[str, str | int | bool | None] = {"host": host, "kept": kept}
        return await self._call(wire.Acknowledged, make_call("end_backup", path, query))

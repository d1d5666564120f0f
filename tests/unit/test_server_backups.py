"""Reading a copy that is given up meanwhile, because its room is needed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_backup_writing import CLUSTER, qcow2

from hostagent.drivers.images import Bandwidth
from hostagent.server.backups import BackupHandlers
from hostagent.supervisor.backups import Backups, HeldCopy
from vdc.model.errors import NotFoundError
from vdc.model.units import MIB


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Two pieces of data with nothing between them, the second one in the last cluster."""
    used, entries = 1 << 63, [0] * (4 * MIB // CLUSTER)
    entries[0], entries[-1] = used | 4 * CLUSTER, used | 5 * CLUSTER
    content, size_bytes = qcow2(entries), 20 * CLUSTER
    path = tmp_path / "disk.qcow2"
    path.write_bytes(content.read(0, 4 * CLUSTER).ljust(size_bytes, b"x"))
    return path


@pytest.mark.parametrize("is_given_up", [False, True])
async def test_a_stream_breaks_off_when_its_copy_is_given_up(
    tmp_path: Path, disk: Path, is_given_up: bool
) -> None:
    copy: Any = SimpleNamespace(
        name="web", is_alive=False, state=SimpleNamespace(role=None, machine=None), qmp=None,
        host=SimpleNamespace(name="h1", clock=SimpleNamespace(boottime_s=lambda: 1.0)),
    )  # fmt: skip
    held = Backups(copy, SimpleNamespace())  # type: ignore[arg-type]
    file = disk.open("rb")
    one = held._held = HeldCopy("20260101-000000-0000", SimpleNamespace(), SimpleNamespace(), [file])  # type: ignore[arg-type]
    context: Any = SimpleNamespace(
        host=SimpleNamespace(mirror=None), blobs=SimpleNamespace(folder=tmp_path), bandwidth=Bandwidth()
    )
    pieces = []

    async def read() -> None:
        with held.reading(one.id, 0) as source:
            parts = BackupHandlers(context)._parts(source, 0, partial(held.find, one.id))
            async for piece in parts:
                pieces.append(piece)
                if is_given_up and len(pieces) == 1:
                    await held.end(one.id, is_kept=False)
                    assert not file.closed, "a thread may read it"

    if is_given_up:
        with pytest.raises(NotFoundError) as caught:
            await read()
        assert caught.value.code == "backup-gone" and len(pieces) == 1
    else:
        await read()
        assert len(pieces) == 2 * 2 + 1, "two with data, and the end"
    assert file.closed is is_given_up
    file.close()

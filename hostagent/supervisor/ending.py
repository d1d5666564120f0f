"""A copy that has ended, or that has to: its disk failed, and the other copy goes on without it."""

from __future__ import annotations

from contextlib import suppress

from hostagent.supervisor.copy import Copy
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.errors import VdcError
from vdc.model.event import Severity


async def end_copy(copy: Copy, sentence: str, stage: CopyStage) -> None:
    """Kill what is left of it and tell the other host, then everybody.

    `stage` is what it is now. That is not written down first: a disk that fails may not take it.
    """
    what = copy.trouble.here
    copy.mark_stage(stage)
    await copy.end_process()
    copy.host.heartbeats.tell_dead(copy.state.uid, copy.state.epoch)
    if what and copy.state.role is CopyRole.SECONDARY:
        with suppress(VdcError):  # a torn copy is never booted; where that cannot be noted, nor can much else
            await copy.disks.spoil()
    if what:
        sentence = f"{sentence} ({what})"
        await copy.host.tell(
            copy.name, "disk-failed", sentence, epoch=copy.state.epoch, severity=Severity.WARNING
        )
    else:
        await copy.host.tell(
            copy.name, "copy-died", sentence, epoch=copy.state.epoch, severity=Severity.WARNING
        )
    await copy.save()

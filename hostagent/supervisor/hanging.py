"""A QEMU that no longer does what it is told, in a copy for which that is the only way on.

That QMP is silent decides nothing, and a copy that nobody needs anything of is left alone. But one that has won its
epoch, or was given its secondary's place, speaks for its VM alone and can neither run on nor be powered off while
its QEMU hangs; and one that is to be powered off has nothing to lose. Both are ended, and the table goes on with a
copy whose process ended: it stays off where that is wanted, else it is started again from its disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hostagent.drivers.qemu.qmp import QmpCommandError, QmpError
from hostagent.drivers.qemu.steps import run_state
from vdc.model.endophyte import CopyRole, CopyStage
from vdc.model.event import Severity

if TYPE_CHECKING:
    from hostagent.supervisor.copy import Copy

HUNG_S: Final = (
    30.0  # longer than a main loop waits for a disk that is well, or for a peer that is being yanked
)
LATE_S: Final = 5.0  # that a retry may come after it is due
_NO_WAY_BACK: Final = (CopyStage.LEAVING, CopyStage.PROMOTING)


class Hang:
    """One per supervisor: since when its jobs have failed at a silent QEMU, one after the other."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._since_s: float | None = None

    def begins(self, due_s: float) -> None:
        """A job begins; `due_s`: when the failed one before it was to be tried again.

        Where nothing was left to do in between, the silence of then says nothing of now.
        """
        if self._copy.host.clock.boottime_s() > due_s + LATE_S:
            self.forget()

    def forget(self) -> None:
        """A job did what it had to, or failed at something else: QEMU is not silent."""
        self._since_s = None

    async def failed(self, error: Exception, *, is_stop_wanted: bool) -> None:
        """A job did not. Kills the process where QEMU has been the reason for too long and there is no other way."""
        copy, now = self._copy, self._copy.host.clock.boottime_s()
        if not isinstance(error, QmpError) or isinstance(error, QmpCommandError):
            self.forget()
            return
        if copy.process is None or not copy.is_alive:
            return
        if self._since_s is None:
            self._since_s = now
        silent_s = now - self._since_s
        if silent_s < HUNG_S or copy.state.role is not CopyRole.PRIMARY:
            return
        if not is_stop_wanted and copy.state.stage not in _NO_WAY_BACK:
            return
        if not is_stop_wanted and await self._answers():
            self.forget()
            return
        self._since_s = None
        copy.process.kill()
        sentence = f"its QEMU on {copy.host.name} did nothing for {silent_s:.0f} s and is ended: {error}"
        await copy.host.tell(
            copy.name, "qemu-hung", sentence, epoch=copy.state.epoch, severity=Severity.WARNING
        )

    async def _answers(self) -> bool:
        """Whether its main loop runs: something else is wrong then, and is tried again."""
        try:
            await self._copy.reconnect()
            await run_state(self._copy.session())
        except QmpError:
            return False
        return True

"""Start swtpm for one copy of a guest, before its QEMU, and find it again after a restart of the agent.

Each copy has its own: a primary's keeps its state in the VM's folder, a secondary's starts empty and gets
the state by the migration, at every checkpoint. So a TPM is never started again under a running QEMU: the
new one would not know the session, and the guest sees a broken TPM until its next start either way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from hostagent.drivers.process import Bind, ProcessHandle, User, adopt, in_thread, spawn_in_sandbox
from hostagent.drivers.process.foreign import is_foreign_socket
from hostagent.drivers.process.users import own_by, owner_of
from hostagent.drivers.qemu.spec import TPM_SOCKET, VM_DIR
from hostagent.drivers.tpm.argv import STATE_DIR, swtpm_argv
from vdc.confinement.sandbox import sandboxed
from vdc.model.errors import UnavailableError

STATE_FOLDER = "tpm"
PIDFILE = "swtpm.pid"
LOG_FILE = "swtpm.log"
_READY_DEADLINE_S = 5.0  # it takes 10 ms
_POLL_S = 0.005
_LOG_TAIL = 300


class TpmError(UnavailableError):
    """The TPM did not start; nothing of it runs."""

    default_code = "tpm-start-failed"


async def start_tpm(
    folder: Path,
    guest: Path,
    *,
    runtime_root: Path | None,
    tag: str = "",
    join: Callable[[int], None] = lambda pid: None,
    deadline_s: float = _READY_DEADLINE_S,
) -> ProcessHandle:
    """Start the emulator and return when QEMU can connect to its socket.

    Its state is in `folder`, the VM's, and its socket in `guest`, the folder that QEMU sees; it runs as the user
    that owns that one. Makes the state folder where it is missing. It ends by itself with its QEMU; terminate the
    handle only where no QEMU was started. Raises TpmError or ProcessStartError; then, or cancelled, nothing is
    left running.
    """
    state, socket = folder / STATE_FOLDER, guest / TPM_SOCKET
    try:
        user = User(owner_of(guest))
        await in_thread(own_by, state, user.uid)
        socket.unlink(missing_ok=True)  # one of an earlier, killed emulator looks just like a served one
    except OSError as error:
        raise TpmError(f"the TPM's folder cannot be made: {error}") from error
    binds = (Bind(guest, VM_DIR, is_writable=True), Bind(state, STATE_DIR, is_writable=True))
    argv = sandboxed(swtpm_argv(), user, runtime_root=runtime_root, binds=binds)
    handle = await spawn_in_sandbox(
        argv, pidfile=folder / PIDFILE, log_path=folder / LOG_FILE, tag=tag, join=join
    )
    try:
        await _until_ready(handle, socket, deadline_s)
    except TimeoutError as error:
        await asyncio.shield(handle.terminate(0))
        reason = _log_tail(folder / LOG_FILE) or f"no socket within {deadline_s:g} s"
        raise TpmError(f"swtpm did not start: {reason}", hint=f"see {folder / LOG_FILE}") from error
    except BaseException:
        await asyncio.shield(handle.terminate(0))
        raise
    return handle


async def adopt_tpm(folder: Path) -> ProcessHandle | None:
    """The emulator that an earlier agent started for this VM; None where it has ended."""
    return await adopt(folder / PIDFILE)


async def _until_ready(handle: ProcessHandle, socket: Path, deadline_s: float) -> None:
    """Wait for the socket; raises TimeoutError, at once where the emulator has ended."""
    async with asyncio.timeout(deadline_s):
        while not is_foreign_socket(socket):  # it tells nobody when it listens
            if not handle.is_alive():
                raise TimeoutError
            await asyncio.sleep(_POLL_S)


def _log_tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip()
    return ""

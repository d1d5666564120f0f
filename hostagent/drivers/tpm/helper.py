"""Start swtpm for one copy of a guest, before its QEMU, and find it again after a restart of the agent.

Each copy has its own: a primary's keeps its state in the VM's folder, a secondary's starts empty and gets
the state by the migration, at every checkpoint. So a TPM is never started again under a running QEMU: the
new one would not know the session, and the guest sees a broken TPM until its next start either way.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from hostagent.drivers.process import ProcessHandle, adopt, spawn_in_sandbox
from hostagent.drivers.qemu.sandbox import sandboxed
from hostagent.drivers.qemu.spec import TPM_SOCKET
from hostagent.drivers.tpm.argv import STATE_DIR, swtpm_argv
from vdc.model.errors import UnavailableError

PIDFILE = "swtpm.pid"
LOG_FILE = "swtpm.log"
_READY_DEADLINE_S = 5.0  # it takes 10 ms
_POLL_S = 0.005
_LOG_TAIL = 300


class TpmError(UnavailableError):
    """The TPM did not start; nothing of it runs."""

    default_code = "tpm-start-failed"


async def start_tpm(
    vm_dir: Path, *, runtime_root: Path | None, tag: str = "", deadline_s: float = _READY_DEADLINE_S
) -> ProcessHandle:
    """Start the emulator and return when QEMU can connect to its socket.

    Makes the state folder where it is missing. It ends by itself with its QEMU; terminate the handle only
    where no QEMU was started. Raises TpmError or ProcessStartError; then, or cancelled, nothing is left
    running.
    """
    state, socket = vm_dir / STATE_DIR, vm_dir / TPM_SOCKET
    try:
        state.mkdir(mode=0o700, exist_ok=True)
        socket.unlink(missing_ok=True)  # one of an earlier, killed emulator looks just like a served one
    except OSError as error:
        raise TpmError(f"the TPM's folder cannot be made: {error}") from error
    # The store of images is none of its business; where the sandbox wants one, it sees its own state.
    argv = sandboxed(
        swtpm_argv(), runtime_root=runtime_root, vm_dir=vm_dir, image_dir=state, devices=(), has_network=False
    )
    handle = await spawn_in_sandbox(argv, pidfile=vm_dir / PIDFILE, log_path=vm_dir / LOG_FILE, tag=tag)
    try:
        await _until_ready(handle, socket, deadline_s)
    except TimeoutError as error:
        await asyncio.shield(handle.terminate(0))
        reason = _log_tail(vm_dir / LOG_FILE) or f"no socket within {deadline_s:g} s"
        raise TpmError(f"swtpm did not start: {reason}", hint=f"see {vm_dir / LOG_FILE}") from error
    except BaseException:
        await asyncio.shield(handle.terminate(0))
        raise
    return handle


async def adopt_tpm(vm_dir: Path) -> ProcessHandle | None:
    """The emulator that an earlier agent started for this VM; None where it has ended."""
    return await adopt(vm_dir / PIDFILE)


async def _until_ready(handle: ProcessHandle, socket: Path, deadline_s: float) -> None:
    """Wait for the socket; raises TimeoutError, at once where the emulator has ended."""
    async with asyncio.timeout(deadline_s):
        while not socket.is_socket():  # it tells nobody when it listens
            if not handle.is_alive():
                raise TimeoutError
            await asyncio.sleep(_POLL_S)


def _log_tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip()
    return ""

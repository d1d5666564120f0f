"""What the installed QEMU and this host's accelerator can really do; found by trying, not by asking.

A version outside the allow-list, a missing command or a missing object type means no lockstep, with the
reason. /dev/kvm may exist and open and still run no guest, or run it instruction by instruction (nested
virtualisation): so a guest of one sector is run that counts and leaves through a debug port. It has to arrive
there, and KVM has to be faster at it than emulation.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from hostagent.drivers.process.tool import run_in_sandbox
from hostagent.drivers.process.users import device_groups
from hostagent.drivers.qemu.argv import BINARY
from hostagent.drivers.qemu.commands import NEEDED_BLOCK_DRIVERS, NEEDED_OBJECTS, OLDEST_TRUSTED, Command
from hostagent.drivers.qemu.sandbox import sandboxed
from hostagent.drivers.qemu.spec import VM_DIR
from vdc.confinement.sandbox import User
from vdc.model.errors import UnavailableError
from vdc.model.host import Accelerator, QemuVersion

_PROBE_S = 20.0
_DEBUG_PORT: Final = 0xF4
_EXIT_VALUE: Final = 0x2A
_EXIT_CODE: Final = _EXIT_VALUE << 1 | 1  # what isa-debug-exit makes of the value
_COUNT: Final = 50_000_000
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_KVM = Path("/dev/kvm")


async def probe(runtime_root: Path | None, uid: int) -> QemuVersion:
    """Version and fitness of QEMU, run as `uid`; raises UnavailableError when it cannot be run at all."""
    queries = (Command.QUERY_VERSION, "query-qmp-schema", "qom-list-types", Command.QUIT)
    dialogue = "".join(
        json.dumps({"execute": str(command)}) + "\n" for command in ("qmp_capabilities", *queries)
    )
    argv = [BINARY, "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    with tempfile.TemporaryDirectory(prefix="vdc-probe-") as folder:
        code, output, complaint = await _run(
            argv, User(uid), runtime_root, Path(folder), dialogue.encode(), deadline_s=_PROBE_S
        )
    answers = [json.loads(line) for line in output.splitlines() if line.strip()]
    values = [answer["return"] for answer in answers if "return" in answer]
    if len(values) < 4:
        raise UnavailableError(
            f"QEMU did not answer (exit {code}): {_last_line(complaint)}", code="qemu-not-runnable"
        )
    version, schema, types = values[1:4]
    return judge(version["qemu"], schema, frozenset(entry["name"] for entry in types))


def judge(version: dict[str, int], schema: list[dict[str, Any]], types: frozenset[str]) -> QemuVersion:
    """The verdict on what a QEMU said about itself. Pure."""
    text = f"{version['major']}.{version['minor']}.{version['micro']}"
    if (version["major"], version["minor"]) < OLDEST_TRUSTED:
        wanted = ".".join(str(part) for part in OLDEST_TRUSTED)
        return QemuVersion(
            version=text, reason=f"QEMU {text} cannot hold a pair in lockstep; {wanted} or newer can"
        )
    known = {entry["name"] for entry in schema if entry["meta-type"] == "command"}
    drivers = {
        member["name"]
        for entry in schema
        if entry["meta-type"] == "enum" and "replication" in entry.get("values", ())
        for member in entry.get("members", ())
    }
    missing = sorted({str(command) for command in Command} - known)
    missing += sorted(NEEDED_OBJECTS - types) + sorted(NEEDED_BLOCK_DRIVERS - drivers)
    if missing:
        return QemuVersion(version=text, reason=f"this QEMU {text} was built without {', '.join(missing)}")
    return QemuVersion(version=text, lockstep=True)


async def probe_accelerator(
    runtime_root: Path | None, uid: int, *, cache_file: Path, deadline_s: float = 5.0
) -> Accelerator:
    """`kvm` if it runs a guest within the deadline, else `tcg` and why; asked once per boot of the host."""
    boot_id = _BOOT_ID.read_text().strip()
    known = await asyncio.to_thread(_read_cache, cache_file, boot_id)
    if known is not None:
        return known
    verdict = await try_kvm(runtime_root, uid, deadline_s=deadline_s)
    record = {"boot_id": boot_id, "accelerator": verdict.model_dump()}
    await asyncio.to_thread(cache_file.write_text, json.dumps(record))
    return verdict


async def try_kvm(runtime_root: Path | None, uid: int, *, deadline_s: float) -> Accelerator:
    """The verdict on KVM, by running the probe guest under it and, for comparison, emulated."""
    if not await asyncio.to_thread(_KVM.exists):
        return Accelerator(name="tcg", reason="there is no /dev/kvm")
    try:
        with_kvm_s = await run_probe_guest(runtime_root, uid, "kvm", deadline_s=deadline_s)
        emulated_s = await run_probe_guest(runtime_root, uid, "tcg", deadline_s=4 * deadline_s)
    except UnavailableError as error:
        return Accelerator(name="tcg", reason=str(error))
    if with_kvm_s > emulated_s:
        return Accelerator(
            name="tcg",
            reason=f"KVM took {with_kvm_s:.1f} s for the probe guest, emulation {emulated_s:.1f} s",
        )
    return Accelerator(name="kvm")


async def run_probe_guest(
    runtime_root: Path | None, uid: int, accelerator: str, *, deadline_s: float
) -> float:
    """Seconds that the one-sector guest took; raises UnavailableError when it did not get to its end."""
    with tempfile.TemporaryDirectory(prefix="vdc-probe-") as folder:
        image = Path(folder) / "boot.img"
        image.write_bytes(boot_sector())
        os.chown(image, uid, uid)
        argv = [
            BINARY, "-machine", "pc", "-accel", accelerator, "-m", "16", "-nodefaults", "-no-user-config",
            "-display", "none", "-device", f"isa-debug-exit,iobase={_DEBUG_PORT:#x},iosize=4",
            "-drive", f"file={VM_DIR}/boot.img,format=raw,if=ide",
        ]  # fmt: skip
        devices = (str(_KVM),) if accelerator == "kvm" else ()
        began = time.monotonic()
        try:
            code, _, complaint = await _run(
                argv, User(uid, device_groups(devices)), runtime_root, Path(folder), b"",
                deadline_s=deadline_s, devices=devices,
            )  # fmt: skip
        except UnavailableError as error:
            if error.code != "qemu-silent":
                raise
            reason = f"a guest under {accelerator} did not run within {deadline_s:g} s"
            raise UnavailableError(reason, code="guest-silent") from error
    if code != _EXIT_CODE:
        reason = f"QEMU with {accelerator} ended with {code}: {_last_line(complaint)}"
        raise UnavailableError(reason, code="guest-failed")
    return time.monotonic() - began


def boot_sector() -> bytes:
    """512 bytes of real-mode code: count down, write the exit value to the debug port, halt."""
    code = b"\x66\xb9" + _COUNT.to_bytes(4, "little")  # mov ecx, count
    code += b"\x66\x49\x75\xfc"  # again: dec ecx; jnz again
    code += bytes([0xB0, _EXIT_VALUE, 0xE6, _DEBUG_PORT, 0xF4])  # mov al, value; out port, al; hlt
    return code.ljust(510, b"\0") + b"\x55\xaa"


async def _run(
    argv: list[str],
    user: User,
    runtime_root: Path | None,
    folder: Path,
    stdin: bytes,
    *,
    deadline_s: float,
    devices: tuple[str, ...] = (),
) -> tuple[int, bytes, bytes]:
    """Run a QEMU that ends by itself, in a process group of its own that does not outlive the deadline."""
    os.chown(folder, user.uid, user.uid)
    command = sandboxed(
        argv, user, runtime_root=runtime_root, vm_dir=folder, image_dir=folder, devices=devices,
    )  # fmt: skip
    # Unlike a guest's, this process has to end with its sandbox.
    command.insert(1, "--die-with-parent")
    try:
        return await run_in_sandbox(command, deadline_s=deadline_s, stdin=stdin)
    except FileNotFoundError as error:
        raise UnavailableError("bwrap is not installed", code="qemu-not-runnable") from error
    except TimeoutError as error:
        raise UnavailableError(f"QEMU did not end within {deadline_s:g} s", code="qemu-silent") from error


def _last_line(complaint: bytes) -> str:
    lines = complaint.decode(errors="replace").strip().splitlines()
    return re.sub(r"^.*?: ", "", lines[-1], count=1) if lines else "it said nothing"


def _read_cache(path: Path, boot_id: str) -> Accelerator | None:
    try:
        record = json.loads(path.read_text())
        return Accelerator.model_validate(record["accelerator"]) if record["boot_id"] == boot_id else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

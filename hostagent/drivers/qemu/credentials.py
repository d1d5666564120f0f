"""TLS of one lockstep: the files in the VM's folder, the objects in QEMU, and who shows and expects what.

Every connection between the two copies is TLS 1.3 and verified on both sides, with certificates of an authority of
this pair and epoch alone (`vdc.security.pairs`). A client also expects the other side's name.

The authority's key is outside of the VM's folder, which the sandbox sees, and goes as soon as nobody may ask for a
certificate any more.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hostagent.drivers.qemu.commands import Command
from hostagent.drivers.qemu.plan import LockstepPlan
from hostagent.drivers.qemu.qmp import QmpSession
from hostagent.drivers.qemu.spec import VM_DIR
from hostagent.drivers.qemu.steps import objects, remove_objects
from vdc.model.errors import UnavailableError
from vdc.security.pairs import KeyAndRequest, PairAuthority, Side, qemu_files

PRIORITY: Final = "NORMAL:-VERS-ALL:+VERS-TLS1.3"  # GnuTLS's words
_FOLDER: Final = "tls-e"


# ---- in QEMU


async def add(qmp: QmpSession, plan: LockstepPlan) -> None:
    """Load the files of this epoch, for both ends. Idempotent; QEMU refuses what it finds wrong with them."""
    present = await objects(qmp)
    ends = {"server": plan.server_credentials, "client": plan.client_credentials}
    for end, name in ends.items():
        if plan.is_encrypted and name not in present:
            options = {"qom-type": "tls-creds-x509", "id": name, "endpoint": end, "verify-peer": True}
            folder = f"{VM_DIR}/{folder_name(plan.epoch)}"
            await qmp.execute(Command.OBJECT_ADD, {**options, "dir": folder, "priority": PRIORITY})


async def remove(qmp: QmpSession, plan: LockstepPlan) -> None:
    """Forget them; connections that live go on. Idempotent."""
    await remove_objects(qmp, (plan.server_credentials, plan.client_credentials))


def of_server(plan: LockstepPlan) -> dict[str, str]:
    """Options of what accepts connections."""
    return {"tls-creds": plan.server_credentials} if plan.is_encrypted else {}


def of_client(plan: LockstepPlan, expected: Side | None = None) -> dict[str, str]:
    """Options of what connects; `expected` where the address does not say whom."""
    if not plan.is_encrypted:
        return {}
    return {"tls-creds": plan.client_credentials, **({"tls-hostname": expected.value} if expected else {})}


def of_outgoing_migration(plan: LockstepPlan) -> dict[str, str]:
    """The primary's migration parameters. Always said: an earlier lockstep's are still set."""
    return {"tls-creds": "", "tls-hostname": "", **of_client(plan, Side.SECONDARY)}


def of_incoming_migration(plan: LockstepPlan) -> dict[str, str]:
    """The secondary's."""
    return {"tls-creds": "", **of_server(plan)}


# ---- on disk


def folder_name(epoch: int) -> str:
    """The folder of an epoch's files, in the VM's folder."""
    return f"{_FOLDER}{epoch}"


@dataclass(frozen=True, slots=True)
class PairFiles:
    """The credentials of one VM's copy on this host. Its methods block; OSError becomes UnavailableError."""

    vm_folder: Path
    authorities: Path  # the agent's own folder
    uid: str

    def make(self, epoch: int) -> None:
        """The primary's: authority and certificate of this epoch, unless they are there. Survives any interruption.

        Those that are there may be loaded by QEMU already, so they are never replaced.
        """
        if self._is_complete(epoch) and self._authority_file(epoch).exists():
            return
        self.forget()
        authority, own = PairAuthority.create(self.uid, epoch), KeyAndRequest.make()
        certificate = authority.sign(own.request, Side.PRIMARY)
        with _as_unavailable(self.authorities):
            self.authorities.mkdir(mode=0o700, exist_ok=True)
            _write(self._authority_file(epoch), authority.to_pem())
        self.keep(epoch, qemu_files(authority.certificate, certificate, own.key))

    def sign(self, epoch: int, request: str) -> tuple[str, str]:
        """Authority and certificate (PEM) for the secondary; UnavailableError where the authority is gone."""
        with _as_unavailable(self._authority_file(epoch)):
            text = self._authority_file(epoch).read_text()
        authority = PairAuthority.from_pem(text)
        return authority.certificate, authority.sign(request, Side.SECONDARY)

    def keep(self, epoch: int, files: dict[str, str]) -> None:
        """Write what QEMU is to load, all or nothing; whoever owns the VM's folder may read it.

        The owner may be a guest's QEMU that was taken over: no link of its making is followed.
        """
        folder = self.vm_folder / folder_name(epoch)
        unfinished = folder.with_name(f".{folder.name}")
        with _as_unavailable(folder):
            _remove(unfinished)
            unfinished.mkdir(mode=0o700)
            owner = self.vm_folder.stat()
            handle = os.open(unfinished, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(handle).st_uid != os.geteuid():
                    raise PermissionError(errno.EPERM, "somebody else's folder")
                for name, text in files.items():
                    _write(name, text, owner, at=handle)
                os.fchown(handle, owner.st_uid, owner.st_gid)
            finally:
                os.close(handle)
            unfinished.rename(folder)

    def forget_authority(self) -> None:
        """Nobody may ask for a certificate any more."""
        for path in self.authorities.glob(f"{self.uid}-e*.pem"):
            path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove everything, of every epoch. Idempotent."""
        if self.uid:
            self.forget_authority()
        for pattern in (f"{_FOLDER}*", f".{_FOLDER}*"):
            for folder in self.vm_folder.glob(pattern):
                _remove(folder)

    def _authority_file(self, epoch: int) -> Path:
        return self.authorities / f"{self.uid}-e{epoch}.pem"

    def _is_complete(self, epoch: int) -> bool:
        return (self.vm_folder / folder_name(epoch)).is_dir()


def sweep(authorities: Path, known: Collection[str]) -> None:
    """Remove the authorities of all VMs but these (uids), as far as that can be done. Blocks."""
    for path in authorities.glob("*.pem"):
        if path.name.rpartition("-e")[0] not in known:
            with suppress(OSError):
                path.unlink()


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _write(path: Path | str, text: str, owner: os.stat_result | None = None, at: int | None = None) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    handle = os.open(path, flags, 0o600, dir_fd=at)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        if owner is not None:
            os.fchown(handle, owner.st_uid, owner.st_gid)


@contextmanager
def _as_unavailable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror or error}", code="credentials-unwritable") from error

"""The files by which an etcd member shows who it is and knows the others: copies, in a folder of their own.

Its sandbox sees that folder and nothing else of the host's credentials, above all not the cluster's key. They are
etcd's own user's. etcd reads certificate, key and revocation list anew with each connection, the authorities only
when it starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hostagent.drivers.process.foreign import open_foreign
from hostagent.drivers.process.users import own_by
from vdc.security.authority import MEMBER_NAME
from vdc.security.folder import BUNDLE, CERTIFICATE, KEY, REVOKED, read_private, write_private

FOLDER = "etcd"


@dataclass(frozen=True, slots=True)
class MemberFiles:
    """Where a member finds them: `folder` is as it sees it."""

    folder: Path
    has_revoked: bool  # etcd refuses everybody where it is to read a list that is not there

    @property
    def options(self) -> tuple[str, ...]:
        """etcd's options, for clients and for peers alike. Only members' certificates have the name: no person's."""
        found: list[str] = []
        for prefix in ("", "peer-"):
            found += [
                f"--{prefix}cert-file", str(self.folder / CERTIFICATE),
                f"--{prefix}key-file", str(self.folder / KEY),
                f"--{prefix}trusted-ca-file", str(self.folder / BUNDLE),
                f"--{prefix}client-cert-auth",
                f"--{prefix or 'client-'}cert-allowed-hostname", MEMBER_NAME,
            ]  # fmt: skip
            if self.has_revoked:
                found += [f"--{prefix or 'client-'}crl-file", str(self.folder / REVOKED)]
        return (*found, "--tls-min-version", "TLS1.3")


def copy_credentials(source: Path, uid: int) -> bool:
    """Bring the copies up to date for etcd's user; whether a member that runs has to be started again to see all of it.

    What it sees at its start alone is left to `copy_for_start`: so the copies are always what it knows, and an agent
    that is killed before the start leaves nothing undone that the next one could not see. Raises as `read_private`.
    """
    _copy(source, uid, [name for name in _changed(source) if not _needs_start(source, name)])
    return is_start_due(source)


def copy_for_start(source: Path, uid: int) -> None:
    """Bring all of them up to date, of a member that does not run. Raises as `read_private`."""
    _copy(source, uid, _changed(source))


def is_start_due(source: Path) -> bool:
    """What `copy_credentials` would say, without copying."""
    return any(_needs_start(source, name) for name in _changed(source))


def _copy(source: Path, uid: int, names: list[str]) -> None:
    folder = own_by(source / FOLDER, uid)
    for name in names:
        write_private(folder / name, read_private(source / name), owner=uid)


def _needs_start(source: Path, name: str) -> bool:
    return name == BUNDLE or not (source / FOLDER / name).exists()


def _changed(source: Path) -> list[str]:
    names = (
        name for name in (BUNDLE, CERTIFICATE, KEY, REVOKED) if name != REVOKED or (source / name).exists()
    )
    return [name for name in names if read_private(source / name) != _present(source / FOLDER / name)]


def files_in(source: Path, seen_at: Path) -> MemberFiles:
    """The copies, at `seen_at` in the sandbox."""
    return MemberFiles(seen_at, (source / FOLDER / REVOKED).exists())


def _present(path: Path) -> str | None:
    try:
        with open_foreign(path) as file:
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return None

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

    Raises as `read_private` does.
    """
    folder = own_by(source / FOLDER, uid)
    needs_start = False
    for name in (BUNDLE, CERTIFICATE, KEY, REVOKED):
        if name == REVOKED and not (source / name).exists():
            continue
        text, before = read_private(source / name), _present(folder / name)
        if text != before:
            needs_start |= name == BUNDLE or before is None
            write_private(folder / name, text, owner=uid)
    return needs_start


def files_in(source: Path, seen_at: Path) -> MemberFiles:
    """The copies, at `seen_at` in the sandbox."""
    return MemberFiles(seen_at, (source / FOLDER / REVOKED).exists())


def _present(path: Path) -> str | None:
    try:
        with open_foreign(path) as file:
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return None

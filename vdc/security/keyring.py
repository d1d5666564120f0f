"""A host's credentials as they are now: whoever made something of them is told when they have changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vdc.model.credentials import Authorities
from vdc.model.errors import VdcError
from vdc.security.certificates import read_revoked
from vdc.security.folder import REVOKED, SEEN, HostCredentials, load_credentials, read_private

Listener = Callable[[HostCredentials], None]


class Keyring:
    """One per agent. Raises as `load_credentials` when it is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.credentials = load_credentials(folder)
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with the new credentials after each change. Returns what ends it."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            with suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    def authorities(self) -> Authorities | None:
        """The newest record of whom to trust that was believed here; None where there was none yet."""
        try:
            return Authorities.from_json(read_private(self.folder / SEEN))
        except (VdcError, ValueError):
            return None

    @property
    def is_founding(self) -> bool:
        """Whether this host has never read the cluster's records: the first hosts of a cluster join before its
        etcd can have a majority."""
        return not (self.folder / SEEN).exists()

    def listed(self) -> frozenset[str]:
        """The revoked serial numbers as they were signed last: what is known before the records can be read."""
        try:
            return read_revoked(read_private(self.folder / REVOKED))[0]
        except VdcError:
            return frozenset()

    def reload(self) -> None:
        """Read the folder again, and tell."""
        self.credentials = load_credentials(self.folder)
        for listener in tuple(self._listeners):
            listener(self.credentials)

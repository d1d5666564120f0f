"""What this host shows and whom it trusts, wherever it speaks TLS: read from its folder, replaced while it runs.

Whoever keeps a context subscribes: a connection that is open stays as it is, the next one shows the new certificate.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from hostagent.config import AgentConfig, EtcdConfig
from vdc.model.errors import InvalidError, RefusedError
from vdc.model.identity import Identity, Role
from vdc.security.folder import HostCredentials, load_credentials, pki_folder
from vdc.security.tls import client_context, server_context


class Trust:
    """One per agent. `server` is for listeners, `client` for calls to agents and to etcd members of the cluster."""

    def __init__(self, folder: Path) -> None:
        """Raises as `load_credentials`."""
        self.folder = folder
        self._listeners: list[Callable[[], None]] = []
        self._take(load_credentials(folder))

    def _take(self, credentials: HostCredentials) -> None:
        self.server = server_context(credentials)
        self.client = client_context(credentials.bundle_pem, credentials.certificate_pem, credentials.key_pem)
        self.credentials = credentials

    @property
    def identity(self) -> Identity:
        """Who this host is."""
        return self.credentials.identity

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change."""
        self._listeners.append(listener)

    def reload(self) -> None:
        """Read the folder again. Raises as `load_credentials`, and then nothing has changed."""
        self._take(load_credentials(self.folder))
        for listener in tuple(self._listeners):
            listener()


def trust_of(config: AgentConfig) -> Trust:
    """The agent's own. Raises as Trust, RefusedError (`wrong-host`) where the certificate is another host's,
    UnauthenticatedError (`certificate-expired`).
    """
    trust = Trust(pki_folder(config.state_dir))
    role, identity = Role.WITNESS if config.witness else Role.HOST, trust.identity
    if (identity.role, identity.name) != (role, config.host):
        raise RefusedError(
            f"the certificate in {trust.folder} is that of {identity}, the configuration says {role} {config.host}",
            code="wrong-host", hint="correct the configuration, or join the cluster under this name",
        )  # fmt: skip
    trust.credentials.certificate.check_time(datetime.now(UTC))
    return trust


def etcd_context(config: EtcdConfig, trust: Trust) -> ssl.SSLContext:
    """For calls to etcd: the cluster's own, or what the configuration says for one that exists already.

    Raises InvalidError (`config-invalid`) where a file of the configuration cannot be used.
    """
    if config.embedded is not None:
        return trust.client
    try:
        context = ssl.create_default_context(cafile=str(config.ca) if config.ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if config.certificate is not None:
            context.load_cert_chain(config.certificate, config.key)
    except OSError as error:  # of which ssl.SSLError is one
        raise InvalidError(
            f"etcd: ca, certificate or key cannot be used: {error}", code="config-invalid"
        ) from error
    return context

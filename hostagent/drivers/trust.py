"""What this host shows and whom it trusts, wherever it speaks TLS; it follows the host's credentials as they change.

Whoever keeps a context subscribes: a connection that is open stays as it is, the next one shows the new certificate.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

from cryptography import x509

from hostagent.config import AgentConfig, EtcdConfig
from vdc.model.errors import InvalidError, RefusedError
from vdc.model.identity import Identity, Role
from vdc.security.certificates import is_issued_by
from vdc.security.folder import HostCredentials
from vdc.security.keyring import Keyring
from vdc.security.tls import client_context, server_context


class Trust:
    """One per agent. `server` is for listeners, `client` for calls to agents and to etcd members of the cluster."""

    def __init__(self, keyring: Keyring) -> None:
        self.folder = keyring.folder
        self._keyring = keyring
        self._listeners: list[Callable[[], None]] = []
        self._make(keyring.credentials)
        keyring.subscribe(self._follow)

    def _make(self, credentials: HostCredentials) -> None:
        self._authorities = credentials.authorities
        self.server = server_context(credentials)
        self.client = client_context(credentials.bundle_pem, credentials.certificate_pem, credentials.key_pem)

    @property
    def identity(self) -> Identity:
        """Who this host is."""
        return self._keyring.credentials.identity

    @property
    def is_founding(self) -> bool:
        """Whether this host has never read the cluster's records."""
        return self._keyring.is_founding

    def believes(self, certificate: x509.Certificate) -> bool:
        """Whether an authority that is trusted now issued it."""
        return any(is_issued_by(authority, certificate) for authority in self._authorities)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change."""
        self._listeners.append(listener)

    def check(self, config: AgentConfig) -> None:
        """RefusedError (`wrong-host`) where the certificate is another's than the configuration's."""
        wanted = Role.WITNESS if config.witness else Role.HOST
        if (self.identity.role, self.identity.name) != (wanted, config.host):
            raise RefusedError(
                f"the certificate in {self.folder} is that of {self.identity}, the configuration says "
                f"{wanted} {config.host}",
                code="wrong-host", hint="correct the configuration, or join the cluster under this name",
            )  # fmt: skip

    def _follow(self, credentials: HostCredentials) -> None:
        self._make(credentials)
        for listener in tuple(self._listeners):
            listener()


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

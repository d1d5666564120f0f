"""TLS as everything here speaks it: 1.3 alone, both sides by certificates of the cluster's authority.

A session is never resumed: it would carry an identity past the expiry of its certificate.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vdc.model.errors import InvalidError

if TYPE_CHECKING:  # people's programs come without the weight of what reads certificates
    from vdc.security.folder import HostCredentials

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME


def server_context(credentials: HostCredentials) -> ssl.SSLContext:
    """For a listener. A client's certificate is asked for; where one is shown it must be of the bundle.

    Whether a route does without one is the server's to decide, see the table of routes. So is whether it has
    expired, with each request: a connection outlives its handshake, and a handshake that fails tells nobody why.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, credentials.bundle_pem)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.num_tickets = 0
    _show(context, credentials.certificate_pem, credentials.key_pem)
    return context


def client_context(bundle_pem: str, certificate_pem: str = "", key_pem: str = "") -> ssl.SSLContext:
    """For a caller: the server's certificate must be of the bundle and for the name or address that was called.

    Without a certificate of one's own only what is public can be asked for. InvalidError (`certificate-invalid`,
    `key-mismatch`).
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, bundle_pem)
    context.check_hostname = True
    if certificate_pem:
        _show(context, certificate_pem, key_pem)
    return context


def unverified_context() -> ssl.SSLContext:
    """For the one call whose answer is checked by other means: a joining host's for the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: int, bundle_pem: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(cadata=bundle_pem)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidError("the bundle of authorities cannot be read", code="certificate-invalid") from error
    return context


def _show(context: ssl.SSLContext, certificate_pem: str, key_pem: str) -> None:
    with _as_file(certificate_pem + "\n" + key_pem) as path:
        try:
            context.load_cert_chain(path)
        except ssl.SSLError as error:
            is_other = error.reason == "KEY_VALUES_MISMATCH"
            raise InvalidError(
                "the private key does not fit the certificate"
                if is_other
                else "certificate or key cannot be read",
                code="key-mismatch" if is_other else "certificate-invalid",
            ) from error


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """A path under which OpenSSL, which reads keys from files alone, finds a text that is on no disk."""
    descriptor = os.memfd_create("vdc", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode())
        file.flush()
        yield f"/proc/self/fd/{descriptor}"

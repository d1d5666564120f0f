"""Why a TLS connection was not made, as an error for people: whose certificate was not accepted, and by whom."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

import aiohttp

from vdc.api.endpoints import Endpoint
from vdc.model.errors import UnauthenticatedError, VdcError
from vdc.security.credentials import UserCredentials

FOREIGN = "certificate-foreign"
# What an agent may say of a certificate that it does not accept (RFC 8446, 6.2), as OpenSSL names it.
_ALERTS = {
    "CERTIFICATE_EXPIRED": ("it has expired", "certificate-expired"),
    "CERTIFICATE_REVOKED": ("it was revoked", "certificate-revoked"),
    "UNKNOWN_CA": ("it is another cluster's", FOREIGN),
    "CERTIFICATE_REQUIRED": ("there is none", "certificate-missing"),
    "CERTIFICATE_UNKNOWN": ("it is not a user's of this cluster", FOREIGN),
    "BAD_CERTIFICATE": ("it cannot be read", "certificate-invalid"),
    "UNSUPPORTED_CERTIFICATE": ("it is for something else", "certificate-invalid"),
}
_EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 10, 62, 64  # X509_V_ERR_*: has expired, hostname, IP address mismatch


def refusal_of(
    endpoint: Endpoint, error: BaseException, shown: UserCredentials | None
) -> UnauthenticatedError | None:
    """The error to show for a failed request, where a certificate was the reason; `shown`: one's own."""
    found = _tls_error(error)
    was_cut = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    if shown is not None and was_cut and not isinstance(error, aiohttp.ClientConnectorError):
        return _of_own(endpoint, shown)
    if isinstance(found, ssl.SSLCertVerificationError):
        return _of_server(endpoint, found)
    for name, (why, code) in _ALERTS.items():
        if found is not None and (found.reason or "").endswith(f"ALERT_{name}"):
            return UnauthenticatedError(
                f"the agent at {endpoint} does not accept this certificate: {why}", code=code,
                hint="an administrator issues another: vdc cluster user add",
            )  # fmt: skip
    return None


def _of_server(endpoint: Endpoint, error: ssl.SSLCertVerificationError) -> UnauthenticatedError:
    if error.verify_code == _EXPIRED:
        return UnauthenticatedError(
            f"the certificate of the agent at {endpoint} has expired", code="certificate-expired",
            hint="start its agent again; are both clocks right?",
        )  # fmt: skip
    if error.verify_code in (_OTHER_NAME, _OTHER_ADDRESS):
        return UnauthenticatedError(
            f"whoever answers at {endpoint} shows the certificate of somebody else", code="wrong-host",
            hint="has the host got another address? its agent has to join again under it",
        )  # fmt: skip
    return UnauthenticatedError(
        f"whoever answers at {endpoint} is not of this cluster: {error.verify_message}", code=FOREIGN,
        hint="is this the context of another cluster? choose one with --context",
    )  # fmt: skip


def _of_own(endpoint: Endpoint, shown: UserCredentials) -> UnauthenticatedError | None:
    """An agent that accepts no certificate may also say nothing: then what was shown tells why, if anything does."""
    from vdc.security.certificates import check_certificate, parse_bundle

    try:
        check_certificate(shown.certificate_pem, parse_bundle(shown.authority_pem), datetime.now(UTC))
    except VdcError as error:
        return UnauthenticatedError(
            f"the agent at {endpoint} does not accept this certificate: {error}", code=error.code,
            hint=error.problem.hint,
        )  # fmt: skip
    return None


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """OpenSSL's own, below what aiohttp makes of it (which may be of both kinds)."""
    while error is not None and (
        not isinstance(error, ssl.SSLError) or isinstance(error, aiohttp.ClientError)
    ):
        error = error.__cause__
    return error

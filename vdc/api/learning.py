"""How people's programs follow a cluster whose authority is being replaced.

An agent that shows a certificate of an authority that a context does not know yet is asked whom to trust, over a
connection that proves nothing. What it answers counts only if it is signed by an authority that the context trusts.
A context that trusts two asks as well: until it has heard that the old one was retired, a thief of that one's key could
pose as an agent to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import aiohttp
from pydantic import ValidationError

from vdc.api.endpoints import Endpoint
from vdc.api.identities import AuthorityBundle
from vdc.api.routes import BY_NAME
from vdc.model.errors import VdcError
from vdc.security.credentials import UserCredentials

ASK_S = 3.0
_MAX_BYTES = 256 * 1024


async def learn_authorities(
    endpoints: Sequence[Endpoint], credentials: UserCredentials
) -> UserCredentials | None:
    """The credentials with the authorities that are trusted now; None where nobody can prove that they changed."""
    from vdc.security.authorities import believe

    for endpoint in endpoints:
        if endpoint.unix_path or (answer := await _ask(endpoint)) is None or answer.record is None:
            continue
        try:
            believe(answer.record, credentials.authority_pem)
        except VdcError:
            continue
        if answer.record.bundle != credentials.authority_pem:
            return replace(credentials, authority_pem=answer.record.bundle)
    return None


def is_rotating(credentials: UserCredentials) -> bool:
    """Whether these know of more than one authority."""
    return credentials.authority_pem.count("-----BEGIN CERTIFICATE-----") > 1


async def _ask(endpoint: Endpoint) -> AuthorityBundle | None:
    from vdc.security.tls import unverified_context

    connector = aiohttp.TCPConnector(ssl=unverified_context())
    timeout = aiohttp.ClientTimeout(total=ASK_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        try:
            url = endpoint.base_url + BY_NAME["authority"].path
            async with session.get(url, allow_redirects=False) as answer:
                return AuthorityBundle.from_json(await answer.content.read(_MAX_BYTES))
        except (aiohttp.ClientError, ValidationError, OSError, TimeoutError):
            return None

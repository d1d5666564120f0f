"""One blob as one stream of bytes, whichever peers it comes from.

A peer that breaks off or stalls is replaced by the next one, which is asked for the rest (`Range`), so that
what has arrived is not sent again. Nothing here is trusted: whoever stores the stream checks its digest.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import aiohttp

from vdc.api.routes import BY_NAME
from vdc.model.errors import UnavailableError
from vdc.model.image import Blob

CONNECT_S = 3.0
STALL_S = 10.0
_OK, _PARTIAL = 200, 206


class PeerReader:
    """Reads one blob. `contributors`: the peers that bytes came from; `failures`: why others were left."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        blob: Blob,
        *,
        connect_s: float = CONNECT_S,
        stall_s: float = STALL_S,
    ) -> None:
        self._session = session
        self._blob = blob
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=stall_s)
        self._received = 0
        self.contributors: list[str] = []
        self.failures: dict[str, str] = {}

    async def read(self, peers: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """The blob's bytes in order, from the first peer (an API base URL) that sends them.

        Peers are tried in turn for as long as a round over all of them brings something. Raises
        UnavailableError (image-unavailable) then, with each one's reason.
        """
        while self._received < self._blob.size_bytes:
            before = self._received
            for peer in peers:
                async with aclosing(self._read_rest(peer)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                if self._received >= self._blob.size_bytes:
                    return
            if self._received == before:
                raise self._unavailable()

    async def _read_rest(self, peer: str) -> AsyncGenerator[bytes, None]:
        """What this peer sends of the rest; a failure is noted, not raised."""
        url = peer.rstrip("/") + BY_NAME["read_blob"].path.format(digest=self._blob.digest)
        headers = {"Accept-Encoding": "identity"}
        if self._received:
            headers["Range"] = f"bytes={self._received}-"
        try:
            async with self._session.get(url, headers=headers, timeout=self._timeout) as response:
                skip = self._bytes_to_skip(response)
                async for chunk in response.content.iter_any():
                    rest, skip = chunk[skip:], max(0, skip - len(chunk))
                    if rest:
                        self._received += len(rest)
                        if peer not in self.contributors:
                            self.contributors.append(peer)
                        yield rest
            if self._received < self._blob.size_bytes:
                self.failures[peer] = "it ended before the blob did"
        except _NotServedError as error:
            self.failures[peer] = str(error)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.failures[peer] = str(error) or type(error).__name__

    def _bytes_to_skip(self, response: aiohttp.ClientResponse) -> int:
        """How much of the body is here already: everything so far where the peer does not know ranges."""
        if response.status == _OK:
            return self._received
        if response.status != _PARTIAL:
            raise _NotServedError(f"it answered {response.status}")
        if not response.headers.get("Content-Range", "").startswith(f"bytes {self._received}-"):
            raise _NotServedError("it sent another range than was asked for")
        return 0

    def _unavailable(self) -> UnavailableError:
        reasons = "; ".join(f"{peer}: {reason}" for peer, reason in self.failures.items())
        return UnavailableError(
            f"no host could send {self._blob.digest}: {reasons or 'none holds it'}",
            hint="start the hosts that hold the image, or import it again",
            code="image-unavailable",
        )


class _NotServedError(Exception):
    """The peer answered, but not with the bytes that were asked for."""

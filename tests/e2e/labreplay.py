"""Asks an agent once over TLS, keeps every byte that was sent, and sends the same bytes on a new connection.

python labreplay.py URL PATH FOLDER       prints what came back: {"first": ..., "again": ...}
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit


def main(url: str, path: str, folder: str) -> dict[str, str]:
    parts = urlsplit(url)
    place = (parts.hostname or "", parts.port or 0)
    context = ssl.create_default_context(cafile=str(Path(folder) / "ca.crt"))
    context.load_cert_chain(Path(folder) / "host.crt", Path(folder) / "host.key")
    incoming, outgoing, sent = ssl.MemoryBIO(), ssl.MemoryBIO(), b""
    tls = context.wrap_bio(incoming, outgoing, server_hostname=place[0])
    request = f"GET {path} HTTP/1.1\r\nHost: {place[0]}\r\nConnection: close\r\n\r\n".encode()
    with socket.create_connection(place, 5) as sock:
        first, asked = b"", False
        while True:
            with suppress(ssl.SSLWantReadError):
                if not asked:
                    tls.do_handshake()
                    tls.write(request)
                    asked = True
                first += tls.read(65536)
            data = outgoing.read()
            sock.sendall(data)
            sent += data
            if first:
                break
            incoming.write(sock.recv(65536))
    again = b""
    with socket.create_connection(place, 5) as sock, suppress(OSError):
        sock.sendall(sent)
        while chunk := sock.recv(65536):
            again += chunk
    return {"first": first.decode("latin-1")[:100], "again": again.decode("latin-1")[:4000]}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))

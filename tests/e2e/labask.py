"""Asks an agent, or an etcd member, over TLS from inside a namespace of the lab, with whatever is to be shown.

    python labask.py URL METHOD FOLDER [BODY] [HEADER=VALUE ...]     prints one JSON object

FOLDER holds ca.crt, and host.crt and host.key of whoever asks, or of nobody ("-": no server is verified either).
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit


def ask(url: str, method: str, folder: str, body: str = "", *headers: str) -> dict[str, object]:
    parts = urlsplit(url)
    context = ssl.create_default_context(cafile=None if folder == "-" else str(Path(folder) / "ca.crt"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if folder == "-":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif (Path(folder) / "host.crt").exists():
        context.load_cert_chain(Path(folder) / "host.crt", Path(folder) / "host.key")
    connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=5, context=context)
    try:
        connection.request(method, parts.path, body or None, dict(one.split("=", 1) for one in headers))
        answer = connection.getresponse()
        text = answer.read().decode()
        return {"status": answer.status, "body": json.loads(text) if text[:1] in ("{", "[") else text}
    except (OSError, http.client.HTTPException) as error:
        return {"status": 0, "body": f"{type(error).__name__}: {error}"}
    finally:
        connection.close()


if __name__ == "__main__":
    print(json.dumps(ask(*sys.argv[1:])))

"""The child process that loads libvirt, reads one domain and ends. It changes nothing: the connection is read-only.

One JSON object on stdin, one on stdout; exit status 0 whenever there is an answer, an error among them:

    {"uri": "qemu:///system", "name": NAME, "volumes": [[POOL, VOLUME], ...]}
        -> {"uri", "name", "xml", "state": "shutoff", "autostart": bool, "has_saved_memory": bool,
            "snapshots": [NAME, ...], "volumes": [PATH or "", ...]}
    what went wrong -> {"error": "missing" | "unavailable" | "domain-missing", "reason": "...", "names": [...]}

Only the standard library and libvirt are imported.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

_MAX_NAMES = 200
Answer = dict[str, Any]


def answer(request: dict[str, Any]) -> Answer:
    """Answer one request; never raises for what libvirt says or lacks."""
    try:
        import libvirt
    except ImportError as error:
        return {"error": "missing", "reason": f"the Python module libvirt cannot be loaded: {error}"}
    libvirt.registerErrorHandler(lambda *_: None, None)  # errors arrive as exceptions as well
    libvirt.virEventRegisterDefaultImpl()  # before the connection: the embedded driver relies on it
    threading.Thread(target=_run_events, args=(libvirt,), name="libvirt-events", daemon=True).start()
    try:
        connection = libvirt.openReadOnly(request["uri"])
    except libvirt.libvirtError as error:
        return {"error": "unavailable", "reason": str(error)}
    try:
        domain = _find(libvirt, connection, request["name"])
        if domain is None:
            names = sorted(found.name() for found in connection.listAllDomains())
            return {"error": "domain-missing", "reason": request["name"], "names": names[:_MAX_NAMES]}
        return _describe(libvirt, connection, domain, request.get("volumes", ()))
    except libvirt.libvirtError as error:
        return {"error": "unavailable", "reason": str(error)}


def _run_events(libvirt: Any) -> None:
    while libvirt.virEventRunDefaultImpl() == 0:
        pass


def _find(libvirt: Any, connection: Any, name: str) -> Any:
    """By name, else by UUID."""
    for look in (connection.lookupByName, connection.lookupByUUIDString):
        try:
            return look(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG):
                raise
    return None


def _describe(libvirt: Any, connection: Any, domain: Any, volumes: Any) -> Answer:
    state = domain.state()[0]
    names = {
        getattr(libvirt, f"VIR_DOMAIN_{word.upper()}"): word
        for word in (
            "nostate",
            "running",
            "blocked",
            "paused",
            "shutdown",
            "shutoff",
            "crashed",
            "pmsuspended",
        )
    }
    return {
        "uri": connection.getURI(),
        "name": domain.name(),
        "xml": domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE),
        "state": names.get(state, "unknown"),
        "autostart": bool(domain.autostart()),
        "has_saved_memory": bool(domain.hasManagedSaveImage()),
        "snapshots": sorted(snapshot.getName() for snapshot in domain.listAllSnapshots()),
        "volumes": [_path_of(libvirt, connection, pool, volume) for pool, volume in volumes],
    }


def _path_of(libvirt: Any, connection: Any, pool: str, volume: str) -> str:
    try:
        return str(connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())
    except libvirt.libvirtError:
        return ""


def main() -> None:
    """Read the request, write the answer, end without waiting for libvirt's threads."""
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

"""The child process that loads libvirt, answers one question and ends.

One JSON object on stdin, one on stdout; exit status 0 whenever there is an answer, an error among them:

    {"question": "inventory", "uris": [...], "root": DIR, "emulator": [...], "virt_type": "kvm"}
        -> {"uri", "libvirt_version", "cpu_xml", "cpu_model", "models": [...], "notes": [...]}
    {"question": "baseline", ..., "cpu_xmls": [...]}
        -> {"uri", "libvirt_version", "xml", "qemu_cpu", "source": "hypervisor" | "host"}
    what went wrong -> {"error": "missing" | "unavailable" | "incompatible", "reason": "..."}

Only the standard library and libvirt are imported: this process starts in 0.1 s and needs 40 MB for a second.
Danger: it must run in the sandbox of sandbox.py; libvirt makes folders in /run/libvirt, wherever its root is.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
from pathlib import Path
from typing import Any

from hostagent.drivers.libvirt import cpu

ARCH = "x86_64"
MACHINE = "q35"
_QEMU_CONF = 'user = "root"\ngroup = "root"\nstdio_handler = "file"\nnamespaces = []\nremember_owner = 0\n'
Answer = dict[str, Any]


class _UnanswerableError(Exception):
    """Why there is no answer; `kind` is for the agent, the text for people."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def answer(request: dict[str, Any]) -> Answer:
    """Answer one request; never raises for what libvirt or the machine lacks."""
    try:
        try:
            import libvirt
        except ImportError as error:
            raise _UnanswerableError(
                "missing", f"the Python module libvirt cannot be loaded: {error}"
            ) from error
        libvirt.registerErrorHandler(lambda *_: None, None)  # errors arrive as exceptions as well
        connection = _open(libvirt, request)
        try:
            return _QUESTIONS[request["question"]](libvirt, connection, request)
        finally:
            connection.close()
    except _UnanswerableError as error:
        return {"error": error.kind, "reason": str(error)}


def _open(libvirt: Any, request: dict[str, Any]) -> Any:
    """The first of the URIs that opens."""
    _prepare_root(Path(request["root"]), request.get("emulator") or [])
    libvirt.virEventRegisterDefaultImpl()  # before the connection: the embedded driver relies on it
    threading.Thread(target=_run_events, args=(libvirt,), name="libvirt-events", daemon=True).start()
    reasons = []
    for uri in request["uris"]:
        try:
            return libvirt.open(uri)
        except libvirt.libvirtError as error:
            reasons.append(f"{uri}: {error}")
    raise _UnanswerableError("unavailable", "; ".join(reasons) or "no URI was given")


def _run_events(libvirt: Any) -> None:
    while libvirt.virEventRunDefaultImpl() == 0:
        pass


def _prepare_root(root: Path, emulator: list[str]) -> None:
    """Configure the embedded driver: QEMU is probed once, as the user who will run it."""
    (root / "etc").mkdir(parents=True, exist_ok=True)
    (root / "etc/qemu.conf").write_text(_QEMU_CONF)
    if emulator:
        program = _emulator_path(root)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(emulator)} "$@"\n')
        program.chmod(0o755)


def _emulator_path(root: Path) -> Path:
    return root / "qemu-system-x86_64"


def _emulator(request: dict[str, Any], uri: str) -> str | None:
    """The emulator to ask about; a system's daemon cannot see this process's files, and has its own."""
    return str(_emulator_path(Path(request["root"]))) if request.get("emulator") and "embed" in uri else None


def _inventory(libvirt: Any, connection: Any, request: dict[str, Any]) -> Answer:
    result = _about(connection)
    notes = []
    try:
        result["cpu_xml"] = cpu.host_cpu_xml(connection.getCapabilities())
    except libvirt.libvirtError as error:
        raise _UnanswerableError("unavailable", str(error)) from error
    result["cpu_model"], result["models"] = "", []
    virt_type = request["virt_type"]
    try:
        emulator = _emulator(request, result["uri"])
        domain = connection.getDomainCapabilities(emulator, ARCH, MACHINE, virt_type)
    except libvirt.libvirtError as error:
        notes.append(f"libvirt cannot describe QEMU ({virt_type}): {error}")
    else:
        result["models"] = cpu.usable_models(domain)
        model = cpu.host_model(domain)
        if model is not None:
            result["cpu_model"] = model.name
            if virt_type == "kvm":  # under TCG a host-model says what QEMU emulates, not what the host is
                result["cpu_xml"] = model.xml
    return {**result, "notes": notes}


def _baseline(libvirt: Any, connection: Any, request: dict[str, Any]) -> Answer:
    result = _about(connection)
    xmls, flags = request["cpu_xmls"], libvirt.VIR_CONNECT_BASELINE_CPU_MIGRATABLE
    emulator, source = _emulator(request, result["uri"]), "hypervisor"
    try:
        xml = connection.baselineHypervisorCPU(emulator, ARCH, MACHINE, request["virt_type"], xmls, flags)
    except libvirt.libvirtError as error:  # no KVM here, or something does not fit: the hosts or QEMU
        xml, source = _host_baseline(libvirt, connection, xmls, flags), "host"
        if _is_misfit(libvirt, error):
            reason = f"QEMU cannot offer what these hosts have in common: {error}"
            raise _UnanswerableError("unavailable", reason) from error
    return {**result, "xml": xml, "qemu_cpu": cpu.qemu_cpu(xml), "source": source}


def _host_baseline(libvirt: Any, connection: Any, xmls: list[str], flags: int) -> str:
    try:
        return str(connection.baselineCPU(xmls, flags))
    except libvirt.libvirtError as error:
        kind = "incompatible" if _is_misfit(libvirt, error) else "unavailable"
        raise _UnanswerableError(kind, str(error)) from error


def _is_misfit(libvirt: Any, error: Any) -> bool:
    """Whether CPUs do not fit. Libvirt reports unlike vendors and unlike CPUs as failed operations."""
    codes = (libvirt.VIR_ERR_CPU_INCOMPATIBLE, libvirt.VIR_ERR_OPERATION_FAILED)
    return error.get_error_code() in codes


def _about(connection: Any) -> Answer:
    number = connection.getLibVersion()
    version = f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"
    return {"uri": connection.getURI(), "libvirt_version": version}


_QUESTIONS = {"inventory": _inventory, "baseline": _baseline}


def main() -> None:
    """Read the request, write the answer, end without waiting for libvirt's threads."""
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

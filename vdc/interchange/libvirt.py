"""Asks a libvirt about one domain, through a child process with a deadline. Nothing is ever changed there.

The command line never loads libvirt: a crash or a hang of it would be ours. The child opens the connection read-only,
so that libvirt itself refuses to start, change or undefine anything, and keeps passwords to itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pydantic import ValidationError

from vdc.interchange.element import MAX_BYTES
from vdc.model.base import Record
from vdc.model.errors import InvalidError, NotFoundError, RefusedError, UnavailableError

DEFAULT_URI = "qemu:///system"
DEADLINE_S = 60.0  # an embedded libvirt asks QEMU what it can do first
_WORKER = "vdc.interchange.libvirt_worker"
_MAX_ANSWER_BYTES = 8 * MAX_BYTES
_TAIL = 300


class LibvirtDomain(Record):
    """What libvirt says of a domain that is off."""

    uri: str
    name: str
    xml: str
    state: str
    autostart: bool
    has_saved_memory: bool
    snapshots: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


def check_uri(uri: str) -> str:
    """Accept a QEMU of this machine: its disks have to be read here. InvalidError (`uri-unsupported`)."""
    try:
        parts = urlsplit(uri)
        is_here = not parts.netloc
    except ValueError:
        parts, is_here = urlsplit(""), False
    if parts.scheme.split("+", 1)[0] != "qemu" or len(uri) > 1000:
        raise InvalidError(
            f"{uri[:80]!r} is no libvirt of QEMU's", hint=f"for example {DEFAULT_URI}", code="uri-unsupported"
        )
    if not is_here:
        raise InvalidError(
            f"the disks of {uri[:80]} are on another machine",
            hint="run vdc there, or copy the disks here and give the XML: --xml FILE",
            code="uri-unsupported",
        )
    return uri


def read_libvirt(
    uri: str,
    name: str,
    volumes: Sequence[tuple[str, str]] = (),
    *,
    deadline_s: float = DEADLINE_S,
    python: Sequence[str] = (sys.executable,),
) -> LibvirtDomain:
    """A domain by its name or UUID, and the files of volumes of pools.

    Raises NotFoundError (`domain-not-found`), RefusedError (`domain-running`, `domain-saved`, `domain-autostart`),
    UnavailableError (`libvirt-unavailable`, `libvirt-missing`).
    """
    _require_no_autostart(check_uri(uri))
    request = {"uri": uri, "name": name, "volumes": [list(volume) for volume in volumes]}
    answer = _ask(json.dumps(request).encode(), deadline_s, python)
    if "error" in answer:
        raise _error(answer, uri)
    try:
        domain = LibvirtDomain.model_validate(answer)
    except ValidationError as error:
        raise _unavailable("its answer is not understood") from error
    _require_off(domain)
    return domain


def _require_no_autostart(uri: str) -> None:
    """An embedded libvirt starts the domains that are marked so as soon as it is opened, and this must start none."""
    parts = urlsplit(uri)
    root = parse_qs(parts.query).get("root", [""])[0]
    if parts.path == "/embed" and any((Path(root) / "etc/qemu/autostart").glob("*.xml")):
        raise RefusedError(
            f"{uri[:80]} would start domains by itself when it is opened",
            hint=f"virsh -c {uri[:80]} autostart --disable NAME, for each in {root[:80]}/etc/qemu/autostart",
            code="domain-autostart",
        )


def _require_off(domain: LibvirtDomain) -> None:
    if domain.state not in ("shutoff", "crashed"):
        raise RefusedError(
            f"domain {domain.name} is {domain.state}; only one that is off is imported",
            hint=f"shut it down: virsh -c {domain.uri} shutdown {domain.name}",
            code="domain-running",
        )
    if domain.has_saved_memory:
        raise RefusedError(
            f"domain {domain.name} was suspended to disk (managed save); its disks alone are not all of it",
            hint=f"start it and shut it down, or give its memory up: virsh managedsave-remove {domain.name}",
            code="domain-saved",
        )


def _ask(request: bytes, deadline_s: float, python: Sequence[str]) -> dict[str, object]:
    try:
        done = subprocess.run(
            [*python, "-P", "-m", _WORKER],
            input=request,
            capture_output=True,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _unavailable(f"it did not answer within {deadline_s:g} s") from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"]
        raise _unavailable(f"its helper failed: {lines[-1][-_TAIL:]}")
    try:
        answer = json.loads(done.stdout[:_MAX_ANSWER_BYTES])
    except (ValueError, RecursionError) as error:
        raise _unavailable("its helper gave no answer") from error
    if not isinstance(answer, dict):
        raise _unavailable("its helper gave no answer")
    return answer


def _error(answer: dict[str, object], uri: str) -> NotFoundError | UnavailableError:
    kind, reason = answer.get("error"), str(answer.get("reason", ""))[:_TAIL]
    if kind == "domain-missing":
        names = answer.get("names")
        known = ", ".join(str(name)[:60] for name in names[:20]) if isinstance(names, list) else ""
        return NotFoundError(
            f"{uri} has no domain {reason[:80]!r}",
            hint=f"it has: {known}" if known else "it has no domains; another one: --uri URI",
            code="domain-not-found",
        )
    if kind == "missing":
        return UnavailableError(
            reason, hint="run make setup, or give the domain's XML: --xml FILE", code="libvirt-missing"
        )
    return _unavailable(reason)


def _unavailable(reason: str) -> UnavailableError:
    return UnavailableError(
        f"libvirt cannot be used: {reason}",
        hint="is its daemon running? Or give the domain's XML: --xml FILE",
        code="libvirt-unavailable",
    )

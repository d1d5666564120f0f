"""Asks libvirt, through a child process with a deadline, and keeps its answers for the boot.

UnavailableError
└── LibvirtError            there is no answer now; a plain inventory is still possible
    └── LibvirtMissingError  the module or the library is not installed
RefusedError (cpu-incompatible)  libvirt did answer: these CPUs have no common model
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

import hostagent
from hostagent.drivers.libvirt import sandbox
from hostagent.drivers.libvirt.cache import AnswerCache
from vdc.model.base import Record
from vdc.model.errors import InvalidError, RefusedError, UnavailableError

DEADLINE_S = 10.0  # an answer takes 0.7 s on an idle core
_WORKER = "hostagent.drivers.libvirt.worker"
_STDERR_TAIL = 300
_R = TypeVar("_R", bound=Record)


class LibvirtError(UnavailableError):
    """Libvirt gave no answer: not installed, not startable, too slow, crashed."""

    default_code = "libvirt-unavailable"


class LibvirtMissingError(LibvirtError):
    """Libvirt or its Python module is not installed."""

    default_code = "libvirt-missing"


class LibvirtAnswer(Record):
    """What libvirt says of this host."""

    uri: str
    libvirt_version: str
    cpu_xml: str
    cpu_model: str
    models: tuple[str, ...]
    notes: tuple[str, ...] = ()


class CpuBaseline(Record):
    """The CPU that all hosts asked about can offer."""

    uri: str
    libvirt_version: str
    xml: str
    qemu_cpu: str  # what QEMU's -cpu takes
    source: str = Field(pattern="^(hypervisor|host)$")  # host: from the hosts' CPUs alone, QEMU not consulted


class LibvirtInventory:
    """The driver. It holds nothing: no connection, no thread, no process between two questions."""

    def __init__(
        self,
        *,
        runtime: Path | None,
        accelerator: str = "tcg",
        cache_dir: Path | None = None,
        hidden: Path | None = None,
        deadline_s: float = DEADLINE_S,
        python: Sequence[str] = (sys.executable,),
        system_run_dir: Path = sandbox.SYSTEM_RUN_DIR,
    ) -> None:
        self._runtime = runtime.resolve() if runtime else None
        self._virt_type = "kvm" if accelerator == "kvm" else "qemu"
        self._hidden = hidden
        self._deadline_s = deadline_s
        self._python = tuple(python)
        self._system_run_dir = system_run_dir
        self._cache = AnswerCache(cache_dir, deadline_s=deadline_s) if cache_dir else None

    async def describe(self) -> LibvirtAnswer:
        """Describe this host; from the cache where this boot's answer is there. Raises LibvirtError."""
        answer = await self._cached("inventory", {}, lambda: self._ask("inventory", {}))
        return _validated(LibvirtAnswer, answer)

    async def baseline(self, cpu_xmls: Sequence[str]) -> CpuBaseline:
        """Compute the CPU that every host with one of these `<cpu>` elements can offer.

        Order and repetition do not matter. Raises RefusedError (cpu-incompatible) where there is none,
        LibvirtError without an answer, InvalidError for an empty list or an empty element.
        """
        xmls = sorted(set(cpu_xmls))
        if not xmls or not all(xmls):
            raise InvalidError("a CPU baseline needs the CPU description of every host", code="cpu-unknown")
        question = {"cpu_xmls": xmls}
        answer = await self._cached("baseline", question, lambda: self._ask("baseline", question))
        return _validated(CpuBaseline, answer)

    async def _cached(
        self, question: str, details: dict[str, Any], ask: Callable[[], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        if self._cache is None:
            return await ask()
        key = {"question": question, **details, "runtime": str(self._runtime), "virt_type": self._virt_type}
        return await self._cache.get_or_ask(key, ask)

    async def _ask(self, question: str, details: dict[str, Any]) -> dict[str, Any]:
        sockets = sandbox.system_sockets(self._system_run_dir)
        request = {
            "question": question,
            **details,
            "uris": sandbox.uris(self._runtime, has_system_daemon=bool(sockets)),
            "root": sandbox.ROOT,
            "emulator": sandbox.emulator(self._runtime),
            "virt_type": self._virt_type,
        }
        answer = _parse(await self._run(json.dumps(request).encode(), sockets))
        if "error" in answer:
            raise _error(str(answer["error"]), str(answer.get("reason", "")))
        return answer

    async def _run(self, request: bytes, sockets: Sequence[Path]) -> bytes:
        with contextlib.ExitStack() as stack:
            descriptors = [
                stack.enter_context(_text_descriptor(text)) for text in (sandbox.USERS, sandbox.GROUPS)
            ]
            argv = sandbox.sandboxed(
                [*self._python, "-P", "-m", _WORKER],
                passwd_fd=descriptors[0],
                group_fd=descriptors[1],
                sockets=sockets,
                hidden=self._hidden if self._hidden and self._hidden.is_dir() else None,
            )
            async with _child(argv, descriptors) as child:
                try:
                    async with asyncio.timeout(self._deadline_s):
                        output, complaint = await child.communicate(request)
                except TimeoutError as error:
                    raise LibvirtError(f"libvirt did not answer within {self._deadline_s:g} s") from error
        if child.returncode != 0:
            tail = complaint.decode(errors="replace").strip()[-_STDERR_TAIL:]
            raise LibvirtError(
                f"libvirt's helper ended with status {child.returncode}: {tail or 'no reason given'}"
            )
        return output


@contextlib.contextmanager
def _text_descriptor(text: str) -> Iterator[int]:
    """A descriptor that reads as `text`."""
    handle = os.memfd_create("text", os.MFD_CLOEXEC)
    try:
        os.write(handle, text.encode())
        os.lseek(handle, 0, os.SEEK_SET)
        yield handle
    finally:
        os.close(handle)


@contextlib.asynccontextmanager
async def _child(argv: list[str], pass_fds: list[int]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A child that is dead and reaped when the block is left, whatever happens in it."""
    pipe = asyncio.subprocess.PIPE
    try:
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            pass_fds=pass_fds,
            env=_environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise LibvirtError(
            f"{argv[0]} cannot be started: {error.strerror}", hint="install bubblewrap"
        ) from error
    try:
        yield child
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await asyncio.shield(child.wait())


def _environment() -> dict[str, str]:
    """Nothing of the agent's but where its code is found."""
    code = Path(next(iter(hostagent.__path__))).parent
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(code),
        "LANG": "C.UTF-8",
        "HOME": "/",
    }


def _parse(output: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(output)
    except ValueError as error:
        raise LibvirtError("libvirt's helper ended without an answer") from error
    if not isinstance(answer, dict):
        raise LibvirtError("libvirt's helper gave no object as its answer")
    return answer


def _validated(record: type[_R], answer: dict[str, Any]) -> _R:
    try:
        return record.model_validate(answer)
    except ValidationError as error:
        raise LibvirtError(
            f"libvirt's helper gave an answer that cannot be read: {error.errors()[0]}"
        ) from error


def _error(kind: str, reason: str) -> LibvirtError | RefusedError:
    if kind == "incompatible":
        return RefusedError(f"these hosts have no common CPU model: {reason}", code="cpu-incompatible")
    if kind == "missing":
        return LibvirtMissingError(reason, hint="run make setup")
    return LibvirtError(f"libvirt cannot be used: {reason}")

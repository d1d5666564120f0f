"""`vdc cp`: files between this machine and a container, as a tar archive that is made and read on the way."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from vdc.api.client import ApiClient
from vdc.cli.archive import BLOCK, Unpacked, members, unpack
from vdc.cli.progress import StatusLine
from vdc.cli.text import clean
from vdc.model.errors import InvalidError, RefusedError, UnavailableError
from vdc.model.units import format_size

_PIPE_CHUNK: Final = 65_536
_SHOWN: Final = 3  # of what was left out


@dataclass(frozen=True, slots=True)
class There:
    """A path in a container."""

    name: str
    path: PurePosixPath
    is_folder: bool = False  # said by a slash at its end


def parse_place(text: str) -> There | Path:
    """`NAME:PATH`, or a local path. Raises InvalidError (`path-invalid`)."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or name in ("", ".", ".."):
        return Path(text)
    if not path.startswith("/"):
        raise InvalidError(
            f"{text}: a path in a container begins with /",
            hint=f"a local file: ./{text}",
            code="path-invalid",
        )
    return There(name, PurePosixPath(os.path.normpath(path)), path.endswith("/"))


# ---- out of a container


async def copy_out(api: ApiClient, source: There, target: Path, *, most_bytes: int) -> Unpacked:
    """Copy into an existing folder, or to a new name. Raises VdcError, OSError."""
    base = source.path.name or "."
    if target.is_dir():
        if base == ".":
            raise InvalidError(f"{source.name}:/ needs a new name, and {target} exists", code="path-invalid")
        parent, name = target, base
    else:
        parent, name = target.parent, target.name
    if not parent.is_dir():
        raise InvalidError(f"there is no folder {parent}", code="path-invalid")
    with StatusLine() as line:
        return await _through_pipe(
            api.read_files(source.name, str(source.path)),
            lambda file: unpack(file, parent, name, expected=base, most_bytes=most_bytes),
            line,
        )


async def _through_pipe(chunks: Any, work: Callable[[Any], Unpacked], line: StatusLine) -> Unpacked:
    """Let `work` read what comes, in a thread; its error counts before that of whoever feeds it."""
    reading, writing = os.pipe()

    def read() -> Unpacked:
        with os.fdopen(reading, "rb") as file:
            done = work(file)
            while file.read(_PIPE_CHUNK):  # what is behind the end
                pass
            return done

    unpacking = asyncio.create_task(asyncio.to_thread(read), name="unpack")
    try:
        try:
            await _feed(chunks, writing, line)
        finally:
            os.close(writing)
        return await unpacking
    except BrokenPipeError:
        return await unpacking
    finally:
        await asyncio.gather(unpacking, return_exceptions=True)


async def _feed(chunks: Any, writing: int, line: StatusLine) -> None:
    total = 0
    async with aclosing(chunks):
        async for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[await asyncio.to_thread(os.write, writing, rest) :]
            total += len(chunk)
            line.show(f"{format_size(total)} copied")


# ---- into a container


async def copy_in(api: ApiClient, source: Path, target: There) -> int:
    """Copy into an existing folder, or to a new name; says how many files there were. Raises VdcError, OSError."""
    source.stat()
    is_folder = target.is_folder or target.path == PurePosixPath("/") or await _is_folder(api, target)
    folder, name = (
        (target.path, source.resolve().name) if is_folder else (target.path.parent, target.path.name)
    )

    failures: list[OSError] = []

    async def archive() -> AsyncIterator[bytes]:
        try:
            async for chunk in packed(source, name):
                yield chunk
        except OSError as error:
            failures.append(error)
            raise

    try:
        return (await api.write_files(target.name, str(folder), archive)).files
    except UnavailableError:
        if failures:  # nothing was lost on the way: there was nothing to send
            raise failures[0] from None
        raise


async def _is_folder(api: ApiClient, there: There) -> bool:
    """The guest is asked for it, and the first header of the answer tells."""
    head = b""
    try:
        async with aclosing(api.read_files(there.name, str(there.path))) as chunks:
            async for chunk in chunks:
                head += chunk
                if len(head) >= BLOCK:
                    break
    except RefusedError as error:
        if error.code != "guest-refused":
            raise
        return False  # there is none: a new name
    first = next(members(io.BytesIO(head[:BLOCK] + bytes(BLOCK))), None)
    if first is not None and first.issym():
        raise InvalidError(
            f"{there.name}:{there.path} is a link",
            hint="name what it leads to, or end it with /",
            code="path-invalid",
        )
    return first is not None and first.isdir()


async def packed(source: Path, name: str) -> AsyncIterator[bytes]:
    """The archive of a file or folder under another name, as it is made. Raises OSError."""
    reading, writing = os.pipe()

    def write() -> None:
        with (
            os.fdopen(writing, "wb") as file,
            tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(source.resolve(), name, filter=_nobodys)

    packing = asyncio.create_task(asyncio.to_thread(write), name="pack")
    try:
        while chunk := await asyncio.to_thread(os.read, reading, _PIPE_CHUNK):
            yield chunk
    finally:
        os.close(reading)
        with suppress(BrokenPipeError):
            await packing


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Files are root's in the container; what is no file, folder or link is left out."""
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        print(f"left out: {clean(member.name)} is no file", file=sys.stderr)
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = stat.S_IMODE(member.mode) & 0o777
    return member


def left_out_text(done: Unpacked) -> str:
    """One line, or empty."""
    if not done.left_out:
        return ""
    names = ", ".join(clean(name)[:80] for name in done.left_out[:_SHOWN])
    more = f" and {len(done.left_out) - _SHOWN} more" if len(done.left_out) > _SHOWN else ""
    return f"left out, as they are no files or lead elsewhere: {names}{more}"

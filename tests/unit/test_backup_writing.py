"""From the parts that an agent sends to the chunks of a repository; and the map of a qcow2 file that they come from."""

from __future__ import annotations

import os
import random
import struct

import pytest

from vdc.api.backups import Part, PartKind, head_of, read_parts
from vdc.backup.record import CHUNK_BYTES, chunk_count
from vdc.backup.repository import Repository
from vdc.backup.writing import DiskWriter
from vdc.images.content import BytesContent
from vdc.images.extents import Extent, Qcow2Map
from vdc.model.errors import BugError, InvalidError, NotFoundError, UnavailableError
from vdc.model.units import KIB, MIB

SIZE = 2 * CHUNK_BYTES + 96 * KIB
CLUSTER = 64 * KIB


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    async def at_once(_seconds):
        return None

    monkeypatch.setattr("vdc.backup.writing.asyncio.sleep", at_once)
    return Repository.init(str(tmp_path / "r"))[0]


def data(offset, content):
    return Part(PartKind.DATA, offset, len(content), content)


def zeros(offset, length):
    return Part(PartKind.ZEROS, offset, length)


def stream(*parts, broken_after=None):
    """What an agent sends; the first stream breaks off after so many parts."""
    calls = []

    async def opened(first):
        calls.append(first)
        for number, part in enumerate(part for part in parts if part.offset >= first):
            if broken_after is not None and len(calls) == 1 and number == broken_after:
                raise UnavailableError("gone", code="backup-cut")
            yield part
        yield Part(PartKind.END, SIZE)

    opened.calls = calls
    return opened


def content_of(repository, chunks):
    sizes = [min(CHUNK_BYTES, SIZE - index * CHUNK_BYTES) for index in range(len(chunks))]
    return b"".join(repository.get(chunk, size) for chunk, size in zip(chunks, sizes, strict=True))


async def test_parts_become_chunks_and_changes_are_put_onto_what_was_before(repository):
    noise = random.Random(1).randbytes(MIB)
    whole = await DiskWriter(repository, SIZE).write(
        stream(data(0, noise), data(CHUNK_BYTES - 64 * KIB, noise), data(2 * CHUNK_BYTES, noise[: 96 * KIB]))
    )
    expected = bytearray(SIZE)
    for offset in (0, CHUNK_BYTES - 64 * KIB):
        expected[offset : offset + MIB] = noise
    expected[2 * CHUNK_BYTES :] = noise[: 96 * KIB]
    assert content_of(repository, whole.chunks) == expected
    assert whole.read_bytes == 2 * MIB + 96 * KIB

    changes = (data(128 * KIB, b"x" * CLUSTER), zeros(CHUNK_BYTES, CHUNK_BYTES + 64 * KIB))
    changed = await DiskWriter(repository, SIZE, whole.chunks).write(stream(*changes))
    expected[128 * KIB : 192 * KIB] = b"x" * CLUSTER
    expected[CHUNK_BYTES : 2 * CHUNK_BYTES + 64 * KIB] = bytes(CHUNK_BYTES + 64 * KIB)
    assert content_of(repository, changed.chunks) == expected
    assert changed.chunks[1] == ""
    same = await DiskWriter(repository, SIZE, changed.chunks).write(stream())
    assert (same.chunks, same.read_bytes, same.written_bytes) == (changed.chunks, 0, 0)


async def test_a_stream_that_breaks_off_goes_on_where_no_chunk_is_lost(repository):
    parts = [
        data(offset, bytes([offset // CLUSTER % 251 + 1]) * CLUSTER)
        for offset in range(0, SIZE - CLUSTER, CLUSTER)
    ]
    expected = bytearray(SIZE)
    for part in parts:
        expected[part.offset : part.offset + part.length] = part.data
    for broken_after in (0, 1, 63, 64, 65, 100, len(parts)):
        opened = stream(*parts, broken_after=broken_after)
        written = await DiskWriter(repository, SIZE).write(opened)
        assert content_of(repository, written.chunks) == expected
        assert len(opened.calls) == (1 if broken_after == len(parts) else 2)
        assert opened.calls[-1] % CHUNK_BYTES == 0


async def test_a_stream_that_never_gets_on_and_a_lost_chunk_are_errors(repository):
    async def silent(_first):
        raise UnavailableError("gone", code="backup-cut")
        yield

    with pytest.raises(UnavailableError, match="gone"):
        await DiskWriter(repository, SIZE).write(silent)
    with pytest.raises(NotFoundError) as caught:
        await DiskWriter(repository, SIZE, ["0" * 64] * chunk_count(SIZE)).write(
            stream(data(0, b"x" * CLUSTER))
        )
    assert caught.value.code == "chunk-missing"


async def parsed(text, first=0, size=SIZE, step=7):
    async def chunks():
        for at in range(0, len(text), step):
            yield text[at : at + step]

    return [part async for part in read_parts(chunks(), first, size)]


async def test_parts_are_read_however_they_are_cut():
    text = (
        head_of(PartKind.DATA, 0, 10)
        + b"0123456789"
        + head_of(PartKind.ZEROS, 64, 8)
        + head_of(PartKind.END, SIZE)
    )
    found = await parsed(text)
    assert [(one.kind, one.offset, one.length, one.data) for one in found] == [
        (PartKind.DATA, 0, 10, b"0123456789"), (PartKind.ZEROS, 64, 8, b""), (PartKind.END, SIZE, 0, b""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        head_of(PartKind.DATA, 0, 2 * MIB),
        head_of(PartKind.ZEROS, SIZE - 1, 2),
        head_of(PartKind.ZEROS, 5, 5) + head_of(PartKind.ZEROS, 9, 5),
        head_of(PartKind.ZEROS, 0, 0),
        head_of(PartKind.END, SIZE - 1),
        bytes([9]) + head_of(PartKind.END, SIZE)[1:],
    ],
)
async def test_parts_that_do_not_fit_together_are_refused(text):
    with pytest.raises(BugError):
        await parsed(text)


async def test_a_stream_without_an_end_is_no_disk():
    for text in (b"", head_of(PartKind.ZEROS, 0, 5), head_of(PartKind.DATA, 0, 5) + b"123"):
        with pytest.raises(UnavailableError) as caught:
            await parsed(text)
        assert caught.value.code == "backup-cut"


def qcow2(entries, *, size=4 * MIB, features=0, file_bytes=20 * CLUSTER):
    """A file with one L2 table."""
    head = bytearray(CLUSTER)
    struct.pack_into(
        ">4sIQIIQIIQQIIQ", head, 0, b"QFI\xfb", 3, 0, 0, 16, size, 0, 1, CLUSTER, 2 * CLUSTER, 1, 0, 0
    )
    struct.pack_into(">QQQII", head, 72, features, 0, 0, 4, 104)
    text = head + (3 * CLUSTER).to_bytes(8, "big").ljust(CLUSTER, b"\0") + bytes(CLUSTER)
    table = b"".join(entry.to_bytes(8, "big") for entry in entries)
    return BytesContent(bytes(text) + table.ljust(CLUSTER, b"\0"), file_bytes)


def test_the_map_names_what_is_held_and_puts_neighbours_together():
    used = 1 << 63
    entries = [
        used | 4 * CLUSTER,
        used | 5 * CLUSTER,
        0,
        1,
        1,
        used | 9 * CLUSTER,
        used | 7 * CLUSTER,
        1 | 8 * CLUSTER,
    ]
    disk = Qcow2Map(qcow2(entries))
    assert disk.virtual_bytes == 4 * MIB
    found = disk.extents(0, MIB)
    assert found == [
        Extent(0, 2 * CLUSTER, 4 * CLUSTER), Extent(3 * CLUSTER, 2 * CLUSTER, None),
        Extent(5 * CLUSTER, CLUSTER, 9 * CLUSTER), Extent(6 * CLUSTER, CLUSTER, 7 * CLUSTER),
        Extent(7 * CLUSTER, CLUSTER, None),
    ]  # fmt: skip
    assert disk.extents(0, CLUSTER)[:2] == [
        Extent(0, CLUSTER, 4 * CLUSTER), Extent(CLUSTER, CLUSTER, 5 * CLUSTER)
    ]  # fmt: skip
    assert disk.extents(5 * CLUSTER, MIB) == found[2:]


@pytest.mark.parametrize("entry", [1 << 62 | 4 * CLUSTER, 20 * CLUSTER, 1 << 55, 19 * CLUSTER + 512])
def test_a_map_that_leads_out_of_the_file_or_is_packed_is_refused(entry):
    with pytest.raises(InvalidError):
        Qcow2Map(qcow2([entry])).extents(0, MIB)


@pytest.mark.parametrize(
    "content",
    [BytesContent(b""), BytesContent(b"raw" * 1000), qcow2([], features=16), qcow2([], file_bytes=CLUSTER)],
)
def test_what_is_no_plain_qcow2_file_is_refused(content):
    with pytest.raises(InvalidError):
        Qcow2Map(content).extents(0, MIB)

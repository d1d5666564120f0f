"""Digests of a process's memory, and the table that says where the guest's lies."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from hostagent.drivers.qemu import memory
from hostagent.drivers.qemu.memory import (
    CHUNK_BYTES,
    PAGE_BYTES,
    RamBlock,
    chunk_digests,
    differing,
    page_digests,
    parse_ram_blocks,
)

TABLE = """\
              Block Name    PSize              Offset               Used              Total                HVA  RO
                  pc.ram    4 KiB  0x0000000000000000 0x0000000010000000 0x0000000010000000 0x00007f4523e00000  rw
    /rom@etc/acpi/tables    4 KiB  0x0000000010080000 0x0000000000020000 0x0000000000200000 0x00007f4539200000  ro
                vga.vram    4 KiB  0x0000000020080000 0x0000000001000000 0x0000000001000000 0x00007f4529200000  rw

"""


def test_the_writable_blocks_are_read_from_qemus_table():
    assert parse_ram_blocks(TABLE) == (
        RamBlock("pc.ram", 0x7F4523E00000, 256 << 20),
        RamBlock("vga.vram", 0x7F4529200000, 16 << 20),
    )


@pytest.mark.parametrize(
    "text",
    ["", "something else", TABLE.replace("HVA", "ADDR"), TABLE.replace("pc.ram ", "")],
    ids=["empty", "text", "other column", "broken row"],
)
def test_another_table_is_refused(text):
    with pytest.raises(ValueError, match="unknown"):
        parse_ram_blocks(text)


@pytest.mark.parametrize("name", ["\x1b[2J", "\x9b2J", "x" * 300], ids=["escape", "control", "long"])
def test_a_name_that_qemu_would_not_give_is_refused_in_few_words(name):
    with pytest.raises(ValueError, match="unknown line") as caught:
        parse_ram_blocks(TABLE.replace("pc.ram", name))
    assert len(str(caught.value)) < 200 and "\x1b" not in str(caught.value)


ROW = TABLE.splitlines()[1] + "\n"


@pytest.mark.parametrize(
    "text",
    [
        TABLE.replace("0x0000000010000000 0x0000000010000000", "0x0000030000000000 0x0000030000000000"),
        TABLE.replace("0x0000000010000000 0x0000000010000000", "0xffffffffffffffff 0x0000000000000000"),
        TABLE.replace("0x00007f4523e00000", "0xffffffffffffff000000"),
        TABLE.splitlines()[0] + "\n" + ROW * 300,
    ],
    ids=["3 TiB", "all addresses", "a far address", "300 blocks"],
)
def test_more_than_a_guest_has_is_refused(text):
    with pytest.raises(ValueError, match="more memory than"):
        parse_ram_blocks(text)


def test_the_use_of_memory_is_looked_up_piece_by_piece(block, monkeypatch):
    _, ram = block
    whole = chunk_digests(os.getpid(), ram)
    monkeypatch.setattr(memory, "_PAGEMAP_PIECE_BYTES", 2048)  # one chunk's entries
    assert chunk_digests(os.getpid(), ram) == whole


@pytest.fixture
def block():
    """Two and a half chunks of this process's own memory."""
    size = 2 * CHUNK_BYTES + CHUNK_BYTES // 2
    buffer = ctypes.create_string_buffer(size)
    return buffer, RamBlock("ram", ctypes.addressof(buffer), size)


def test_a_changed_byte_changes_one_chunk_and_one_page(block):
    buffer, ram = block
    before = chunk_digests(os.getpid(), ram), page_digests(os.getpid(), ram, [1])
    assert len(before[0]) == 3
    assert len(before[1][1]) == CHUNK_BYTES // PAGE_BYTES
    buffer[CHUNK_BYTES + 5 * PAGE_BYTES + 17] = b"x"
    after = chunk_digests(os.getpid(), ram), page_digests(os.getpid(), ram, [1])
    assert differing(before[0], after[0]) == (1,)
    assert differing(before[1][1], after[1][1]) == (5,)


def test_memory_that_was_never_touched_is_zero():
    size = 4 * CHUNK_BYTES
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapped:
        untouched = RamBlock("ram", ctypes.addressof(ctypes.c_char.from_buffer(mapped)), size)
        assert len(set(chunk_digests(os.getpid(), untouched))) == 1
        mapped[CHUNK_BYTES : 2 * CHUNK_BYTES] = bytes(CHUNK_BYTES)  # touched, and zero all the same
        assert len(set(chunk_digests(os.getpid(), untouched))) == 1
        mapped[3 * CHUNK_BYTES + 9] = 1
        digests = chunk_digests(os.getpid(), untouched)
        assert len(set(digests[:3])) == 1
        assert digests[3] != digests[0]


def test_the_last_chunk_may_be_short(block):
    _, ram = block
    assert len(page_digests(os.getpid(), ram, [2])[2]) == CHUNK_BYTES // 2 // PAGE_BYTES


def test_a_digest_that_is_missing_differs():
    assert differing(["a", "b"], ["a"]) == (1,)
    assert differing([], []) == ()


def test_memory_that_is_not_mapped_is_an_error():
    with pytest.raises(OSError):
        chunk_digests(os.getpid(), RamBlock("ram", 0x1000, PAGE_BYTES))

"""Bounded logs, room on the disks, memory for one more: figures in, a refusal or an alarm out."""

from __future__ import annotations

from collections import namedtuple
from types import SimpleNamespace

import pytest

from hostagent.agent import storage
from hostagent.drivers.host import room as rooms
from hostagent.server.endophytes import _read_log
from hostagent.supervisor.logs import bound_log, last_line
from vdc.model.errors import RefusedError
from vdc.model.event import Severity
from vdc.model.units import GIB, MIB

Usage = namedtuple("Usage", "total used free")


def test_a_long_log_keeps_its_end_and_begins_anew_under_its_writer(tmp_path):
    path = tmp_path / "serial.log"
    with path.open("ab", buffering=0) as writer:  # as QEMU: it appends
        for number in range(1000):
            writer.write(b"line %4d\n" % number)
        assert bound_log(path, tmp_path, limit_bytes=5000, kept_bytes=1000)
        writer.write(b"line 1000\n")
    assert path.read_bytes() == b"line 1000\n"
    assert (tmp_path / "serial.log.1").read_bytes().endswith(b"line  998\nline  999\n")
    assert (tmp_path / "serial.log.1").stat().st_size == 1000


def test_a_short_log_and_no_log_are_left_alone(tmp_path):
    path = tmp_path / "serial.log"
    assert not bound_log(path, tmp_path)
    path.write_text("short\n")
    assert not bound_log(path, tmp_path)
    assert path.read_text() == "short\n"


def test_a_reader_sees_the_lines_from_before_the_cut(tmp_path):
    (tmp_path / "guest").mkdir()
    path = tmp_path / "guest" / "serial.log"
    path.write_bytes(b"".join(b"line %4d\n" % number for number in range(1000)))
    bound_log(path, tmp_path, limit_bytes=5000, kept_bytes=1000)
    path.write_text("line 1000\n")
    text, end = _read_log(tmp_path, "serial.log", 3, None)
    assert text == "line  998\nline  999\nline 1000\n"
    assert end == 10, "who follows goes on behind what is there now"


def test_a_disk_is_not_begun_where_it_would_stop_its_guest_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(rooms.shutil, "disk_usage", lambda _: Usage(GIB, 0, MIB))
    with pytest.raises(RefusedError, match=r"1MiB are free, 64MiB are needed") as caught:
        rooms.require_disk(tmp_path, "the disks of web on h1")
    assert caught.value.code == "no-space"
    monkeypatch.setattr(rooms.shutil, "disk_usage", lambda _: Usage(GIB, 0, 64 * MIB))
    rooms.require_disk(tmp_path, "the disks of web on h1")


def test_memory_that_is_not_there_is_refused_with_both_figures(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable:    512000 kB\n")
    with pytest.raises(RefusedError, match=r"500MiB are available, 692MiB are needed") as caught:
        rooms.require_memory(692 * MIB, "the secondary of web on h2", meminfo)
    assert caught.value.code == "no-memory"
    rooms.require_memory(500 * MIB, "web", meminfo)


@pytest.mark.parametrize(
    ("total", "free", "is_low"),
    [(100 * GIB, 3 * GIB, False), (100 * GIB, GIB, True), (GIB, 200 * MIB, False), (GIB, 90 * MIB, True)],
)
def test_low_is_two_gib_or_a_tenth(tmp_path, total, free, is_low):
    assert rooms.Room(tmp_path, free, total).is_low is is_low


async def test_the_alarm_is_raised_once_and_taken_back(tmp_path, monkeypatch):
    told = []

    async def tell_of_node(code, sentence, severity=Severity.WARNING):
        told.append((code, severity))

    host = SimpleNamespace(name="h1", vms_dir=tmp_path, image_dir=tmp_path, tell_of_node=tell_of_node)
    watch = storage.StorageWatch(host, SimpleNamespace(supervisors={}))
    free = 90 * MIB
    monkeypatch.setattr(rooms.shutil, "disk_usage", lambda _: Usage(GIB, 0, free))
    await watch.look()
    await watch.look()
    free = 900 * MIB
    await watch.look()
    assert told == [("disk-low", Severity.WARNING), ("disk-room", Severity.NORMAL)]


def test_of_a_log_however_long_the_end_alone_is_read(tmp_path):
    log = tmp_path / "qemu.log"
    assert last_line(log) == ""
    log.write_bytes(b"first\nlast\n")
    assert last_line(log) == "last"
    with log.open("ab") as file:
        file.truncate(1 << 33)  # a hole
        file.seek(0, 2)
        file.write(b"\nafter all\n")
    assert last_line(log) == "after all"

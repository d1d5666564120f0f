"""The kernel's own view of a host, from texts as real kernels write them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hostagent.drivers.host import features
from hostagent.drivers.host.features import Feature, probe_features
from hostagent.drivers.host.inventory import read_inventory
from hostagent.drivers.host.parse import CpuInfo, parse_cpuinfo, parse_meminfo_total, parse_memory_limit

TWO_PROCESSORS = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model name\t: AMD EPYC 7763 64-Core Processor
flags\t\t: fpu vme sse2 svm
power management: ts ttp tm

processor\t: 1
vendor_id\t: AuthenticAMD
model name\t: another
flags\t\t: fpu

"""
ARM_PROCESSOR = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n"
MEMINFO = "MemTotal:       24684084 kB\nMemFree:        23993364 kB\n"


def test_the_first_processor_speaks_for_all() -> None:
    assert parse_cpuinfo(TWO_PROCESSORS) == CpuInfo(
        vendor="AuthenticAMD",
        model_name="AMD EPYC 7763 64-Core Processor",
        flags=frozenset({"fpu", "vme", "sse2", "svm"}),
    )


def test_a_processor_with_other_fields_gives_empty_ones() -> None:
    assert parse_cpuinfo(ARM_PROCESSOR) == CpuInfo()
    assert parse_cpuinfo("") == CpuInfo()


def test_memory_is_counted_in_kib() -> None:
    assert parse_meminfo_total(MEMINFO) == 24684084 * 1024


@pytest.mark.parametrize("text", ["", "MemTotal:\n", "MemTotal: many kB\n", "MemFree: 5 kB\n"])
def test_memory_that_is_not_told_is_zero(text: str) -> None:
    assert parse_meminfo_total(text) == 0


@pytest.mark.parametrize(("text", "limit"), [("max\n", None), ("", None), ("1073741824\n", 1 << 30)])
def test_a_control_group_limits_memory(text: str, limit: int | None) -> None:
    assert parse_memory_limit(text) == limit


def fake_root(tmp_path: Path, *, limit: str | None = None) -> Path:
    for name, text in {
        "proc/cpuinfo": TWO_PROCESSORS,
        "proc/meminfo": MEMINFO,
        "proc/sys/kernel/random/boot_id": "0b7c\n",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    if limit is not None:
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/memory.max").write_text(limit)
    return tmp_path


def test_a_host_without_devices_is_described_all_the_same(tmp_path: Path) -> None:
    found = read_inventory(fake_root(tmp_path), with_features=False)
    assert (found.boot_id, found.cpu.vendor, found.memory_bytes) == ("0b7c", "AuthenticAMD", 24684084 * 1024)
    assert found.clock.source == "tsc"
    assert not found.has_kvm_device
    assert not found.has_tun_device
    assert found.cpus >= 1


def test_the_smaller_of_memory_and_limit_counts(tmp_path: Path) -> None:
    assert read_inventory(fake_root(tmp_path, limit="1048576"), with_features=False).memory_bytes == 1 << 20


def test_a_limit_above_the_memory_gives_the_memory(tmp_path: Path) -> None:
    root = fake_root(tmp_path, limit=str(1 << 50))
    assert read_inventory(root, with_features=False).memory_bytes == 24684084 * 1024


def test_what_is_missing_becomes_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = (Feature("vxlan", False, "the kernel refuses a vxlan link: no"), Feature("bridge", True))
    monkeypatch.setattr("hostagent.drivers.host.inventory.probe_features", lambda **_: missing)
    found = read_inventory(fake_root(tmp_path))
    assert found.warnings == ("vxlan is not available: the kernel refuses a vxlan link: no",)


def test_no_right_to_make_a_namespace_is_the_reason_for_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(1, "no network namespace can be made (Operation not permitted)")

    monkeypatch.setattr(features, "_enter_new_namespace", refuse)
    found = probe_features()
    assert [feature.name for feature in found] == ["vxlan", "bridge", "veth", "tap"]
    assert not any(feature.is_available for feature in found)
    assert all("Operation not permitted" in feature.reason for feature in found)


def test_a_kernel_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang() -> None:
        released.wait(10)
        raise OSError("released: the thread must not go on to make links where it stands")

    monkeypatch.setattr(features, "_enter_new_namespace", hang)
    monkeypatch.setattr(features, "_try_link", lambda kind, _: Feature(kind, True))
    try:
        found = probe_features(deadline_s=0.01)
    finally:
        released.set()
    assert all("did not answer within 0.01 s" in feature.reason for feature in found)

"""The doctor's checks that need no agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdc.cli.doctor import Machine, examine_machine

RUNTIME = Path("/cache/runtime/current")
ALL_PATHS = {RUNTIME / "usr/bin/qemu-system-x86_64", Path("/dev/net/tun"), Path("/proc/self/ns/net")}


def levels(
    *, user_id: int = 0, paths: set[Path] = ALL_PATHS, programs: tuple[str, ...] = ("ip", "bwrap", "setpriv")
) -> dict[str, str]:
    machine = Machine(
        user_id=lambda: user_id,
        exists=lambda path: path in paths,
        which=lambda name: f"/usr/bin/{name}" if name in programs else None,
        runtime_root=lambda: RUNTIME,
    )
    return {check.name: check.level for check in examine_machine(machine).checks}


def test_a_complete_machine_is_well() -> None:
    assert set(levels().values()) == {"ok"}


def test_not_being_root_is_a_warning_only() -> None:
    assert levels(user_id=1000)["root"] == "warning"


@pytest.mark.parametrize(("path", "name"), [("/dev/net/tun", "tun"), ("/proc/self/ns/net", "namespaces")])
def test_what_is_missing_is_an_error(path: str, name: str) -> None:
    assert levels(paths=ALL_PATHS - {Path(path)})[name] == "error"


def test_the_systems_own_qemu_is_enough() -> None:
    without = ALL_PATHS - {RUNTIME / "usr/bin/qemu-system-x86_64"}
    assert levels(paths=without)["runtime"] == "error"
    assert levels(paths=without, programs=("ip", "bwrap", "qemu-system-x86_64"))["runtime"] == "ok"


def test_each_finding_has_a_sentence_and_what_is_wrong_a_hint() -> None:
    machine = Machine(
        user_id=lambda: 1, exists=lambda _: False, which=lambda _: None, runtime_root=lambda: RUNTIME
    )
    for check in examine_machine(machine).checks:
        assert check.sentence and check.hint

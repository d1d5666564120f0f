"""A node program whose sessions are in its memory alone, out of an image archive: they outlive its host."""

from __future__ import annotations

from pathlib import Path

from labprogram import (
    CLIENTS,
    PATIENCE_S,
    START_S,
    WORK_S,
    imported,
    lose_the_primary,
    needs_programs,
    protected,
)
from testlab import Lab

from tests.debian_programs import program_image
from tests.oci_layout import oci_archive

pytestmark = needs_programs
IMAGE = "test/node:20"
ANSWERS = 40


def test_what_a_program_has_in_memory_alone_outlives_its_host(lab: Lab, tmp_path: Path) -> None:
    archive = oci_archive(program_image("node"), tmp_path / "node.tar")
    with imported(lab, f"oci-archive:{archive}:latest", IMAGE):
        vm = protected(lab, "node", IMAGE, 8080, "--memory", "256MiB")
        with lab.workload(vm, "sessions", program=CLIENTS, patience_s=PATIENCE_S) as workload:
            workload.wait_progress(more=ANSWERS, deadline_s=WORK_S)
            lose_the_primary(lab, vm)
            workload.wait_progress(more=ANSWERS, deadline_s=WORK_S)
            vm.wait_lockstep(START_S)
            workload.wait_progress(more=ANSWERS, deadline_s=WORK_S)
        assert not workload.report.errors
        print(f"longest gap: {workload.report.longest_gap_ms:.0f} ms")

"""nginx as Debian has it, out of an image layout: a download goes on and a kept connection stays when its host dies."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from labprogram import CLIENTS, PATIENCE_S, START_S, WORK_S, imported, needs_programs, protected
from pacing import wait_for
from testlab import Lab

from tests.debian_programs import PROGRAMS, noise_of, program_image
from vdc.model.units import MIB

pytestmark = needs_programs
IMAGE = "test/nginx:1"
PATH = "var/www/html/download"
SIZE = PROGRAMS["nginx"].noise[PATH]
RATE = "2M"  # bytes a second at most
MOST_BUFFERED = 12 * MIB  # that both kernels may hold of a connection
PAGES = 40


def test_a_download_lives_through_the_death_of_its_host(lab: Lab, tmp_path: Path) -> None:
    target = tmp_path / "download"
    with imported(lab, f"oci:{program_image('nginx')}:latest", IMAGE):
        vm = protected(lab, "nginx", IMAGE, 80, "--memory", "160MiB")
        url = f"http://{vm.address}/download"
        curl = ["curl", "-sS", "--fail", "--limit-rate", RATE, "-o", str(target), url]
        with lab.workload(vm, "pages", program=CLIENTS, patience_s=PATIENCE_S) as workload:
            workload.wait_progress(more=PAGES, deadline_s=WORK_S)
            first, second = vm.primary, vm.secondary
            with subprocess.Popen(lab.in_client(curl)) as download:
                try:
                    wait_for(target.exists, WORK_S, "the download has begun")
                    lab.fault("power-off", first)
                    assert target.stat().st_size + MOST_BUFFERED < SIZE, "nothing was left to send"
                    vm.wait_primary(second, PATIENCE_S)
                    workload.wait_progress(more=PAGES, deadline_s=WORK_S)
                    assert download.wait(2 * WORK_S) == 0
                finally:
                    download.kill()
        assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(noise_of(PATH, SIZE)).digest()
        assert not workload.report.errors
        print(f"longest gap: {workload.report.longest_gap_ms:.0f} ms")
        vm.wait_lockstep(START_S)

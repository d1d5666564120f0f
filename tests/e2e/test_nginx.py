"""nginx as Debian has it, out of an image layout: a download goes on and a kept connection stays when its host dies."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from labprogram import CLIENTS, PATIENCE_S, imported, lose_the_primary, needs_programs, protected
from pacing import wait_for
from testlab import Lab

from tests.debian_programs import PROGRAMS, noise_of, program_image

pytestmark = needs_programs
IMAGE = "test/nginx:1"
PATH = "var/www/html/download"
SIZE = PROGRAMS["nginx"].noise[PATH]
BYTES_PER_S = "1M"  # of the download: longer than a failover takes
PAGES = 50


def test_a_download_lives_through_the_death_of_its_host(lab: Lab, tmp_path: Path) -> None:
    target = tmp_path / "download"
    with imported(lab, f"oci:{program_image('nginx')}:latest", IMAGE):
        vm = protected(lab, "nginx", IMAGE, 80, "--memory", "160MiB")
        url = f"http://{vm.address}/download"
        curl = ["curl", "-sS", "--fail", "--limit-rate", BYTES_PER_S, "-o", str(target), url]
        with (
            lab.workload(vm, "pages", program=CLIENTS, patience_s=PATIENCE_S) as workload,
            subprocess.Popen(lab.in_client(curl)) as download,
        ):
            try:
                workload.wait_progress(more=PAGES, deadline_s=PATIENCE_S)
                wait_for(
                    lambda: target.exists() and target.stat().st_size > 0, PATIENCE_S, "some of it is there"
                )
                lose_the_primary(lab, vm)
                assert target.stat().st_size < SIZE and download.poll() is None, "it was too quick"
                workload.wait_progress(more=PAGES, deadline_s=PATIENCE_S)
                assert download.wait(2 * PATIENCE_S) == 0
            finally:
                download.kill()
        assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(noise_of(PATH, SIZE)).digest()
        assert not workload.report.errors
        print(f"longest gap: {workload.report.longest_gap_ms:.0f} ms")
        vm.wait_lockstep(PATIENCE_S)

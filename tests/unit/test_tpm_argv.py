"""The command line of a TPM."""

from __future__ import annotations

from pathlib import Path

from hostagent.drivers.qemu.sandbox import sandboxed
from hostagent.drivers.tpm import swtpm_argv


def test_the_command_line() -> None:
    assert swtpm_argv() == [
        "swtpm", "socket", "--tpm2",
        "--tpmstate", "dir=/vm/tpm,mode=0600",
        "--ctrl", "type=unixio,path=/vm/swtpm.sock,mode=0600",
        "--flags", "startup-clear",
        "--terminate",
    ]  # fmt: skip


def test_it_gets_no_device_and_no_other_folder_of_the_host() -> None:
    argv = sandboxed(
        swtpm_argv(),
        runtime_root=Path("/r"),
        vm_dir=Path("/s/vms/a"),
        image_dir=Path("/s/vms/a/tpm"),
        devices=(),
    )
    assert "--dev-bind" not in argv
    bound = [argv[i + 1] for i, word in enumerate(argv) if word in ("--bind", "--ro-bind")]
    assert bound == ["/r", "/s/vms/a", "/s/vms/a/tpm"]

"""The command line of a TPM."""

from __future__ import annotations

from hostagent.drivers.tpm import swtpm_argv


def test_the_command_line() -> None:
    assert swtpm_argv() == [
        "swtpm", "socket", "--tpm2",
        "--tpmstate", "dir=/run/tpm,mode=0600",
        "--ctrl", "type=unixio,path=/vm/swtpm.sock,mode=0600",
        "--flags", "startup-clear",
        "--terminate",
    ]  # fmt: skip

"""The command line of swtpm, as it is inside the sandbox. Pure."""

from __future__ import annotations

from hostagent.drivers.qemu.spec import TPM_SOCKET, VM_DIR

BINARY = "swtpm"
STATE_DIR = "/run/tpm"  # inside its sandbox; QEMU does not see what the TPM keeps


def swtpm_argv() -> list[str]:
    """An emulator that serves one QEMU and ends with it.

    `--terminate` ends it when QEMU's data channel closes (a connection to the control socket alone does not,
    measured on swtpm 0.10), so a killed QEMU leaves none behind even where no agent runs. `startup-clear`
    lets it answer where no firmware sends TPM2_Startup; one that does is told that it was done, and goes on.
    """
    return [
        BINARY, "socket",
        "--tpm2",
        "--tpmstate", f"dir={STATE_DIR},mode=0600",
        "--ctrl", f"type=unixio,path={VM_DIR}/{TPM_SOCKET},mode=0600",
        "--flags", "startup-clear",
        "--terminate",
    ]  # fmt: skip

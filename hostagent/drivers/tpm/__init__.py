"""A guest's TPM 2.0: one swtpm process beside each QEMU."""

from hostagent.drivers.tpm.argv import swtpm_argv
from hostagent.drivers.tpm.helper import TpmError, adopt_tpm, start_tpm

__all__ = ["TpmError", "adopt_tpm", "start_tpm", "swtpm_argv"]

"""UEFI firmware: which files a guest starts from, and its own copy of the variables."""

from hostagent.drivers.firmware.catalogue import FirmwareFiles, find_firmware
from hostagent.drivers.firmware.variables import VARS_FILE, prepare_vars, replace_vars

__all__ = ["VARS_FILE", "FirmwareFiles", "find_firmware", "prepare_vars", "replace_vars"]

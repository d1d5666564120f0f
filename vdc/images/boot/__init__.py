"""What boots a disk: told from its partition table, its EFI system partition, or its CD boot catalogue. Pure.

`verdict.inspect_boot` puts it together. Nothing is mounted and no tool is asked; a disk that is not understood is
one of which nothing is known, not an error.
"""

from vdc.images.boot.verdict import BootFacts, check_architecture, inspect_boot

__all__ = ["BootFacts", "check_architecture", "inspect_boot"]

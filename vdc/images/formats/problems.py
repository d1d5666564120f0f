"""The errors of disk files that are refused, in the same words for every format."""

from __future__ import annotations

from vdc.model.errors import InvalidError
from vdc.model.units import format_size

MAX_VIRTUAL_BYTES = 64 * 1024**4
FLATTEN = "make one self-contained file of it: qemu-img convert -O qcow2 OLD NEW"


def unsafe(name: str, reason: str, hint: str = "") -> InvalidError:
    """It refers to other files, is damaged, or says what cannot be."""
    return InvalidError(f"the {name} file cannot be taken: {reason}", hint=hint, code="image-unsafe")


def cut_off(name: str, what: str) -> InvalidError:
    """A part of it is not in the file."""
    return unsafe(name, f"{what} does not fit into it", "is the file cut off? Fetch it again")


def check_virtual_size(name: str, virtual_bytes: int) -> int:
    """The size that the guest sees, where it can be one; raises InvalidError (`image-unsafe`)."""
    if not 0 < virtual_bytes <= MAX_VIRTUAL_BYTES or virtual_bytes % 512:
        raise unsafe(
            name,
            f"its header says {virtual_bytes} bytes",
            f"a disk has whole sectors and at most {format_size(MAX_VIRTUAL_BYTES)}; is the file damaged?",
        )
    return virtual_bytes

"""What a disk file is that is used as it is: qcow2 or raw, from its first bytes, read by us; QEMU never guesses.

A guest can write any header into its own raw disk: a program that probes formats then follows a "backing
file" to whatever the header names. So: the format is named once, at import, and a file that refers to other
files, or that nobody can read without a key, is refused. Pure: bytes in, facts out.
"""

from __future__ import annotations

from dataclasses import dataclass

from vdc.images.formats.detect import detect_format
from vdc.images.formats.qcow2 import check_qcow2
from vdc.model.errors import InvalidError

HEADER_BYTES = 64 * 1024  # that `inspect_disk` wants to see, where the file has so many


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """A disk file that may be used. `virtual_bytes`: what the guest sees."""

    format: str
    virtual_bytes: int


def inspect_disk(header: bytes, file_bytes: int, wanted: str | None = None) -> DiskFacts:
    """Tell format and size; `header` is the file's beginning, `wanted` what the user said it is.

    Raises `InvalidError`: `image-unsafe` (refers to other files, encrypted, damaged),
    `image-format-unsupported` (recognised and not taken), `image-format-unknown` (say which it is),
    `image-format-mismatch`.
    """
    found = detect_format(header)
    if wanted not in (None, "qcow2", "raw"):
        raise _unsupported(str(wanted))
    if found not in (None, "qcow2", "raw") and wanted is None:
        raise _unsupported(str(found))
    if found is None and wanted is None:
        raise InvalidError(
            "the file is no qcow2 and has no boot sector",
            hint="say what it is: --format raw",
            code="image-format-unknown",
        )
    fits = {None: True, "qcow2": found == "qcow2", "raw": found in (None, "raw", "iso")}
    if not fits[wanted]:
        raise InvalidError(
            f"the file is not {wanted}: its first bytes are those of {found or 'something else'}",
            hint="leave --format out, or convert the file with qemu-img convert",
            code="image-format-mismatch",
        )
    if found == "qcow2":
        return DiskFacts("qcow2", check_qcow2(header, file_bytes))
    if file_bytes == 0 or file_bytes % 512:
        raise InvalidError(
            f"a raw disk is a number of 512-byte sectors; this file has {file_bytes} bytes",
            hint="is it compressed or cut off?",
            code="image-unsafe",
        )
    return DiskFacts("raw", file_bytes)


def _unsupported(name: str) -> InvalidError:
    return InvalidError(
        f"{name} is not imported directly",
        hint="convert it first: qemu-img convert -O qcow2 OLD NEW"
        if name not in _PACKED
        else f"unpack the {name} first",
        code="image-format-unsupported",
    )


_PACKED = ("gzip", "bzip2", "xz", "zstd")

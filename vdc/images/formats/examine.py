"""What is to be done with a disk file: what it is, how large, whether it is taken as it is or converted. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from vdc.images.content import Content
from vdc.images.formats import hyperv, others, vmdk
from vdc.images.formats.detect import HEADER_BYTES, detect
from vdc.images.formats.problems import FLATTEN
from vdc.images.formats.qcow2 import check_qcow2
from vdc.images.inspect import inspect_disk
from vdc.model.errors import InvalidError
from vdc.model.units import MIB

FORMATS = ("qcow2", "raw", "vmdk", "vhdx", "vhd", "vdi", "qed", "iso", "ova", "ovf")
ALIASES = {"vpc": "vhd", "tar": "ova"}
_KEPT = ("qcow2", "raw", "iso")
_ROUNDING = 16  # a file of 4 KiB pieces, each alone in a cluster of the result
_DEFLATED = 1100  # deflate's most
_OVERHEAD_BYTES = 64 * MIB
_HINTS = {
    "zip": "unpack it first", "7z": "unpack it first", "luks": "decrypt it first: qemu-img convert",
    "cowd": "convert it on the ESX host: vmkfstools -i OLD -d thin NEW",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A disk file that can be imported.

    `driver`: QEMU's name of the format, with options. `most_bytes`: no file of this format and size holds more.
    `extents`: of a VMDK descriptor, whose content is in files beside it.
    """

    format: str
    virtual_bytes: int
    driver: dict[str, str] = field(default_factory=dict)
    most_bytes: int = 0
    extents: tuple[vmdk.Extent, ...] = ()

    @property
    def is_kept(self) -> bool:
        """Whether it can be an image's disk as it is."""
        return self.format in _KEPT


def format_of(content: Content, wanted: str | None) -> str:
    """Its format, which is the one that the user named, if any.

    InvalidError: `image-format-unknown`, `image-format-unsupported`, `image-format-mismatch`.
    """
    wanted = ALIASES.get(wanted or "", wanted)
    if wanted is not None and wanted not in FORMATS:
        raise _unsupported(wanted)
    found = detect(content)
    found = ALIASES.get(found or "", found)
    if wanted is None:
        if found is None:
            raise InvalidError(
                "the file is of no known format, and has no boot sector",
                hint="say what it is: --format raw",
                code="image-format-unknown",
            )
        if found not in FORMATS:
            raise _unsupported(found)
        return found
    if wanted != found and not (wanted == "raw" and found in (None, "iso")):
        raise InvalidError(
            f"the file is not {wanted}: its bytes are those of {found or 'something else'}",
            hint="leave --format out, or check the file",
            code="image-format-mismatch",
        )
    return wanted


def examine(content: Content, name: str) -> DiskFile:
    """Check a file of one format (not of an appliance). InvalidError: `image-unsafe`, `image-format-unsupported`."""
    size_bytes = content.size_bytes
    dense = size_bytes * _ROUNDING + _OVERHEAD_BYTES
    match name:
        case "qcow2":
            virtual_bytes = check_qcow2(content.read(0, HEADER_BYTES), size_bytes)
            return DiskFile(name, virtual_bytes, {"driver": "qcow2"})
        case "raw" | "iso":
            inspect_disk(b"", size_bytes, "raw")
            return DiskFile(name, size_bytes, {"driver": "raw"}, size_bytes + _OVERHEAD_BYTES)
        case "vhd":
            virtual_bytes, is_said = hyperv.check_vhd(content)
            options = {"force_size_calc": "current_size"} if is_said else {}
            return DiskFile(name, virtual_bytes, {"driver": "vpc", **options}, dense)
        case "vhdx":
            return DiskFile(name, hyperv.check_vhdx(content), {"driver": "vhdx"}, dense)
        case "vdi":
            return DiskFile(name, others.check_vdi(content), {"driver": "vdi"}, dense)
        case "qed":
            return DiskFile(name, others.check_qed(content), {"driver": "qed"}, dense)
        case "vmdk":
            return _examine_vmdk(content)
    raise _unsupported(name)


def _examine_vmdk(content: Content) -> DiskFile:
    if content.read(0, 4) == vmdk.SPARSE_MAGIC:
        found = vmdk.check_sparse(content)
        ratio = _DEFLATED if found.is_compressed else _ROUNDING
        most_bytes = content.size_bytes * ratio + _OVERHEAD_BYTES
        return DiskFile("vmdk", found.virtual_bytes, {"driver": "vmdk"}, most_bytes)
    extents = vmdk.parse_descriptor(content.read(0, min(content.size_bytes, 1 << 20)))
    virtual_bytes = sum(extent.size_bytes for extent in extents)
    return DiskFile("vmdk", virtual_bytes, {"driver": "vmdk"}, extents=extents)


def _unsupported(name: str) -> InvalidError:
    return InvalidError(
        f"{name[:40]} is not imported",
        hint=_HINTS.get(name, f"known are {', '.join(FORMATS)}; {FLATTEN}"),
        code="image-format-unsupported",
    )

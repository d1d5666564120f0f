"""Extended attributes in ext4: in the inode while they fit, the others in one block of the file's own. Pure.

Attributes of a namespace that Linux does not know (an image that was packed on another system) are left out, as an
engine leaves them out that sets them and is told so.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from vdc.images.ext4.records import BLOCK_BYTES, IN_INODE_BYTES
from vdc.model.errors import InvalidError

_MAGIC = 0xEA020000
_ENTRY_BYTES, _HEADER_BYTES, _MAGIC_BYTES = 16, 32, 4
_ACLS = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_PREFIXES = {b"user.": 1, b"trusted.": 4, b"security.": 6}
_MAX_NAME_BYTES = 255
_ACL_USER, _ACL_GROUP = 0x02, 0x08

_Attribute = tuple[int, bytes, bytes]  # namespace, name without it, value as it is stored


def pack_attributes(attributes: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """What goes into the inode, and the block for the rest; either may be empty.

    Raises InvalidError (`image-attributes-large`) where it does not fit.
    """
    inner: list[_Attribute] = []
    outer: list[_Attribute] = []
    for attribute in sorted(filter(None, (_stored(name, value) for name, value in attributes)), key=_order):
        fits = _space([*inner, attribute]) + _MAGIC_BYTES <= IN_INODE_BYTES
        (inner if fits else outer).append(attribute)
    if outer and _space(outer) + _HEADER_BYTES > BLOCK_BYTES:
        raise InvalidError(
            f"the attribute {outer[-1][1][:40].decode(errors='replace')!r} of a file is too large for ext4",
            hint="leave it out of the image",
            code="image-attributes-large",
        )
    inode = struct.pack("<I", _MAGIC) + _packed(inner, IN_INODE_BYTES - _MAGIC_BYTES, 0) if inner else b""
    return inode, _block(outer) if outer else b""


def _stored(name: bytes, value: bytes) -> _Attribute | None:
    if name in _ACLS:
        acl = _acl(value)
        return None if acl is None else (_ACLS[name], b"", acl)
    for prefix, number in _PREFIXES.items():
        rest = name.removeprefix(prefix)
        if name.startswith(prefix) and 0 < len(rest) <= _MAX_NAME_BYTES:
            return number, rest, value
    return None


def _acl(value: bytes) -> bytes | None:
    """From the form of system calls (version 2) to the one on disk; None for what the kernel would not take either."""
    if len(value) < 4 or len(value) % 8 != 4 or struct.unpack_from("<I", value)[0] != 2:
        return None
    packed = struct.pack("<I", 1)
    for tag, permissions, owner in struct.iter_unpack("<HHI", value[4:]):
        packed += struct.pack("<HH", tag, permissions)
        if tag in (_ACL_USER, _ACL_GROUP):
            packed += struct.pack("<I", owner)
    return packed


def _order(attribute: _Attribute) -> tuple[int, int, bytes]:
    """The kernel looks them up by bisection, in this order."""
    return attribute[0], len(attribute[1]), attribute[1]


def _up(length: int) -> int:
    return -(-length // 4) * 4


def _space(attributes: Sequence[_Attribute]) -> int:
    """Entries, an end of zeros, values."""
    return sum(_ENTRY_BYTES + _up(len(name)) + _up(len(value)) for _, name, value in attributes) + 4


def _packed(attributes: Sequence[_Attribute], room: int, base: int) -> bytes:
    """Entries from the beginning on, values from the end; offsets count from `base` before the entries."""
    space, end, entries = bytearray(room), room, b""
    for namespace, name, value in attributes:
        end -= _up(len(value))
        space[end : end + len(value)] = value
        offset = end + base if value else 0
        entries += struct.pack(
            "<BBHIII", len(name), namespace, offset, 0, len(value), _hash(name, value)
        ) + name.ljust(_up(len(name)), b"\0")
    space[: len(entries)] = entries
    return bytes(space)


def _block(attributes: Sequence[_Attribute]) -> bytes:
    whole = 0
    for _, name, value in attributes:
        whole = (whole << 16 ^ whole >> 16 ^ _hash(name, value)) & 0xFFFFFFFF
    header = struct.pack("<IIIII12x", _MAGIC, 1, 1, whole, 0)
    return header + _packed(attributes, BLOCK_BYTES - _HEADER_BYTES, _HEADER_BYTES)


def _hash(name: bytes, value: bytes) -> int:
    number = 0
    for letter in name:
        number = (number << 5 ^ number >> 27 ^ letter) & 0xFFFFFFFF
    for (word,) in struct.iter_unpack("<I", value.ljust(_up(len(value)), b"\0")):
        number = (number << 16 ^ number >> 16 ^ word) & 0xFFFFFFFF
    return number

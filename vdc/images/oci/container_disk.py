"""containerDisk images (KubeVirt): a container image that only carries a VM's disk, as the one file in /disk. Pure."""

from __future__ import annotations

from vdc.images.filetree import Kind, Node
from vdc.model.errors import InvalidError
from vdc.model.process import ImageProcess

_FOLDER = b"disk"


def find_disk(root: Node, process: ImageProcess, *, is_wanted: bool) -> tuple[str, Node] | None:
    """The disk file and its name; None where the image is one of a program.

    By itself an image counts as a disk if it has one file in /disk and neither other files nor a program.
    Raises InvalidError (`container-disk-missing`) where one is wanted and not there.
    """
    folder = root.children.get(_FOLDER)
    content = folder.children if folder is not None and folder.kind is Kind.FOLDER else {}
    files = [(name, node) for name, node in content.items() if node.kind is Kind.FILE]
    if is_wanted and len(files) != 1:
        raise InvalidError(
            f"the image has {len(files) or 'no'} files in /disk, and a containerDisk has one",
            hint="leave out --container-disk to run its program",
            code="container-disk-missing",
        )
    is_alone = len(root.children) == 1 and len(content) == 1
    has_program = bool(process.entrypoint or process.cmd)
    if len(files) != 1 or not (is_wanted or (is_alone and not has_program)):
        return None
    name, node = files[0]
    return name.decode(errors="replace"), node

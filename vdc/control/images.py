"""Images that no name and no VM needs: their records go, and with them their content on every host.

An image loses its last name when another one is imported under it, and may still be what VMs were made of.
"""

from __future__ import annotations

from vdc.store import keys
from vdc.store.mirror import Mirror
from vdc.store.protocol import Delete, StateStore, Unchanged


async def remove_unneeded_images(store: StateStore, mirror: Mirror) -> tuple[str, ...]:
    """Returns the digests of what was removed.

    A name that is given back meanwhile changes the record, and it stays. A VM can be made of an image only while a
    name leads there (`DesiredState.create` compares that), so whoever sees the last name gone sees every such VM.
    """
    if any(key.startswith(keys.ENDOPHYTES) for key in mirror.unreadable):
        return ()  # nobody knows what that one is made of
    needed = set(mirror.image_names.values()).union(
        *(found.value.image_digests for found in mirror.endophytes.values())
    )
    removed = []
    for digest, found in list(mirror.images.items()):
        if found.value.names or digest in needed:
            continue
        key = keys.image(digest)
        if (await store.commit([Unchanged(key, found.revision)], [Delete(key)])).succeeded:
            removed.append(digest)
    return tuple(removed)

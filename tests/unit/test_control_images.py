"""An image that lost its last name goes when no VM is made of it, and not before."""

from __future__ import annotations

import pytest
from protection_world import endophyte
from test_control_controller import Cluster

from vdc.control.images import ImageRecords, remove_unneeded_images
from vdc.images.reference import digest_of
from vdc.model.errors import ConflictError, InvalidError, NotFoundError
from vdc.model.image import Image, ImageEntry, ImageKind
from vdc.store import keys
from vdc.store.protocol import Put

OLD = "sha256:" + "a" * 64
NEW = "sha256:" + "b" * 64
NAME = "me/debian:12"


def entry(digest, *names):
    return ImageEntry(digest=digest, image=Image(kind=ImageKind.KERNEL), names=names, hosts=("h1", "h2"))


@pytest.fixture
async def cluster():
    """`NAME` was imported twice."""
    filled = await Cluster().fill()
    await filled.put(
        (keys.image(OLD), entry(OLD).to_json()),
        (keys.image(NEW), entry(NEW, NAME).to_json()),
        (keys.image_name(NAME), NEW),
    )
    return filled


async def images(cluster):
    await cluster.refresh()
    return {OLD, NEW} & set(cluster.mirror.images)


async def test_the_content_before_an_import_under_the_same_name_goes(cluster):
    await cluster.reconcile()
    assert await images(cluster) == {NEW}


async def test_it_stays_as_long_as_a_vm_is_made_of_it(cluster):
    made = endophyte().with_(image_digest=OLD)
    await cluster.put((keys.endophyte("web"), made.to_json()))
    await cluster.reconcile()
    assert await images(cluster) == {OLD, NEW}


async def test_it_stays_as_long_as_a_disk_was_made_of_it(cluster):
    made = endophyte().with_(disk_image_digests=("", OLD))
    await cluster.put((keys.endophyte("web"), made.to_json()))
    await cluster.reconcile()
    assert await images(cluster) == {OLD, NEW}


async def test_it_stays_while_a_vm_cannot_be_read(cluster):
    await cluster.put((keys.endophyte("web"), "{}"))
    await cluster.reconcile()
    assert await images(cluster) == {OLD, NEW}


async def test_one_that_a_name_leads_to_stays_whatever_its_record_says(cluster):
    await cluster.put((keys.image_name("me/other:1"), OLD))
    await cluster.reconcile()
    assert await images(cluster) == {OLD, NEW}


async def test_one_that_is_named_again_meanwhile_stays(cluster):
    await cluster.store.commit([], [Put(keys.image(OLD), entry(OLD, "me/other:1").to_json())])
    assert OLD in cluster.mirror.images and not cluster.mirror.images[OLD].value.names
    assert await remove_unneeded_images(cluster.store, cluster.mirror) == ()
    assert await images(cluster) == {OLD, NEW}


# ---- the users' side

IMAGE = Image(kind=ImageKind.KERNEL, min_memory_bytes=1)
HERE = digest_of(IMAGE)


@pytest.fixture
def records(cluster):
    return ImageRecords(cluster.store, cluster.clock)


async def named(cluster, *names):
    """What the store has under these names."""
    items = [await cluster.store.get(keys.image_name(name)) for name in names]
    return [item and item.value for item in items]


def pruned(gone):
    """Of the two."""
    return {OLD, NEW} & {one.digest for one in gone}


async def with_vm(cluster, digest=NEW, name="web"):
    manifest = endophyte().manifest
    manifest = manifest.with_(metadata=manifest.metadata.with_(name=name))
    made = endophyte().with_(image_digest=digest, manifest=manifest)
    await cluster.put((keys.endophyte(name), made.to_json()))


async def test_an_image_gets_its_names_hosts_and_chunk_lists_one_by_one(cluster, records):
    await records.register("me/a", IMAGE, host="h1", chunks={"x": "y"}, source="a.img")
    await records.register("me/b:2", IMAGE, host="h2", chunks={}, source="elsewhere")
    entry = ImageEntry.from_json((await cluster.store.get(keys.image(HERE))).value)
    assert entry.names == ("me/a:latest", "me/b:2") and entry.hosts == ("h1", "h2")
    assert entry.chunks == {"x": "y"} and entry.source == "a.img" and entry.created_at
    assert await named(cluster, "me/a:latest", "me/b:2") == [HERE, HERE]


async def test_a_name_moves_to_the_image_that_was_imported_last(cluster, records):
    await records.register(NAME, IMAGE, host="h1", chunks={})
    assert await named(cluster, NAME) == [HERE]
    before = ImageEntry.from_json((await cluster.store.get(keys.image(NEW))).value)
    assert before.names == ()


async def test_an_image_that_vms_are_made_of_keeps_its_last_name(cluster, records):
    await with_vm(cluster, name="web")
    await with_vm(cluster, name="db")
    for reference in (NAME, NEW):
        with pytest.raises(ConflictError, match="used by db, web") as caught:
            await records.unname(reference)
        assert caught.value.code == "image-in-use" and "db web" in caught.value.problem.hint
    assert await named(cluster, NAME) == [NEW]


async def test_one_of_several_names_of_such_an_image_may_go(cluster, records):
    await with_vm(cluster)
    await cluster.put(
        (keys.image(NEW), entry(NEW, NAME, "me/other:1").to_json()), (keys.image_name("me/other:1"), NEW)
    )
    assert await records.unname("me/other:1") == ("me/other:1",)
    assert await named(cluster, NAME, "me/other:1") == [NEW, None]
    with pytest.raises(ConflictError):
        await records.unname(NAME)


async def test_all_names_go_with_the_digest(cluster, records):
    await cluster.put(
        (keys.image(NEW), entry(NEW, NAME, "me/other:1").to_json()), (keys.image_name("me/other:1"), NEW)
    )
    assert await records.unname(NEW) == (NAME, "me/other:1")
    await cluster.reconcile()
    assert await images(cluster) == set()


@pytest.mark.parametrize("reference", ["me/absent", "sha256:" + "c" * 64])
async def test_what_is_not_there_is_told(records, reference):
    with pytest.raises(NotFoundError) as caught:
        await records.unname(reference)
    assert caught.value.code == "image-not-found"


@pytest.mark.parametrize("reference", ["", "Not A Name", "me/Upper"])
async def test_what_is_no_name_is_refused(records, reference):
    with pytest.raises(InvalidError):
        await records.unname(reference)


async def test_a_name_that_moves_meanwhile_is_not_taken_away(cluster, records):
    commit = cluster.store.commit

    async def late(compares, operations, **options):
        cluster.store.commit = commit
        await records.register(NAME, IMAGE, host="h1", chunks={})
        return await commit(compares, operations, **options)

    cluster.store.commit = late
    with pytest.raises(ConflictError) as caught:
        await records.unname(NAME)
    assert caught.value.code == "contention"
    assert await named(cluster, NAME) == [HERE]


async def test_pruning_takes_what_has_neither_name_nor_vm(cluster, records):
    assert pruned(await records.prune(named=False)) == {OLD}
    await cluster.reconcile()
    assert await images(cluster) == {NEW}


@pytest.mark.parametrize("is_dry", [True, False])
async def test_pruning_all_takes_what_has_names_and_no_vm(cluster, records, is_dry):
    await with_vm(cluster, digest=OLD)
    assert pruned(await records.prune(named=True, is_dry=is_dry)) == {NEW}
    assert await named(cluster, NAME) == [NEW if is_dry else None]
    await cluster.reconcile()
    assert await images(cluster) == ({OLD, NEW} if is_dry else {OLD})

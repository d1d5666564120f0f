"""Records of snapshots, and what a VM is like that is made of one."""

from __future__ import annotations

import pytest
from protection_world import endophyte
from test_control_controller import Cluster
from test_control_desired import FixedClock

from vdc.control.desired import DesiredState
from vdc.control.images import ImageRecords, remove_unneeded_images
from vdc.control.snapshots import MOST_PER_VM, SnapshotRecords, manifest_of
from vdc.images.reference import candidates, digest_of
from vdc.model.endophyte import CopyStage
from vdc.model.errors import ConflictError, FencedError, InvalidError, NotFoundError
from vdc.model.image import Blob, Image, ImageEntry, ImageKind
from vdc.model.snapshot import Snapshot, SnapshotDisk, SnapshotMemory, SnapshotState, image_name, memory_name
from vdc.model.units import MIB
from vdc.store import keys

BLOB = Blob(digest="sha256:" + "c" * 64, size_bytes=5)
IMAGE = Image(kind=ImageKind.DISK, disk=BLOB, disk_virtual_bytes=64 * MIB)

MEMORY = Image(kind=ImageKind.MEMORY, memory=BLOB.with_(digest="sha256:" + "e" * 64, size_bytes=7))


def making(name="one", **spec):
    vm = endophyte(**spec)
    return Snapshot(
        name=name, endophyte="web", uid=vm.uid, host="h1", created_at="2026-01-01T00:00:00Z",
        manifest=vm.manifest,
        disks=(SnapshotDisk(name="root", virtual_bytes=64 * MIB), SnapshotDisk(name="data", virtual_bytes=MIB)),
    )  # fmt: skip


@pytest.fixture
async def cluster():
    return await Cluster().fill()


@pytest.fixture
def records(cluster):
    return SnapshotRecords(cluster.store, FixedClock())


async def keep_memory(records, snapshot):
    name = memory_name("web", "one")
    await records.register(snapshot, name, MEMORY, host="h1", chunks={})
    return SnapshotMemory(image=name, size_bytes=MEMORY.size_bytes)


async def finish(records, snapshot, memory=None, image=IMAGE):
    disks = []
    for number, disk in enumerate(snapshot.disks):
        name = image_name("web", snapshot.name, number)
        await records.register(snapshot, name, image, host=snapshot.host, chunks={})
        disks.append(disk.with_(image=name, size_bytes=5))
    return await records.complete(snapshot, disks, memory)


async def image_names(cluster):
    return {
        item.key.removeprefix(keys.IMAGE_NAMES) for item in (await cluster.store.list(keys.IMAGE_NAMES)).items
    }


async def test_it_is_known_from_its_beginning_to_its_end(cluster, records):
    before = await image_names(cluster)
    await records.begin(making())
    assert (await records.find("web", "one")).state is SnapshotState.MAKING
    ready = await finish(records, making())
    assert (ready.state, ready.size_bytes) == (SnapshotState.READY, 10)
    assert await image_names(cluster) == before | {"snapshots/web:one", "snapshots/web/disk1:one"}
    await records.remove("web", "one")
    assert await image_names(cluster) == before
    with pytest.raises(NotFoundError):
        await records.find("web", "one")


async def test_its_memory_comes_and_goes_with_it(cluster, records):
    before = await image_names(cluster)
    begun = making().with_(memory=SnapshotMemory())
    await records.begin(begun)
    memory = await keep_memory(records, begun)
    assert "snapshots/web/memory:one" in await image_names(cluster)
    disks = [disk.with_(image="x", size_bytes=5) for disk in begun.disks]
    assert (await records.complete(begun, disks, memory)).size_bytes == 17
    await records.remove("web", "one")
    assert await image_names(cluster) == before
    await records.begin(begun)
    await keep_memory(records, begun)
    await records.forget(begun)  # it was cut off
    assert await image_names(cluster) == before


@pytest.mark.parametrize("with_memory", [True, False])
async def test_a_vm_begins_with_the_memory_where_that_is_asked_for(cluster, records, with_memory):
    await cluster.put((keys.endophyte("web"), endophyte(run="stopped").to_json()))
    begun = making().with_(memory=SnapshotMemory())
    await records.begin(begun)
    ready = await finish(records, begun, await keep_memory(records, begun))
    desired = DesiredState(cluster.store, cluster.mirror, FixedClock(), candidates)
    after = (await desired.restore(ready, run=True, with_memory=with_memory)).successor
    assert after.memory_digest == (digest_of(MEMORY) if with_memory else "")
    assert (after.memory_digest in after.image_digests) is with_memory
    await records.remove("web", "one")  # the VM that will need it keeps it
    await cluster.refresh()
    removed = await remove_unneeded_images(cluster.store, cluster.mirror)
    assert (digest_of(MEMORY) in removed) is not with_memory


async def test_no_vm_is_made_of_a_memory(cluster, records):
    begun = making().with_(memory=SnapshotMemory())
    await records.begin(begun)
    await keep_memory(records, begun)
    desired = DesiredState(cluster.store, cluster.mirror, FixedClock(), candidates)
    wanted = endophyte("new").manifest
    wanted = wanted.with_(spec=wanted.spec.with_(image="snapshots/web/memory:one"))
    with pytest.raises(InvalidError, match="memory"):
        await desired.create(wanted)


async def test_a_name_is_given_once_and_a_vm_has_so_many_at_most(records):
    await records.begin(making())
    with pytest.raises(ConflictError) as taken:
        await records.begin(making())
    assert taken.value.code == "snapshot-exists"
    for number in range(MOST_PER_VM - 1):
        await records.begin(making(f"n{number}"))
    with pytest.raises(ConflictError) as full:
        await records.begin(making("last"))
    assert full.value.code == "too-many-snapshots"
    await records.begin(making("backup-1"), is_passing=True)  # a backup's is gone when it is complete


async def test_one_that_was_removed_while_it_was_made_does_not_come_back(cluster, records):
    await records.begin(making())
    await records.remove("web", "one")
    with pytest.raises(FencedError):
        await finish(records, making())


async def test_whoever_goes_on_with_one_that_was_removed_leaves_no_name(cluster, records):
    before = await image_names(cluster)
    begun = making().with_(memory=SnapshotMemory())
    await records.begin(begun)
    await records.remove("web", "one")
    with pytest.raises(FencedError, match="removed"):
        await records.register(begun, image_name("web", "one", 0), IMAGE, host="h1", chunks={})
    with pytest.raises(FencedError, match="removed"):
        await keep_memory(records, begun)
    await records.forget(begun)
    assert await image_names(cluster) == before


async def test_whoever_goes_on_with_an_earlier_one_does_not_touch_a_later_one(cluster, records):
    earlier, later = making(), making().with_(host="h2", epoch=2, created_at="2026-01-01T00:05:00Z")
    newer = IMAGE.with_(disk=BLOB.with_(digest="sha256:" + "d" * 64))
    await records.begin(earlier)
    await records.forget(earlier)  # the next primary's host did
    await records.begin(later)
    await finish(records, later, image=newer)
    with pytest.raises(FencedError):
        await finish(records, earlier)
    await records.forget(earlier)
    assert (await records.find("web", "one")).state is SnapshotState.READY
    for number in range(2):
        named = await cluster.store.get(keys.image_name(image_name("web", "one", number)))
        assert named.value == digest_of(newer)


class Overtaken:
    """A store in which something else happens just before the first commit."""

    def __init__(self, store, first):
        self._store, self._first = store, first

    async def commit(self, *args, **more):
        first, self._first = self._first, None
        if first is not None:
            await first()
        return await self._store.commit(*args, **more)

    def __getattr__(self, name):
        return getattr(self._store, name)


async def test_a_name_that_comes_while_the_snapshot_goes_goes_with_it(cluster, records):
    before = await image_names(cluster)
    await records.begin(making())
    name = image_name("web", "one", 0)
    store = Overtaken(cluster.store, lambda: records.register(making(), name, IMAGE, host="h1", chunks={}))
    await SnapshotRecords(store, FixedClock()).remove("web", "one")
    assert await image_names(cluster) == before
    assert ImageEntry.from_json((await cluster.store.get(keys.image(digest_of(IMAGE)))).value).names == ()


async def test_a_name_is_not_given_when_the_snapshot_goes_at_that_moment(cluster, records):
    before = await image_names(cluster)
    await records.begin(making())
    store = Overtaken(cluster.store, lambda: records.remove("web", "one"))
    with pytest.raises(FencedError):
        await finish(SnapshotRecords(store, FixedClock()), making())
    assert await image_names(cluster) == before


async def test_one_that_becomes_ready_while_it_is_removed_is_removed(cluster, records):
    before = await image_names(cluster)
    await records.begin(making())
    store = Overtaken(cluster.store, lambda: finish(records, making()))
    await SnapshotRecords(store, FixedClock()).remove("web", "one")
    assert await image_names(cluster) == before
    assert await cluster.store.get(keys.snapshot("web", "one")) is None


async def test_what_is_left_over_is_forgotten_and_what_became_ready_is_not(cluster, records):
    await records.begin(making())
    await finish(records, making())
    await records.forget(making())  # somebody looked at it before it was ready
    assert (await records.find("web", "one")).state is SnapshotState.READY


async def test_a_new_vm_has_the_disks_and_addresses_of_its_own(cluster, records):
    spec = {
        "disks": [{"name": "root"}, {"name": "data", "size": "1MiB"}],
        "networks": [{"address": "10.77.0.9", "mac": "52:54:00:00:00:09"}],
    }
    with pytest.raises(ConflictError) as early:
        manifest_of(making(**spec), "copy")
    assert early.value.code == "snapshot-not-ready"
    await records.begin(making(**spec))
    ready = await finish(records, making(**spec))
    made = manifest_of(ready, "copy")
    assert (made.metadata.name, made.spec.image) == ("copy", "snapshots/web:one")
    assert [(disk.size, disk.image) for disk in made.spec.disks] == [
        (64 * MIB, None), (MIB, "snapshots/web/disk1:one"),
    ]  # fmt: skip
    assert (made.spec.networks[0].address, made.spec.networks[0].mac) == (None, None)
    assert (
        manifest_of(ready, "web", keep_addresses=True).spec.networks == making(**spec).manifest.spec.networks
    )


async def test_a_restored_vm_takes_its_own_place_when_the_old_disks_are_gone(cluster):
    await cluster.with_running_primary()
    old = endophyte(deleting=True)
    new = endophyte(uid="new-uid", run="stopped")
    await cluster.put((keys.endophyte("web"), old.with_(successor=new).to_json()))
    await cluster.reconcile()
    assert await cluster.pair() is not None, "the old disks are still there"
    await cluster.says("h1", None, CopyStage.ABSENT, 1)
    await cluster.reconcile()
    await cluster.refresh()
    assert cluster.mirror.endophyte("web") == new
    assert cluster.mirror.pair("web") is None or cluster.mirror.pair("web").uid == "new-uid"
    assert not cluster.mirror.is_orphan("web", old.uid)
    assert old.uid in cluster.mirror.deleted
    for nic in new.nics:
        assert (await cluster.store.get(keys.address(nic.network, nic.address))).value == "new-uid"


async def test_images_of_a_snapshot_are_not_pruned(cluster, records):
    await records.begin(making())
    await finish(records, making())
    gone = await ImageRecords(cluster.store, FixedClock()).prune(named=True)
    assert not any(name.startswith("snapshots/") for entry in gone for name in entry.names)
    assert "snapshots/web:one" in await image_names(cluster)

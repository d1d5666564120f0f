"""What users want is stored whole or not at all, and every refusal says why."""

from __future__ import annotations

import asyncio

import pytest
from protection_world import DIGEST, endophyte, host, manifest, pair

from vdc.control.desired import DesiredState
from vdc.images.reference import candidates
from vdc.model.endophyte import RunState
from vdc.model.errors import ConflictError, InvalidError, NotFoundError, RefusedError
from vdc.model.image import Blob, Image, ImageEntry, ImageKind
from vdc.model.manifest import EndophyteSpec
from vdc.model.network import Network
from vdc.model.process import ImageProcess
from vdc.model.units import GIB, MIB
from vdc.store import keys
from vdc.store.memory import MemoryStore
from vdc.store.mirror import Mirror
from vdc.store.protocol import Put


class FixedClock:
    def boottime_s(self):
        return 1.0

    def wall(self):
        return "2026-01-01T00:00:00Z"


class World:
    """A store with three hosts, one network and one image, seen through a mirror."""

    def __init__(self):
        self.store = MemoryStore()
        self.mirror = Mirror(self.store, report=lambda sentence: None)
        self.desired = DesiredState(self.store, self.mirror, FixedClock(), candidates)

    async def put(self, *pairs):
        await self.store.commit([], [Put(key, value) for key, value in pairs])
        await self.mirror.read_all()

    async def fill(self):
        image = ImageEntry(digest=DIGEST, image=Image(kind=ImageKind.KERNEL, min_memory_bytes=96 * MIB))
        await self.put(
            *((keys.host(name), host(name).to_json()) for name in ("h1", "h2", "h3")),
            *((keys.liveness(name), "i") for name in ("h1", "h2", "h3")),
            (keys.network("default"), Network().to_json()),
            (keys.image(DIGEST), image.to_json()),
            (keys.image_name("mycelium/mini:latest"), DIGEST),
        )
        return self

    async def refresh(self):
        await self.mirror.read_all()

    async def stored(self, prefix):
        return [item.key for item in (await self.store.list(prefix)).items]


@pytest.fixture
async def world():
    return await World().fill()


async def test_creation_allots_addresses_for_life(world):
    made = await world.desired.create(manifest())
    assert made.nics[0].address == "10.77.0.10"
    assert made.nics[0].mac.startswith("52:54:00:")
    assert await world.stored(keys.ADDRESSES + "default") == [keys.address("default", "10.77.0.10")]
    second = await world.desired.create(manifest("other"))
    assert second.nics[0].address == "10.77.0.11"


async def test_a_name_is_taken_once(world):
    await world.desired.create(manifest())
    with pytest.raises(ConflictError) as caught:
        await world.desired.create(manifest())
    assert caught.value.code == "name-taken"


async def test_two_creations_at_once_share_nothing(world):
    made = await asyncio.gather(*(world.desired.create(manifest(f"vm{number}")) for number in range(8)))
    assert len({one.nics[0].address for one in made}) == 8
    assert len({one.nics[0].mac for one in made}) == 8


REFUSALS = {
    "image-not-found": (manifest(image="no/such:1"), NotFoundError),
    "memory-too-small": (manifest(memory="64MiB"), InvalidError),
    "no-host": (manifest(memory="64GiB"), RefusedError),
    "network-not-found": (manifest(networks=[{"network": "nowhere"}]), NotFoundError),
    "address-invalid": (manifest(networks=[{"address": "10.77.0.250"}]), InvalidError),
    "allowed-address-invalid": (manifest(networks=[{"allowedAddresses": ["10.77.0.11/32"]}]), InvalidError),
    "ports-unsupported": (manifest(ports=[{"port": 80}]), RefusedError),
    "disk-size-missing": (manifest(disks=[{"name": "data"}]), InvalidError),
}


@pytest.mark.parametrize("code", REFUSALS)
async def test_what_cannot_run_is_refused_and_leaves_nothing(world, code):
    wanted, kind = REFUSALS[code]
    with pytest.raises(kind) as caught:
        await world.desired.create(wanted)
    assert caught.value.code == code
    assert await world.stored(keys.ENDOPHYTES) == []
    assert await world.stored(keys.ADDRESSES) == []


async def test_a_taken_address_is_a_conflict(world):
    await world.desired.create(manifest(networks=[{"address": "10.77.0.20"}]))
    with pytest.raises(ConflictError) as caught:
        await world.desired.create(manifest("other", networks=[{"address": "10.77.0.20"}]))
    assert caught.value.code == "address-taken"


async def test_a_dry_run_stores_nothing(world):
    await world.desired.create(manifest(), dry_run=True)
    assert await world.stored(keys.ENDOPHYTES) == []


async def test_applying_twice_changes_nothing(world):
    assert (await world.desired.apply(manifest()))[0] == "created"
    await world.refresh()
    assert (await world.desired.apply(manifest()))[0] == "unchanged"


async def test_protection_can_be_changed_and_the_machine_cannot(world):
    await world.desired.apply(manifest())
    await world.refresh()
    action, after = await world.desired.apply(manifest(sync="none"))
    assert (action, after.generation) == ("configured", 2)
    with pytest.raises(RefusedError) as caught:
        await world.desired.apply(manifest(memory="1GiB"))
    assert caught.value.code == "immutable-field"
    assert "resources" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"memory": "1GiB"}, "resources", "no ballooning and no hot-plug"),
        ({"networks": [{}, {}]}, "networks", "nothing is plugged in or out"),
        ({"disks": [{"name": "more", "size": "1GiB"}]}, "disks", "nothing is plugged in or out"),
        ({"image": "other:latest"}, "image", "laid over that image"),
        ({"tpm": True}, "tpm", "the same devices"),
        ({"firmware": "uefi"}, "firmware", "boots a disk"),
        ({"cloudInit": {"user": "anna"}}, "cloudInit", "first start alone"),
    ],
)
async def test_what_others_plug_in_while_it_runs_is_refused_with_the_reason(world, change, field, reason):
    await world.desired.apply(manifest())
    await world.refresh()
    with pytest.raises(RefusedError, match=reason) as caught:
        await world.desired.apply(manifest(**change))
    assert caught.value.code == "immutable-field"
    assert f"spec.{field} of web" in str(caught.value)
    assert "its disks go with it" in caught.value.problem.hint


async def test_a_stopped_one_is_not_restarted_but_told_how_to_start(world):
    await world.desired.create(manifest())
    await world.desired.change("web", lambda e: e.with_(run=RunState.STOPPED))
    with pytest.raises(ConflictError) as caught:
        await world.desired.restart("web")
    assert caught.value.problem.hint == "vdc start web"


async def test_protecting_against_the_manifest_is_refused(world):
    await world.desired.create(manifest(sync="none"))
    with pytest.raises(RefusedError) as caught:
        await world.desired.set_protection("web", enabled=True)
    assert caught.value.code == "protection-off"


async def test_protecting_without_a_host_for_the_replica_is_refused_with_what_to_raise(world):
    await world.desired.create(manifest(nodes=1))
    with pytest.raises(RefusedError) as caught:
        await world.desired.set_protection("web", enabled=True)
    assert caught.value.code == "protection-off"
    assert "virtualComputer.dedicatedNodes" in caught.value.problem.hint
    assert not (await world.desired.set_protection("web", enabled=False)).protect


async def test_an_image_whose_name_moves_meanwhile_is_not_what_a_vm_is_made_of(world):
    other = "sha256:" + "1" * 64
    image = ImageEntry(digest=other, image=Image(kind=ImageKind.KERNEL), names=("mycelium/mini:latest",))
    commit, moved = world.store.commit, []

    async def after_an_import(compares, operations):
        if not moved:
            moved.append(True)
            name = Put(keys.image_name("mycelium/mini:latest"), other)
            await commit([], [Put(keys.image(other), image.to_json()), name])
        return await commit(compares, operations)

    world.store.commit = after_an_import
    assert (await world.desired.create(manifest())).image_digest == other


async def test_deleting_twice_is_deleting_once_and_the_name_stays_taken_meanwhile(world):
    await world.desired.create(manifest())
    first = await world.desired.delete("web")
    assert await world.desired.delete("web") == first
    with pytest.raises(ConflictError) as caught:
        await world.desired.create(manifest())
    assert caught.value.code == "being-deleted"


async def test_a_dedicated_host_takes_nobody_else(world):
    other = endophyte("other", memory="256MiB")
    await world.put(
        (keys.endophyte("other"), other.to_json()),
        (keys.pair("other"), pair(name="other").to_json()),
    )
    alone = manifest(memory="7GiB", annotations={"mycelium.network/isolation-level": "dedicated"})
    made = await world.desired.create(alone)
    assert made.manifest.is_dedicated
    assert made.manifest.spec.resources.memory > GIB


# ---- containers

CONTAINER = {"type": "container", "dedicatedNodes": 2}
BLOB = Blob(digest="sha256:" + "1" * 64, size_bytes=1)
REDIS = "sha256:" + "2" * 64


def container(**spec):
    spec = {"image": "redis:7", "virtualComputer": CONTAINER, **spec}
    return manifest("db").with_(
        spec=EndophyteSpec.model_validate({"resources": {"memory": "256MiB"}, **spec})
    )


@pytest.fixture
async def redis(world):
    image = Image(
        kind=ImageKind.CONTAINER, disk=BLOB, kernel=BLOB, initrd=BLOB, disk_virtual_bytes=10 * GIB,
        process=ImageProcess(entrypoint=("redis-server",)), min_memory_bytes=64 * MIB,
    )  # fmt: skip
    entry = ImageEntry(digest=REDIS, image=image).to_json()
    await world.put((keys.image(REDIS), entry), (keys.image_name("redis:7"), REDIS))
    return world


async def test_a_container_is_admitted(redis):
    disks = [{"name": "root", "size": "20GiB"}, {"name": "data", "size": "1GiB", "mountPath": "/data"}]
    made = await redis.desired.create(container(disks=disks, process={"args": ["--save", ""]}))
    assert made.image_digest == REDIS and made.manifest.spec.process.args == ("--save", "")


CONTAINER_REFUSALS = {
    "type-mismatch": container(virtualComputer={"type": "full-virtualization"}),
    "memory-too-small": container(resources={"memory": "100MiB"}),
    "command-missing": container(process={"command": [""]}),
    "mount-path-missing": container(disks=[{"name": "root"}, {"name": "data", "size": "1GiB"}]),
    "disk-size-missing": container(disks=[{"name": "root"}, {"name": "data", "mountPath": "/data"}]),
    "volume-size": container(disks=[{"name": "root"}, {"name": "d", "size": "2MiB", "mountPath": "/data"}]),
    "disk-too-small": container(disks=[{"name": "root", "size": "1GiB"}]),
}


@pytest.mark.parametrize("code", CONTAINER_REFUSALS)
async def test_a_container_that_cannot_run_is_refused(redis, code):
    with pytest.raises(InvalidError) as caught:
        await redis.desired.create(CONTAINER_REFUSALS[code])
    assert caught.value.code == code


async def test_other_images_run_no_program(redis):
    with pytest.raises(InvalidError) as caught:
        await redis.desired.create(container(image="mycelium/mini"))
    assert caught.value.code == "type-mismatch"


async def test_another_program_is_another_power_on(redis):
    await redis.desired.create(container())
    await redis.refresh()
    action, after = await redis.desired.apply(container(process={"env": [{"name": "A", "value": "1"}]}))
    assert (action, after.restarts, after.generation) == ("configured", 1, 2)
    await redis.refresh()
    action, after = await redis.desired.apply(container(process={"env": [{"name": "A", "value": "1"}]}))
    assert (action, after.restarts) == ("unchanged", 1)


async def test_a_program_that_cannot_run_changes_nothing(redis):
    await redis.desired.create(container())
    await redis.refresh()
    with pytest.raises(InvalidError):
        await redis.desired.apply(container(process={"command": [""]}))


async def test_volumes_are_for_life(redis):
    await redis.desired.create(container())
    await redis.refresh()
    disks = [{"name": "root"}, {"name": "data", "size": "1GiB", "mountPath": "/data"}]
    with pytest.raises(RefusedError) as caught:
        await redis.desired.apply(container(disks=disks))
    assert caught.value.code == "immutable-field"


DATA, OTHER = "sha256:" + "2" * 64, "sha256:" + "3" * 64


async def with_images(world):
    """An image of data beside the demo image, whose record has no disk."""
    disk = Blob(digest=DATA, size_bytes=9)
    data = Image(kind=ImageKind.DISK, disk=disk, disk_virtual_bytes=GIB)
    await world.put(
        (keys.image(DATA), ImageEntry(digest=DATA, image=data, names=("me/data:1",)).to_json()),
        (keys.image_name("me/data:1"), DATA),
    )
    return world


async def test_a_disk_of_an_image_holds_it_by_its_digest(world):
    await with_images(world)
    disks = [{"name": "a", "image": "me/data:1"}, {"name": "b", "size": "1GiB"}]
    made = await world.desired.create(manifest(disks=disks))
    assert made.disk_image_digests == (DATA, "")
    assert (await world.desired.create(manifest("plain"))).disk_image_digests == ()


async def test_a_disks_image_whose_name_moves_meanwhile_is_not_the_former_one(world):
    await with_images(world)
    commit, moved = world.store.commit, []

    async def after_an_import(compares, operations):
        if not moved:
            moved.append(True)
            other = Image(kind=ImageKind.DISK, disk=Blob(digest=OTHER, size_bytes=1))
            record = ImageEntry(digest=OTHER, image=other, names=("me/data:1",)).to_json()
            await commit([], [Put(keys.image(OTHER), record), Put(keys.image_name("me/data:1"), OTHER)])
        return await commit(compares, operations)

    world.store.commit = after_an_import
    made = await world.desired.create(manifest(disks=[{"name": "a", "image": "me/data:1"}]))
    assert made.disk_image_digests == (OTHER,)


@pytest.mark.parametrize(
    ("image", "disks", "code"),
    [
        ("mycelium/mini:latest", [{"name": "a", "image": "no/such:1"}], "image-not-found"),
        ("mycelium/mini:latest", [{"name": "a", "image": "mycelium/mini:latest"}], "image-diskless"),
        ("mycelium/mini:latest", [{"name": "a", "image": "me/data:1", "size": "1MiB"}], "disk-too-small"),
        ("me/data:1", [{"name": "a", "image": "me/data:1"}], "disk-image-twice"),
    ],
)
async def test_a_disk_that_cannot_be_its_images_is_refused(world, image, disks, code):
    await with_images(world)
    with pytest.raises((InvalidError, NotFoundError)) as caught:
        await world.desired.create(manifest(image=image, disks=disks))
    assert caught.value.code == code
    assert await world.stored(keys.ENDOPHYTES) == []

"""What users want is stored whole or not at all, and every refusal says why."""

from __future__ import annotations

import asyncio

import pytest
from protection_world import DIGEST, endophyte, host, manifest, pair

from vdc.control.desired import DesiredState
from vdc.images.reference import candidates
from vdc.model.endophyte import RunState
from vdc.model.errors import ConflictError, InvalidError, NotFoundError, RefusedError
from vdc.model.image import Image, ImageEntry, ImageKind
from vdc.model.network import Network
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

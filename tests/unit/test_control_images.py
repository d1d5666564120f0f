"""An image that lost its last name goes when no VM is made of it, and not before."""

from __future__ import annotations

import pytest
from protection_world import endophyte
from test_control_controller import Cluster

from vdc.control.images import remove_unneeded_images
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

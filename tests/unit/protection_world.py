"""Short ways to build the records that decisions are made of."""

from __future__ import annotations

from vdc.model.endophyte import CopyRole, CopyStage, Endophyte, Nic, Observed
from vdc.model.host import Accelerator, Host, QemuVersion
from vdc.model.manifest import EndophyteManifest
from vdc.model.pair import Pair, SyncState
from vdc.model.units import GIB, MIB
from vdc.protection.snapshot import CopyView, PeerView, Snapshot

UID = "11111111-2222-3333-4444-555555555555"
DIGEST = "sha256:" + "0" * 64
NOBODY_SILENT = PeerView()


def manifest(name="web", *, memory="256MiB", nodes=3, sync="continuous", **spec):
    return EndophyteManifest.model_validate(
        {
            "apiVersion": "v1",
            "kind": "Endophyte",
            "metadata": {"name": name, "annotations": spec.pop("annotations", {})},
            "spec": {
                "image": "mycelium/mini",
                "virtualComputer": {"dedicatedNodes": nodes, "memorySync": sync},
                "resources": {"memory": memory},
                **spec,
            },
        }
    )


def endophyte(name="web", *, uid=UID, run="running", protect=True, deleting=False, restarts=0, **spec):
    return Endophyte(
        manifest=manifest(name, **spec), uid=uid, run=run, protect=protect, deleting=deleting, restarts=restarts,
        image_digest=DIGEST, nics=(Nic(network="default", mac="52:54:00:00:00:01", address="10.77.0.10"),),
        created_at="",
    )  # fmt: skip


def pair(
    epoch=2,
    *,
    primary="h1",
    secondary="h2",
    sync=SyncState.IN_SYNC,
    spares=("h3",),
    uid=UID,
    name="web",
    slot=0,
):
    if secondary is None:
        sync = SyncState.NONE
    return Pair(
        name=name,
        uid=uid,
        epoch=epoch,
        primary=primary,
        secondary=secondary,
        sync=sync,
        spares=spares,
        slot=slot,
    )


def host(
    name, *, memory=8 * GIB, version="11.1.3", lockstep=True, accelerator="tcg", labels=None, schedulable=True
):
    return Host(
        name=name, api_url=f"http://{name}", management_address=f"10.70.0.{name[1:]}",
        replication_address=f"10.71.0.{name[1:]}", overlay_address=f"10.77.0.{name[1:]}", heartbeat_port=1,
        agent_version="0", incarnation=1, cpus=2, memory_bytes=memory, labels=labels or {},
        accelerator=Accelerator(name=accelerator), schedulable=schedulable,
        qemu=QemuVersion(version=version, lockstep=lockstep, reason="" if lockstep else "too old"),
    )  # fmt: skip


def observed(host_name, role, stage, *, epoch=2, uid=UID, name="web", **more):
    return Observed(name=name, host=host_name, uid=uid, epoch=epoch, role=role, stage=stage, **more)


def primary_in(
    stage, *, epoch=2, the_pair=None, the_endophyte=None, peer=NOBODY_SILENT, peer_observed=None, **copy
):
    alive = copy.pop("alive", stage not in (CopyStage.ABSENT, CopyStage.DEAD, CopyStage.FAILED))
    view = CopyView(role=CopyRole.PRIMARY, stage=stage, epoch=epoch, alive=alive, has_files=True, **copy)
    return Snapshot(
        me="h1", endophyte=the_endophyte or endophyte(), pair=the_pair or pair(), copy=view, peer=peer,
        peer_observed=peer_observed,
    )  # fmt: skip


def secondary_in(stage, *, epoch=2, the_pair=None, peer=NOBODY_SILENT, peer_observed=None, **copy):
    alive = copy.pop("alive", stage not in (CopyStage.ABSENT, CopyStage.DEAD, CopyStage.FAILED))
    view = CopyView(role=CopyRole.SECONDARY, stage=stage, epoch=epoch, alive=alive, has_files=True, **copy)
    return Snapshot(
        me="h2",
        endophyte=endophyte(),
        pair=the_pair or pair(),
        copy=view,
        peer=peer,
        peer_observed=peer_observed,
    )


SMALL = 64 * MIB

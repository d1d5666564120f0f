"""A pod's volumes: files, folders, disks, and what cannot be mounted."""

from __future__ import annotations

import pytest
from kubernetes_support import (
    Value,
    claim,
    config_map,
    manifest,
    mounted,
    notes,
    pod,
    process,
    refusals,
    routed,
    secret,
    template,
)

from vdc.model.units import GIB, MIB

# ---- volumes

MAP = config_map("m", {"a.conf": "A\n", "b.conf": "B\n"}, binaryData={"raw": "/w=="})


def test_a_config_map_is_a_folder_of_files() -> None:
    made = process(mounted({"configMap": {"name": "m", "defaultMode": 0o400}}), MAP)
    assert [(one.path, one.medium, one.read_only) for one in made.empty_dirs] == [("/v", "Memory", True)]
    assert {(one.path, one.data, one.mode) for one in made.files} == {
        ("/v/a.conf", b"A\n", 0o400), ("/v/b.conf", b"B\n", 0o400), ("/v/raw", b"\xff", 0o400),
    }  # fmt: skip
    assert not any(one.secret for one in made.files)


def test_items_have_paths_and_modes_of_their_own() -> None:
    items = [{"key": "a.conf", "path": "x/y.conf", "mode": 0o755}]
    made = process(mounted({"configMap": {"name": "m", "items": items}}, mountPath="/v//w/"), MAP)
    assert [(one.path, one.mode) for one in made.files] == [("/v/w/x/y.conf", 0o755)]


def test_one_file_of_a_volume_leaves_the_folder_as_it_is() -> None:
    made = process(mounted({"configMap": {"name": "m"}}, mountPath="/etc/a.conf", subPath="a.conf"), MAP)
    assert made.empty_dirs == () and [one.path for one in made.files] == ["/etc/a.conf"]
    items = [{"key": "a.conf", "path": "x/y"}]
    made = process(mounted({"configMap": {"name": "m", "items": items}}, subPath="x"), MAP)
    assert [one.path for one in made.files] == ["/v/y"] and made.empty_dirs[0].path == "/v"


def test_files_of_a_secret_are_secrets() -> None:
    made = process(
        mounted({"secret": {"secretName": "s", "defaultMode": 0o400}}), secret("s", {"key": "hunter2"})
    )
    assert [(one.path, one.data, one.mode, one.secret) for one in made.files] == [
        ("/v/key", b"hunter2", 0o400, True)
    ]
    grouped = mounted({"secret": {"secretName": "s", "defaultMode": 0o400}})
    grouped["spec"]["securityContext"] = {"fsGroup": 5}
    assert process(grouped, secret("s", {"key": "hunter2"})).files[0].mode == 0o440


def test_several_sources_in_one_folder() -> None:
    sources = [
        {"configMap": {"name": "m", "items": [{"key": "a.conf", "path": "a"}]}},
        {"secret": {"name": "s"}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    made = process(mounted({"projected": {"sources": sources}}), MAP, secret("s", {"b": "x"}))
    assert {(one.path, one.data, one.secret) for one in made.files} == {
        ("/v/a", b"A\n", False), ("/v/b", b"x", True), ("/v/labels", b'app="a"', False),
    }  # fmt: skip


def test_empty_folders() -> None:
    memory = process(mounted({"emptyDir": {"medium": "Memory", "sizeLimit": "10Mi"}}))
    assert [(one.path, one.medium, one.size_limit) for one in memory.empty_dirs] == [
        ("/v", "Memory", 10 * MIB)
    ]
    for source in ({"emptyDir": {}}, {}):
        assert [(one.path, one.medium) for one in process(mounted(source)).empty_dirs] == [("/v", "")]
    assert "whose size is the limit" in notes(mounted({"emptyDir": {"sizeLimit": "1Gi"}}))[0]


def test_a_folder_in_two_places() -> None:
    def twice(first: str, second: str) -> Value:
        mounts = [
            {"name": "v", "mountPath": f"/{n}", "subPath": sub} for n, sub in enumerate((first, second))
        ]
        return pod({"volumeMounts": mounts}, volumes=[{"name": "v", "emptyDir": {}}])

    assert [one.path for one in process(twice("a", "b")).empty_dirs] == ["/0", "/1"]
    for first, second in (("a", "a"), ("", "a"), ("a", ""), ("a", "a/b"), ("a/b", "./a/")):
        assert "the same folder of v is mounted twice" in refusals(twice(first, second))[0]


def test_claims_are_disks() -> None:
    made = manifest(mounted({"persistentVolumeClaim": {"claimName": "d"}}, readOnly=True), claim("d", "1G"))
    assert [(one.name, one.size, one.mount_path, one.read_only) for one in made.spec.disks] == [
        ("root", None, None, False), ("v", 954 * MIB, "/v", True),
    ]  # fmt: skip
    ephemeral = {"ephemeral": {"volumeClaimTemplate": {"spec": claim("d")["spec"]}}}
    assert manifest(mounted(ephemeral)).spec.disks[1].size == GIB
    owned = template(pod({"volumeMounts": [{"name": "root", "mountPath": "/d"}]}), "StatefulSet",
                     volumeClaimTemplates=[claim("root")])  # fmt: skip
    assert [one.name for one in manifest(owned).spec.disks] == ["system", "root"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            {"accessModes": ["ReadWriteMany"]},
            "PersistentVolumeClaim d: spec.accessModes: a disk is one Endophyte's own",
        ),
        ({"volumeMode": "Block"}, "PersistentVolumeClaim d: spec.volumeMode: a volume is a file system here"),
        (
            {"resources": {}},
            "PersistentVolumeClaim d: spec.resources.requests.storage: the disk's size is missing",
        ),
        ({"volumeName": "pv"}, "PersistentVolumeClaim d cannot be used"),
        ({"dataSource": {"name": "s"}}, "PersistentVolumeClaim d cannot be used"),
    ],
)
def test_claims_that_cannot_be_kept(spec: Value, words: str) -> None:
    assert words in refusals(mounted({"persistentVolumeClaim": {"claimName": "d"}}), claim("d", **spec))[0]


def test_a_disk_has_one_place_and_one_user() -> None:
    value = mounted({"persistentVolumeClaim": {"claimName": "d"}})
    value["spec"]["containers"][0]["volumeMounts"].append({"name": "v", "mountPath": "/w", "subPath": "w"})
    assert "disk v is mounted already, and a disk has one place" in refusals(value, claim("d"))[0]
    first = mounted({"persistentVolumeClaim": {"claimName": "d"}})
    second = mounted({"persistentVolumeClaim": {"claimName": "d"}})
    second["metadata"]["name"] = "b"
    found = routed(first, second, claim("d"))
    assert found[0].manifest and "is the disk of endophyte/a already, and a disk has one user" in str(
        found[1].error
    )


def test_more_disks_than_a_guest_has() -> None:
    names = "bcde"
    value = pod(
        {"volumeMounts": [{"name": one, "mountPath": f"/{one}"} for one in names]},
        volumes=[{"name": one, "persistentVolumeClaim": {"claimName": one}} for one in names],
    )
    assert (
        "spec.disks: tuple should have at most 4 items" in refusals(value, *(claim(one) for one in names))[0]
    )


@pytest.mark.parametrize(
    "kind",
    ["hostPath", "nfs", "csi", "iscsi", "rbd", "cephfs", "image", "gitRepo", "awsElasticBlockStore", "azureFile",
     "gcePersistentDisk", "glusterfs", "fc", "flexVolume", "cinder", "vsphereVolume", "portworxVolume", "scaleIO"],
)  # fmt: skip
def test_other_volumes_are_refused_by_their_kind(kind: str) -> None:
    for source in ({"path": "/x"}, {}):
        assert refusals(mounted({kind: source}))[0].startswith(f"spec.volumes[0].{kind}: ")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (mounted({"configMap": {"name": "m"}}, subPath="../x"), "subPath: '../x' is not a path inside the volume"),
        (mounted({"configMap": {"name": "m"}}, subPath="/x"), "subPath: '/x' is not a path inside the volume"),
        (mounted({"configMap": {"name": "m"}}, subPath="none"), "subPath: volume v has no none"),
        (mounted({"configMap": {"name": "m"}}, subPathExpr="$(A)"), "subPathExpr: write subPath"),
        (mounted({"configMap": {"name": "m"}}, mountPropagation="Bidirectional"), "mountPropagation: input should be"),
        (mounted({"configMap": {"name": "m", "items": [{"key": "zz", "path": "a"}]}}), "there is no key zz"),
        (mounted({"configMap": {"name": "m", "items": [{"key": "a.conf", "path": "../a"}]}}), "path: '../a' is"),
        (mounted({"configMap": {"name": "m", "items": [{"key": "a.conf", "path": "/a"}]}}), "path: '/a' is not"),
        (mounted({"configMap": {"name": "m", "defaultMode": 0o1777}}), "defaultMode: input should be less"),
        (mounted({"configMap": {"name": "m"}, "emptyDir": {}}), "spec.volumes[0]: a volume has exactly one source"),
        (mounted({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}), "Token: there is no"),
        (mounted({"downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "status.podIP"}}]}}),
         "status.podIP is known to variables alone"),
        (mounted({"downwardAPI": {"items": [{"path": "a"}]}}), "items[0]: it is exactly one of fieldRef"),
        (mounted({"emptyDir": {"medium": "HugePages"}}), "emptyDir.medium: input should be '' or 'Memory'"),
        (mounted({"emptyDir": {}}, mountPath="/"), "emptyDirs[0].path: '/' is not an absolute path"),
        (mounted({"emptyDir": {}}, mountPath="/proc/x"), "is below /proc, which is the guest's kernel's own"),
        (pod({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}), "there is no volume named v"),
        (pod(volumes=[{"name": "v"}, {"name": "v"}]), "spec.volumes[1]: volume v is there twice"),
    ],
)  # fmt: skip
def test_volumes_that_cannot_be_kept(value: Value, words: str) -> None:
    assert words in refusals(value, MAP)[0]


def test_what_is_mounted_nowhere_is_noted() -> None:
    assert notes(pod(volumes=[{"name": "v", "emptyDir": {}}])) == [
        "volume v: the container mounts it nowhere, so it is not made"
    ]


@pytest.mark.parametrize("key", ["../up", "a/b", "..", "", "a b"])
def test_a_key_cannot_lead_out_of_its_folder(key: str) -> None:
    found = refusals(mounted({"configMap": {"name": "m"}}), config_map("m", {key: "x"}))
    assert found == ["spec.volumes[0].configMap.name: ConfigMap m cannot be used"]


def test_files_that_are_too_large_together() -> None:
    big = config_map("m", {"a": "x" * 600_000})
    assert (
        "the files are more than 512 KiB together" in refusals(mounted({"configMap": {"name": "m"}}), big)[0]
    )

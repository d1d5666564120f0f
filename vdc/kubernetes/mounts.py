"""A pod's volumes where its container mounts them: further disks, empty folders, files. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from vdc.kubernetes.companions import CLAIM, Key
from vdc.kubernetes.computer import Needs
from vdc.kubernetes.container import VolumeMount
from vdc.kubernetes.environment import field_value, resource_value
from vdc.kubernetes.fields import read
from vdc.kubernetes.objects import Claim, ClaimSpec
from vdc.kubernetes.quantity import parse_quantity, whole
from vdc.kubernetes.scene import Scene
from vdc.kubernetes.volumes import DownwardFile, EmptyDirVolume, KeyToPath, ProjectedPart, Volume
from vdc.model.units import MIB

_GROUP_MAY_READ = 0o440  # Kubernetes adds it to files of a pod with an fsGroup


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """A file in a volume, by its path there."""

    data: bytes = field(repr=False)
    mode: int
    is_secret: bool = False


@dataclass(slots=True)
class Mounts:
    """What a manifest has of them."""

    disks: list[dict[str, Any]] = field(default_factory=list)
    empty_dirs: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)


def mounts_of(scene: Scene, needs: Needs) -> Mounts:
    """All of them; what the container does not mount is noted."""
    return _Mounting(scene, needs).all()


class _Mounting:
    def __init__(self, scene: Scene, needs: Needs) -> None:
        self._scene, self._needs, self._findings = scene, needs, scene.findings
        self._made = Mounts()
        self._places: dict[str, list[str]] = {}  # volume -> the paths in it that are mounted already

    def all(self) -> Mounts:
        workload = self._scene.workload
        volumes: dict[str, tuple[int, Volume]] = {}
        for n, one in enumerate(workload.pod.volumes):
            if one.name in volumes:
                self._findings.refuse(
                    f"{workload.pod_path}.volumes[{n}]", f"volume {one.name[:80]} is there twice"
                )
            volumes[one.name] = (n, one)
        claims = {claim.metadata.name: (n, claim) for n, claim in enumerate(workload.claims)}
        for n, mount in enumerate(workload.container.volume_mounts):
            here = f"{workload.container_path}.volumeMounts[{n}]"
            if mount.sub_path and not _is_inside(self._scene, mount.sub_path, f"{here}.subPath"):
                continue
            if mount.name in claims:  # as in Kubernetes, these come before volumes of the same name
                place, claim = claims[mount.name]
                self._disk(
                    mount, claim.spec, here, f"spec.volumeClaimTemplates[{place}].spec", is_read_only=False
                )
            elif mount.name in volumes:
                place, volume = volumes[mount.name]
                self._volume(mount, volume, here, f"{workload.pod_path}.volumes[{place}]")
            else:
                self._findings.refuse(here, f"there is no volume named {mount.name[:80]}")
        mounted = {mount.name for mount in workload.container.volume_mounts}
        for name in [*claims, *volumes]:
            if name not in mounted:
                self._findings.note(
                    f"volume {name[:80]}", "the container mounts it nowhere, so it is not made"
                )
        return self._made

    def _volume(self, mount: VolumeMount, volume: Volume, here: str, path: str) -> None:
        sources = [
            one
            for one in (
                volume.config_map, volume.secret, volume.downward_api, volume.projected, volume.empty_dir,
                volume.persistent_volume_claim, volume.ephemeral,
            )
            if one is not None
        ]  # fmt: skip
        if len(sources) > 1:
            self._findings.refuse(path, "a volume has exactly one source")
        elif volume.persistent_volume_claim is not None:
            self._claim(mount, volume, here, f"{path}.persistentVolumeClaim")
        elif volume.ephemeral is not None:
            at = f"{path}.ephemeral.volumeClaimTemplate"
            claim = read(Claim, volume.ephemeral.volume_claim_template, self._findings, at)
            if claim is not None:
                self._disk(mount, claim.spec, here, f"{at}.spec", is_read_only=False)
        elif volume.empty_dir is not None or not sources:
            self._empty(mount, volume.empty_dir or EmptyDirVolume(), here, path)
        else:
            self._files(mount, dict(_files_of(self._scene, self._needs, volume, path)), here)

    # ---- disks

    def _claim(self, mount: VolumeMount, volume: Volume, here: str, path: str) -> None:
        source = volume.persistent_volume_claim
        assert source is not None
        key = Key(CLAIM, self._scene.workload.namespace, source.claim_name)
        found = self._scene.companion(CLAIM, source.claim_name, f"{path}.claimName")
        if found is None or found.claim is None:
            return
        self._disk(mount, found.claim.spec, here, f"{key}: spec", is_read_only=source.read_only)

    def _disk(self, mount: VolumeMount, spec: ClaimSpec, here: str, path: str, *, is_read_only: bool) -> None:
        if mount.name in self._places:
            self._findings.refuse(here, f"disk {mount.name} is mounted already, and a disk has one place")
            return
        self._places[mount.name] = [""]
        if spec.access_modes and not {"ReadWriteOnce", "ReadWriteOncePod"} & set(spec.access_modes):
            self._findings.refuse(f"{path}.accessModes", "a disk is one Endophyte's own: write ReadWriteOnce")
        if spec.volume_mode == "Block":
            self._findings.refuse(f"{path}.volumeMode", "a volume is a file system here")
        size = spec.resources.requests.get("storage")
        if size is None:
            self._findings.refuse(f"{path}.resources.requests.storage", "the disk's size is missing")
        if mount.sub_path:
            self._findings.note(
                f"{here}.subPath", "the disk is mounted there whole, as nothing else of it is"
            )
        disk: dict[str, Any] = {"name": mount.name, "mountPath": _normal(mount.mount_path)}
        disk["size"] = max(MIB, whole(parse_quantity(size or "1Gi"), MIB))
        if mount.read_only or is_read_only:
            disk["readOnly"] = True
        self._made.disks.append(disk)

    # ---- folders

    def _empty(self, mount: VolumeMount, source: EmptyDirVolume, here: str, path: str) -> None:
        inside = _normal(mount.sub_path)
        for other in self._places.setdefault(mount.name, []):
            if _is_below(inside, other) or _is_below(other, inside):
                self._findings.refuse(
                    here, f"the same folder of {mount.name} is mounted twice: each place has its own here"
                )
        self._places[mount.name].append(inside)
        folder: dict[str, Any] = {"path": _normal(mount.mount_path)}
        if source.medium:
            folder["medium"] = source.medium
        if source.size_limit is not None and source.medium:
            folder["sizeLimit"] = whole(parse_quantity(source.size_limit), MIB)
        elif source.size_limit is not None:
            self._findings.note(
                f"{path}.emptyDir.sizeLimit", "it is on the root disk, whose size is the limit"
            )
        if mount.read_only:
            folder["readOnly"] = True
        self._made.empty_dirs.append(folder)

    # ---- files

    def _files(self, mount: VolumeMount, files: Mapping[str, VolumeFile], here: str) -> None:
        target, inside = _normal(mount.mount_path), _normal(mount.sub_path)
        if inside in files:
            self._file(target, files[inside])
            return
        below = {name: one for name, one in files.items() if _is_below(name, inside)}
        if inside and not below:
            self._findings.refuse(f"{here}.subPath", f"volume {mount.name} has no {inside[:80]}")
            return
        self._made.empty_dirs.append({"path": target, "medium": "Memory", "readOnly": True})
        for name, one in below.items():
            self._file(f"{target}/{name[len(inside) :].lstrip('/')}", one)

    def _file(self, path: str, file: VolumeFile) -> None:
        has_group = self._scene.workload.pod.security_context.fs_group is not None
        made: dict[str, Any] = {"path": path}
        try:
            made["content"] = file.data.decode()
        except UnicodeDecodeError:
            made["contentBase64"] = base64.b64encode(file.data).decode()
        mode = file.mode | _GROUP_MAY_READ if has_group else file.mode
        if mode != 0o644:
            made["mode"] = mode
        if file.is_secret:
            made["secret"] = True
        self._made.files.append(made)


def _files_of(scene: Scene, needs: Needs, volume: Volume, path: str) -> Iterator[tuple[str, VolumeFile]]:
    """Every file of such a volume; of the same path the later one counts."""
    if volume.config_map is not None:
        one = volume.config_map
        at = f"{path}.configMap"
        values = scene.values_of("ConfigMap", one.name, f"{at}.name", optional=one.optional)
        yield from _selected(scene, values, one.items, one.default_mode, at, optional=one.optional)
    elif volume.secret is not None:
        secret = volume.secret
        at = f"{path}.secret"
        values = scene.values_of("Secret", secret.secret_name, f"{at}.secretName", optional=secret.optional)
        yield from _selected(
            scene, values, secret.items, secret.default_mode, at, optional=secret.optional, is_secret=True
        )
    elif volume.downward_api is not None:
        yield from _downward(
            scene, needs, volume.downward_api.items, volume.downward_api.default_mode, f"{path}.downwardAPI"
        )
    elif volume.projected is not None:
        for n, part in enumerate(volume.projected.sources):
            yield from _projected(
                scene, needs, part, volume.projected.default_mode, f"{path}.projected.sources[{n}]"
            )


def _projected(
    scene: Scene, needs: Needs, part: ProjectedPart, mode: int, path: str
) -> Iterator[tuple[str, VolumeFile]]:
    for kind, name, source in (
        ("ConfigMap", "configMap", part.config_map),
        ("Secret", "secret", part.secret),
    ):
        if source is not None:
            values = scene.values_of(kind, source.name, f"{path}.{name}.name", optional=source.optional)
            yield from _selected(
                scene, values, source.items, mode, f"{path}.{name}",
                optional=source.optional, is_secret=kind == "Secret",
            )  # fmt: skip
    if part.downward_api is not None:
        yield from _downward(scene, needs, part.downward_api.items, mode, f"{path}.downwardAPI")


def _selected(
    scene: Scene, values: Mapping[str, bytes] | None, items: tuple[KeyToPath, ...], mode: int, path: str,
    *, optional: bool, is_secret: bool = False,
) -> Iterator[tuple[str, VolumeFile]]:  # fmt: skip
    if values is None:
        return
    if not items:
        yield from ((key, VolumeFile(data, mode, is_secret)) for key, data in values.items())
    for n, item in enumerate(items):
        if item.key in values:
            if _is_inside(scene, item.path, f"{path}.items[{n}].path"):
                chosen = mode if item.mode is None else item.mode
                yield _normal(item.path), VolumeFile(values[item.key], chosen, is_secret)
        elif not optional:
            scene.findings.refuse(f"{path}.items[{n}].key", f"there is no key {item.key[:80]}")


def _downward(
    scene: Scene, needs: Needs, items: tuple[DownwardFile, ...], mode: int, path: str
) -> Iterator[tuple[str, VolumeFile]]:
    for n, item in enumerate(items):
        here = f"{path}.items[{n}]"
        text: str | None = None
        if (item.field_ref is None) == (item.resource_field_ref is None):
            scene.findings.refuse(here, "it is exactly one of fieldRef and resourceFieldRef")
        elif item.field_ref is not None:
            text = field_value(scene, item.field_ref, f"{here}.fieldRef")
        elif item.resource_field_ref is not None:
            text = resource_value(scene, item.resource_field_ref, f"{here}.resourceFieldRef", needs)
        if text is not None and _is_inside(scene, item.path, f"{here}.path"):
            yield _normal(item.path), VolumeFile(text.encode(), mode if item.mode is None else item.mode)


def _is_inside(scene: Scene, path: str, here: str) -> bool:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        scene.findings.refuse(here, f"{path[:80]!r} is not a path inside the volume")
        return False
    return True


def _normal(path: str) -> str:
    """Without what is said twice: `/a//b/` is `/a/b`, `./a` is `a`; the volume itself is an empty text."""
    text = str(PurePosixPath(path))
    return "" if text == "." else f"/{text.lstrip('/')}" if text.startswith("/") else text


def _is_below(path: str, above: str) -> bool:
    return not above or path == above or path.startswith(f"{above}/")

"""A backup becomes a VM: its disks are imported as images, and the VM is made of them."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from vdc.api.client import ApiClient
from vdc.backup import locks, reading
from vdc.backup.record import Backup
from vdc.backup.repository import Repository
from vdc.cli.manifests import read_manifests
from vdc.cli.progress import StatusLine
from vdc.cli.session import call
from vdc.cli.text import clean
from vdc.cli.uploading import upload
from vdc.cli.waiting import goal_of, wait_for
from vdc.images.sources import ImportPlan
from vdc.model.errors import ConflictError, InvalidError, NotFoundError, VdcError
from vdc.model.manifest import EndophyteManifest
from vdc.model.secrets import unmasked
from vdc.model.snapshot import made_of


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made. `sentence`: what became of it, where that was waited for."""

    name: str
    images: list[str]
    sentence: str = ""


def restore_backup(
    repository: Repository, backup: Backup, as_name: str | None, secrets: Path | None, wait_s: float | None
) -> Restored:
    """Raises ConflictError (`name-taken`), InvalidError (`secret-missing`, `chunk-damaged`), and as an import.

    What was imported is unnamed again where the VM cannot be made; an image that a VM is made of keeps its name.
    """
    name = as_name or backup.endophyte
    kept = [
        (disk.virtual_bytes, image)
        for disk, image in zip(backup.disks, reading.image_names(backup), strict=True)
    ]
    before = made_of(backup.manifest, name, kept, keep_addresses=as_name is None)
    manifest = _with_secrets(before, secrets)
    with ExitStack() as owned, StatusLine() as line:
        call(lambda api: _require_free(api, name))
        owned.enter_context(locks.reading(repository.storage, f"vdc backup restore {backup.endophyte}"))
        plans = reading.plan_images(repository, backup, line.bytes, owned)
        source = f"backup {backup.endophyte}@{backup.id}"
        call(lambda api: _make(api, manifest, plans, line, source=source))
    sentence = ""
    if wait_s is not None:
        with StatusLine() as line:
            sentence = call(lambda api: _up(api, manifest, wait_s, line))
    return Restored(name, [plan.name for plan in plans], sentence)


def _with_secrets(manifest: EndophyteManifest, secrets: Path | None) -> EndophyteManifest:
    loaded = read_manifests((str(secrets),)) if secrets is not None else ()
    for one in loaded:
        if one.error is not None:
            raise one.error
    given = [one.manifest for one in loaded if one.manifest is not None]
    if secrets is not None and len(given) != 1:
        raise InvalidError(f"{secrets}: {len(given)} manifests; one is needed", code="secrets-ambiguous")
    try:
        return unmasked(manifest, given[0] if given else None)
    except InvalidError as error:
        raise InvalidError(
            f"backups hold no secrets, and this VM has some: {error}", code="secret-missing",
            hint="--secrets FILE with a manifest of the VM that has their values",
        ) from error  # fmt: skip


async def _require_free(api: ApiClient, name: str) -> None:
    with suppress(NotFoundError):
        await api.get_endophyte(name)
        raise ConflictError(
            f"there is an Endophyte named {name}", code="name-taken", hint="--as NAME makes another one"
        )


async def _make(
    api: ApiClient, manifest: EndophyteManifest, plans: list[ImportPlan], line: StatusLine, *, source: str
) -> None:
    named: list[str] = []
    try:
        for plan in plans:
            await upload(api, plan, line, source=source)
            named.append(plan.name)
        await api.create_endophyte(manifest)
    except BaseException as error:  # Ctrl-C, too
        if not (isinstance(error, VdcError) and error.code == "outcome-unknown"):
            for name in named:
                with suppress(VdcError):
                    await api.remove_image(name)
        raise


async def _up(api: ApiClient, manifest: EndophyteManifest, wait_s: float, line: StatusLine) -> str:
    goal = goal_of(manifest.spec)
    view = await wait_for(api, manifest.metadata.name, goal, wait_s, line)
    return f"{goal.words}: {clean(view.status.sentence)}"

"""`vdc backup`: copies of VMs outside of the cluster, in a folder or an S3 bucket."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vdc.cli.base import VdcGroup, output_option, to_name, wait_options
from vdc.cli.completing import complete_backup

if TYPE_CHECKING:
    from vdc.backup.record import Backup, BackupSummary
    from vdc.cli.text import Column

_REPOSITORY = click.Path(path_type=str)
_EXAMPLE = """vdc backup init /mnt/backups
vdc backup create web --to /mnt/backups
vdc backup ls /mnt/backups
vdc backup restore /mnt/backups web --as web2"""


def _to_backup(
    _ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[str, str | None] | None:
    """VM and id of `VM[@ID]`, or a usage error."""
    from vdc.backup.record import check_id
    from vdc.model.errors import InvalidError
    from vdc.model.ids import check_dns_label

    if value is None:
        return None
    name, at, backup_id = value.partition("@")
    try:
        return check_dns_label(name), check_id(backup_id) if at else None
    except (ValueError, InvalidError) as error:
        raise click.BadParameter(str(error), param=param) from error


@click.group(cls=VdcGroup, example=_EXAMPLE)
def backup() -> None:
    """Take, list, verify, restore and prune backups.

    REPOSITORY is a folder, or s3://BUCKET/PREFIX. Of S3, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and
    AWS_ENDPOINT_URL say who asks and where, or ~/.aws/credentials.
    """


@backup.command("init", example="vdc backup init /mnt/backups\nvdc backup init s3://backups/vdc")
@click.argument("repository", type=_REPOSITORY)
@output_option(table=False)
def init(repository: str, output: str | None) -> None:
    """Make a repository in an empty folder, or below a prefix; one that is there already is left as it is.

    `vdc backup create` never does: a disk that is not mounted would be taken for a new repository.
    """
    from vdc.backup.repository import Repository
    from vdc.cli.render import print_values

    made, is_new = Repository.init(repository)
    if output is not None:
        print_values({"repository": made.storage.name, "created": is_new}, output)
    else:
        print(f"repository {made.storage.name} {'created' if is_new else 'is there already'}")


@backup.command(
    "create",
    example="vdc backup create web --to /mnt/backups\nvdc backup create web --to s3://backups/vdc --quiesce",
)
@click.argument("name", callback=to_name)
@click.option(
    "--to",
    "repository",
    required=True,
    type=_REPOSITORY,
    metavar="REPOSITORY",
    help="Where it is kept; vdc backup init makes one.",
)
@click.option(
    "--quiesce", is_flag=True, help="Freeze the guest's file systems for the moment, by its guest agent."
)
@click.option("--full", is_flag=True, help="Read all of it, and what the repository has of it already.")
@output_option(table=False)
def create(*, name: str, repository: str, quiesce: bool, full: bool, output: str | None) -> None:
    """Keep all disks of a VM as they are at one moment, while it runs, in lockstep too.

    Where the repository has a backup of this VM, and its QEMU is still the same, only what has changed is read. Each
    backup can be restored by itself. Secrets of the VM (env, files, cloudInit.userData) are not kept.
    """
    from vdc.backup.record import BackupSummary
    from vdc.backup.repository import Repository
    from vdc.backup.taking import BackupTaker
    from vdc.cli.progress import StatusLine
    from vdc.cli.render import print_values, values_of
    from vdc.cli.session import call
    from vdc.cli.text import clean
    from vdc.model.units import format_size

    place = Repository.open(repository)
    with StatusLine() as line:
        made, why = call(
            lambda api: BackupTaker(api, place, line.bytes, quiesce=quiesce, is_full=full).take(name)
        )
    if output is not None:
        print_values({**values_of(BackupSummary.of(made)), "full_because": why}, output)
        return
    figures = f"{format_size(made.read_bytes)} read, {format_size(made.written_bytes)} written"
    print(f"backup/{name}@{made.id} taken ({figures})")
    if why:
        print(f"note: all of it was read: {clean(why)}", file=sys.stderr)


@backup.command("ls", example="vdc backup ls /mnt/backups\nvdc backup ls s3://backups/vdc web -o json")
@click.argument("repository", type=_REPOSITORY)
@click.argument("name", required=False, callback=to_name)
@output_option("name")
def list_backups(repository: str, name: str | None, output: str) -> None:
    """List the backups of a repository, of one VM or of all."""
    from vdc.backup.record import Backup, BackupSummary
    from vdc.backup.repository import Repository
    from vdc.cli.render import print_records
    from vdc.cli.text import clean

    place = Repository.open(repository)
    rows, damaged = [], []
    for _, one in place.each(place.names(name)):
        if isinstance(one, Backup):
            rows.append(BackupSummary.of(one))
        else:
            damaged.append(str(one))
    if output == "name":
        for row in rows:
            print(f"backup/{row.endophyte}@{row.id}")
    else:
        print_records(rows, _columns(), output, empty="there are no backups")
    for problem in damaged:
        print(f"warning: {clean(problem)}", file=sys.stderr)


@backup.command("verify", example="vdc backup verify /mnt/backups\nvdc backup verify s3://backups/vdc web")
@click.argument("repository", type=_REPOSITORY)
@click.argument(
    "which", metavar="[VM[@ID]]", required=False, callback=_to_backup, shell_complete=complete_backup
)
@output_option(table=False)
def verify(repository: str, which: tuple[str, str | None] | None, output: str | None) -> None:
    """Read all that backups need, and compare it with its checksums; exit code 1 where something is wrong."""
    from vdc.backup import reading
    from vdc.backup.repository import Repository
    from vdc.cli.progress import StatusLine
    from vdc.cli.render import print_values
    from vdc.cli.text import clean
    from vdc.model.errors import InvalidError

    name, backup_id = which or (None, None)
    with StatusLine() as line:
        place = Repository.open(repository)
        found = reading.verify(place, line.bytes, endophyte=name, backup_id=backup_id)
    if output is not None:
        print_values({"backups": found.backups, "chunks": found.chunks, "damaged": found.damaged}, output)
    else:
        for one, problems in found.damaged.items():
            for problem in problems:
                print(f"backup/{one}: {clean(problem)}")
        print(
            f"{found.backups - len(found.damaged)} of {found.backups} backups are whole ({found.chunks} chunks read)"
        )
    if found.damaged:
        raise InvalidError(
            f"{len(found.damaged)} of {found.backups} backups are damaged", code="backup-damaged",
            hint="vdc backup create VM --to REPOSITORY --full writes damaged chunks anew where the VM still has them",
        )  # fmt: skip


@backup.command(
    "restore",
    example="vdc backup restore /mnt/backups web --wait\n"
    "vdc backup restore s3://backups/vdc web@20260131-235959-0a1b --as web2 --secrets web.yaml",
)
@click.argument("repository", type=_REPOSITORY)
@click.argument("which", metavar="VM[@ID]", callback=_to_backup, shell_complete=complete_backup)
@click.option(
    "--as", "as_name", metavar="NAME", callback=to_name, help="Name the new VM so, with addresses of its own."
)
@click.option(
    "--secrets", "secrets", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
    help="A manifest with the values of the VM's secrets, which backups do not hold.",
)  # fmt: skip
@wait_options("the VM runs and, if asked for, is in lockstep")
@output_option("name", table=False)
def restore(
    *,
    repository: str,
    which: tuple[str, str | None],
    as_name: str | None,
    secrets: Path | None,
    wait: bool,
    timeout: float,
    output: str | None,
) -> None:
    """Make a VM of a backup: of the one that is named, or of the VM's newest.

    Every chunk is verified, then the disks are imported as images. Without --as the VM has the name and the fixed
    addresses that it had; it must not exist.
    """
    from vdc.backup import reading
    from vdc.backup.repository import Repository
    from vdc.cli.render import print_values
    from vdc.cli.restoring import Restored, restore_backup

    place = Repository.open(repository)
    found: Backup = reading.find(place, *which)
    done: Restored = restore_backup(place, found, as_name, secrets, timeout if wait else None)
    if output in ("json", "yaml"):
        print_values(
            {"name": done.name, "backup": f"{found.endophyte}@{found.id}", "images": done.images}, output
        )
    elif output == "name":
        print(f"endophyte/{done.name}")
    else:
        print(f"endophyte/{done.name} created from backup/{found.endophyte}@{found.id}")
        if done.sentence:
            print(f"endophyte/{done.name} is {done.sentence}")


@backup.command(
    "prune",
    example="vdc backup prune /mnt/backups --keep 7 --dry-run\nvdc backup prune /mnt/backups web --keep-days 30",
)
@click.argument("repository", type=_REPOSITORY)
@click.argument("name", required=False, callback=to_name)
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Keep the newest N of each VM.")
@click.option(
    "--keep-days", type=click.FloatRange(min=0, min_open=True), metavar="D", help="Keep what is younger."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@output_option(table=False)
def prune(
    *,
    repository: str,
    name: str | None,
    keep: int | None,
    keep_days: float | None,
    dry_run: bool,
    output: str | None,
) -> None:
    """Remove older backups, and chunks that no backup needs; what either option keeps is kept."""
    from datetime import UTC, datetime

    from vdc.backup.pruning import Kept
    from vdc.backup.pruning import prune as prune_repository
    from vdc.backup.repository import Repository
    from vdc.cli.progress import StatusLine
    from vdc.cli.render import print_values
    from vdc.model.units import format_size

    if keep is None and keep_days is None:
        raise click.UsageError("say what is kept: --keep N, --keep-days D, or both")
    with StatusLine() as line:
        done = prune_repository(
            Repository.open(repository), Kept(keep, keep_days), datetime.now(UTC), endophyte=name, is_dry=dry_run,
            told=lambda part, whole: line.show(f"removing chunks  {part} of {whole}"),
        )  # fmt: skip
    if output is not None:
        values = {"dry_run": dry_run, "backups": list(done.backups), "chunks": done.chunks}
        print_values({**values, "freed_bytes": done.freed_bytes, "kept": done.kept}, output)
        return
    word = "would be removed" if dry_run else "removed"
    for one in done.backups:
        print(f"backup/{one} {word}")
    print(f"{done.chunks} chunks {word} ({format_size(done.freed_bytes)}); {done.kept} backups kept")


def _columns() -> list[Column[BackupSummary]]:
    from datetime import UTC, datetime

    from vdc.cli.text import Column, age
    from vdc.model.units import format_size

    return [
        Column("ENDOPHYTE", lambda b: b.endophyte),
        Column("ID", lambda b: b.id),
        Column("QUIESCED", lambda b: "yes" if b.is_quiesced else "no"),
        Column("DISKS", lambda b: len(b.disks)),
        Column("SIZE", lambda b: format_size(b.virtual_bytes)),
        Column("READ", lambda b: format_size(b.read_bytes)),
        Column("WRITTEN", lambda b: format_size(b.written_bytes)),
        Column("AGE", lambda b: age(b.created_at, datetime.now(UTC))),
        Column("SINCE", lambda b: b.since or "-", wide=True),
        Column("UID", lambda b: b.uid, wide=True),
    ]

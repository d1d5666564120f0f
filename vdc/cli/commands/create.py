"""`vdc create`: one VM from a name, a template, an image."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from vdc.cli.base import VdcCommand, output_option, to_image_or_source, to_name, to_size, wait_options
from vdc.cli.completing import complete_image
from vdc.cli.text import clean

if TYPE_CHECKING:
    from vdc.api.client import ApiClient
    from vdc.api.models import EndophyteView
    from vdc.cli.templates import Template
    from vdc.model.errors import VdcError
    from vdc.model.manifest import EndophyteManifest


@click.command(
    cls=VdcCommand,
    example="vdc create web --image mycelium/mini --memory 512MiB --wait\n"
    "vdc create mail --image debian --ssh-key ~/.ssh/id_ed25519.pub\n"
    "vdc create windows-desktop\nvdc create db --no-protect --dry-run -o yaml",
)
@click.argument("name", callback=to_name)
@click.option(
    "--image",
    callback=to_image_or_source,
    metavar="REF|DIGEST|SOURCE",
    shell_complete=complete_image,
    help="Boot this image. A source (file:PATH, docker://NAME, oci:FOLDER, ...) is imported first.",
)
@click.option("--template", "-t", metavar="NAME", help="Begin with this template (vdc get templates).")
@click.option("--cpus", type=click.IntRange(1, 64), help="Virtual CPUs.")
@click.option("--memory", callback=to_size, metavar="SIZE", help="Guest memory, for example 2GiB.")
@click.option("--disk", callback=to_size, metavar="SIZE", help="Grow the image's disk to this size.")
@click.option("--nodes", type=click.IntRange(1, 16), help="Hosts set aside: primary, secondary, spares.")
@click.option("--no-protect", is_flag=True, help="One copy only, without lockstep.")
@click.option("--address", metavar="IP", help="A fixed overlay address.")
@click.option(
    "--ssh-key",
    "ssh_keys",
    multiple=True,
    metavar="FILE|KEY",
    help="Let this SSH public key in, by the image's cloud-init; may be repeated.",
)
@click.option("--user", metavar="NAME", help="Name the image's own user so, by its cloud-init.")
@click.option("--dry-run", is_flag=True, help="Print the manifest and create nothing.")
@wait_options("the VM runs and, if asked for, is in lockstep")
@output_option("name")
def create(
    *, name: str, template: str | None, dry_run: bool, wait: bool, timeout: float, output: str, **given: Any
) -> None:
    """Create a VM from a name, a template or an image.

    A NAME that equals a template's name uses that template; otherwise it is 'server'. Without --no-protect
    a second host runs the same guest in lockstep. A create that failed can be repeated.
    """
    from vdc.cli.errors import UsageFault
    from vdc.cli.session import call
    from vdc.cli.templates import template_for
    from vdc.model.errors import NotFoundError

    try:
        chosen = template_for(name, template)
    except NotFoundError as error:
        raise UsageFault(error.problem) from error
    manifest = _manifest(chosen, name, given)
    if dry_run:
        print_manifest(manifest, output)
        return
    call(lambda api: create_and_tell(api, chosen, manifest, timeout if wait else None, output))


def _manifest(template: Template, name: str, given: dict[str, Any]) -> EndophyteManifest:
    from pydantic import ValidationError

    from vdc.cli.sshkeys import read_keys
    from vdc.cli.templates import Wishes, fill_in
    from vdc.model.manifest import EndophyteManifest
    from vdc.model.manifest_file import ManifestError, describe_mistakes

    try:
        wishes = Wishes(
            image=given["image"],
            cpus=given["cpus"],
            memory_bytes=given["memory"],
            disk_bytes=given["disk"],
            nodes=given["nodes"],
            no_protect=given["no_protect"],
            address=given["address"],
            user=given["user"],
            ssh_keys=tuple(key for text in given["ssh_keys"] for key in read_keys(text)),
        )
        return fill_in(template, name, wishes)
    except ValidationError as error:
        raise ManifestError(describe_mistakes(error, EndophyteManifest)) from error


def print_manifest(manifest: EndophyteManifest, output: str) -> None:
    """What a dry run prints: the manifest as YAML, unless asked for otherwise."""
    from vdc.cli.render import print_values

    values = manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
    if output == "name":
        print(f"endophyte/{manifest.metadata.name}")
    else:
        print_values(values, "json" if output == "json" else "yaml")


async def create_and_tell(
    api: ApiClient, template: Template | None, manifest: EndophyteManifest, wait_s: float | None, output: str
) -> None:
    """Create, wait where that is asked for, print. `template`: where the image's name comes from, if from one."""
    from vdc.cli.local_images import with_local_image
    from vdc.cli.progress import StatusLine
    from vdc.cli.waiting import goal_of, wait_for
    from vdc.model.manifest import EndophyteSpec

    manifest = await with_local_image(api, manifest)
    name = manifest.metadata.name
    view = await _create_once(api, template, manifest)
    quiet = output in ("json", "yaml", "name")
    if not quiet:
        print(f"endophyte/{name} created", flush=True)
    if wait_s is not None:
        goal = goal_of(EndophyteSpec.model_validate(view.spec))
        with StatusLine() as line:
            view = await wait_for(api, name, goal, wait_s, line)
        if not quiet:
            print(f"endophyte/{name} is {goal.words}: {clean(view.status.sentence)}")
    if quiet:
        _print_view(view, output)


def _print_view(view: EndophyteView, output: str) -> None:
    from vdc.cli.render import print_values, values_of

    if output == "name":
        print(f"endophyte/{view.metadata.name}")
    else:
        print_values(values_of(view), output)


async def _create_once(
    api: ApiClient, template: Template | None, manifest: EndophyteManifest
) -> EndophyteView:
    """Create; what an earlier attempt of the same command left behind counts as created."""
    from vdc.model.errors import ConflictError, InvalidError, NotFoundError, UnavailableError

    try:
        return await api.create_endophyte(manifest)
    except InvalidError as error:
        container = _as_container(manifest) if error.code == "type-mismatch" else None
        if container is None:
            raise
        return await _create_once(api, template, container)
    except ConflictError as error:
        view = await _left_behind(api, manifest, only_stuck=True)
        if view is None:
            raise _with_hint(error, f"vdc describe endophyte {manifest.metadata.name}") from error
        return view
    except UnavailableError as error:
        if error.code != "outcome-unknown":
            raise
        view = await _left_behind(api, manifest, only_stuck=False)
        if view is None:
            raise
        return view
    except NotFoundError as error:
        if error.code == "image-not-found":
            raise _image_missing(template, manifest, error) from error
        raise


def _as_container(manifest: EndophyteManifest) -> EndophyteManifest | None:
    """The same for a container image, which the cluster says it is; None where it is one already, or cannot be."""
    from pydantic import ValidationError

    from vdc.model.manifest import ComputerType

    computer = manifest.spec.virtual_computer
    if computer.type is ComputerType.CONTAINER:
        return None
    with suppress(ValidationError):
        virtual_computer = computer.with_(type=ComputerType.CONTAINER)
        return manifest.with_(spec=manifest.spec.with_(virtual_computer=virtual_computer))
    return None


async def _left_behind(
    api: ApiClient, manifest: EndophyteManifest, *, only_stuck: bool
) -> EndophyteView | None:
    """The Endophyte that exists under this name, where it was asked for in the very same words."""
    from pydantic import ValidationError

    from vdc.model.endophyte import Phase
    from vdc.model.errors import VdcError
    from vdc.model.manifest import EndophyteSpec

    try:
        view = await api.get_endophyte(manifest.metadata.name)
        is_same = EndophyteSpec.model_validate(view.spec) == manifest.spec
    except (VdcError, ValidationError):
        return None
    is_stuck = view.status.phase in (Phase.PENDING, Phase.FAILED)
    return view if is_same and (is_stuck or not only_stuck) else None


def _image_missing(template: Template | None, manifest: EndophyteManifest, error: VdcError) -> VdcError:
    from vdc.model.errors import NotFoundError

    image = manifest.spec.image
    is_templates_own = template is not None and image == template.manifest.spec.image
    whose = f" of template {template.name}" if template is not None and is_templates_own else ""
    return NotFoundError(
        f"image {image}{whose} is not in this cluster: get it by {_way_to(image)}",
        hint=f"or use another one: vdc create {manifest.metadata.name} --image REF (vdc image ls)",
        code=error.code,
    )


def _way_to(image: str) -> str:
    """A command that brings it: its recipe, where there is one of that name."""
    from vdc.images.recipes import list_recipes, recipe_folder
    from vdc.model.errors import NotFoundError

    name = image.removesuffix(":latest").removeprefix("mycelium/")
    try:
        is_made_here = name in {recipe.name for recipe in list_recipes(recipe_folder())}
    except NotFoundError:
        is_made_here = False
    return f"vdc image build {name}" if is_made_here else f"vdc image import FILE --name {image}"


def _with_hint(error: VdcError, hint: str) -> VdcError:
    return type(error)(error.problem.message, hint=error.problem.hint or hint, code=error.code)

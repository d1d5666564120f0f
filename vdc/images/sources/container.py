"""Where container images come in: registries, layouts and archives (`vdc.images.oci`)."""

from __future__ import annotations

from contextlib import ExitStack

from vdc.images.sources.plan import ImportOptions, ImportPlan
from vdc.model.errors import InvalidError

SCHEMES = ("docker://", "docker-archive:", "oci:", "oci-archive:")


def plan_container(source: str, options: ImportOptions, owned: ExitStack) -> ImportPlan:
    """Plan the import of a source that begins with one of SCHEMES; what it needs until then goes into `owned`."""
    del options, owned
    raise InvalidError(
        f"sources of the form {source.split(':', 1)[0]}: are not supported",
        hint="import a disk file or the output folder of a recipe",
        code="source-unsupported",
    )

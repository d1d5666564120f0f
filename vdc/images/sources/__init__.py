"""What `vdc image import SOURCE` understands, a module for each kind of source.

| source | module |
|---|---|
| a folder with `image.json` | `recipe` |
| a disk file | `disk` |
| `docker://`, `docker-archive:`, `oci:`, `oci-archive:` | `container`, over `vdc.images.oci` |

The result is a plan: the description, and the file behind each of its blobs. A plan may own temporary files, so it is
good for the time of a `with`; nothing is changed outside of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vdc.images.progress import Progress
from vdc.images.sources.container import is_container_source, plan_container
from vdc.images.sources.disk import plan_disk
from vdc.images.sources.plan import ImportOptions, ImportPlan
from vdc.images.sources.recipe import RECIPE_FILE, plan_recipe
from vdc.model.errors import InvalidError

__all__ = ["RECIPE_FILE", "ImportOptions", "ImportPlan", "Progress", "plan_import", "plan_recipe"]

_ELSEWHERE = ("http://", "https://", "ftp://", "ssh://", "s3://", "docker:", "docker-daemon:")
_NO_OPTIONS = ImportOptions()


@contextmanager
def plan_import(source: str, options: ImportOptions = _NO_OPTIONS) -> Iterator[ImportPlan]:
    """Read a source. Blocks; raises VdcError: `source-unsupported`, `source-not-found`, `recipe-invalid`, `image-*`."""
    with ExitStack() as owned:
        yield _plan(source, options, owned)


def _plan(source: str, options: ImportOptions, owned: ExitStack) -> ImportPlan:
    if is_container_source(source):
        return plan_container(source, options, owned)
    if source.startswith(_ELSEWHERE):
        raise InvalidError(
            f"sources of the form {source.split(':', 1)[0]}: are not supported",
            hint="fetch the file first; a container image is docker://NAME",
            code="source-unsupported",
        )
    path = Path(source.removeprefix("file:"))
    if path.is_dir():
        if options.disk_format is not None:
            raise InvalidError(
                "--format is for a disk file; a recipe names its own", code="source-unsupported"
            )
        return plan_recipe(path.resolve(), options)
    return plan_disk(path, options, owned)

"""The command-line context of a lab: written when it is up, taken back when it goes down."""

from __future__ import annotations

import contextlib
from pathlib import Path

from vdc.api.context import config_path, put_context, remove_context
from vdc.lab.models import LabRecord
from vdc.lab.plan import LabPlan
from vdc.model.errors import InvalidError


def with_context_file(record: LabRecord) -> LabRecord:
    """The record, with the file that the context goes to (`down` may run in another environment)."""
    path = config_path().absolute()
    return record.with_(context_file=str(path), made_context_file=not path.exists())


def write_context(plan: LabPlan, record: LabRecord) -> None:
    """Make the lab's context the current one."""
    put_context(plan.context, [f"unix://{host.api_socket}" for host in plan.hosts], Path(record.context_file))


def withdraw_context(plan: LabPlan, record: LabRecord) -> None:
    """Forget the context, and the file too where the lab made it and nothing else is in it."""
    path = Path(record.context_file)
    if not record.context_file or not path.exists():
        return
    with contextlib.suppress(InvalidError):  # a file that its owner broke meanwhile is the owner's
        left = remove_context(plan.context, path)
        if record.made_context_file and not left.contexts:
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".lock").unlink(missing_ok=True)

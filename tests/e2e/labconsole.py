"""What the guests of a lab last wrote to their consoles, for the report of a failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from vdc.model.errors import VdcError

if TYPE_CHECKING:
    from testlab import Lab

LAST_BYTES = 3_000


def consoles(lab: Lab) -> Iterator[tuple[str, str]]:
    """Of each copy that there is: whose it is, and the end of its console."""
    with suppress(OSError, VdcError):  # a lab that is gone
        for host in lab.plan.hosts:
            for log in sorted(host.state_dir.glob("vms/*/guest/serial.log")):
                text = log.read_bytes()[-LAST_BYTES:].decode(errors="replace")
                yield f"console of {log.parent.parent.name} on {host.name}", text


@contextmanager
def consoles_at_failure(lab: Lab) -> Iterator[None]:
    """Print them where the block fails: before whatever cleans up after it."""
    try:
        yield
    except BaseException:
        for title, text in consoles(lab):
            print(f"---- {title}\n{text}")
        raise

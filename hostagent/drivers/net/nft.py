"""Runs `nft`: a script is one transaction, in the network namespace of the caller."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Collection

from hostagent.drivers.process.spawn import in_thread
from vdc.model.errors import UnavailableError

_DEADLINE_S = 10.0
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


class NftError(UnavailableError):
    """The kernel's packet filter could not be set or read."""

    default_code = "nftables-failed"
    default_hint = "install nftables; the kernel needs nf_tables with arp, bridge and netdev support"


async def apply(script: str) -> None:
    """Carry out a script, wholly or not at all. Raises NftError."""
    await in_thread(_run, ["-f", "-"], script)  # what is begun is done before anything else is asked


async def are_present(wanted: Collection[str]) -> bool:
    """Whether these tables, each named with its family, are all there. Raises NftError."""
    present = await in_thread(_run, ["list", "tables"])
    return {f"table {name}" for name in wanted} <= set(present.splitlines())


async def tables(family: str) -> tuple[str, ...]:
    """The names of a family's tables. Raises NftError."""
    lines = await in_thread(_run, ["list", "tables", family])
    return tuple(line.split()[2] for line in lines.splitlines() if line.startswith(f"table {family} "))


def _run(arguments: list[str], script: str = "") -> str:
    nft = shutil.which("nft", path=_PATH)
    if nft is None:
        raise NftError("nft was not found")
    try:
        done = subprocess.run(
            [nft, *arguments], input=script, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NftError(f"nft: {error}") from error
    if done.returncode != 0:
        raise NftError(f"nft: {(done.stderr.strip().splitlines() or ['no reason'])[0]}")
    return done.stdout

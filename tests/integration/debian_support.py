"""The image debian for tests: made when it is not there yet, by the recipe, into the cache that others use too."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vdc.images.recipes import build, find_recipe, recipe_folder

CACHE = Path(os.environ.get("VDC_CACHE_DIR", "/var/cache/vdc"))
RUNTIME = CACHE / "runtime" / "current"
BOOT_S = 600.0  # for an emulated processor that others use, too
_TOOLS = ("mmdebstrap", "mcopy", "mkfs.vfat", "sfdisk", "syslinux", "ssh", "ssh-keygen", "bwrap")


def missing() -> str:
    """Why it cannot be made or used here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root (mmdebstrap)"
    if not (RUNTIME / "usr/sbin/mke2fs").exists():
        return f"needs {RUNTIME} with mke2fs (make setup)"
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(lacking)} (make setup)" if lacking else ""


def debian_image() -> Path:
    """The folder with its files; takes a minute the first time."""
    recipe = find_recipe(recipe_folder(), "debian")
    build(recipe, print)
    assert recipe.output is not None
    return recipe.output

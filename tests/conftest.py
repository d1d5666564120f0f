"""Makes the helpers beside the tests importable, and property tests independent of how busy the machine is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

for folder in ("unit", "integration", "e2e"):
    sys.path.insert(0, str(Path(__file__).parent / folder))

pytest.register_assert_rewrite(
    "cli_support", "etcd_support", "qemu_support"
)  # what differs is shown, as in a test

settings.register_profile("vdc", deadline=None)
settings.load_profile("vdc")

"""Makes the helpers beside the tests importable, and property tests independent of how busy the machine is."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

for folder in ("unit", "integration", "e2e"):
    sys.path.insert(0, str(Path(__file__).parent / folder))

pytest.register_assert_rewrite(
    "cli_support", "etcd_support", "qemu_support"
)  # what differs is shown, as in a test

# A shell ignores it for what it runs in the background, and programs inherit that: no test could interrupt one.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("vdc", deadline=None)
settings.load_profile("vdc")

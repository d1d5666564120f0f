"""Makes the helpers beside the tests importable, and property tests independent of how busy the machine is."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

for folder in ("unit", "integration", "e2e"):
    sys.path.insert(0, str(Path(__file__).parent / folder))

settings.register_profile("vdc", deadline=None)
settings.load_profile("vdc")

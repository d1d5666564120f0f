"""Makes the helpers beside the tests importable."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("unit", "integration", "e2e"):
    sys.path.insert(0, str(Path(__file__).parent / folder))

"""How far the copying to a new secondary is: what the entry reports, in steps that are worth telling."""

from __future__ import annotations

from collections.abc import Callable

from hostagent.drivers.qemu.resync import CopyFigures
from vdc.model.endophyte import CopyProgress

_STEP = 0.02


class Copying:
    """One per copy; `wake` is called at every step."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.progress: float | None = None  # of disk and memory, 0 to 1
        self.shown: CopyProgress | None = None
        self._figures: CopyFigures | None = None
        self._wake = wake

    def restart(self) -> None:
        """Another attempt."""
        self.progress = self.shown = self._figures = None

    def report_figures(self, figures: CopyFigures) -> None:
        """What has been copied; shown with the next `report`."""
        self._figures = figures

    def report(self, fraction: float) -> None:
        """How much of disk and memory has been copied, 0 to 1."""
        figures = self._figures
        is_other = figures is not None and (self.shown is None or self.shown.what != figures.what)
        if is_other or self.progress is None or abs(fraction - self.progress) >= _STEP:
            self.progress = fraction
            if figures is not None:
                self.shown = CopyProgress(
                    what=figures.what, done_bytes=figures.done_bytes, total_bytes=figures.total_bytes
                )
            self._wake()

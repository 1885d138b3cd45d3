"""A flush under way: what it still waits for, and who waits for it."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litellm_otel_plugin.delivery.lane import Lane


class Waiting:
    """Somebody on another thread who waits for a flush."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.delivered = False


class Flush:
    """Waits until each of some destinations has settled what it had accepted."""

    def __init__(self, targets: dict[Lane, int]) -> None:
        self._targets = targets
        self.done = asyncio.Event()

    def check(self, lane: Lane) -> None:
        """A destination has settled something."""
        target = self._targets.get(lane)
        if target is not None and lane.left >= target:
            del self._targets[lane]
        if not self._targets:
            self.done.set()

    def check_all(self) -> None:
        """Those that have nothing to wait for."""
        for lane in list(self._targets):
            self.check(lane)
        if not self._targets:
            self.done.set()

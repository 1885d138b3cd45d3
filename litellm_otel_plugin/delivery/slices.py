"""Long work in slices, so that the delivery does not hold the interpreter."""

from __future__ import annotations

import asyncio
import time

# The interpreter runs one thread at a time: after so long the request-serving one gets its turn for as long.
SLICE_SECONDS = 0.001


class Slices:
    """Cuts long work into slices, with a pause after each in which other threads run."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    @property
    def over(self) -> bool:
        """Whether this slice has taken its time."""
        return time.perf_counter() - self._began > SLICE_SECONDS

    async def pause(self) -> None:
        """Let the others run, and begin anew."""
        await asyncio.sleep(SLICE_SECONDS)
        self._began = time.perf_counter()

"""How many exports are under way at once, by what is known of their destinations.

An export holds a socket until it is answered or times out. Destinations that hang would take every one; so those that
have failed wait for each other, those not heard of yet likewise, and neither for long enough to keep one that delivers
from its turn.
"""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING

from litellm_otel_plugin.delivery.lane import DELIVERING, UNPROVEN

if TYPE_CHECKING:
    from litellm_otel_plugin.delivery.lane import Lane

# A proxy needs its descriptors for clients and providers.
SHARE_OF_DESCRIPTORS = 0.25

# More than this many requests in the air at once gain nothing on one loop.
MOST_AT_ONCE = 512
FEWEST_AT_ONCE = 32


class Gates:
    """One gate for each standing. Made on the delivery's loop."""

    def __init__(self, at_once: int | None = None) -> None:
        at_once = at_once or _from_descriptors()
        self._reserved = asyncio.Semaphore(at_once)  # the operator's are few, and wait for nobody
        self._delivering = asyncio.Semaphore(at_once // 2)
        self._unproven = asyncio.Semaphore(at_once // 4)
        self._failing = asyncio.Semaphore(at_once // 4)

    def of(self, lane: Lane) -> asyncio.Semaphore:
        """The gate that this destination goes through now."""
        if lane.destination.reserved:
            return self._reserved
        if lane.state == DELIVERING:
            return self._delivering
        return self._unproven if lane.state == UNPROVEN else self._failing


def _from_descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    available = MOST_AT_ONCE if soft == resource.RLIM_INFINITY else int(soft * SHARE_OF_DESCRIPTORS)
    return max(FEWEST_AT_ONCE, min(MOST_AT_ONCE, available))

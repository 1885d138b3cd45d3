"""How many exports are under way at once, by what is known of their destinations.

An export holds a socket until it is answered or times out. Destinations that hang would take every one; so those that
have failed wait for each other, those not heard of yet likewise, and neither for long enough to keep one that delivers
from its turn.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from litellm_otel_plugin.delivery.states import UNPROVEN

if TYPE_CHECKING:
    from litellm_otel_plugin.delivery.lane import Lane

# A proxy needs its descriptors for clients and providers.
SHARE_OF_DESCRIPTORS = 0.25

# More than this many requests in the air at once gain nothing on one loop.
MOST_AT_ONCE = 512

# With fewer, an eighth of them would be none. It is also for systems that do not say how many descriptors there are.
FEWEST_AT_ONCE = 32

# A backend that works has answered by then, name look-up and TLS included.
FIRST_PATIENCE_SECONDS = 2.0


class Gates:
    """One gate for each standing. Made on the delivery's loop."""

    def __init__(self) -> None:
        at_once = _from_descriptors()
        self._reserved = asyncio.Semaphore(at_once)  # the operator's are few, and wait for nobody
        self._delivering = asyncio.Semaphore(at_once // 2)
        self._unproven = asyncio.Semaphore(at_once * 3 // 8)
        self._failing = asyncio.Semaphore(at_once // 8)

    def of(self, lane: Lane) -> asyncio.Semaphore:
        """The gate that this destination goes through now."""
        if lane.destination.reserved:
            return self._reserved
        if lane.answers:
            return self._delivering
        return self._unproven if lane.state == UNPROVEN or lane.returning else self._failing


def patience_seconds(lane: Lane, seconds: float) -> float:
    """How long an export of this destination may take.

    A tenant's backend that has not delivered yet gets little time at first, and twice as much each time it fails: its
    place at the gate is somebody else's. One that is merely slow is known after a few attempts.
    """
    if lane.destination.reserved or lane.answers:
        return seconds
    return min(seconds, FIRST_PATIENCE_SECONDS * 2.0 ** min(lane.failures, 16))


def _from_descriptors() -> int:
    try:
        import resource  # noqa: PLC0415 - there is none on Windows
    except ImportError:
        return FEWEST_AT_ONCE
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    available = MOST_AT_ONCE if soft == resource.RLIM_INFINITY else int(soft * SHARE_OF_DESCRIPTORS)
    return max(FEWEST_AT_ONCE, min(MOST_AT_ONCE, available))

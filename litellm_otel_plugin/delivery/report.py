"""What the log says of deliveries that fail: one line a minute for all of them, and one when they work again."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from litellm_otel_plugin.delivery.lane import Lane

log = logging.getLogger("litellm_otel_plugin")

# A collector that is down fails on every batch: one line a minute is enough to be seen and too little to fill a disk.
SECONDS_BETWEEN_LINES = 60.0

# The first line waits this long for other destinations that fail with it.
SECONDS_TO_THE_FIRST_LINE = 1.0

# Of ten thousand tenants whose backends are down, the first few are as good as all.
NAMED_DESTINATIONS = 5


class Reporter:
    """Looks at the destinations soon after one has failed, and every minute for as long as something does."""

    def __init__(self, lanes: Callable[[], Sequence[Lane]]) -> None:
        self._lanes = lanes
        self._timer: asyncio.TimerHandle | None = None
        self._said_failing = False
        self._said_rejected = 0

    def look_soon(self) -> None:
        """Something has failed. On the delivery's loop."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SECONDS_TO_THE_FIRST_LINE, self._look)

    def _look(self) -> None:
        self._timer = None
        lanes = self._lanes()
        failing = [lane for lane in lanes if lane.failing]
        if failing:
            _say_failing(failing)
        elif self._said_failing:
            log.info("spans reach every destination again")
        rejecting = [lane for lane in lanes if lane.rejected]
        rejected = sum(lane.rejected for lane in rejecting)
        newly_rejected = rejected - self._said_rejected
        if newly_rejected > 0:
            log.warning("%d spans were rejected for good by %s", newly_rejected, _first_of(_names(rejecting)))
        self._said_rejected = rejected
        self._said_failing = bool(failing)
        if failing or newly_rejected > 0:
            self._timer = asyncio.get_running_loop().call_later(SECONDS_BETWEEN_LINES, self._look)


def say_undelivered(lost: Mapping[Lane, int], seconds: float) -> None:
    """What was not delivered when the proxy stopped, per destination."""
    amounts = list(zip(_names(lost), lost.values(), strict=True))
    for name, spans in amounts[:NAMED_DESTINATIONS]:
        # Rounded: what came before the flush has taken its milliseconds of the deadline that the operator set.
        log.warning("%d spans for %s were not delivered within %g s of shutdown", spans, name, round(seconds, 1))
    rest = amounts[NAMED_DESTINATIONS:]
    if rest:
        log.warning("nor were %d spans for %d other destinations", sum(spans for _, spans in rest), len(rest))


def _say_failing(failing: Sequence[Lane]) -> None:
    waiting = sum(len(lane.parcels) + lane.in_flight for lane in failing)
    dropped = sum(sum(lane.dropped.values()) for lane in failing)
    lost = f"; {dropped} of theirs were let go so far" if dropped else ""
    log.warning("spans are not reaching %s. %d wait%s", _first_of(_names(failing)), waiting, lost)


def _names(lanes: Iterable[Lane]) -> list[str]:
    return [f"{lane.destination.name} ({lane.problem})" if lane.problem else lane.destination.name for lane in lanes]


def _first_of(names: Sequence[str]) -> str:
    more = len(names) - NAMED_DESTINATIONS
    return ", ".join(names[:NAMED_DESTINATIONS]) + (f" and {more} more" if more > 0 else "")

"""The memory that waiting spans may take, for all destinations together.

Half is kept for destinations with a reservation (the operator's) and half is shared by the others (tenants'); the
operator's may use what the tenants do not. Where it is exceeded, the destination that holds the most among those that
do not take spans now loses its oldest, so that a dead tenant costs neither the operator nor a healthy tenant a span.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

from litellm_otel_plugin.delivery.accounts import OVER_BUDGET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from litellm_otel_plugin.delivery.lane import Lane, Parcel

SHARE_OF_THE_UNRESERVED = 0.5

# A destination's place in the order is renewed when it holds this many times what it held: "the most" is exact within
# that factor, and a heap of ten thousand destinations is not touched for every span.
RENEWED_AT_FACTOR = 1.5

# Places that are out of date stay in the heap until somebody has to let go; so many of them may pile up.
MOST_STALE_ENTRIES = 1024

# How many spans go at once where no destination is known to fail: looking for the largest among thousands costs a
# millisecond, and that is not to be paid for every span.
SPANS_AT_ONCE = 16


class Budget:
    """What is held, by whom, and who has to let go."""

    def __init__(self, limit: int, lanes: Callable[[], Iterable[Lane]]) -> None:
        self.limit = limit
        self._lanes = lanes
        self.reset()

    def reset(self) -> None:
        """Nothing is held."""
        self._reserved_bytes = 0
        self._unreserved_bytes = 0
        self._number = itertools.count()
        self._entries_after_cleaning = 0
        # The largest first, of those that fail: one heap for each half.
        self._failing: dict[bool, list[tuple[int, int, Lane]]] = {True: [], False: []}

    @property
    def held(self) -> int:
        """Bytes of all spans that wait or are in flight; one shared by several destinations counts once."""
        return self._reserved_bytes + self._unreserved_bytes

    def hold(self, parcel: Parcel, lane: Lane) -> None:
        """A destination queues a span."""
        if parcel.holders == 0:
            parcel.charged_to_reserved = lane.destination.reserved
            if parcel.charged_to_reserved:
                self._reserved_bytes += parcel.size
            else:
                self._unreserved_bytes += parcel.size
        parcel.holders += 1
        if lane.failing and lane.bytes > lane.heap_mark * RENEWED_AT_FACTOR:
            self.is_failing(lane)

    def let_go(self, parcel: Parcel) -> None:
        """A destination is done with a span."""
        parcel.holders -= 1
        if parcel.holders == 0:
            if parcel.charged_to_reserved:
                self._reserved_bytes -= parcel.size
            else:
                self._unreserved_bytes -= parcel.size

    def is_failing(self, lane: Lane) -> None:
        """A destination does not take spans now: it is the first to lose some."""
        if lane.heap_mark == lane.bytes:
            return
        lane.heap_mark = lane.bytes
        heap = self._failing[lane.destination.reserved]
        heapq.heappush(heap, (-lane.bytes, next(self._number), lane))
        if len(heap) > MOST_STALE_ENTRIES + 2 * self._entries_after_cleaning:
            self._clean(heap)

    def enforce(self) -> list[Lane]:
        """Let spans go until the rest fits. Returns the destinations that lost some."""
        losers = []
        while (reserved := self._over_its_share()) is not None:
            lane = self._largest_failing(reserved=reserved)
            spans = 1
            if lane is None:
                lane = max(
                    (each for each in self._lanes() if each.destination.reserved is reserved and each.parcels),
                    key=lambda each: each.bytes,
                    default=None,
                )
                spans = SPANS_AT_ONCE
            if lane is None:  # all of it is in flight: that is bounded by the connections
                break
            lane.drop_oldest(OVER_BUDGET, spans)
            losers.append(lane)
        return losers

    def _over_its_share(self) -> bool | None:
        """Which half has to let go: ``True`` the reserved, ``False`` the other, ``None`` neither."""
        if self._unreserved_bytes > self.limit * SHARE_OF_THE_UNRESERVED:
            return False
        return True if self.held > self.limit else None

    def _clean(self, heap: list[tuple[int, int, Lane]]) -> None:
        heap[:] = [entry for entry in heap if entry[2].failing and -entry[0] == entry[2].heap_mark]
        heapq.heapify(heap)
        self._entries_after_cleaning = len(heap)

    def _largest_failing(self, *, reserved: bool) -> Lane | None:
        heap = self._failing[reserved]
        while heap:
            recorded, _, lane = heap[0]
            if not lane.failing or not lane.parcels or -recorded != lane.heap_mark:
                heapq.heappop(heap)
                if -recorded == lane.heap_mark:
                    lane.heap_mark = 0
                continue
            if lane.bytes < lane.heap_mark:  # it let some go since: it takes its new place
                lane.heap_mark = lane.bytes
                heapq.heapreplace(heap, (-lane.bytes, next(self._number), lane))
                if heap[0][2] is not lane:
                    continue
            return lane
        return None

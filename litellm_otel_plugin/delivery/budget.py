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

# What tenants' exports that are under way may hold of their share; of it, those that are not known to answer. Spans in
# flight cannot be let go: without a bound a few backends that hang would leave the others no room to wait in.
SHARE_IN_FLIGHT = 0.5
SHARE_IN_FLIGHT_UNPROVEN = 0.25

# From here on, what comes in is packed: it costs a little, and losing it later costs more.
SHARE_BEFORE_PACKING = 0.25

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
        # Without a reservation, and with one; a span that both hold is the reserved ones'.
        self._bytes = [0, 0]
        # Of those without a reservation, in all and of those that are not known to answer.
        self._in_flight = 0
        self._in_flight_unproven = 0
        self._under_way: dict[Lane, tuple[int, int]] = {}
        self._number = itertools.count()
        self._entries_after_cleaning = 0
        # The largest first, of those that fail: one heap for each half.
        self._failing: dict[bool, list[tuple[int, int, Lane]]] = {True: [], False: []}

    @property
    def held(self) -> int:
        """Bytes of all spans that wait or are in flight; one shared by several destinations counts once."""
        return sum(self._bytes)

    @property
    def is_short(self) -> bool:
        """Whether spans should take as little as they can."""
        return self._bytes[False] > self.limit * SHARE_OF_THE_UNRESERVED * SHARE_BEFORE_PACKING or (
            self.held > self.limit * SHARE_BEFORE_PACKING
        )

    def hold(self, parcel: Parcel, lane: Lane) -> None:
        """A destination queues a span."""
        self._change(parcel, lane, 1)
        if lane.failing and lane.bytes > lane.heap_mark * RENEWED_AT_FACTOR:
            self.is_failing(lane)

    def let_go(self, parcel: Parcel, lane: Lane) -> None:
        """A destination is done with a span."""
        self._change(parcel, lane, -1)

    def may_take_off(self, lane: Lane) -> bool:
        """Whether another export of this destination may be under way."""
        if lane.destination.reserved or not self._in_flight:
            return True
        share = self.limit * SHARE_OF_THE_UNRESERVED
        if not lane.answers and self._in_flight_unproven > share * SHARE_IN_FLIGHT_UNPROVEN:
            return False
        return self._in_flight <= share * SHARE_IN_FLIGHT

    def takes_off(self, lane: Lane, batch: list[Parcel]) -> None:
        """Spans of a destination are on their way."""
        if lane.destination.reserved:
            return
        size = sum(parcel.size for parcel in batch)
        unproven = 0 if lane.answers else size
        self._under_way[lane] = (size, unproven)
        self._in_flight += size
        self._in_flight_unproven += unproven

    def lands(self, lane: Lane) -> None:
        """They have an outcome."""
        size, unproven = self._under_way.pop(lane, (0, 0))
        self._in_flight -= size
        self._in_flight_unproven -= unproven

    def _change(self, parcel: Parcel, lane: Lane, by: int) -> None:
        before = _side_of(parcel)
        parcel.held_by[lane.destination.reserved] += by
        after = _side_of(parcel)
        if before is not after:
            if before is not None:
                self._bytes[before] -= parcel.size
            if after is not None:
                self._bytes[after] += parcel.size

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
        losers: list[Lane] = []
        while True:
            lane, spans = None, 1
            for reserved in self._over_their_share():
                lane, spans = self._who_lets_go(reserved=reserved)
                if lane is not None:
                    break
            if lane is None:  # everything fits, or is in flight
                return losers
            lane.drop_oldest(OVER_BUDGET, spans)
            losers.append(lane)

    def _over_their_share(self) -> list[bool]:
        """Who has to let go, in this order: ``False`` those without a reservation, ``True`` the others."""
        if self._bytes[False] > self.limit * SHARE_OF_THE_UNRESERVED:
            return [False, True] if self.held > self.limit else [False]
        return [True, False] if self.held > self.limit else []

    def _who_lets_go(self, *, reserved: bool) -> tuple[Lane | None, int]:
        lane = self._largest_failing(reserved=reserved)
        if lane is not None:
            return lane, 1
        waiting = (each for each in self._lanes() if each.destination.reserved is reserved and each.parcels)
        # One that is not known to answer before one that is.
        return max(waiting, key=lambda each: (not each.answers, each.bytes), default=None), SPANS_AT_ONCE

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


def _side_of(parcel: Parcel) -> bool | None:
    """Whose a span is: the reserved destinations' where one of them holds it, nobody's where none does."""
    if parcel.held_by[True]:
        return True
    return False if parcel.held_by[False] else None

"""The destinations that are known, under the one lock of everything that is counted."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from litellm_otel_plugin.delivery.accounts import EVICTED, Counts, DeliveryStats
from litellm_otel_plugin.delivery.budget import Budget
from litellm_otel_plugin.delivery.flushing import Flush
from litellm_otel_plugin.delivery.lane import Lane, all_of

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable

    from litellm_otel_plugin.delivery.destination import Destination
    from litellm_otel_plugin.delivery.limits import Limits

# Destinations that are to be forgotten and cannot be reached: as many as there may be tenants at all. Beyond that,
# memory counts for more than a backend that is not there.
MOST_RETIRING = 10_000


class LaneTable:
    """The destinations that are known, and the accounts of those that are not any more.

    All of it, and everything in a lane and in the budget that is counted, changes under ``lock``, on any thread; what
    says "under the lock" is called by somebody who holds it. The queues and the flushes are changed by the delivery's
    thread alone until it has stopped, which is why it may read them without the lock.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lanes: dict[tuple[Any, ...], Lane] = {}
        self.budget = Budget(limits.queue_bytes, self._lanes.values)
        self._begin()

    def _begin(self) -> None:
        self.lock = threading.Lock()
        self._departed: list[Counts] = []
        self._retiring: OrderedDict[Lane, None] = OrderedDict()
        self._flushes: list[Flush] = []

    def restart_in_child(self) -> object:
        """After a fork: the same destinations, with nothing in them. Returns what belongs to the parent's loop."""
        parents = self._flushes
        lanes = list(self._lanes.values())
        self._begin()
        self.budget.reset()
        for lane in lanes:
            if lane.retiring:
                del self._lanes[lane.key]
            lane.retiring = lane.given_up = False  # whoever still has it may find it again
            lane.reset()
        return parents

    # --- who is known ------------------------------------------------------------------------------------------------

    def lane(self, destination: Destination) -> Lane:
        """The way to a destination; the same one for the same destination."""
        with self.lock:
            lane = self._lanes.get(destination.key)
            if lane is None:
                lane = self._lanes[destination.key] = Lane(destination, self._limits, self.budget)
            lane.retiring = lane.given_up = False
            self._retiring.pop(lane, None)
            return lane

    def every_lane(self) -> list[Lane]:
        """All that are known."""
        with self.lock:
            return list(self._lanes.values())

    def known_now(self, lanes: Iterable[Lane]) -> tuple[Lane, ...]:
        """A span's destinations: one that was forgotten since is remembered, or was found again. Under the lock."""
        now = tuple(self._lanes.setdefault(lane.key, lane) for lane in lanes)
        for lane in now:
            if lane.retiring:  # it was forgotten before this span of its had been taken in
                self._retiring[lane] = None
        return now

    def retire(self, lane: Lane) -> None:
        """Forget a destination once nothing of it is left. Under the lock."""
        lane.retiring = True
        self._retiring[lane] = None

    def forget_if_done(self, lane: Lane) -> None:
        """Let a retiring destination go once nothing of it is left. Under the lock."""
        if not lane.retiring or not lane.idle or lane.sending:
            return
        self._departed = [Counts.total([*self._departed, lane.counts()])]
        self._lanes.pop(lane.key, None)
        self._retiring.pop(lane, None)
        lane.reset()

    def bound_retiring(self) -> None:
        """Of those that cannot be reached and are to be forgotten, only so many are waited for. Under the lock."""
        while len(self._retiring) > MOST_RETIRING:
            lane, _ = self._retiring.popitem(last=False)
            lane.given_up = True
            lane.drop_oldest(EVICTED, len(lane.parcels))
            self.settled(lane)
            self.forget_if_done(lane)

    # --- what becomes of spans ---------------------------------------------------------------------------------------

    def make_room_after(self, lanes: Iterable[Lane]) -> None:
        """Keep the bounds on all together, now that these have queued a span. Under the lock."""
        self.bound_retiring()
        # Each may have let some of its oldest go for it.
        for lane in (*lanes, *self.budget.enforce()):
            self.settled(lane)

    def lose(self, lanes: Iterable[Lane], reason: str) -> None:
        """Count a span that is let go before it was queued. Under the lock."""
        for lane in lanes:
            known = self._lanes.get(lane.key)
            if known is not None:
                known.lose(reason)
            else:  # it was forgotten: its account is the total's
                self._departed.append(Counts(accepted=1, dropped={reason: 1}))

    def settled(self, lane: Lane) -> None:
        """Some spans of a destination have an outcome. Under the lock."""
        for flush in self._flushes:
            flush.check(lane)

    def abandon(self, reason: str) -> dict[Lane, int]:
        """Let go of everything. Returns how many spans of which destinations that were."""
        with self.lock:
            return {lane: spans for lane in self._lanes.values() if (spans := lane.abandon(reason))}

    def stats(self, on_their_way_in: Counter[Lane]) -> Callable[[], DeliveryStats]:
        """Every account: read now, under the lock, and put together when it is called."""
        lanes = all_of((*self._lanes.values(), *on_their_way_in))
        read = [lane.stats(on_their_way_in[lane]) for lane in lanes]
        departed, held = list(self._departed), self.budget.held

        def put_together() -> DeliveryStats:
            destinations = tuple(each() for each in read)
            total = Counts.total([*departed, *(each.counts for each in destinations)])
            return DeliveryStats(destinations, total, held)

        return put_together

    # --- flushes, on the delivery's thread ---------------------------------------------------------------------------

    def busy(self, only: Iterable[Lane] | None) -> list[Lane]:
        """Those, of all by default, that have something waiting or under way."""
        with self.lock:
            wanted = self._lanes.values() if only is None else only
            return [lane for lane in wanted if not lane.idle]

    def begin_flush(self, lanes: Iterable[Lane]) -> Flush:
        """One that is done once these have settled what they have now."""
        with self.lock:
            flush = Flush({lane: lane.entered for lane in lanes})
            flush.check_all()
            self._flushes.append(flush)
            return flush

    def end_flush(self, flush: Flush) -> None:
        """Nobody waits for it any more."""
        self._flushes.remove(flush)

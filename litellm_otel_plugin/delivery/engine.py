"""The delivery: one background thread with one loop that takes every span to every destination that wants it.

The intake takes in what has ended and queues it, the couriers send it; both run on that thread, and meet in the table
of destinations. Everything that is counted changes under one lock, the table's, which is never held across encoding or
I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
import time
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from opentelemetry import context
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _SUPPRESS_INSTRUMENTATION_KEY

from litellm_otel_plugin.delivery.accounts import EVICTED, SHUTDOWN, Counts, DeliveryStats
from litellm_otel_plugin.delivery.budget import Budget
from litellm_otel_plugin.delivery.couriers import Couriers
from litellm_otel_plugin.delivery.flushing import Flush, Waiting
from litellm_otel_plugin.delivery.intake import Intake
from litellm_otel_plugin.delivery.lane import Lane, all_of
from litellm_otel_plugin.delivery.limits import Limits
from litellm_otel_plugin.delivery.report import say_undelivered
from litellm_otel_plugin.delivery.slices import Slices
from litellm_otel_plugin.guard import contained

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Coroutine, Iterable

    from opentelemetry.sdk.trace import ReadableSpan

    from litellm_otel_plugin.delivery.destination import Destination

# Destinations that are to be forgotten and cannot be reached: as many as there may be tenants at all. Beyond that,
# memory counts for more than a backend that is not there.
MOST_RETIRING = 10_000

# What a stop allows beyond its deadline, for the thread to count what is left.
SECONDS_TO_FINISH = 1.0


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
        for lane in [lane for lane in self._lanes.values() if lane.retiring]:
            del self._lanes[lane.key]
        self._begin()
        self.budget.reset()
        for lane in self._lanes.values():
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


class Delivery:
    """Delivers spans to any number of destinations. Nothing runs before the first span.

    The thread, its loop and its context are set once, under the table's lock, and read without it: who finds none
    starts it, or has nothing to do there. The tasks are the thread's alone. ``_closed`` is the closing thread's.
    """

    # Takes responsibility for a span. It is the intake's own method: a call in between would be paid for every span, on
    # a request's thread.
    accept: Callable[[ReadableSpan, tuple[Lane, ...]], None]

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits.from_environment()
        self._table = LaneTable(self.limits)
        self._budget = self._table.budget
        self._couriers = Couriers(self._table, self._budget, self.limits, self._spawn)
        self._intake = Intake(self._table, self._budget, self.limits, self._call, self._couriers.arm)
        self.accept = self._intake.accept
        self._begin()
        _deliveries.add(self)

    def _begin(self) -> None:
        self._closed = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: contextvars.Context | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- on any thread -----------------------------------------------------------------------------------------------

    def lane(self, destination: Destination) -> Lane:
        """The way to a destination; the same one for the same destination."""
        return self._table.lane(destination)

    def retire(self, lane: Lane) -> None:
        """Forget a destination once everything that was accepted for it has an outcome."""
        with self._table.lock:
            self._table.retire(lane)
            if self._loop is None:  # nothing was ever accepted
                self._table.forget_if_done(lane)
                return
        with contextlib.suppress(RuntimeError):  # it has stopped, and counted
            self._loop.call_soon_threadsafe(self._hurry, lane, context=self._context)

    def stats(self) -> DeliveryStats:
        """Every account, at one moment."""
        with self._table.lock:
            put_together = self._table.stats(self._intake.on_their_way())
        return put_together()

    def flush(self, seconds: float, lanes: Iterable[Lane] | None = None) -> bool:
        """Deliver what was accepted until now. Whether all of it has an outcome within ``seconds``.

        The destinations in ``lanes`` (all, by default) are tried now, whatever they are paused for, and waited for.
        The others keep to their pauses.
        """
        only = None if lanes is None else tuple(lanes)
        loop = self._loop
        if loop is None or self._thread is threading.current_thread():
            return self._nothing_is_left(only)
        waiting = Waiting()
        try:
            loop.call_soon_threadsafe(lambda: self._spawn(self._flush(seconds, only, waiting)), context=self._context)
        except RuntimeError:  # it has stopped
            return self._nothing_is_left(only)
        waiting.done.wait(seconds)
        return waiting.delivered

    def close(self, seconds: float) -> DeliveryStats:
        """Deliver what was accepted, for at most ``seconds``; count and say what could not be. Then stop."""
        if not self._closed:
            self.flush(seconds)
            self._closed = True
            self._stop(seconds)
        return self.stats()

    def restart_in_child(self) -> None:
        """After a fork: the parent's spans and its thread are the parent's."""
        _inherited.append((
            self._loop, self._thread, self._tasks, self._context,
            self._table.restart_in_child(), self._couriers.restart_in_child(),
        ))  # fmt: skip
        self._intake.restart_in_child()
        self._begin()

    # --- between threads ---------------------------------------------------------------------------------------------

    def _call(self, callback: Callable[[], None]) -> None:
        """Have the thread call something. It is started where it does not run yet."""
        loop = self._loop or self._start()
        loop.call_soon_threadsafe(callback, context=self._context)

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._table.lock:
            if self._loop is None:
                # Not the one of a policy: a loop of this thread's own, whatever the server runs on.
                loop = asyncio.SelectorEventLoop()
                try:
                    self._start_thread(loop)
                except BaseException:
                    loop.close()
                    raise
                self._loop = loop
            return self._loop

    def _start_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        # A request's own context must not follow its span here, and exports are not traced.
        self._context = contextvars.Context()
        self._context.run(_trace_nothing)
        thread = threading.Thread(target=self._run, args=(loop,), name="litellm-otel-delivery", daemon=True)
        thread.start()
        self._thread = thread

    def _nothing_is_left(self, only: tuple[Lane, ...] | None) -> bool:
        stats = self.stats()
        if only is None:
            return not stats.total.queued and not stats.total.in_flight
        with self._table.lock:
            return not self._intake and all(lane.idle for lane in only)

    def _stop(self, seconds: float) -> None:
        self._intake.close()
        self._couriers.close()
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None and thread is not threading.current_thread():
            try:
                loop.call_soon_threadsafe(self._cancel_everything, loop, context=self._context)
            except RuntimeError:
                pass
            else:
                thread.join(SECONDS_TO_FINISH)
        self._intake.end()
        lost = self._table.abandon(SHUTDOWN)
        if lost:
            say_undelivered(lost, seconds)

    # --- on the delivery's thread ------------------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel_everything(self, loop: asyncio.AbstractEventLoop) -> None:
        async def finish() -> None:
            mine = asyncio.current_task()
            under_way = [task for task in self._tasks if task is not mine]
            for task in under_way:
                task.cancel()
            await asyncio.wait(under_way, timeout=SECONDS_TO_FINISH / 2) if under_way else None
            await self._couriers.close_senders(SECONDS_TO_FINISH / 4)
            loop.stop()

        self._spawn(finish())

    async def _flush(self, seconds: float, only: tuple[Lane, ...] | None, waiting: Waiting) -> None:
        try:
            with contained("flushing"):
                waiting.delivered = await self._deliver(time.monotonic() + seconds, only)
        finally:
            waiting.done.set()

    async def _deliver(self, deadline: float, only: tuple[Lane, ...] | None) -> bool:
        """Send what was accepted until now. Whether all of it has an outcome by ``deadline``."""
        await self._intake.take_in_now()
        lanes = self._table.busy(only)
        slices = Slices()
        for n, lane in enumerate(lanes):
            self._hurry(lane)
            if n % 100 == 0 and slices.over:
                await slices.pause()
        flush = self._table.begin_flush(lanes)
        try:
            await asyncio.wait_for(flush.done.wait(), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError:
            return flush.done.is_set()
        finally:
            self._table.end_flush(flush)
        return True

    def _hurry(self, lane: Lane) -> None:
        """Send what waits now, a pause notwithstanding; let a retiring destination go where nothing does."""
        with self._table.lock:
            self._table.forget_if_done(lane)
            self._table.bound_retiring()
        self._couriers.hurry(lane)


_deliveries: weakref.WeakSet[Delivery] = weakref.WeakSet()

# What a child inherits of its parent's loop must not be closed in it: the two share sockets and the selector.
_inherited: list[Any] = []


def _in_child() -> None:
    for delivery in list(_deliveries):
        delivery.restart_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _trace_nothing() -> None:
    context.attach(context.set_value(_SUPPRESS_HTTP_INSTRUMENTATION_KEY, True))  # noqa: FBT003 - OpenTelemetry's own
    context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: FBT003 - as above

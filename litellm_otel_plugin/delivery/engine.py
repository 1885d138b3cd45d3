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
from typing import TYPE_CHECKING, Any

from opentelemetry import context
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _SUPPRESS_INSTRUMENTATION_KEY

from litellm_otel_plugin.delivery.accounts import SHUTDOWN, DeliveryStats
from litellm_otel_plugin.delivery.couriers import Couriers
from litellm_otel_plugin.delivery.flushing import Waiting
from litellm_otel_plugin.delivery.intake import Intake
from litellm_otel_plugin.delivery.lane_table import LaneTable
from litellm_otel_plugin.delivery.limits import Limits
from litellm_otel_plugin.delivery.report import say_undelivered
from litellm_otel_plugin.delivery.slices import Slices
from litellm_otel_plugin.guard import contained

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from opentelemetry.sdk.trace import ReadableSpan

    from litellm_otel_plugin.delivery.destination import Destination
    from litellm_otel_plugin.delivery.lane import Lane

# What a stop allows beyond its deadline, for the thread to count what is left.
SECONDS_TO_FINISH = 1.0


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

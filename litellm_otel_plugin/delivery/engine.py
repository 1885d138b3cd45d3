"""The delivery: one background thread with one loop that takes every span to every destination that wants it.

A span's end only appends to the intake. The thread makes the views, encodes each once, queues it for each destination
and sends. Everything that is counted changes under one lock that is never held across encoding or I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import threading
import time
import weakref
from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING, Any

from opentelemetry import context
from opentelemetry.context import _SUPPRESS_HTTP_INSTRUMENTATION_KEY, _SUPPRESS_INSTRUMENTATION_KEY

from litellm_otel_plugin import __version__
from litellm_otel_plugin.delivery.accounts import (
    CLOSED,
    EVICTED,
    INTAKE_FULL,
    INTERNAL_ERROR,
    SHUTDOWN,
    UNENCODABLE,
    Counts,
    DeliveryStats,
)
from litellm_otel_plugin.delivery.batches import Batches
from litellm_otel_plugin.delivery.budget import Budget
from litellm_otel_plugin.delivery.encoding import encode_span
from litellm_otel_plugin.delivery.exporter_sender import ExporterSender
from litellm_otel_plugin.delivery.flushing import Flush, Waiting
from litellm_otel_plugin.delivery.gates import Gates, patience_seconds
from litellm_otel_plugin.delivery.lane import Lane, Parcel, all_of
from litellm_otel_plugin.delivery.limits import Limits
from litellm_otel_plugin.delivery.outcome import Outcome, Verdict
from litellm_otel_plugin.delivery.packing import Packer
from litellm_otel_plugin.delivery.report import Reporter, say_undelivered
from litellm_otel_plugin.delivery.slices import SLICE_SECONDS, Slices
from litellm_otel_plugin.guard import contained, guard

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from opentelemetry.sdk.trace import ReadableSpan

    from litellm_otel_plugin.delivery.destination import Destination
    from litellm_otel_plugin.delivery.view import View

log = logging.getLogger("litellm_otel_plugin")

Entry = tuple["ReadableSpan", tuple[Lane, ...]]

# How long the first of several spans waits for the others before the thread wakes: a request's spans end together,
# and waking a thread costs more than taking a span in.
SECONDS_BEFORE_TAKING_IN = 0.05

# While spans come, the thread looks for them at that interval by itself: waking it would be most of what the end of a
# span costs. After a second without one it sleeps until it is woken.
ROUNDS_BEFORE_SLEEPING = 20

# Spans that the thread has not come to yet. It takes in ten thousand a second; more than this many at once means that
# it does not get to run.
INTAKE_SPANS = 32_768

# Several processors hand in the same span, one after the other: so many of the last ones are recognised.
RECENT_SPANS = 64

# Destinations that are to be forgotten and cannot be reached: as many as there may be tenants at all. Beyond that,
# memory counts for more than a backend that is not there.
MOST_RETIRING = 10_000

# How soon a tenant's backend looks again whether others' exports under way leave it room.
SECONDS_UNTIL_THERE_IS_ROOM = 0.2

# What a stop allows beyond its deadline, for the thread to count what is left.
SECONDS_TO_FINISH = 1.0


class Delivery:
    """Delivers spans to any number of destinations. Nothing runs before the first span."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits.from_environment()
        self._lanes: dict[tuple[Any, ...], Lane] = {}
        self._budget = Budget(self.limits.queue_bytes, self._lanes.values)
        self._batches = Batches()
        self._forked_after_grpc = False
        self._begin()
        _deliveries.add(self)

    def _begin(self) -> None:
        """Be as new, with the same destinations: at first, and in a forked child."""
        self._lock = threading.Lock()
        self._intake: deque[Entry] = deque()
        self._placing: list[Lane] = []  # those that have yet to be given the span in hand
        self._awake = False
        self._next_round: asyncio.TimerHandle | None = None
        self._empty_rounds = 0
        self._round_seconds = min(SECONDS_BEFORE_TAKING_IN, self.limits.schedule_delay_seconds / 4)
        self._closed = False
        self._departed: list[Counts] = []
        self._retiring: OrderedDict[Lane, None] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: contextvars.Context | None = None
        self._recent: OrderedDict[int, tuple[ReadableSpan, dict[tuple[View, bool], Parcel | None]]] = OrderedDict()
        self._packer = Packer()
        self._flushes: list[Flush] = []
        self._couriers: set[asyncio.Task[None]] = set()
        self._senders: dict[str, Any] = {}
        self._gates: Gates | None = None
        self._reporter = Reporter(self._every_lane)
        self._budget.reset()

    # --- on any thread -----------------------------------------------------------------------------------------------

    def lane(self, destination: Destination) -> Lane:
        """The way to a destination; the same one for the same destination."""
        with self._lock:
            lane = self._lanes.get(destination.key)
            if lane is None:
                lane = self._lanes[destination.key] = Lane(destination, self.limits, self._budget)
            lane.retiring = lane.given_up = False
            self._retiring.pop(lane, None)
            return lane

    def accept(self, span: ReadableSpan, lanes: tuple[Lane, ...]) -> None:
        """Take responsibility for a span. Only appends; the first after a pause wakes the thread."""
        self._intake.append((span, lanes))
        if not self._awake:
            self._wake()
        if len(self._intake) > INTAKE_SPANS:
            self._drop_oldest_of_intake()

    def retire(self, lane: Lane) -> None:
        """Forget a destination once everything that was accepted for it has an outcome."""
        with self._lock:
            lane.retiring = True
            self._retiring[lane] = None
            if self._loop is None:  # nothing was ever accepted
                self._forget_if_done(lane)
                return
        with contextlib.suppress(RuntimeError):  # it has stopped, and counted
            self._loop.call_soon_threadsafe(self._hurry, lane, context=self._context)

    def stats(self) -> DeliveryStats:
        """Every account, at one moment."""
        with self._lock:
            coming = Counter(lane for _, lanes in self._intake.copy() for lane in lanes)
            coming.update(self._placing)
            lanes = all_of((*self._lanes.values(), *coming))
            read = [lane.stats(coming[lane]) for lane in lanes]
            departed, held = list(self._departed), self._budget.held
        destinations = tuple(put_together() for put_together in read)
        total = Counts.total([*departed, *(each.counts for each in destinations)])
        return DeliveryStats(destinations, total, held)

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
            self._loop, self._thread, self._couriers, self._context, self._senders, self._gates, self._flushes,
        ))  # fmt: skip
        self._forked_after_grpc = self._forked_after_grpc or "grpc" in self._senders
        for lane in [lane for lane in self._lanes.values() if lane.retiring]:
            del self._lanes[lane.key]
        self._begin()
        for lane in self._lanes.values():
            lane.reset()

    # --- between threads ---------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._closed:
            self._drop_intake(CLOSED)
            return
        self._awake = True
        try:
            loop = self._loop or self._start()
            loop.call_soon_threadsafe(self._take_in_soon, context=self._context)
        except Exception as error:  # noqa: BLE001 - no descriptor or no thread to be had: the request goes on
            self._awake = False  # the next span tries again
            if self._closed:
                self._drop_intake(CLOSED)
            else:
                guard.failed("starting the delivery", error)

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
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

    def _drop_oldest_of_intake(self) -> None:
        with self._lock:
            self._lose_next(INTAKE_FULL)

    def _drop_intake(self, reason: str) -> None:
        with self._lock:
            while self._lose_next(reason):
                pass

    def _lose_next(self, reason: str) -> bool:
        """Let the oldest span of the intake go, and count it. Under the lock."""
        try:
            _, lanes = self._intake.popleft()
        except IndexError:
            return False
        self._lose(lanes, reason)
        return True

    def _lose(self, lanes: Iterable[Lane], reason: str) -> None:
        """Count a span that is let go before it was queued. Under the lock."""
        for lane in lanes:
            known = self._lanes.get(lane.key)
            if known is not None:
                known.lose(reason)
            else:  # it was forgotten: its account is the total's
                self._departed.append(Counts(accepted=1, dropped={reason: 1}))

    def _every_lane(self) -> list[Lane]:
        with self._lock:
            return list(self._lanes.values())

    def _nothing_is_left(self, only: tuple[Lane, ...] | None) -> bool:
        stats = self.stats()
        if only is None:
            return not stats.total.queued and not stats.total.in_flight
        with self._lock:
            return not self._intake and all(lane.idle for lane in only)

    def _stop(self, seconds: float) -> None:
        loop, thread = self._loop, self._thread
        if loop is not None and thread is not None and thread is not threading.current_thread():
            try:
                loop.call_soon_threadsafe(self._cancel_everything, loop, context=self._context)
            except RuntimeError:
                pass
            else:
                thread.join(SECONDS_TO_FINISH)
        self._awake = False  # a span that ends from here on finds the delivery closed
        self._drop_intake(SHUTDOWN)
        with self._lock:
            lost = {lane: spans for lane in self._lanes.values() if (spans := lane.abandon(SHUTDOWN))}
        if lost:
            say_undelivered(lost, seconds)

    # --- on the delivery's thread ------------------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        self._gates = Gates()
        try:
            loop.run_forever()
        finally:
            loop.close()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(coroutine)
        self._couriers.add(task)
        task.add_done_callback(self._couriers.discard)

    def _cancel_everything(self, loop: asyncio.AbstractEventLoop) -> None:
        async def finish() -> None:
            mine = asyncio.current_task()
            under_way = [task for task in self._couriers if task is not mine]
            for task in under_way:
                task.cancel()
            await asyncio.wait(under_way, timeout=SECONDS_TO_FINISH / 2) if under_way else None
            for sender in self._senders.values():
                close = getattr(sender, "close", None)
                if close is not None:
                    with contained("closing connections"), contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(close(), SECONDS_TO_FINISH / 4)
            loop.stop()

        self._spawn(finish())

    def _take_in_soon(self) -> None:
        self._empty_rounds = 0
        self._take_in_after(self._round_seconds)

    def _take_in_after(self, seconds: float) -> None:
        # A producer can wake the thread just as that goes on by itself: the rounds stay one after the other.
        if self._next_round is None:
            self._next_round = asyncio.get_running_loop().call_later(seconds, self._take_in)

    def _take_in(self) -> None:
        """Encode and queue what has come in, a slice at a time."""
        self._next_round = None
        slices = Slices()
        while self._intake:
            with contained("taking a span in"):
                self._place_next()
            if slices.over:
                self._take_in_after(SLICE_SECONDS)
                return
        something_came = bool(self._recent)
        self._empty_rounds = 0 if something_came else self._empty_rounds + 1
        self._recent.clear()
        if self._empty_rounds < ROUNDS_BEFORE_SLEEPING:
            self._take_in_after(self._round_seconds)
            return
        self._awake = False
        if self._intake:  # it came between the two lines above, and saw the thread awake
            self._awake = True
            self._take_in_after(0.0)

    def _place_next(self) -> None:
        """Encode the oldest span of the intake and queue it. Whatever that comes to, it is accounted for."""
        with self._lock:
            if not self._intake:
                return
            span, lanes = self._intake.popleft()
            self._placing = list(lanes)
        try:
            parcels = self._parcels(span, lanes)
            lanes = self._queue(lanes, parcels)
        except Exception:
            with self._lock:
                self._lose(self._placing, INTERNAL_ERROR)
                self._placing = []
            raise
        for lane in lanes:
            self._arm(lane)

    def _parcels(self, span: ReadableSpan, lanes: tuple[Lane, ...]) -> list[Parcel | None]:
        """The span as each of the destinations gets it."""
        parcels = [self._parcel(span, lane) for lane in lanes]
        for lane, parcel in zip(lanes, parcels, strict=True):
            if parcel is not None and (lane.failing or self._budget.is_short):  # it may wait for long, or many do
                parcel.pack(self._packer)
        return parcels

    def _queue(self, lanes: tuple[Lane, ...], parcels: list[Parcel | None]) -> tuple[Lane, ...]:
        """Queue a span for each of the destinations. Returns them as they are known now."""
        with self._lock:
            # A destination that was forgotten since is remembered, or has been found again by now.
            lanes = tuple(self._lanes.setdefault(lane.key, lane) for lane in lanes)
            for lane, parcel in zip(lanes, parcels, strict=True):
                del self._placing[0]
                if parcel is None:
                    lane.lose(UNENCODABLE)
                else:
                    lane.put(parcel)
                if lane.retiring:  # it was forgotten before this span of its had been taken in
                    self._retiring[lane] = None
            self._bound_retiring()
            # Each may have let some of its oldest go for it.
            for lane in (*lanes, *self._budget.enforce()):
                self._settled(lane)
        return lanes

    def _parcel(self, span: ReadableSpan, lane: Lane) -> Parcel | None:
        """The span as this destination gets it, ``None`` where nothing can be made of it."""
        known = self._recent.get(id(span))
        if known is None or known[0] is not span:
            known = self._recent[id(span)] = (span, {})
            if len(self._recent) > RECENT_SPANS:
                self._recent.popitem(last=False)
        views = known[1]
        destination = lane.destination
        # An exporter of its own needs the span itself, which weighs more: it is not kept for the others.
        which = (destination.view, destination.exporter is not None)
        if which not in views:
            parcel = views[which] = _made(span, destination.view, keep_span=which[1])
            if parcel is not None:
                self._packer.learn(parcel.encoded)
        return views[which]

    def _arm(self, lane: Lane) -> None:
        """See to it that what waits is sent when it should be."""
        if lane.sending or not lane.parcels or self._closed:
            return
        now = time.monotonic()
        wait = lane.paused_until - now
        if wait <= 0:
            if lane.wants_sending() or lane.retiring:
                self._dispatch(lane)
                return
            wait = self.limits.schedule_delay_seconds
        if lane.timer is None:
            lane.timer = asyncio.get_running_loop().call_later(wait, self._timer_fired, lane)

    def _timer_fired(self, lane: Lane) -> None:
        lane.timer = None
        lane.everything_is_due()
        self._arm(lane)

    def _hurry(self, lane: Lane) -> None:
        """Send what waits now, a pause notwithstanding."""
        with self._lock:
            lane.everything_is_due()
            lane.paused_until = 0.0
            self._forget_if_done(lane)
            self._bound_retiring()
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        self._arm(lane)

    def _dispatch(self, lane: Lane) -> None:
        lane.sending = True
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        self._spawn(self._courier(lane))

    async def _courier(self, lane: Lane) -> None:
        """Send batch after batch, until there is nothing to send now."""
        outcome = Outcome(Verdict.RETRY, "interrupted")
        try:
            while lane.wants_sending() or (lane.retiring and lane.parcels):
                outcome = Outcome(Verdict.RETRY, "interrupted")
                async with self._gate(lane):
                    # At the gate, so that of thousands that wait only as many look as it lets in.
                    while not self._budget.may_take_off(lane):  # noqa: ASYNC110 - whichever export ends makes room
                        await asyncio.sleep(SECONDS_UNTIL_THERE_IS_ROOM)
                    with self._lock:
                        batch = lane.take()
                    if not batch:
                        break
                    outcome = await self._send(lane, batch)
                self._settle(lane, outcome)
                if outcome.verdict is not Verdict.SENT or outcome.rejected:
                    self._reporter.look_soon()
                if lane.paused_until > time.monotonic():
                    break
        finally:
            lane.sending = False
            if lane.in_flight_parcels and not self._closed:
                self._settle(lane, outcome)
            with self._lock:
                self._forget_if_done(lane)
            self._arm(lane)

    def _gate(self, lane: Lane) -> asyncio.Semaphore:
        if self._gates is None:
            raise RuntimeError("the delivery's thread is not running")
        return self._gates.of(lane)

    def _settle(self, lane: Lane, outcome: Outcome) -> None:
        with self._lock:
            lane.settle(outcome, time.monotonic())
            if lane.given_up:
                lane.drop_oldest(EVICTED, len(lane.parcels))
            self._settled(lane)

    async def _send(self, lane: Lane, batch: list[Parcel]) -> Outcome:
        destination = lane.destination
        try:
            if destination.exporter is not None:
                spans = [parcel.span for parcel in batch]
                return await self._sender("exporter").send(destination.exporter, spans)  # type: ignore[no-any-return]
            body = await self._batches.body(lane, batch)
            transport = "grpc" if destination.protocol == "grpc" else "http"
            longest = min(destination.timeout_seconds, self.limits.export_timeout_seconds)
            seconds = patience_seconds(lane, longest)
            if transport == "grpc" and self._forked_after_grpc:
                return Outcome(Verdict.REJECTED, "grpc_after_fork")
            return await self._sender(transport).send(destination, body, seconds)  # type: ignore[no-any-return]
        except Exception as error:
            with contained("sending a batch"):
                raise
            return Outcome(Verdict.RETRY, type(error).__name__)

    def _sender(self, transport: str) -> Any:
        sender = self._senders.get(transport)
        if sender is None:
            sender = self._senders[transport] = _make_sender(transport)
        return sender

    async def _flush(self, seconds: float, only: tuple[Lane, ...] | None, waiting: Waiting) -> None:
        try:
            with contained("flushing"):
                waiting.delivered = await self._deliver(time.monotonic() + seconds, only)
        finally:
            waiting.done.set()

    async def _deliver(self, deadline: float, only: tuple[Lane, ...] | None) -> bool:
        """Send what was accepted until now. Whether all of it has an outcome by ``deadline``."""
        to_place = len(self._intake)
        slices = Slices()
        for _ in range(to_place):
            with contained("taking a span in"):
                self._place_next()
            if slices.over:
                await slices.pause()
        with self._lock:
            wanted = self._lanes.values() if only is None else only
            lanes = [lane for lane in wanted if not lane.idle]
        for n, lane in enumerate(lanes):
            self._hurry(lane)
            if n % 100 == 0 and slices.over:
                await slices.pause()
        with self._lock:
            flush = Flush({lane: lane.entered for lane in lanes})
            flush.check_all()
            self._flushes.append(flush)
        try:
            await asyncio.wait_for(flush.done.wait(), max(0.0, deadline - time.monotonic()))
        except asyncio.TimeoutError:
            return flush.done.is_set()
        finally:
            self._flushes.remove(flush)
        return True

    def _settled(self, lane: Lane) -> None:
        """Some spans of a destination have an outcome. Under the lock."""
        for flush in self._flushes:
            flush.check(lane)

    def _forget_if_done(self, lane: Lane) -> None:
        """Let a retiring destination go once nothing of it is left. Under the lock."""
        if not lane.retiring or not lane.idle or lane.sending:
            return
        self._departed = [Counts.total([*self._departed, lane.counts()])]
        self._lanes.pop(lane.key, None)
        self._retiring.pop(lane, None)
        lane.reset()

    def _bound_retiring(self) -> None:
        """Of destinations that cannot be reached and are to be forgotten, only so many are waited for."""
        while len(self._retiring) > MOST_RETIRING:
            lane, _ = self._retiring.popitem(last=False)
            lane.given_up = True
            lane.drop_oldest(EVICTED, len(lane.parcels))
            self._settled(lane)
            self._forget_if_done(lane)


_deliveries: weakref.WeakSet[Delivery] = weakref.WeakSet()

# What a child inherits of its parent's loop must not be closed in it: the two share sockets and the selector.
_inherited: list[Any] = []


def _in_child() -> None:
    for delivery in list(_deliveries):
        delivery.restart_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _made(span: ReadableSpan, view: View, *, keep_span: bool) -> Parcel | None:
    with contained("encoding a span"):
        try:
            seen = view.of(span)
            encoded = encode_span(seen)
        except Exception as error:  # noqa: BLE001 - one span must not cost the others
            log.debug("a span could not be encoded: %s", type(error).__name__)
            return None
        return Parcel(encoded, seen.resource, seen.instrumentation_scope, seen if keep_span else None)
    return None


def _trace_nothing() -> None:
    context.attach(context.set_value(_SUPPRESS_HTTP_INSTRUMENTATION_KEY, True))  # noqa: FBT003 - OpenTelemetry's own
    context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: FBT003 - as above


def _make_sender(transport: str) -> Any:
    # Each brings a client library that a proxy without such a destination need not load.
    user_agent = f"litellm-otel-plugin/{__version__}"
    if transport == "exporter":
        return ExporterSender()
    if transport == "grpc":
        from litellm_otel_plugin.delivery.grpc_sender import GrpcSender  # noqa: PLC0415 - see above

        return GrpcSender(user_agent)
    from litellm_otel_plugin.delivery.http_sender import HttpSender  # noqa: PLC0415 - see above

    return HttpSender(user_agent)

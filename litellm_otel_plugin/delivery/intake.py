"""The intake: from a span's end, on any thread, to the queues of its destinations, on the delivery's.

A span's end only appends. The thread comes for what was appended at intervals and takes it in a slice at a time: it
makes the views, encodes each once, and queues it for each destination.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING

from litellm_otel_plugin.delivery.accounts import CLOSED, INTAKE_FULL, INTERNAL_ERROR, SHUTDOWN, UNENCODABLE
from litellm_otel_plugin.delivery.encoding import encode_span
from litellm_otel_plugin.delivery.lane import Lane, Parcel
from litellm_otel_plugin.delivery.packing import Packer
from litellm_otel_plugin.delivery.slices import SLICE_SECONDS, Slices
from litellm_otel_plugin.guard import contained, guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan

    from litellm_otel_plugin.delivery.budget import Budget
    from litellm_otel_plugin.delivery.lane_table import LaneTable
    from litellm_otel_plugin.delivery.limits import Limits
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


class Intake:
    """Spans that were accepted and have yet to be queued.

    ``call`` has the delivery's thread call something, and starts it where it does not run; ``arm`` sees to it that what
    was queued is sent.

    Any thread appends a span, without a lock. It is taken off again under the table's lock, and so is what is placed of
    it: until each of its destinations has it or has lost it, an account under that lock finds it here. Whether the
    thread is awake, and whether all is closed, are flags without a lock: where they change, the spans are looked at
    once more. The rounds, the recent spans and the packer are the delivery's thread's alone.
    """

    def __init__(
        self,
        table: LaneTable,
        budget: Budget,
        limits: Limits,
        call: Callable[[Callable[[], None]], None],
        arm: Callable[[Lane], None],
    ) -> None:
        self._table = table
        self._budget = budget
        self._limits = limits
        self._call = call
        self._arm = arm
        self._begin()

    def _begin(self) -> None:
        self._spans: deque[Entry] = deque()
        self._placing: list[Lane] = []  # those that have yet to be given the span in hand
        self._awake = False
        self._closed = False
        self._next_round: asyncio.TimerHandle | None = None
        self._empty_rounds = 0
        self._round_seconds = min(SECONDS_BEFORE_TAKING_IN, self._limits.schedule_delay_seconds / 4)
        self._recent: OrderedDict[int, tuple[ReadableSpan, dict[tuple[View, bool], Parcel | None]]] = OrderedDict()
        self._packer = Packer()

    # --- on any thread -----------------------------------------------------------------------------------------------

    def accept(self, span: ReadableSpan, lanes: tuple[Lane, ...]) -> None:
        """Take responsibility for a span. Only appends; the first after a pause wakes the thread."""
        self._spans.append((span, lanes))
        if not self._awake:
            self._wake()
        if len(self._spans) > INTAKE_SPANS:
            self._drop_oldest()

    def __len__(self) -> int:
        return len(self._spans)

    def on_their_way(self) -> Counter[Lane]:
        """How many spans each destination has yet to be given. Under the lock."""
        coming = Counter(lane for _, lanes in self._spans.copy() for lane in lanes)
        coming.update(self._placing)
        return coming

    def close(self) -> None:
        """Wake nobody any more: a span that comes once the thread sleeps is let go."""
        self._closed = True

    def end(self) -> None:
        """Let go of what is left, now that the thread has stopped."""
        self._awake = False  # a span that ends from here on finds the delivery closed
        self._drop_all(SHUTDOWN)

    def restart_in_child(self) -> None:
        """After a fork: what had been accepted is the parent's to deliver."""
        self._begin()

    def _wake(self) -> None:
        if self._closed:
            self._drop_all(CLOSED)
            return
        self._awake = True
        try:
            self._call(self._take_in_soon)
        except Exception as error:  # noqa: BLE001 - no descriptor or no thread to be had: the request goes on
            self._awake = False  # the next span tries again
            if self._closed:
                self._drop_all(CLOSED)
            else:
                guard.failed("starting the delivery", error)

    def _drop_oldest(self) -> None:
        with self._table.lock:
            self._lose_next(INTAKE_FULL)

    def _drop_all(self, reason: str) -> None:
        with self._table.lock:
            while self._lose_next(reason):
                pass

    def _lose_next(self, reason: str) -> bool:
        """Let the oldest span go, and count it. Under the lock."""
        try:
            _, lanes = self._spans.popleft()
        except IndexError:
            return False
        self._table.lose(lanes, reason)
        return True

    # --- on the delivery's thread ------------------------------------------------------------------------------------

    async def take_in_now(self) -> None:
        """Take in what has come until now, without waiting for the next round."""
        slices = Slices()
        for _ in range(len(self._spans)):
            with contained("taking a span in"):
                self._place_next()
            if slices.over:
                await slices.pause()

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
        while self._spans:
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
        if self._spans:  # it came between the two lines above, and saw the thread awake
            self._awake = True
            self._take_in_after(0.0)

    def _place_next(self) -> None:
        """Encode the oldest span and queue it. Whatever that comes to, it is accounted for."""
        with self._table.lock:
            if not self._spans:
                return
            span, lanes = self._spans.popleft()
            self._placing = list(lanes)
        try:
            parcels = self._parcels(span, lanes)
            lanes = self._queue(lanes, parcels)
        except Exception:
            with self._table.lock:
                self._table.lose(self._placing, INTERNAL_ERROR)
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
        with self._table.lock:
            lanes = self._table.known_now(lanes)
            for lane, parcel in zip(lanes, parcels, strict=True):
                del self._placing[0]
                if parcel is None:
                    lane.lose(UNENCODABLE)
                else:
                    lane.put(parcel)
            self._table.make_room_after(lanes)
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

"""One destination's queue: what waits, what is on its way, what became of the rest, and when to try next.

Nothing here does I/O or knows a thread: the delivery calls it under its lock, with the time.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from litellm_otel_plugin.delivery.accounts import QUEUE_FULL, Counts, DestinationStats
from litellm_otel_plugin.delivery.backoff import PROBE_SECONDS, wait_seconds
from litellm_otel_plugin.delivery.outcome import Outcome, Verdict
from litellm_otel_plugin.delivery.states import DELIVERING, FAILING, REFUSED, REJECTING, UNPROVEN

if TYPE_CHECKING:
    from asyncio import TimerHandle
    from collections.abc import Callable, Iterable

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from litellm_otel_plugin.delivery.budget import Budget
    from litellm_otel_plugin.delivery.destination import Destination
    from litellm_otel_plugin.delivery.limits import Limits
    from litellm_otel_plugin.delivery.packing import Packer

# What a waiting span takes beside its encoding: the objects of the queue that hold it.
BYTES_PER_PARCEL = 200

# A backend that said a body was too large is sent larger ones again, in so many steps.
GROWTH_STEPS = 16

# What a tenant's backend that is not known to answer is sent at a time: enough to see whether it does.
PROBE_BYTES = 64 * 1024

# A backend that delivered and has failed so often since is taken for one that comes back.
FEW_FAILURES = 3


class Parcel:
    """One span in one view, encoded, shared by every destination that takes that view."""

    __slots__ = ("_bytes", "_packer", "held_by", "length", "resource", "scope", "size", "span")

    def __init__(
        self,
        encoded: bytes,
        resource: Resource,
        scope: InstrumentationScope | None,
        span: ReadableSpan | None = None,
    ) -> None:
        self._bytes = encoded
        self._packer: Packer | None = None
        self.length = len(encoded)
        self.resource = resource
        self.scope = scope
        self.span = span  # kept only for a destination with an exporter of its own
        self.size = len(encoded) + BYTES_PER_PARCEL
        # How many destinations hold it: without a reservation, and with one.
        self.held_by = [0, 0]

    @property
    def encoded(self) -> bytes:
        """The OTLP ``Span`` message."""
        return self._bytes if self._packer is None else self._packer.unpack(self._bytes)

    def pack(self, packer: Packer) -> None:
        """Take less memory. Only before anybody holds it: what is held is accounted for."""
        if self._packer is None and not any(self.held_by):
            self._bytes = packer.pack(self._bytes)
            self._packer = packer
            self.size = len(self._bytes) + BYTES_PER_PARCEL


# The queue of a destination for which nothing waits. An empty one of its own would be a third of what a destination
# weighs. It takes nothing in.
NOTHING: deque[Parcel] = deque(maxlen=0)


class Lane:
    """The way to one destination."""

    __slots__ = (
        "accepted", "batch_bytes", "budget", "bytes", "destination", "dropped", "entered", "failures", "given_up",
        "heap_mark", "in_flight_parcels", "key", "left", "limits", "parcels", "paused_until", "problem",
        "rejected", "resource_cache", "retiring", "sending", "sent", "state", "timer", "urgent_through",
    )  # fmt: skip

    def __init__(self, destination: Destination, limits: Limits, budget: Budget) -> None:
        self.destination = destination
        self.key = destination.key
        self.limits = limits
        self.budget = budget
        self.retiring = False  # to be forgotten once everything has an outcome
        self.given_up = False  # to be forgotten whatever becomes of the rest
        self.resource_cache: tuple[Resource, bytes, bytes] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget what was: a forked child's spans are its own."""
        self.parcels = NOTHING
        self.in_flight_parcels: list[Parcel] = []
        self.accepted = 0
        self.entered = 0
        self.left = 0
        self.sent = 0
        self.rejected = 0
        self.dropped: dict[str, int] = {}
        self.bytes = 0
        self.heap_mark = 0
        self.batch_bytes = self.limits.batch_bytes
        self.failures = 0
        self.paused_until = 0.0
        self.state = UNPROVEN
        self.problem = ""
        self.sending = False
        self.timer: TimerHandle | None = None
        self.urgent_through = 0

    # --- what comes in -----------------------------------------------------------------------------------------------

    def put(self, parcel: Parcel) -> None:
        """Queue a span; the oldest goes where there are too many."""
        self.accepted += 1
        self.entered += 1
        if self.parcels is NOTHING:
            self.parcels = deque()
        self.parcels.append(parcel)
        self.bytes += parcel.size
        self.budget.hold(parcel, self)
        if len(self.parcels) > self.limits.queue_spans:
            self.drop_oldest(QUEUE_FULL)

    def lose(self, reason: str) -> None:
        """Account for a span that was accepted and is let go before it was queued."""
        self.accepted += 1
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def drop_oldest(self, reason: str, spans: int = 1) -> None:
        """Let the oldest waiting spans go."""
        count = min(spans, len(self.parcels))
        for _ in range(count):
            self._release(self.parcels.popleft())
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    # --- what goes out -----------------------------------------------------------------------------------------------

    def take(self) -> list[Parcel]:
        """The next batch; it is in flight until ``settle``. None where nothing waits any more."""
        if not self.parcels:
            return []
        batch: list[Parcel] = []
        weight = 0
        most = self.batch_bytes
        if not self.destination.reserved and not self.answers:
            most = min(most, PROBE_BYTES)
        while self.parcels and len(batch) < self.limits.batch_spans:
            size = self.parcels[0].length
            if batch and weight + size > most:
                break
            weight += size
            batch.append(self.parcels.popleft())
        if not self.parcels:
            self.parcels = NOTHING
        self.in_flight_parcels = batch
        self.budget.takes_off(self, batch)
        return batch

    def settle(self, outcome: Outcome, now: float) -> None:
        """Account for the batch in flight, and decide when to go on."""
        batch, self.in_flight_parcels = self.in_flight_parcels, []
        self.budget.lands(self)
        verdict = outcome.verdict
        if verdict is Verdict.TOO_LARGE and len(batch) > 1:
            self.batch_bytes = max(1, sum(parcel.length for parcel in batch) // 2)
            self._take_back(batch)
            self.problem = outcome.cause
            return
        if verdict in {Verdict.RETRY, Verdict.REFUSED}:
            self._take_back(batch)
            self.failures += 1
            refused = verdict is Verdict.REFUSED
            self.state = REFUSED if refused else FAILING
            self.problem = outcome.cause
            self.paused_until = now + (
                PROBE_SECONDS if refused else wait_seconds(self.failures, outcome.retry_after_seconds)
            )
            self.budget.is_failing(self)
            return
        rejected = min(outcome.rejected, len(batch)) if verdict is Verdict.SENT else len(batch)
        self.sent += len(batch) - rejected
        self.rejected += rejected
        for parcel in batch:
            self._release(parcel)
        if verdict is Verdict.SENT:  # too large once can have been one span, or somebody on the way
            self.batch_bytes = min(self.limits.batch_bytes, self.batch_bytes + self.limits.batch_bytes // GROWTH_STEPS)
        # It answered: whatever is wrong is wrong with these spans, and the next may fare better.
        self.failures = 0
        self.paused_until = 0.0
        self.state = DELIVERING if rejected < len(batch) else REJECTING
        self.problem = outcome.cause or ("partial_success" if rejected else "")

    def abandon(self, reason: str) -> int:
        """Let go of everything that waits or is in flight. Returns how many spans that were."""
        lost = self.in_flight + len(self.parcels)
        self.budget.lands(self)
        for parcel in (*self.in_flight_parcels, *self.parcels):
            self._release(parcel)
        self.in_flight_parcels = []
        self.parcels = NOTHING
        if lost:
            self.dropped[reason] = self.dropped.get(reason, 0) + lost
        return lost

    # --- what is known -----------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """How many spans are on their way."""
        return len(self.in_flight_parcels)

    @property
    def returning(self) -> bool:
        """Whether it delivered not long ago and has failed a few times since."""
        return self.sent > 0 and 0 < self.failures <= FEW_FAILURES

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is on its way."""
        return not self.parcels and not self.in_flight

    @property
    def answers(self) -> bool:
        """Whether it is known to have an answer to what it is sent now."""
        return self.state in {DELIVERING, REJECTING}

    @property
    def failing(self) -> bool:
        """Whether it is known not to take spans now."""
        return self.state in {FAILING, REFUSED}

    def wants_sending(self) -> bool:
        """Whether a batch should go now, pauses aside: full, or due."""
        if not self.parcels:
            return False
        full = len(self.parcels) >= self.limits.batch_spans or self.bytes >= self.limits.batch_bytes
        return full or self.left < self.urgent_through

    def everything_is_due(self) -> None:
        """All that waits now should go without waiting for more."""
        self.urgent_through = self.entered

    def counts(self) -> Counts:
        """The account."""
        return self.stats()().counts

    def stats(self, on_their_way_in: int = 0) -> Callable[[], DestinationStats]:
        """What an operator wants to know of it: read now, put together when it is called.

        Spans that are still on their way in are accepted and queued.
        Of ten thousand destinations the reading is done under the delivery's lock, and the rest need not be.
        """
        read = (self.accepted + on_their_way_in, self.sent, self.rejected, len(self.parcels) + on_their_way_in)
        in_flight, dropped = self.in_flight, dict(self.dropped) if self.dropped else {}
        size, state, problem, destination = self.bytes, self.state, self.problem, self.destination
        return lambda: DestinationStats(
            destination.name, destination.protocol, Counts(*read, in_flight, dropped), size, state, problem
        )

    def _take_back(self, batch: list[Parcel]) -> None:
        if self.parcels is NOTHING:
            self.parcels = deque()
        self.parcels.extendleft(reversed(batch))
        too_many = len(self.parcels) - self.limits.queue_spans  # others have come while it was on its way
        if too_many > 0:
            self.drop_oldest(QUEUE_FULL, too_many)

    def _release(self, parcel: Parcel) -> None:
        self.bytes -= parcel.size
        self.left += 1
        self.budget.let_go(parcel, self)


def all_of(lanes: Iterable[Lane]) -> tuple[Lane, ...]:
    """Each lane once, in order."""
    return tuple(dict.fromkeys(lanes))

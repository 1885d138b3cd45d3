"""The couriers: each takes one destination's batches there, one after the other, and settles what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from litellm_otel_plugin import __version__
from litellm_otel_plugin.delivery.accounts import EVICTED
from litellm_otel_plugin.delivery.batches import Batches
from litellm_otel_plugin.delivery.exporter_sender import ExporterSender
from litellm_otel_plugin.delivery.gates import Gates, patience_seconds
from litellm_otel_plugin.delivery.outcome import Outcome, Verdict
from litellm_otel_plugin.delivery.report import Reporter
from litellm_otel_plugin.guard import contained

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from litellm_otel_plugin.delivery.budget import Budget
    from litellm_otel_plugin.delivery.lane import Lane, Parcel
    from litellm_otel_plugin.delivery.lane_table import LaneTable
    from litellm_otel_plugin.delivery.limits import Limits

# How soon a tenant's backend looks again whether others' exports under way leave it room.
SECONDS_UNTIL_THERE_IS_ROOM = 0.2


class Couriers:
    """Sends what waits, when it should be sent: at most one courier for a destination at a time.

    ``spawn`` runs a coroutine on the delivery's loop until that ends.

    The gates, the senders, the encodings of what repeats, and a destination's timer, pause and ``sending`` are the
    delivery's thread's alone. What is counted changes under the table's lock, which is not held while a batch is put
    together or sent. Only that all is closed is said from another thread.
    """

    def __init__(
        self,
        table: LaneTable,
        budget: Budget,
        limits: Limits,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._table = table
        self._budget = budget
        self._limits = limits
        self._spawn = spawn
        self._batches = Batches()
        self._forked_after_grpc = False
        self._begin()

    def _begin(self) -> None:
        self._closed = False
        self._senders: dict[str, Any] = {}
        self._gates: Gates | None = None
        self._reporter = Reporter(self._table.every_lane)

    # --- on any thread -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Set out no more."""
        self._closed = True

    def restart_in_child(self) -> object:
        """After a fork: connect anew. Returns what belongs to the parent's loop."""
        parents = self._senders, self._gates
        self._forked_after_grpc = self._forked_after_grpc or "grpc" in self._senders
        self._begin()
        return parents

    # --- on the delivery's thread ------------------------------------------------------------------------------------

    def arm(self, lane: Lane) -> None:
        """See to it that what waits is sent when it should be."""
        if lane.sending or not lane.parcels or self._closed:
            return
        now = time.monotonic()
        wait = lane.paused_until - now
        if wait <= 0:
            if lane.wants_sending() or lane.retiring:
                self._dispatch(lane)
                return
            wait = self._limits.schedule_delay_seconds
        if lane.timer is None:
            lane.timer = asyncio.get_running_loop().call_later(wait, self._timer_fired, lane)

    def hurry(self, lane: Lane) -> None:
        """Send what waits now, a pause notwithstanding."""
        lane.everything_is_due()
        lane.paused_until = 0.0
        _stop_timer(lane)
        self.arm(lane)

    async def close_senders(self, seconds: float) -> None:
        """Close the connections, for at most so long with each kind of sender."""
        for sender in self._senders.values():
            close = getattr(sender, "close", None)
            if close is not None:
                with contained("closing connections"), contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(close(), seconds)

    def _timer_fired(self, lane: Lane) -> None:
        lane.timer = None
        lane.everything_is_due()
        self.arm(lane)

    def _dispatch(self, lane: Lane) -> None:
        lane.sending = True
        _stop_timer(lane)
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
                    with self._table.lock:
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
            with self._table.lock:
                self._table.forget_if_done(lane)
            self.arm(lane)

    def _gate(self, lane: Lane) -> asyncio.Semaphore:
        if self._gates is None:
            self._gates = Gates()
        return self._gates.of(lane)

    def _settle(self, lane: Lane, outcome: Outcome) -> None:
        with self._table.lock:
            lane.settle(outcome, time.monotonic())
            if lane.given_up:
                lane.drop_oldest(EVICTED, len(lane.parcels))
            self._table.settled(lane)

    async def _send(self, lane: Lane, batch: list[Parcel]) -> Outcome:
        destination = lane.destination
        try:
            if destination.exporter is not None:
                spans = [parcel.span for parcel in batch]
                return await self._sender("exporter").send(destination.exporter, spans)  # type: ignore[no-any-return]
            body = await self._batches.body(lane, batch)
            transport = "grpc" if destination.protocol == "grpc" else "http"
            longest = min(destination.timeout_seconds, self._limits.export_timeout_seconds)
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


def _stop_timer(lane: Lane) -> None:
    if lane.timer is not None:
        lane.timer.cancel()
        lane.timer = None


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

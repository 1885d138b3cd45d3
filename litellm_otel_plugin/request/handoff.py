"""When the request's own call was first handed to a provider, and how often: its preprocessing time and attempts.

One request can make several calls: a guardrail may ask a model, a router may classify the prompt. All of them run in
the request's context, so every hand-off is kept with its call, and the request's own call is told apart at the end,
when it is known which one that was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from litellm_otel_plugin.request.attempts import Call, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from litellm_otel_plugin.request.attempts import Attempt, Stretch

NANOSECONDS_PER_MILLISECOND = 1_000_000
MILLISECONDS_PER_SECOND = 1_000

# A request makes one call and perhaps a few for its guardrails. A WebSocket session can make one per message for
# hours: past this many, further calls are not told apart any more, and the first of them has long been kept.
MOST_CALLS = 100


class OwnCall(Protocol):
    """The request's own call, as LiteLLM knows it."""

    @property
    def call_id(self) -> str | None:
        """Its id; a client can choose it, so it only tells calls of one request apart."""

    def is_described_by(self, details: object) -> bool:
        """Whether LiteLLM's details of a call are those of this one."""

    def first_handoff_at(self) -> float | None:
        """The wall-clock instant of its first hand-off as LiteLLM noted it, in seconds since the epoch."""


@dataclass(slots=True)
class Handoffs:
    """The hand-offs of one request."""

    received_at: float = field(default_factory=time.time)
    received_ns: int = field(default_factory=time.perf_counter_ns)
    own: OwnCall | None = None
    # On some doors LiteLLM makes the request's call anew, with an object and an id that the door does not know.
    remade: bool = False
    last_attempt_at: float = 0.0
    _calls: dict[int, Call] = field(default_factory=dict)
    _sent_ns: int | None = None
    _sends: int = 0
    _sending: Stopwatch = field(default_factory=Stopwatch)

    def begin(
        self, details: Mapping[str, Any], call_id: object, route: object = None, known: Call | None = None
    ) -> Attempt | None:
        """LiteLLM is about to hand a call to a provider; ``known`` is the call where others keep it.

        ``None`` for a call past the bound.
        """
        # The entry holds the details, so no other object can get their id.
        call = self._calls.get(id(details), known)
        if call is None:
            if len(self._calls) >= MOST_CALLS:
                return None
            call = self._calls[id(details)] = Call(details, call_id)
        self.last_attempt_at = time.time()
        return call.begin(route)

    def call_of(self, details: Mapping[str, Any]) -> Call | None:
        """The call with these details, where one was handed to a provider."""
        return self._calls.get(id(details))

    def ended(self, details: Mapping[str, Any], failure: BaseException | None = None) -> None:
        """A call with these details has failed once, or was answered in whole."""
        call = self._calls.get(id(details))
        attempt = call.under_way() if call is not None else None
        if attempt is not None:
            attempt.end(failure)

    @property
    def calls(self) -> list[Call]:
        """All calls of the request, its own and those of its guardrails."""
        return list(self._calls.values())

    def sent_unannounced(self, *, is_attempt: bool) -> Stretch | None:
        """A provider's client sends something that LiteLLM did not announce as a call; to be stopped at its answer."""
        if self._calls:
            return None  # a call of a guardrail's, announced before it was sent
        self._sends += is_attempt
        if self._sent_ns is None:
            self._sent_ns = time.perf_counter_ns()
        return self._sending.start()

    def attempts(self, answered_call_id: str | None) -> int:
        """How often the request's own call was handed to a provider."""
        calls = self._own_calls(answered_call_id)
        if calls:
            return sum(call.made for call in calls)
        if self._sends:
            return self._sends
        return 0 if self._noted_by_litellm() is None else 1

    def preprocessing_ms(self, answered_call_id: str | None) -> float | None:
        """Milliseconds from receipt to the first hand-off; ``None`` where no provider was reached."""
        calls = self._own_calls(answered_call_id)
        first_ns = min((call.first_ns for call in calls), default=self._sent_ns)
        if first_ns is not None:
            return (first_ns - self.received_ns) / NANOSECONDS_PER_MILLISECOND
        return self._noted_by_litellm()

    def provider_ms(self, answered_call_id: str | None) -> float | None:
        """Milliseconds that a provider was busy with the request's own call; ``None`` where none was reached."""
        calls = self._own_calls(answered_call_id)
        if not calls:
            return self._sending.elapsed_ns() / NANOSECONDS_PER_MILLISECOND if self._sends else None
        return sum(call.provider.elapsed_ns() for call in calls) / NANOSECONDS_PER_MILLISECOND

    def elapsed_ms(self) -> float:
        """Milliseconds since the request was received."""
        return (time.perf_counter_ns() - self.received_ns) / NANOSECONDS_PER_MILLISECOND

    def answered(self, answered_call_id: str | None) -> None:
        """The request's own call has been answered in whole."""
        for call in self._own_calls(answered_call_id):
            for attempt in call.open:
                attempt.end()

    def under_way(self, answered_call_id: str | None) -> list[Attempt]:
        """The attempts at the request's own call that are not over."""
        calls = self._own_calls(answered_call_id)
        return [attempt for call in calls for attempt in call.open if attempt.ended_at is None]

    def are_of(self, details: object) -> bool:
        """Whether a call that LiteLLM tells its loggers of is one that was noted here as the request's own."""
        return any(call.details is details for call in self._own_calls(None))

    def forget(self) -> None:
        """Let go of LiteLLM's objects, but for calls that wait for its word on how they ended."""
        for call in self._calls.values():
            if call.request_over_at is None:
                call.forget()
        self._calls.clear()
        self.own = None

    def _own_calls(self, answered_call_id: str | None) -> list[Call]:
        if self.remade:
            return list(self._calls.values())
        own = self.own
        if own is not None:
            described = [call for call in self._calls.values() if own.is_described_by(call.details)]
            if described:
                return described
        call_id = answered_call_id or (own.call_id if own is not None else None)
        if call_id is None:  # a door that has no call id has no guardrails either
            return list(self._calls.values())
        return [call for call in self._calls.values() if call.call_id == call_id]

    def _noted_by_litellm(self) -> float | None:
        """The time from LiteLLM's own note, for calls that are made in a thread without the request's context."""
        handed_off_at = self.own.first_handoff_at() if self.own is not None else None
        if handed_off_at is None:
            return None
        # Wall clocks step. A hand-off outside the request's own life is a wrong clock, not a fact.
        elapsed = handed_off_at - self.received_at
        return elapsed * MILLISECONDS_PER_SECOND if 0 <= elapsed <= time.time() - self.received_at else None

"""The calls that are under way in this process, and those that LiteLLM has not told the end of.

A request's own record knows its calls. This map is for where the record is not at hand: threads, and the callbacks
that LiteLLM runs after the answer.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from contextvars import Context
from typing import TYPE_CHECKING, Any

from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.errors import CANCELLED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from litellm_otel_plugin.request.attempts import Attempt, Call
    from litellm_otel_plugin.request.record import RequestRecord

# As many as LiteLLM's own map of open calls holds.
MOST_OPEN_CALLS = 10_000

# LiteLLM tells how a call ended in callbacks that it queues, up to seconds after the answer. What it has not told by
# then it never will: a client left, a task was cancelled, a caller asked that nobody be told.
SECONDS_FOR_LITELLM = 30.0

# Finishing one takes half a millisecond of the event loop: requests get their turn after so many.
CALLS_AT_ONCE = 20

# How often calls are looked for that have waited for so long.
SECONDS_BETWEEN_LOOKS = 5.0


class OpenCalls:
    """Calls with an attempt whose span is not made yet, by the object that LiteLLM keeps their details in."""

    def __init__(self, finish: Callable[[Attempt], None], will_be_told: Callable[[Call], bool]) -> None:
        self._finish_one = finish
        self._will_be_told = will_be_told
        self._calls: OrderedDict[int, Call] = OrderedDict()  # an entry holds the details, so their id stays theirs
        self._waiting: OrderedDict[int, Call] = OrderedDict()
        self._lock = threading.Lock()
        self._look: asyncio.TimerHandle | None = None
        self._looks_on: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def begin(
        self, record: RequestRecord | None, details: Mapping[str, Any], call_id: object, route: object
    ) -> Attempt | None:
        """A call is handed to a provider; ``None`` where it belongs to no request, or is under way for a session."""
        known = self._calls.get(id(details))  # for calls that are made where the record is not at hand
        if record is not None:
            attempt = record.begin_attempt(details, call_id, route, known)
            record.open_calls = self
        else:
            attempt = known.begin(route) if known is not None else None
        if attempt is not None:
            self._add(attempt.call)
        return attempt

    def _add(self, call: Call) -> None:
        """A call has one more attempt under way; past the bound, the oldest call is finished with what is known."""
        evicted = None
        with self._lock:
            self._calls[id(call.details)] = call
            if len(self._calls) > MOST_OPEN_CALLS:
                _, evicted = self._calls.popitem(last=False)
                self._waiting.pop(id(evicted.details), None)
        if evicted is not None:
            self._finish(*evicted.open)

    def of(self, details: Mapping[str, Any]) -> Call | None:
        """The call with these details."""
        return self._calls.get(id(details))

    def of_copy(self, details: Mapping[str, Any]) -> Call | None:
        """The call whose details these are a copy of, made to leave something out of them: the rest is the same."""
        params = details.get("litellm_params")
        if params is None:
            return None
        with self._lock:
            return next((each for each in self._calls.values() if each.details.get("litellm_params") is params), None)

    def closed(self, attempt: Attempt, at: float | None = None) -> None:
        """The span of an attempt has been made, which is over now or was at a past instant."""
        call = attempt.call
        attempt.end(at=at)
        with self._lock:
            if attempt in call.open:
                call.open.remove(attempt)
            if not call.open:
                self._calls.pop(id(call.details), None)
                self._waiting.pop(id(call.details), None)
        attempt.forget()
        if not call.open and call.request_over_at is not None:
            call.forget()

    def request_is_over(self, calls: Iterable[Call], failure: BaseException | str | None) -> None:
        """The request that made them was answered, or ended without: they wait for LiteLLM's word no longer than so."""
        now = time.time()
        for call in calls:
            if not call.open:
                continue
            call.request_over_at, call.request_failure = now, failure
            if failure is None:  # LiteLLM knows nothing of an attempt that it cancelled
                known = [each for each in call.open if each.failure == CANCELLED]
            elif self._will_be_told(call):
                known = [each for each in call.open if each.ended_at is not None]
            else:
                known = list(call.open)
            self._finish(*known)
            if not call.open:
                continue
            with self._lock:
                self._waiting[id(call.details)] = call
        self._see_to_those_that_wait()

    def finish_everything(self) -> None:
        """The proxy stops: nobody will tell of any of them."""
        while call := self._next(lambda _: True):
            self._finish(*call.open)

    def begin_anew(self) -> None:
        """In a forked child: the parent's calls are the parent's."""
        self._lock = threading.Lock()
        self._calls.clear()
        self._waiting.clear()
        self._look = self._looks_on = None

    def _see_to_those_that_wait(self, seconds: float = SECONDS_BETWEEN_LOOKS) -> None:
        loop = asyncio.get_running_loop()
        # A loop that served one call and was closed took its timer with it.
        if self._waiting and (self._look is None or self._looks_on is None or self._looks_on.is_closed()):
            self._looks_on = loop
            self._look = loop.call_later(seconds, self._look_again, context=Context())

    def _look_again(self) -> None:
        self._look = None
        overdue = time.time() - SECONDS_FOR_LITELLM
        for _ in range(CALLS_AT_ONCE):
            call = self._next(lambda waiting: (waiting.request_over_at or 0.0) <= overdue, among=self._waiting)
            if call is None:
                self._see_to_those_that_wait()
                return
            self._finish(*call.open)
        self._see_to_those_that_wait(0.0)

    def _next(self, is_due: Callable[[Call], bool], among: OrderedDict[int, Call] | None = None) -> Call | None:
        """Take the first call out where it is due."""
        with self._lock:
            key, call = next(iter((self._calls if among is None else among).items()), (0, None))
            if call is None or not is_due(call):
                return None
            self._calls.pop(key, None)
            self._waiting.pop(key, None)
            return call

    def _finish(self, *attempts: Attempt) -> None:
        for attempt in attempts:
            with contained("finishing an attempt"):
                self._finish_one(attempt)
            self.closed(attempt)

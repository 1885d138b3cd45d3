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
from litellm_otel_plugin.request.attempts import Call
from litellm_otel_plugin.request.errors import CANCELLED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from litellm_otel_plugin.request.attempts import Attempt
    from litellm_otel_plugin.request.record import RequestRecord

# As many as LiteLLM's own map of open calls holds.
MOST_OPEN_CALLS = 10_000

# LiteLLM tells how a call ended in callbacks that it queues, up to seconds after the answer. What it has not told by
# then it never will: a client left, a task was cancelled, a caller asked that nobody be told.
SECONDS_FOR_LITELLM = 30.0

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

    def __len__(self) -> int:
        return len(self._calls)

    def begin(
        self, record: RequestRecord | None, details: Mapping[str, Any], call_id: object, route: object
    ) -> Attempt | None:
        """A call is handed to a provider; ``None`` where it is one that is under way."""
        known = self._calls.get(id(details))  # a request does not keep all that it makes
        if record is not None:
            attempt = record.begin_attempt(details, call_id, route, known)
            record.open_calls = self
        else:
            attempt = (known or Call(details, call_id, is_stray=True)).begin(route)
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
        with self._lock:
            return next((each for each in self._calls.values() if each.details.get("litellm_params") is params), None)

    def closed(self, attempt: Attempt) -> None:
        """The span of an attempt has been made."""
        call = attempt.call
        attempt.end()
        with self._lock:
            if attempt in call.open:
                call.open.remove(attempt)
            if not call.open:
                self._calls.pop(id(call.details), None)
                self._waiting.pop(id(call.details), None)
        attempt.forget()
        if not call.open and (call.is_stray or call.request_over_at is not None):
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
        if self._waiting and self._look is None:
            self._look = asyncio.get_running_loop().call_later(
                SECONDS_BETWEEN_LOOKS, self._look_again, context=Context()
            )

    def finish_everything(self) -> None:
        """The proxy stops: nobody will tell of any of them."""
        while self._calls:
            with self._lock:
                _, call = self._calls.popitem(last=False)
                self._waiting.pop(id(call.details), None)
            self._finish(*call.open)

    def begin_anew(self) -> None:
        """In a forked child: the parent's calls are the parent's."""
        self._lock = threading.Lock()
        self._calls.clear()
        self._waiting.clear()
        self._look = None

    def _look_again(self) -> None:
        self._look = None
        overdue = time.time() - SECONDS_FOR_LITELLM
        while self._waiting:
            with self._lock:
                key, call = next(iter(self._waiting.items()))
                if (call.request_over_at or 0.0) > overdue:
                    break
                del self._waiting[key]
                self._calls.pop(key, None)
            self._finish(*call.open)
        if self._waiting:
            self._look = asyncio.get_running_loop().call_later(
                SECONDS_BETWEEN_LOOKS, self._look_again, context=Context()
            )

    def _finish(self, *attempts: Attempt) -> None:
        for attempt in attempts:
            with contained("finishing an attempt"):
                self._finish_one(attempt)
            self.closed(attempt)

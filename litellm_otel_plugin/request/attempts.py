"""A call to a provider and its attempts: how many there were, why, and for how long a provider was busy with them."""

from __future__ import annotations

import asyncio
import time
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from litellm_otel_plugin.request.errors import CANCELLED

if TYPE_CHECKING:
    from collections.abc import Mapping

# What a CLIENT span says of its attempt, whatever words its backend speaks.
ATTEMPT, ATTEMPT_REASON = "litellm.attempt", "litellm.attempt.reason"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
OF_AN_ATTEMPT = (ATTEMPT, ATTEMPT_REASON, FIRST_CHUNK)

# Why there was one more attempt.
RETRY, FALLBACK, PARALLEL = "retry", "fallback", "parallel"

NANOSECONDS_PER_SECOND = 1_000_000_000

# How an attempt ended that raised nothing which we were told of, and whose task was not cancelled.
SUPERSEDED = "superseded"


# The attempt that this code was started by; what it starts in turn sees it too.
current_attempt: ContextVar[Attempt | None] = ContextVar("litellm_otel_plugin_attempt", default=None)


@dataclass(slots=True, eq=False)
class Stretch:
    """One of the things that a stopwatch counts."""

    watch: Stopwatch
    since_ns: int

    def stop(self, at: float | None = None) -> None:
        """It is over, or was at a past instant of the wall clock."""
        self.watch.stop(self, at)


@dataclass(slots=True, eq=False)
class Stopwatch:
    """For how long at least one of several things that overlap was going on."""

    _elapsed_ns: int = 0
    _going_on: list[Stretch] = field(default_factory=list)
    # From when to when, of what is over: kept while something goes on, for an end can be told of late.
    _over: list[tuple[int, int]] = field(default_factory=list)

    def start(self) -> Stretch:
        """One more begins."""
        stretch = Stretch(self, time.perf_counter_ns())
        self._going_on.append(stretch)
        return stretch

    def stop(self, stretch: Stretch, at: float | None = None) -> None:
        """One of them is over, or was at a past instant of the wall clock."""
        ended_ns = now_ns = time.perf_counter_ns()
        if at is not None:
            ago_ns = int((time.time() - at) * NANOSECONDS_PER_SECOND)
            ended_ns = min(max(now_ns - ago_ns, stretch.since_ns), now_ns)  # wall clocks step
        self._going_on.remove(stretch)
        if not self._going_on and not self._over:  # a guarded stream stops it for each piece
            self._elapsed_ns += ended_ns - stretch.since_ns
            return
        self._over.append((stretch.since_ns, ended_ns))
        if not self._going_on:
            self._elapsed_ns += _covered(self._over)
            self._over.clear()

    def elapsed_ns(self) -> int:
        """Until now."""
        now_ns = time.perf_counter_ns()
        return self._elapsed_ns + _covered([*self._over, *((each.since_ns, now_ns) for each in self._going_on)])


@dataclass(slots=True, eq=False)
class Attempt:
    """One hand-off of a call to a provider."""

    call: Call
    number: int
    reason: str | None
    task: asyncio.Task[Any] | None
    # Where LiteLLM had decided to send it.
    route: object = None
    started_ns: int = field(default_factory=time.perf_counter_ns)
    # Where it was made: what ends its span later finds the request there.
    context: Context = field(default_factory=copy_context)
    ended_at: float | None = None
    # While the provider is busy with it; and since when it is not, where nobody asks it for more of its stream.
    busy: Stretch | None = None
    rests_since: float | None = None
    # What ended it: an exception, or a name where none was seen.
    failure: BaseException | str | None = None
    # What the provider answered, where that was not a stream: LiteLLM tells of no answer that a guardrail then refused.
    answer: object = None
    # What is known of this one alone, where the call's details are overwritten by the next.
    noted: dict[str, Any] = field(default_factory=dict)
    # Where its first request went, where that is told to the provider.
    sent_to: bytes | None = None
    # Whether what is noted is its own also where another ran beside it.
    told_apart: bool = False
    # What the span's maker holds open for it.
    span: Any = None

    def end(self, failure: BaseException | str | None = None, at: float | None = None) -> None:
        """It is over, or was at a past instant; the first word on that counts."""
        if self.ended_at is None:
            self.ended_at = self.over_by(at or time.time())
            self.failure = failure
            busy, self.busy = self.busy, None
            if busy is not None:
                busy.stop(at)
            if self.task is not None:  # one that lives for long, as a session's, would keep all that it made
                self.task.remove_done_callback(self.task_is_done)

    def over_by(self, at: float) -> float:
        """When it was over, for those who learnt of that by ``at``."""
        return at if self.rests_since is None else min(at, self.rests_since)

    def rest(self) -> bool:
        """Nobody asks the provider for more at the moment; whether somebody did until now."""
        busy, self.busy = self.busy, None
        if busy is None:
            return False
        busy.stop()
        self.rests_since = time.time()
        return True

    def go_on(self) -> None:
        """The provider is asked for more."""
        if self.busy is None and self.ended_at is None:
            self.busy, self.rests_since = self.call.provider.start(), None

    def forget(self) -> None:
        """Let go of what is not ours: a task that outlives the request still sees the attempt."""
        self.noted, self.answer, self.span, self.task, self.context = {}, None, None, None, Context()

    def runs_beside(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether it is made at the same time as one of that task's."""
        return self.task is not None and self.task is not task and not self.task.done()

    def task_is_done(self, task: asyncio.Task[Any]) -> None:
        """The task that made it is. One that was cancelled took the attempt with it; a stream outlives its task."""
        if task.cancelled():
            self.end(CANCELLED)


@dataclass(slots=True, eq=False)
class Call:
    """A call, told apart by the object that LiteLLM keeps its details in: no other call has the same one."""

    details: Mapping[str, Any]
    call_id: object
    first_ns: int = 0
    made: int = 0
    provider: Stopwatch = field(default_factory=Stopwatch)
    # Those whose span has not been made yet.
    open: list[Attempt] = field(default_factory=list)
    # Whether attempts of it ran side by side; LiteLLM's notes of one are then overwritten with the other's.
    ran_beside: bool = False
    # LiteLLM's own object of the call, where it was seen.
    logging_object: Any = None
    # When the request that it was made for was over, and what of it ended early.
    request_over_at: float | None = None
    request_failure: BaseException | str | None = None
    _route: object = None

    def begin(self, route: object) -> Attempt:
        """It is handed to a provider; ``route`` is where LiteLLM had decided to send it.

        LiteLLM can say so several times of one attempt: of each input that is embedded, of a cache that it asks first.
        It tells of a failure before it tries again.
        """
        task = _current_task()
        under_way = [each for each in self.open if each.ended_at is None]
        for each in under_way:
            if each.task is task and route == self._route:
                return each
        beside = [each for each in under_way if each.runs_beside(task)]
        self.ran_beside = self.ran_beside or bool(beside)
        for each in under_way:
            if each not in beside:
                each.end(SUPERSEDED)
        self.first_ns = self.first_ns or time.perf_counter_ns()
        self.made += 1
        current_attempt.set(None)  # in the next one's context this one would keep the one before it, and so on
        attempt = Attempt(self, self.made, self._reason(route, beside=bool(beside)), task, route)
        self._route = route
        self.open.append(attempt)
        current_attempt.set(attempt)
        attempt.go_on()
        if task is not None:
            task.add_done_callback(attempt.task_is_done)
        return attempt

    def forget(self) -> None:
        """Let go of LiteLLM's objects."""
        self.details, self.logging_object = {}, None

    def under_way(self) -> Attempt | None:
        """The attempt that the running task makes, else the first that is not over."""
        task = _current_task()
        waiting = [each for each in self.open if each.ended_at is None]
        mine = [each for each in waiting if each.task is task]
        return next(iter(mine or waiting), None)

    def told_of(self, *, failed: bool) -> Attempt | None:
        """Which attempt is meant by word that the call has failed or was answered."""
        if failed:
            ended = [each for each in self.open if each.failure is not None]
            return next(iter(ended), None) or self.under_way()
        answered = [each for each in self.open if each.failure is None]
        mine = current_attempt.get()
        return mine if mine in answered else next(reversed(answered), None)

    def _reason(self, route: object, *, beside: bool) -> str | None:
        if self.made == 1:
            return None
        if beside:
            return PARALLEL
        return RETRY if route == self._route else FALLBACK


def _covered(intervals: list[tuple[int, int]]) -> int:
    """How much of the time lies in at least one of them."""
    covered = until = 0
    for start, end in sorted(intervals):
        if end > until:
            covered += end - max(start, until)
            until = end
    return covered


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return None

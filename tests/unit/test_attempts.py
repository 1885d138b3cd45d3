"""Attempts and open calls: which there were, for how long, why, and that each is finished once."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from hypothesis import given
from hypothesis import strategies as st

from litellm_otel_plugin.request import open_calls as open_calls_module
from litellm_otel_plugin.request.attempts import (
    FALLBACK,
    PARALLEL,
    RETRY,
    SUPERSEDED,
    Attempt,
    Call,
    Stopwatch,
    Stretch,
)
from litellm_otel_plugin.request.errors import CANCELLED
from litellm_otel_plugin.request.handoff import MOST_CALLS, Handoffs
from litellm_otel_plugin.request.mount import mount
from litellm_otel_plugin.request.open_calls import CALLS_AT_ONCE, SECONDS_FOR_LITELLM, OpenCalls
from litellm_otel_plugin.request.record import RequestRecord, current_record
from litellm_otel_plugin.request.server_span import durations
from tests.support.clock import Clock
from tests.support.memory import NOTHING, kept_each_time
from tests.support.spans import SpanMemory

HERE, THERE = ("group", 0), ("group", 1)


class ProviderBusyError(Exception):
    """What ends an attempt."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.rules(monkeypatch)
    return clock


_SPAN = SpanMemory().provider.get_tracer("t").start_span("POST")


def _record(kind: str = "http", clock: Clock | None = None) -> RequestRecord:
    handoffs = Handoffs() if clock is None else Handoffs(clock.time(), clock.perf_counter_ns())
    return RequestRecord(scope={"type": kind}, span=_SPAN, handoffs=handoffs)


class Finished:
    """Open calls, and every attempt that they finished."""

    def __init__(self, *, litellm_will_tell: bool = True) -> None:
        self.attempts: list[Attempt] = []
        self.one_more = asyncio.Event()
        self.calls = OpenCalls(self._finish, lambda _: litellm_will_tell)

    def _finish(self, attempt: Attempt) -> None:
        attempt.end(attempt.call.request_failure, attempt.call.request_over_at)
        self.attempts.append(attempt)
        self.one_more.set()

    def begin(self, details: dict[str, Any], record: RequestRecord | None = None, route: object = HERE) -> Attempt:
        attempt = self.calls.begin(record or _record(), details, "chosen by a client", route)
        assert attempt is not None
        return attempt


# --- how long ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.integers(0, 300)), max_size=12))
def test_a_stopwatch_counts_what_overlaps_once(intervals: list[tuple[int, int, int]]) -> None:
    """Of some it is told a while after they were over."""
    clock, watch = Clock(), Stopwatch()
    with pytest.MonkeyPatch.context() as patch:
        clock.rules(patch)
        going_on: dict[int, Stretch] = {}
        for clock.now_ms in range(1_301):
            for n, (start, length, late) in enumerate(intervals):
                if start == clock.now_ms:
                    going_on[n] = watch.start()
                if start + length + late == clock.now_ms:
                    going_on.pop(n).stop(clock.time() - late / 1_000 if late else None)
        covered = {instant for start, length, _ in intervals for instant in range(start, start + length)}
        assert watch.elapsed_ns() / 1_000_000 == pytest.approx(len(covered), abs=0.01)
        assert not watch._over


def test_an_end_outside_of_a_stretch_is_a_wrong_clocks(clock: Clock) -> None:
    watch = Stopwatch()
    stretch = watch.start()
    clock.passes(10)
    stretch.stop(clock.time() - 3_600)
    assert watch.elapsed_ns() == 0
    stretch = watch.start()
    clock.passes(10)
    stretch.stop(clock.time() + 3_600)
    assert watch.elapsed_ns() == 10_000_000


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 9_000), st.integers(0, 50)), min_size=1, max_size=8))
def test_where_the_time_went_adds_up(attempts: list[tuple[int, int, int]]) -> None:
    """Each attempt comes after a pause: preprocessing before the first, the router's backoff before the others.

    LiteLLM tells of its end a while later.
    """
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        clock.rules(patch)
        record = _record(clock=clock)
        details: dict[str, Any] = {}
        for pause, busy, late in attempts:
            clock.passes(pause)
            attempt = record.begin_attempt(details, "a")
            assert attempt is not None
            clock.passes(busy)
            ended_at = clock.time()
            clock.passes(late)
            attempt.end(ProviderBusyError(), ended_at)
            assert attempt.ended_at == ended_at
        clock.passes(7)
        total = sum(map(sum, attempts)) + 7
        provider = sum(busy for _, busy, _ in attempts)
        went = durations(record)
        assert went == {
            "litellm.preprocessing.duration_ms": attempts[0][0],
            "litellm.provider.duration_ms": pytest.approx(provider, abs=0.01),
            "litellm.overhead.duration_ms": pytest.approx(total - provider, abs=0.01),
        }
        assert went["litellm.provider.duration_ms"] + went["litellm.overhead.duration_ms"] == pytest.approx(total)
        assert record.handoffs.elapsed_ms() == total
        assert record.handoffs.attempts("a") == len(attempts)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=8), st.integers(0, 500))
def test_while_nobody_asks_a_provider_for_more_it_is_not_busy(pieces: list[tuple[int, int]], last: int) -> None:
    """Each piece comes after a while, and is then looked at for a while; the last is when the provider was done."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        clock.rules(patch)
        record = _record(clock=clock)
        attempt = record.begin_attempt({}, "a")
        assert attempt is not None
        assert record.handoffs.under_way("a") == [attempt]
        for busy, looked_at in [*pieces, (10, last)]:
            attempt.go_on()
            clock.passes(busy)
            done_at = clock.time()
            assert (attempt.rest(), attempt.rest()) == (True, False)
            clock.passes(looked_at)
        attempt.end()
        attempt.go_on()
        assert (attempt.ended_at, attempt.rest()) == (done_at, False)
        assert record.handoffs.under_way("a") == []
        assert durations(record) == {
            "litellm.preprocessing.duration_ms": 0,
            "litellm.provider.duration_ms": sum(busy for busy, _ in pieces) + 10,
            "litellm.overhead.duration_ms": sum(looked_at for _, looked_at in pieces) + last,
        }


def test_the_first_piece_that_was_sent_on_can_be_an_earlier_attempts() -> None:
    record, details = _record(), dict[str, Any]()
    record.sends_events = True
    first = record.begin_attempt(details, "a", HERE)
    record.first_byte_ms = record.handoffs.elapsed_ms()
    second = record.begin_attempt(details, "a", THERE)
    assert first is not None
    assert second is not None
    assert 0 < (record.seconds_to_first_chunk(first) or 0) < record.first_byte_ms / 1_000
    assert record.seconds_to_first_chunk(second) is None


def test_an_attempt_under_way_counts_until_now(clock: Clock) -> None:
    record = _record(clock=clock)
    clock.passes(5)
    record.begin_attempt({}, "a")
    clock.passes(20)
    assert durations(record)["litellm.provider.duration_ms"] == 20
    assert durations(record)["litellm.overhead.duration_ms"] == 5


def test_where_no_provider_was_reached_everything_is_overhead(clock: Clock) -> None:
    record = _record(clock=clock)
    clock.passes(5)
    assert durations(record) == {"litellm.overhead.duration_ms": 5}


def test_a_guardrails_model_call_is_no_providers_time_of_the_request(clock: Clock) -> None:
    record = _record(clock=clock)
    judge, own = {"litellm_call_id": "judge"}, {"litellm_call_id": "own"}
    first = record.begin_attempt(judge, "judge")
    assert first is not None
    clock.passes(40)
    first.end()
    second = record.begin_attempt(own, "own")
    assert second is not None
    clock.passes(100)
    second.end()
    record.call_id = "own"
    assert durations(record)["litellm.provider.duration_ms"] == 100
    assert durations(record)["litellm.overhead.duration_ms"] == 40


async def test_the_span_and_the_header_say_where_the_time_went(clock: Clock) -> None:
    """The whole way: a real application under contrib's middleware and our layer."""
    memory, app = SpanMemory(), FastAPI()

    @app.get("/chat")
    async def chat() -> JSONResponse:
        record = current_record()
        assert record is not None
        record.handoffs.received_ns = clock.perf_counter_ns()
        clock.passes(30)
        for busy in (200, 500):
            attempt = record.begin_attempt(details, "a")
            assert attempt is not None
            clock.passes(busy)
            attempt.end()
            clock.passes(1_000)  # backoff, then what comes after the answer
        return JSONResponse({}, headers={"x-litellm-call-id": "a"})

    details: dict[str, Any] = {}
    app.middleware_stack = app.build_middleware_stack()
    mount(app, tracer_provider=memory.provider, legacy_names=False, excluded_paths="", server_timing=True)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.example") as client:
        response = await client.get("/chat")
    stamped = dict(memory.only().attributes or {})
    assert {name: stamped[name] for name in stamped if str(name).endswith("_ms")} == {
        "litellm.preprocessing.duration_ms": 30,
        "litellm.provider.duration_ms": 700,
        "litellm.overhead.duration_ms": 2_030,
        "litellm.time_to_first_byte_ms": 2_730,
    }
    assert response.headers.get_list("server-timing") == [
        "preprocessing;dur=30.000, provider;dur=700.000, overhead;dur=2030.000"
    ]


# --- which, and why ---------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([HERE, THERE]), min_size=1, max_size=9))
def test_attempts_are_numbered_and_say_why(routes: list[object]) -> None:
    call = Call({}, "a")
    made = []
    for route in routes:
        made.append(call.begin(route))
        made[-1].end(ProviderBusyError())
    assert [attempt.number for attempt in made] == list(range(1, len(routes) + 1))
    expected = [RETRY if now == before else FALLBACK for before, now in itertools.pairwise(routes)]
    assert [attempt.reason for attempt in made] == [None, *expected]


def test_the_first_word_on_how_an_attempt_ended_counts(clock: Clock) -> None:
    attempt, failure = Call({}, "a").begin(HERE), ProviderBusyError()
    clock.passes(10)
    attempt.end(failure)
    ended_at = attempt.ended_at
    clock.passes(10)
    attempt.end()
    attempt.end("something else", 1.0)
    assert (attempt.failure, attempt.ended_at) == (failure, ended_at)
    assert attempt.call.provider.elapsed_ns() == 10_000_000


async def test_what_a_task_announces_again_is_the_attempt_that_goes_on(clock: Clock) -> None:
    """Of each input that is embedded; LiteLLM tells of a failure before it tries again."""
    call = Call({}, "a")
    first = call.begin(HERE)
    clock.passes(5)
    assert call.begin(HERE) is first
    first.end(ProviderBusyError())
    second = call.begin(HERE)
    assert (second.number, second.reason, call.made) == (2, RETRY, 2)
    assert call.provider.elapsed_ns() == 5_000_000


async def test_an_attempt_that_goes_elsewhere_supersedes_the_one_before() -> None:
    call = Call({}, "a")
    first, second = call.begin(HERE), call.begin(THERE)
    assert (first.failure, second.failure) == (SUPERSEDED, None)
    assert (first.reason, second.reason, call.ran_beside) == (None, FALLBACK, False)
    assert call.under_way() is second


async def test_attempts_of_several_tasks_run_side_by_side() -> None:
    call, all_began = Call({}, "a"), asyncio.Event()

    async def attempt() -> Attempt:
        made = call.begin(HERE)
        if call.made == 3:
            all_began.set()
        await all_began.wait()
        assert call.under_way() is made
        return made

    made = await asyncio.gather(*(asyncio.create_task(attempt()) for _ in range(3)))
    assert [each.reason for each in made] == [None, PARALLEL, PARALLEL]
    assert [each.failure for each in made] == [None] * 3
    assert call.ran_beside


async def test_a_cancelled_task_takes_its_attempt_with_it() -> None:
    call, began = Call({}, "a"), asyncio.Event()

    async def attempt() -> None:
        call.begin(HERE)
        began.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(attempt())
    await began.wait()
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0)
    (only,) = call.open
    assert only.failure == CANCELLED
    assert only.ended_at is not None


async def test_a_stream_outlives_the_task_that_began_it() -> None:
    call = Call({}, "a")

    async def attempt() -> None:
        call.begin(HERE)

    await asyncio.create_task(attempt())
    await asyncio.sleep(0)
    (only,) = call.open
    assert only.ended_at is None


async def test_what_a_task_began_that_is_done_is_superseded_and_not_beside() -> None:
    call = Call({}, "a")

    async def attempt() -> Attempt:
        return call.begin(HERE)

    first = await asyncio.create_task(attempt())
    second = await asyncio.create_task(attempt())
    assert (first.failure, second.reason, call.ran_beside) == (SUPERSEDED, RETRY, False)


async def test_an_answer_is_of_the_attempt_whose_code_tells_of_it() -> None:
    call, both_began, told = Call({}, "a"), asyncio.Event(), []

    async def attempt() -> None:
        made = call.begin(HERE)
        if call.made == 2:
            both_began.set()
        await both_began.wait()
        told.append((made, call.told_of(failed=False)))

    await asyncio.gather(*(asyncio.create_task(attempt()) for _ in range(2)))
    assert len(told) == 2
    assert all(made is meant for made, meant in told)


def test_word_of_a_failure_is_of_the_attempt_that_failed() -> None:
    call = Call({}, "a")
    first, second = call.begin(HERE), call.begin(THERE)
    assert call.told_of(failed=True) is first
    assert call.told_of(failed=False) is second


def test_threads_without_a_loop() -> None:
    finished, made = Finished(), []

    def drive(details: dict[str, Any]) -> None:
        for _ in range(50):
            attempt = finished.begin(details)
            attempt.end(ProviderBusyError())
            made.append(attempt)
            finished.calls.closed(attempt)

    threads = [threading.Thread(target=drive, args=({},)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finished.calls) == 0
    assert len(made) == 8 * 50
    assert not finished.attempts
    assert all(isinstance(attempt.failure, ProviderBusyError) for attempt in made)


# --- calls that LiteLLM does not tell the end of ----------------------------------------------------------------------


BOUND = 50


@pytest.fixture
def small_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_calls_module, "MOST_OPEN_CALLS", BOUND)


@pytest.mark.usefixtures("small_bound")
def test_at_ten_times_the_bound_every_evicted_call_is_finished_once() -> None:
    finished = Finished()
    begun = [finished.begin({"n": n}) for n in range(BOUND * 10)]
    assert len(finished.calls) == BOUND
    assert finished.attempts == begun[:-BOUND]
    assert all(attempt.ended_at is not None and not attempt.call.open for attempt in finished.attempts)
    finished.calls.finish_everything()
    assert finished.attempts == begun
    assert len(finished.calls) == 0


@pytest.mark.usefixtures("small_bound")
def test_an_evicted_call_that_goes_on_is_kept_again() -> None:
    finished, details = Finished(), {"n": "the oldest"}
    first = finished.begin(details)
    for n in range(BOUND):
        finished.begin({"n": n})
    assert finished.attempts == [first]
    record = _record()
    second = finished.begin(details, record)
    assert finished.calls.of(details) is second.call
    finished.calls.closed(second)
    assert finished.calls.of(details) is None


@pytest.mark.usefixtures("small_bound")
def test_an_evicted_call_with_several_attempts_under_way_is_finished_whole() -> None:
    finished, details = Finished(), {"n": "the oldest"}
    both = [finished.begin(details, route=route) for route in (HERE, THERE)]
    for n in range(BOUND):
        finished.begin({"n": n})
    assert finished.attempts == both


async def test_what_litellm_has_not_told_in_time_is_finished_with_the_end_of_the_request(clock: Clock) -> None:
    finished, record = Finished(), _record()
    attempt = finished.begin({}, record)
    record.is_over()
    over_at = clock.time()
    clock.passes(int(SECONDS_FOR_LITELLM * 1_000) - 1)
    finished.calls._look_again()
    assert not finished.attempts
    clock.passes(2)
    finished.calls._look_again()
    assert finished.attempts == [attempt]
    assert (attempt.ended_at, attempt.failure) == (over_at, None)
    assert len(finished.calls) == 0


async def test_open_calls_are_looked_for_again_until_none_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_calls_module, "SECONDS_FOR_LITELLM", 0.05)
    monkeypatch.setattr(open_calls_module, "SECONDS_BETWEEN_LOOKS", 0.01)
    finished, record = Finished(), _record()
    attempt = finished.begin({}, record)
    record.is_over()
    await asyncio.wait_for(finished.one_more.wait(), 10)
    assert finished.attempts == [attempt]
    assert finished.calls._look is None


@pytest.mark.parametrize("litellm_will_tell", [False, True])
async def test_a_failed_request_waits_for_litellm_only_where_it_will_tell(*, litellm_will_tell: bool) -> None:
    finished, record = Finished(litellm_will_tell=litellm_will_tell), _record()
    attempt = finished.begin({}, record)
    record.failed_with(ProviderBusyError())
    record.is_over()
    assert finished.attempts == ([] if litellm_will_tell else [attempt])
    finished.calls.finish_everything()
    assert finished.attempts == [attempt]
    assert attempt.failure is record.exception


async def test_a_client_that_left_is_what_ended_its_attempts() -> None:
    finished, record = Finished(), _record()
    attempt = finished.begin({}, record)
    record.client_gone = True
    record.is_over()
    finished.calls.finish_everything()
    assert attempt.failure == "client_disconnected"


async def test_attempts_that_litellm_cancelled_are_finished_with_the_request() -> None:
    """LiteLLM tells nobody of the slower ones of several that ran side by side."""
    finished, record, details = Finished(), _record(), {"n": 1}
    lost = finished.begin(details, record)
    lost.end(CANCELLED)
    won = finished.begin(details, record)
    record.is_over()
    assert finished.attempts == [lost]
    assert won.call.open == [won]
    finished.calls.closed(won)
    assert len(finished.calls) == 0


def test_calls_past_a_requests_bound_and_calls_of_none_are_left_to_litellm() -> None:
    """A session makes call after call; and LiteLLM makes some for nobody, of which nobody says when they are over."""
    finished, record = Finished(), _record("websocket")
    kept = [{"n": n} for n in range(MOST_CALLS)]
    begun = [finished.begin(details, record) for details in kept]
    assert finished.calls.begin(record, {"n": MOST_CALLS}, "a", HERE) is None
    assert finished.calls.begin(None, {}, "a", HERE) is None
    finished.calls.finish_everything()
    assert finished.attempts == begun


async def test_a_call_is_known_where_its_request_is_not_at_hand() -> None:
    finished, details = Finished(), {"n": 1}
    first = finished.begin(details)
    first.end(ProviderBusyError())
    second = finished.calls.begin(None, details, "a", HERE)
    assert second is not None
    assert (second.call, second.number) == (first.call, 2)


def test_a_loop_that_is_closed_does_not_end_the_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_calls_module, "SECONDS_FOR_LITELLM", 0.0)
    monkeypatch.setattr(open_calls_module, "SECONDS_BETWEEN_LOOKS", 0.01)
    finished = Finished()

    async def request() -> None:
        record = _record()
        finished.begin({}, record)
        record.is_over()

    async def request_and_wait() -> None:
        finished.one_more = asyncio.Event()
        await request()
        await asyncio.wait_for(finished.one_more.wait(), 10)

    asyncio.run(request())
    asyncio.run(request_and_wait())
    assert len(finished.attempts) == 2


async def test_requests_get_their_turn_between_overdue_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_calls_module, "SECONDS_FOR_LITELLM", 0.0)
    finished = Finished()
    for n in range(CALLS_AT_ONCE + 1):
        record = _record()
        finished.begin({"n": n}, record)
        record.is_over()
    finished.calls._look_again()
    assert len(finished.attempts) == CALLS_AT_ONCE
    await asyncio.sleep(0.01)
    assert len(finished.attempts) == CALLS_AT_ONCE + 1


def test_a_realtime_sessions_one_call_is_one_attempt() -> None:
    """LiteLLM announces it with every message that the client sends."""
    finished, record, details = Finished(), _record("websocket"), {"n": 1}
    first = finished.begin(details, record)
    assert [finished.calls.begin(record, details, "a", HERE) for _ in range(5)] == [None] * 5
    assert first.call.made == 1


def test_a_forked_child_leaves_its_parents_calls_alone() -> None:
    finished = Finished()
    finished.begin({})
    finished.calls.begin_anew()
    finished.calls.finish_everything()
    assert not finished.attempts
    assert len(finished.calls) == 0


def test_copied_details_are_known_by_what_they_share() -> None:
    finished = Finished()
    params: dict[str, Any] = {"metadata": {}}
    attempt = finished.begin({"litellm_params": params})
    finished.begin({"litellm_params": {"metadata": {}}})
    found = finished.calls.of_copy({"litellm_params": params, "messages": "left out"})
    assert found is attempt.call


@pytest.mark.slow
async def test_a_hundred_thousand_failed_calls_leave_nothing_behind() -> None:
    finished = Finished(litellm_will_tell=False)

    def fail(count: int) -> None:
        for n in range(count):
            record = _record()
            attempt = finished.begin({"n": n}, record)
            if n % 2:  # half are told of by a hook, half are finished with the request
                attempt.end(ProviderBusyError())
                finished.calls.closed(attempt)
            record.failed_with(ProviderBusyError())
            record.is_over()
            record.forget()
            finished.attempts.clear()

    assert kept_each_time(fail, 100_000) < NOTHING
    assert len(finished.calls) == 0
    assert not finished.calls._waiting

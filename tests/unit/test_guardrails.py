"""What is said of a guardrail's run, and that being watched changes nothing about it."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from litellm_otel_plugin.guard import guard
from litellm_otel_plugin.request.guardrails import Guardrails, Run, current_run, without_text
from litellm_otel_plugin.request.handoff import Handoffs
from litellm_otel_plugin.request.record import RequestRecord, open_record, record_of_context
from litellm_otel_plugin.request.server_span import durations, stamp_outcome
from tests.support.clock import Clock
from tests.support.spans import SpanMemory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from litellm_otel_plugin.upstream import GuardrailWatch

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's import warns of its own affairs

SECRET = "swordfish"


# --- what is said of a run --------------------------------------------------------------------------------------------


def test_of_several_entries_the_gravest_is_told_with_the_time_of_all() -> None:
    run = Run(object(), "mine", "pre_call")
    run.entries += [
        {"guardrail_status": "success", "start_time": 1.0, "end_time": 2.0, "duration": 1.0, "guardrail_cost": 0.5},
        {"guardrail_status": "guardrail_intervened", "start_time": 3.0, "end_time": 5.0, "duration": 2.0},
        {"guardrail_status": "guardrail_failed_to_respond", "start_time": 6.0, "end_time": 7.0, "guardrail_cost": 1.0},
    ]
    told = run.entry()
    assert told["guardrail_status"] == "guardrail_intervened"
    assert told["guardrail_action"] == "block"
    assert [told[key] for key in ("start_time", "end_time", "duration", "guardrail_cost")] == [1.0, 7.0, 3.0, 1.5]


def test_an_entry_of_success_gives_way_to_what_the_run_raised() -> None:
    entry = {"guardrail_status": "success", "guardrail_name": "its own", "guardrail_mode": ["pre_call", "post_call"]}
    run = Run(object(), "mine", "pre_call", entries=[entry])
    run.failed_with(ValueError(SECRET), deliberately=False)
    told = run.entry()
    assert told["guardrail_status"] == "guardrail_failed_to_respond"
    assert (told["guardrail_name"], told["guardrail_mode"], told["guardrail_action"]) == (
        "its own",
        "pre_call",
        "block",
    )
    assert entry["guardrail_status"] == "success"  # LiteLLM's own, for its logs


@pytest.mark.parametrize(
    ("response", "shown"),
    [
        ("mask", "mask"),
        (f"it said {SECRET}", None),
        (
            {"flagged": True, "scores": {"hate": 0.9}, "text": SECRET, "parts": [SECRET]},
            {"flagged": True, "scores": 1, "parts": 1},
        ),
        ([{"text": SECRET}, {"count": 2}], 2),
        ({"matches": {SECRET: True}, f"the word {SECRET}": True, "detected": False}, {"matches": 1, "detected": False}),
        (object(), None),
        (None, None),
    ],
)
def test_what_a_guardrail_read_is_not_told(response: Any, shown: Any) -> None:
    told = without_text({"guardrail_response": response, "guardrail_action": "block", "risk_score": 0.5})
    assert told.get("guardrail_response") == shown
    assert (told["guardrail_action"], told["risk_score"]) == ("block", 0.5)


def test_an_action_that_is_a_sentence_is_not_told() -> None:
    told = without_text({"guardrail_action": f"blocked: {SECRET}", "guardrail_status": "guardrail_intervened"})
    assert told["guardrail_action"] == "block"


class ForbiddenError(Exception):
    def __init__(self, detail: Any, message: str) -> None:
        super().__init__(message)
        self.detail, self.message = detail, message


def test_only_what_a_guardrail_caused_is_withheld() -> None:
    guardrails = Guardrails()
    blocked, other = ValueError(SECRET), ValueError("other")
    assert not guardrails.caused(blocked)
    guardrails.withhold(blocked)
    guardrails.withhold("the answer in its place")
    assert guardrails.caused(blocked)
    assert not guardrails.caused(other)
    assert guardrails.caused(RuntimeError("400: the answer in its place"))
    guardrails.withhold(ForbiddenError({"error": {"message": "a whole sentence", "code": 7}}, "no"))
    assert guardrails.caused(RuntimeError("blocked by a pipeline: a whole sentence"))
    assert guardrails.caused(RuntimeError("no"))
    assert not guardrails.caused(RuntimeError("no such model"))  # what is this short is in many messages
    for link in ("__cause__", "__context__", "original_exception"):
        envelope = RuntimeError("envelope")
        setattr(envelope, link, blocked)
        assert guardrails.caused(envelope), link
    circle = RuntimeError()
    circle.__context__ = KeyError()
    circle.__context__.__context__ = circle
    assert not guardrails.caused(circle)


# --- the watch --------------------------------------------------------------------------------------------------------


class Told(list[dict[str, Any]]):
    def outcomes(self) -> list[tuple[Any, ...]]:
        return [(each["guardrail_name"], each["guardrail_mode"], each["guardrail_action"]) for each in self]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def watch(told: Told) -> GuardrailWatch:
    from litellm.integrations.custom_guardrail import CustomGuardrail  # noqa: PLC0415 - imports LiteLLM

    from litellm_otel_plugin.upstream import GuardrailWatch  # noqa: PLC0415

    watch = GuardrailWatch()
    watch._guardrail, watch._runner, watch._emit = CustomGuardrail, SimpleNamespace, told.append  # type: ignore[assignment]
    return watch


@pytest.fixture
def record() -> RequestRecord:
    return open_record({"type": "http"}, SpanMemory().provider.get_tracer("t").start_span("POST"), "POST")


def _guardrail(watch: GuardrailWatch, name: str = "mine", **hooks: Any) -> Any:
    from litellm.integrations.custom_guardrail import CustomGuardrail  # noqa: PLC0415 - as above

    guardrail: Any = type("Mine", (CustomGuardrail,), hooks)(guardrail_name=name)
    watch._watch(type(guardrail))
    return guardrail


async def _judge(*_: Any, data: Any = None, **__: Any) -> Any:
    await asyncio.sleep(0)
    if isinstance(data, BaseException):
        raise data
    return data


async def test_what_it_answers_and_raises_is_handed_on(watch: GuardrailWatch, told: Told) -> None:
    guardrail = _guardrail(watch, async_pre_call_hook=_judge)
    answer: dict[str, Any] = {"messages": []}
    error = KeyError(SECRET)
    assert await guardrail.async_pre_call_hook(data=answer) is answer
    with pytest.raises(KeyError) as raised:
        await guardrail.async_pre_call_hook(data=error)
    assert raised.value is error
    assert not hasattr(error, "__notes__")
    assert current_run.get() is None
    assert told.outcomes() == [("mine", "pre_call", "allow"), ("mine", "pre_call", "block")]
    assert [each["guardrail_status"] for each in told] == ["success", "guardrail_failed_to_respond"]


async def test_without_a_way_to_make_spans_guardrails_run_all_the_same(
    watch: GuardrailWatch, record: RequestRecord
) -> None:
    from litellm_otel_plugin.upstream import GuardrailWatch  # noqa: PLC0415 - as above

    GuardrailWatch().look()  # LiteLLM has nothing that tells a guardrail
    watch._emit = None
    guardrail = _guardrail(watch, async_pre_call_hook=_judge)
    error = ValueError(SECRET)
    with pytest.raises(ValueError, match=SECRET):
        await guardrail.async_pre_call_hook(data=error)
    assert record.guardrails.caused(error)


async def test_a_call_of_an_mcp_tool_has_its_own_modes(watch: GuardrailWatch, told: Told) -> None:
    async def pass_on(self: Any, data: Any, call_type: str) -> Any:
        return data

    guardrail = _guardrail(watch, async_pre_call_hook=pass_on, async_moderation_hook=pass_on)
    await guardrail.async_pre_call_hook(data=1, call_type="call_mcp_tool")
    await guardrail.async_moderation_hook(data=1, call_type="call_mcp_tool")
    assert [each["guardrail_mode"] for each in told] == ["pre_mcp_call", "during_mcp_call"]


async def test_an_error_of_ours_leaves_the_guardrail_alone(
    watch: GuardrailWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    guardrail = _guardrail(watch, async_pre_call_hook=_judge, async_post_call_streaming_iterator_hook=_pieces)
    monkeypatch.setattr(guard, "strict", False)
    guard.counts.clear()
    for method in ("finish", "begin"):
        monkeypatch.setattr(watch, method, broken)
        assert await guardrail.async_pre_call_hook(data=1) == 1
        assert [piece async for piece in guardrail.async_post_call_streaming_iterator_hook(response=None)] == [1, 2, 3]
    assert sum(guard.counts.values()) == 4
    guard.counts.clear()


async def test_one_that_is_added_later_is_noticed_once(
    watch: GuardrailWatch, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    import litellm  # noqa: PLC0415 - as above
    from litellm.integrations.custom_guardrail import CustomGuardrail  # noqa: PLC0415

    guardrail: Any = type("Late", (CustomGuardrail,), {"async_pre_call_hook": _judge})(guardrail_name="late")
    monkeypatch.setattr(litellm, "callbacks", ["by_name", guardrail])
    watch.look()
    once = vars(type(guardrail))["async_pre_call_hook"]
    watch.look()
    watch._watch(type(guardrail))
    assert vars(type(guardrail))["async_pre_call_hook"] is once
    await guardrail.async_pre_call_hook(data=1)
    assert told.outcomes() == [("late", "pre_call", "allow")]


async def test_hooks_that_call_one_another_are_one_run(watch: GuardrailWatch, told: Told) -> None:
    async def ask_another(self: Any, **more: Any) -> None:
        with suppress(ValueError):
            await self.async_moderation_hook(**more)

    async def ask_above(self: Any, **more: Any) -> None:
        await parent.async_pre_call_hook(self, **more)

    parent = type(_guardrail(watch, async_pre_call_hook=ask_another, async_moderation_hook=_judge))
    derived: Any = type("Derived", (parent,), {"async_pre_call_hook": ask_above})
    watch._watch(derived)
    await derived(guardrail_name="derived").async_pre_call_hook(data=ValueError(SECRET))
    assert told.outcomes() == [("derived", "pre_call", "allow")]


async def test_guardrails_at_once_are_told_apart(watch: GuardrailWatch, told: Told) -> None:
    async def report(self: Any, data: float) -> None:
        run = current_run.get()
        await asyncio.sleep(data)
        assert run is current_run.get()
        assert run is not None
        run.entries.append({"guardrail_status": "success", "guardrail_name": self.guardrail_name})

    guardrails = [_guardrail(watch, f"g{n}", async_moderation_hook=report) for n in range(20)]
    await asyncio.gather(*(each.async_moderation_hook(data=0.001 * (n % 5)) for n, each in enumerate(guardrails)))
    assert sorted(each["guardrail_name"] for each in told) == sorted(f"g{n}" for n in range(20))


async def test_one_that_is_cancelled_has_no_verdict(watch: GuardrailWatch, told: Told) -> None:
    async def wait(self: Any) -> None:
        await asyncio.sleep(60)

    task = asyncio.ensure_future(_guardrail(watch, async_moderation_hook=wait).async_moderation_hook())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told.outcomes() == [("mine", "during_call", "none")]
    assert told[0]["guardrail_status"] == "guardrail_failed_to_respond"


async def _pieces(self: Any, response: Any, **_: Any) -> AsyncIterator[int]:
    for piece in (1, 2, 3):
        yield piece


def _filter(fails_at: int | None = None, closed: list[str] | None = None) -> Callable[..., AsyncIterator[int]]:
    async def iterate(self: Any, response: Any) -> AsyncIterator[int]:
        try:
            async for piece in response:
                if piece == fails_at:
                    raise ValueError(SECRET)
                yield piece
        finally:
            if closed is not None:
                closed.append(self.guardrail_name)

    return iterate


class _Boundary:
    """As LiteLLM hands a guardrail its stream: what came from there is noted."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.failure = stream, None

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        try:
            return await anext(self._stream)
        except StopAsyncIteration:
            raise
        except Exception as error:
            self.failure = error  # type: ignore[assignment]
            raise


async def test_of_two_on_one_stream_the_one_that_raised_blocked(watch: GuardrailWatch, told: Told) -> None:
    hook = "async_post_call_streaming_iterator_hook"
    inner, outer = (_guardrail(watch, name, **{hook: _filter(at)}) for name, at in (("inner", 2), ("outer", None)))
    stream = getattr(inner, hook)(response=_Boundary(_pieces(None, None)))
    guarded = getattr(outer, hook)(response=_Boundary(stream))
    assert await anext(guarded) == 1
    assert current_run.get() is None
    with pytest.raises(ValueError, match=SECRET):
        await anext(guarded)
    assert told.outcomes() == [("inner", "post_call", "block"), ("outer", "post_call", "allow")]


async def test_a_stream_that_its_reader_leaves_is_closed(watch: GuardrailWatch, told: Told) -> None:
    closed: list[str] = []
    guardrail = _guardrail(watch, async_post_call_streaming_iterator_hook=_filter(closed=closed))
    stream = guardrail.async_post_call_streaming_iterator_hook(response=_pieces(None, None))
    assert await anext(stream) == 1
    await stream.aclose()
    assert closed == ["mine"]
    assert told.outcomes() == [("mine", "post_call", "allow")]


async def test_a_stream_that_nobody_closes_is_told_of_in_its_own_request(
    watch: GuardrailWatch, told: Told, record: RequestRecord
) -> None:
    seen: list[RequestRecord | None] = []

    def emit(entry: Any) -> None:
        told.append(entry)
        seen.append(record_of_context())

    watch._emit = emit
    guardrail = _guardrail(watch, async_post_call_streaming_iterator_hook=_pieces)
    streams = [guardrail.async_post_call_streaming_iterator_hook(response=None)]
    assert await anext(streams[0]) == 1

    async def another_request() -> None:
        open_record({"type": "http"}, SpanMemory().provider.get_tracer("t").start_span("GET"), "GET")
        streams.clear()

    await asyncio.create_task(another_request())
    assert told.outcomes() == [("mine", "post_call", "allow")]
    assert seen == [record]


async def test_the_end_of_a_stream_is_its_own_affair(watch: GuardrailWatch, told: Told) -> None:
    class Pieces:
        """An iterator that is no generator."""

        left = 2
        closed = 0
        flavour = "vanilla"

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return self.left

        def aclose(self) -> None:
            self.closed += 1

    pieces = Pieces()
    guardrail = _guardrail(watch, async_post_call_streaming_iterator_hook=lambda self, response: pieces)
    stream = guardrail.async_post_call_streaming_iterator_hook(response=None)
    assert [each async for each in stream] == [1, 0]
    assert (pieces.closed, stream.flavour) == (0, "vanilla")
    await stream.aclose()
    assert pieces.closed == 1
    assert told.outcomes() == [("mine", "post_call", "allow")]


async def test_one_that_sees_pieces_is_one_run_until_the_response_is_complete(
    watch: GuardrailWatch, told: Told, record: RequestRecord
) -> None:
    guardrail = _guardrail(watch, async_post_call_streaming_hook=_judge, async_post_call_success_hook=_judge)
    for _ in range(3):
        await guardrail.async_post_call_streaming_hook(data="piece")
    await guardrail.async_post_call_success_hook(data="all of it")
    assert told == []
    stamp_outcome(record)
    assert told.outcomes() == [("mine", "post_call", "allow")]
    assert told[0]["duration"] > 0


async def test_one_that_blocks_a_piece_is_told_of_at_once(
    watch: GuardrailWatch, told: Told, record: RequestRecord
) -> None:
    guardrail = _guardrail(watch, async_post_call_streaming_hook=_judge)
    await guardrail.async_post_call_streaming_hook(data="piece")
    with pytest.raises(ValueError, match=SECRET):
        await guardrail.async_post_call_streaming_hook(data=ValueError(SECRET))
    assert told.outcomes() == [("mine", "post_call", "block")]
    stamp_outcome(record)
    assert len(told) == 1


@pytest.mark.parametrize("passes", [False, True])
def test_an_exception_that_a_guardrail_raised_is_recorded_without_its_text(*, passes: bool) -> None:
    memory = SpanMemory()
    error = ValueError(SECRET)
    with suppress(ValueError), memory.provider.get_tracer("t").start_as_current_span("POST") as span:
        record = open_record({"type": "http"}, span, "POST")
        record.guardrails.withhold(error)
        record.failed_with(error)
        stamp_outcome(record, exception_passes=passes)
        if passes:
            raise error
    ended = memory.only()
    assert SECRET not in ended.to_json()
    assert [event.name for event in ended.events] == ["exception"]
    assert json.loads(ended.to_json())["status"]["status_code"] == "ERROR"


@pytest.mark.parametrize(
    ("captures", "shown"), [((), False), ((True,), True), ((True, False), False), ((True, True), True)]
)
def test_a_text_is_shown_where_every_backend_may_see_it(
    monkeypatch: pytest.MonkeyPatch, captures: tuple[bool, ...], *, shown: bool
) -> None:
    from litellm_otel_plugin.upstream import guardrail_texts  # noqa: PLC0415 - as above

    loggers = [SimpleNamespace(config=SimpleNamespace(capture_span_content=each)) for each in captures]
    monkeypatch.setattr(guardrail_texts, "v2_loggers", lambda: loggers)
    assert guardrail_texts.text_may_be_shown() is shown


def test_whose_callbacks_can_act_as_guardrails() -> None:
    from litellm.proxy.hooks.parallel_request_limiter_v3 import (  # noqa: PLC0415 - as above
        _PROXY_MaxParallelRequestsHandler_v3,
    )
    from litellm.proxy.hooks.prompt_injection_detection import (  # noqa: PLC0415
        _OPTIONAL_PromptInjectionDetection,
    )

    from litellm_otel_plugin.hooks import OtelPlugin  # noqa: PLC0415
    from litellm_otel_plugin.upstream.guardrails import _can_act_as_one  # noqa: PLC0415
    from tests.support.guardrails import plain_callback  # noqa: PLC0415

    no_init = object.__new__
    assert _can_act_as_one(plain_callback)
    assert _can_act_as_one(no_init(_OPTIONAL_PromptInjectionDetection))
    assert not _can_act_as_one(no_init(_PROXY_MaxParallelRequestsHandler_v3))
    assert not _can_act_as_one(OtelPlugin())


# --- whose time it is -------------------------------------------------------------------------------------------------

ASKED, JUDGED, KEPT = 10, 1_000, 30_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.rules(monkeypatch)
    return clock


class Timed:
    """A stream from a provider that takes its time for each of three pieces, and to say that there are no more."""

    def __init__(self, clock: Clock, record: RequestRecord) -> None:
        self._clock = clock
        record.handoffs = Handoffs(clock.time(), clock.perf_counter_ns())
        attempt = record.begin_attempt({}, "a")
        assert attempt is not None
        self.attempt, self._record = attempt, record

    async def pieces(self) -> AsyncIterator[int]:
        for piece in (1, 2, 3):
            self._clock.passes(ASKED)
            yield piece
        self._clock.passes(ASKED)

    @property
    def went(self) -> tuple[float, float]:
        """To the provider, and to all the rest."""
        told = durations(self._record)
        return told["litellm.provider.duration_ms"], told["litellm.overhead.duration_ms"]


def _slow(clock: Clock, *, keeps: bool) -> Callable[..., AsyncIterator[int]]:
    async def iterate(self: Any, response: Any) -> AsyncIterator[int]:
        kept = []
        async for piece in response:
            clock.passes(JUDGED)
            if keeps:
                kept.append(piece)
            else:
                yield piece
                clock.passes(JUDGED)
        clock.passes(KEPT)
        for piece in kept:
            yield piece

    return iterate


@pytest.mark.parametrize(
    ("kept_by", "judged"), [((True,), 3), ((False,), 6), ((True, False), 9), ((False, True), 9), ((False, False), 12)]
)
async def test_what_guardrails_take_of_a_stream_is_no_providers_time(
    watch: GuardrailWatch, record: RequestRecord, clock: Clock, kept_by: tuple[bool, ...], judged: int
) -> None:
    timed = Timed(clock, record)
    hook = "async_post_call_streaming_iterator_hook"
    stream: Any = timed.pieces()
    for n, keeps in enumerate(kept_by):
        stream = _lazily(getattr(_guardrail(watch, f"g{n}", **{hook: _slow(clock, keeps=keeps)}), hook), stream)
    assert [piece async for piece in stream] == [1, 2, 3]
    assert timed.went == (4 * ASKED, judged * JUDGED + len(kept_by) * KEPT)
    assert timed.attempt.over_by(clock.time()) < clock.time()


async def _lazily(hook: Callable[..., AsyncIterator[int]], source: Any) -> AsyncIterator[int]:
    """As LiteLLM calls it: when the first piece is asked for."""
    async for piece in hook(response=_Boundary(source)):
        yield piece


async def test_what_guardrails_take_of_each_piece_is_no_providers_time(
    watch: GuardrailWatch, record: RequestRecord, clock: Clock
) -> None:
    async def judge(self: Any, response: int) -> None:
        clock.passes(JUDGED)
        if response == 3:
            raise ValueError(SECRET)

    timed, guardrail = Timed(clock, record), _guardrail(watch, async_post_call_streaming_hook=judge)
    pieces = timed.pieces()
    for _ in range(2):
        await guardrail.async_post_call_streaming_hook(response=await anext(pieces))
    third = await anext(pieces)
    with pytest.raises(ValueError, match=SECRET):
        await guardrail.async_post_call_streaming_hook(response=third)
    assert timed.went == (3 * ASKED, 3 * JUDGED)


async def test_what_breaks_a_stream_passes_a_guardrail_untouched(
    watch: GuardrailWatch, record: RequestRecord, clock: Clock
) -> None:
    broken = ConnectionError()

    async def pieces() -> AsyncIterator[int]:
        yield 1
        clock.passes(ASKED)
        raise broken

    timed = Timed(clock, record)
    guardrail = _guardrail(watch, async_post_call_streaming_iterator_hook=_filter())
    stream = guardrail.async_post_call_streaming_iterator_hook(response=_Boundary(pieces()))
    assert await anext(stream) == 1
    with pytest.raises(ConnectionError) as raised:
        await anext(stream)
    assert raised.value is broken
    clock.passes(KEPT)
    assert timed.went == (ASKED, KEPT)
    assert timed.attempt.ended_at is None  # what it ended with is for LiteLLM to tell

"""Attempts' spans by LiteLLM's real logger, where LiteLLM tells nothing, tells late, or shall tell nobody."""

from __future__ import annotations

import asyncio
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from litellm_otel_plugin.request import open_calls as open_calls_module
from litellm_otel_plugin.request.mount import mount
from litellm_otel_plugin.request.record import RequestRecord, current_record, open_record
from litellm_otel_plugin.upstream.attempts import AttemptSpans
from tests.support.folding import ENDED, STARTED, Call
from tests.support.memory import NOTHING, kept_each_time
from tests.support.spans import SpanMemory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's import warns of its own affairs
BOUND = 20


class ProviderBusyError(Exception):
    """What ends an attempt."""


@dataclass
class Logger:
    """LiteLLM's logger with our attempts, and the spans that it made."""

    logger: Any
    attempts: AttemptSpans
    memory: SpanMemory

    def begin(self, details: dict[str, Any], record: RequestRecord | None = None) -> None:
        record = record or RequestRecord(scope={"type": "http"}, span=trace.get_current_span())
        self.attempts.begin(record, details["model"], details["messages"], details)

    def tell(self, details: dict[str, Any], call: Call) -> None:
        """LiteLLM tells its loggers how a call ended: with the very object that it announced."""
        details.update(call.closed())
        self.logger._close_llm_call(details, STARTED, ENDED)

    @property
    def clients(self) -> list[ReadableSpan]:
        return [span for span in self.memory.spans if span.kind is SpanKind.CLIENT]

    def each(self, name: str) -> list[Any]:
        return [(span.attributes or {}).get(name) for span in self.clients]


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Logger]:
    from litellm.integrations.otel.logger import OpenTelemetryV2  # noqa: PLC0415 - imports LiteLLM

    monkeypatch.setattr(open_calls_module, "MOST_OPEN_CALLS", BOUND)
    memory = SpanMemory()
    logger = OpenTelemetryV2(tracer_provider=memory.provider)
    with memory.provider.get_tracer("t").start_as_current_span("of the test"):
        yield Logger(logger, AttemptSpans(logger), memory)


def test_every_call_at_ten_times_the_bound_has_its_one_span(logger: Logger) -> None:
    kept = [Call(call_id=f"call-{n}").details() for n in range(BOUND * 10)]
    for details in kept:
        logger.begin(details)
    assert len(logger.clients) == BOUND * 9
    logger.attempts.calls.finish_everything()
    assert len(logger.clients) == BOUND * 10
    assert logger.each("litellm.attempt") == [1] * BOUND * 10
    assert len(logger.attempts.calls) == 0


def test_a_call_that_is_told_of_after_it_was_evicted_has_no_second_span(logger: Logger) -> None:
    evicted = Call(call_id="evicted")
    details = evicted.details()
    logger.begin(details)
    kept = [Call(call_id=f"call-{n}").details() for n in range(BOUND)]
    for each in kept:
        logger.begin(each)
    assert len(logger.clients) == 1
    logger.tell(details, evicted)
    assert len(logger.clients) == 1


@pytest.mark.parametrize("count", [2, 5])
def test_calls_that_chose_the_same_id_each_have_their_span(logger: Logger, count: int) -> None:
    calls = [Call(call_id="chosen", messages=n + 1) for n in range(count)]
    told = [call.details() for call in calls]
    for details in told:
        logger.begin(details)
    for details, call in reversed(list(zip(told, calls, strict=True))):
        logger.tell(details, call)
    assert len(logger.clients) == count
    assert logger.each("litellm.attempt") == [1] * count
    assert len(logger.attempts.calls) == 0


def test_a_call_that_is_told_of_twice_has_one_span(logger: Logger) -> None:
    call = Call()
    details = call.details()
    logger.begin(details)
    logger.tell(details, call)
    logger.tell(details, call)
    assert len(logger.clients) == 1


def test_what_a_caller_opted_out_of_is_discarded_and_not_kept(logger: Logger) -> None:
    details = Call().details()
    details["litellm_params"]["no-log"] = True
    logger.begin(details)
    assert len(logger.attempts.calls) == 1
    logger.attempts.calls.finish_everything()
    assert not logger.clients
    assert len(logger.attempts.calls) == 0


async def test_what_nobody_tells_of_ends_with_the_requests_failure(logger: Logger) -> None:
    record = open_record({"type": "http"}, trace.get_current_span(), "POST")
    details = Call().details()
    details["has_logged_async_failure"] = True  # LiteLLM has told of an earlier attempt, and tells once
    logger.begin(details, record)
    record.failed_with(ProviderBusyError())
    record.is_over()
    (client,) = logger.clients
    assert client.status.status_code is StatusCode.ERROR
    assert (client.attributes or {})["error.type"] == "ProviderBusyError"
    assert len(logger.attempts.calls) == 0


@pytest.mark.slow
async def test_failed_requests_leave_nothing_behind(logger: Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(count: int) -> None:
        for n in range(count):
            record = open_record({"type": "http"}, trace.get_current_span(), "POST")
            call = Call(call_id=f"call-{n}", fails=bool(n % 2))
            details = call.details()
            details["has_logged_async_failure"] = not n % 2
            logger.begin(details, record)
            if n % 2:
                logger.tell(details, call)
            record.failed_with(ProviderBusyError())
            record.is_over()
            record.forget()
            logger.memory.forget()

    fail(5_000)  # LiteLLM remembers the ids of as many calls as it holds against being told twice
    assert kept_each_time(fail, 5_000) < NOTHING
    assert len(logger.attempts.calls) == 0


# --- whose times ------------------------------------------------------------------------------------------------------

FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"


def _after(seconds: float) -> datetime:
    return STARTED + timedelta(seconds=seconds)


def _streamed(**times: datetime) -> dict[str, Any]:
    return {**Call().details(), "optional_params": {"stream": True}, **times}


@pytest.mark.parametrize(("came", "waited"), [(-0.1, None), (0.0, 0.0), (0.5, 0.5), (2.0, 2.0), (2.5, None)])
def test_the_first_chunk_of_another_attempt_is_not_told(logger: Logger, came: float, waited: float | None) -> None:
    """LiteLLM keeps the first that came."""
    details = _streamed(api_call_start_time=STARTED, completion_start_time=_after(came))
    logger.begin(details)
    details["standard_logging_object"] = Call().closed()["standard_logging_object"]
    logger.logger._close_llm_call(details, STARTED, _after(2))
    assert logger.each(FIRST_CHUNK) == [waited]
    assert details["completion_start_time"] == _after(came)


def test_a_first_chunk_is_counted_from_the_hand_off_of_its_own_attempt(logger: Logger) -> None:
    details = _streamed(api_call_start_time=STARTED, completion_start_time=_after(0.5))
    logger.begin(details)
    details["api_call_start_time"] = _after(1)  # the next one's
    details["standard_logging_object"] = Call().closed()["standard_logging_object"]
    logger.logger._close_llm_call(details, STARTED, _after(1))
    assert logger.each(FIRST_CHUNK) == [0.5]


@pytest.mark.parametrize("rests", [False, True])
def test_a_span_ends_when_the_provider_was_last_asked_for_more(logger: Logger, *, rests: bool) -> None:
    """A guardrail that keeps a stream for itself keeps LiteLLM waiting too."""
    call, details = Call(), Call().details()
    logger.begin(details)
    (attempt,) = logger.attempts.calls.of(details).open  # type: ignore[union-attr]
    if rests:
        attempt.rest()
        attempt.rests_since = _after(0.5).timestamp()
    logger.tell(details, call)
    (client,) = logger.clients
    assert client.end_time == int((_after(0.5) if rests else ENDED).timestamp() * 1e9)
    assert attempt.ended_at == (_after(0.5) if rests else ENDED).timestamp()


# --- streams that nobody reads to their end ---------------------------------------------------------------------------


class Stream:
    """A request whose answer is a stream that stops in the middle, served by hand."""

    def __init__(self, logger: Logger) -> None:
        self.closed = asyncio.Event()
        self.stuck = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        app = FastAPI()

        async def chunks() -> AsyncIterator[bytes]:
            try:
                yield b"one"
                self.stuck.set()
                await asyncio.Event().wait()
            finally:
                self.closed.set()

        @app.get("/stream")
        async def stream() -> StreamingResponse:
            logger.begin(self.details, current_record())
            return StreamingResponse(chunks())

        self.details = Call().details()
        self.app = app
        app.middleware_stack = app.build_middleware_stack()
        mount(app, tracer_provider=logger.memory.provider, legacy_names=False, excluded_paths="")

    def begin(self) -> asyncio.Task[None]:
        """Serve it where no span is the current one, as a server does."""
        return Context().run(asyncio.create_task, self._serve())

    async def _serve(self) -> None:
        scope = {
            "type": "http", "method": "GET", "path": "/stream", "raw_path": b"/stream", "query_string": b"",
            "headers": [], "server": ("gateway.example", 4000), "client": ("127.0.0.1", 1), "scheme": "http",
            "http_version": "1.1", "asgi": {"version": "3.0", "spec_version": "2.3"}, "root_path": "",
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            await self.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.sent.append(message)

        await self.app(scope, receive, send)


def _ended(logger: Logger) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the one SERVER span and the one CLIENT span say."""
    (server,) = [span for span in logger.memory.spans if span.kind is SpanKind.SERVER]
    (client,) = logger.clients
    assert server.context is not None
    assert client.parent is not None
    assert client.parent.span_id == server.context.span_id
    assert server.status.status_code is client.status.status_code is StatusCode.ERROR
    assert len(logger.attempts.calls) == 0
    return dict(server.attributes or {}), dict(client.attributes or {})


async def test_a_stream_whose_client_leaves(logger: Logger) -> None:
    stream = Stream(logger)
    serving = stream.begin()
    await asyncio.wait_for(stream.stuck.wait(), 10)
    stream.gone.set()
    await asyncio.wait_for(serving, 10)
    logger.attempts.calls.finish_everything()
    server, client = _ended(logger)
    assert server["http.response.status_code"] == 200
    assert server["error.type"] == client["error.type"] == "client_disconnected"
    assert stream.closed.is_set()


async def test_a_stream_whose_task_is_cancelled(logger: Logger) -> None:
    """As servers do when they stop."""
    stream = Stream(logger)
    serving = stream.begin()
    await asyncio.wait_for(stream.stuck.wait(), 10)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    logger.attempts.calls.finish_everything()
    server, client = _ended(logger)
    assert server["http.response.status_code"] == 200
    assert server["error.type"] == client["error.type"] == "cancelled"
    assert stream.closed.is_set()

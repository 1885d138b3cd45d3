"""The ids on log records, with real loggers, handlers and spans."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
import threading
import time
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from litellm_otel_plugin.guard import guard
from litellm_otel_plugin.request import log_records
from litellm_otel_plugin.request.log_records import LONGEST_AFTERMATH_SECONDS, mark_with_ids
from litellm_otel_plugin.request.record import RequestRecord, open_record
from tests.support.spans import SpanMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.trace import Span


class Lines(logging.Handler):
    """An operator's own handler, which keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def ids(self) -> list[tuple[str, str] | None]:
        return [
            (record.__dict__["trace_id"], record.__dict__["span_id"]) if "span_id" in record.__dict__ else None
            for record in self.records
        ]


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def log(lines: Lines) -> Iterator[logging.Logger]:
    logger = logging.getLogger("tests.marked")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(lines)
    logger.addFilter(mark_with_ids)
    yield logger
    logger.removeHandler(lines)
    logger.removeFilter(mark_with_ids)


@pytest.fixture
def memory() -> SpanMemory:
    return SpanMemory()


def _in_a_request(span: Span, work: Callable[[RequestRecord], None]) -> None:
    def serve() -> None:
        with trace.use_span(span, end_on_exit=False):
            work(open_record({"type": "http"}, span, "GET"))

    contextvars.copy_context().run(serve)


def _ids(span: Span) -> tuple[str, str]:
    context = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def test_outside_of_a_request_a_record_stays_as_it_is(log: logging.Logger, lines: Lines, memory: SpanMemory) -> None:
    def work() -> None:
        log.info("in no span")
        with memory.provider.get_tracer("t").start_as_current_span("somebody's job"):
            log.info("in a span of no request")

    contextvars.Context().run(work)
    assert [record.__dict__.get("trace_id") for record in lines.records] == [None, None]


def test_the_span_is_the_current_one_of_the_requests_trace(
    log: logging.Logger, lines: Lines, memory: SpanMemory
) -> None:
    tracer = memory.provider.get_tracer("t")
    server = tracer.start_span("server")
    expected = [_ids(server)]

    def work(_: RequestRecord) -> None:
        log.info("by the server")
        with tracer.start_as_current_span("auth") as inner:
            expected.append((_ids(server)[0], _ids(inner)[1]))
            log.info("by auth")
        with tracer.start_as_current_span("elsewhere", context=trace.set_span_in_context(trace.INVALID_SPAN)):
            expected.append(_ids(server))
            log.info("in another trace")
        with trace.use_span(trace.INVALID_SPAN):
            expected.append(_ids(server))
            log.info("in none")

    _in_a_request(server, work)
    assert lines.ids() == expected
    assert all(re.fullmatch("[0-9a-f]{32}", trace_id) for trace_id, _ in expected)
    assert [record.getMessage() for record in lines.records][:2] == ["by the server", "by auth"]


def test_an_unsampled_request_has_ids_too(log: logging.Logger, lines: Lines) -> None:
    span = SpanMemory(ALWAYS_OFF).provider.get_tracer("t").start_span("server")
    _in_a_request(span, lambda _: log.info("hi"))
    assert lines.ids() == [_ids(span)]


def test_what_a_record_was_given_stays(log: logging.Logger, lines: Lines, memory: SpanMemory) -> None:
    span = memory.provider.get_tracer("t").start_span("server")
    _in_a_request(span, lambda _: log.info("hi", extra={"trace_id": "mine"}))
    (record,) = lines.records
    assert (record.__dict__["trace_id"], "span_id" in record.__dict__) == ("mine", False)


async def test_threads_and_tasks_that_carry_the_context(log: logging.Logger, lines: Lines, memory: SpanMemory) -> None:
    tracer = memory.provider.get_tracer("t")
    expected = []

    async def serve() -> None:
        span = tracer.start_span("server")
        expected.append(_ids(span))
        open_record({"type": "http"}, span, "GET")
        await asyncio.to_thread(log.info, "hi")

    await asyncio.gather(*(asyncio.create_task(serve()) for _ in range(20)))
    assert sorted(str(ids) for ids in lines.ids()) == sorted(str(ids) for ids in expected)


def test_a_thread_without_the_context_has_nobodys_ids(log: logging.Logger, lines: Lines, memory: SpanMemory) -> None:
    def work(_: RequestRecord) -> None:
        thread = threading.Thread(target=log.info, args=("hi",))
        thread.start()
        thread.join()

    _in_a_request(memory.provider.get_tracer("t").start_span("server"), work)
    assert lines.ids() == [None]


@pytest.mark.parametrize("sampled", [True, False])
def test_lines_after_the_response_are_the_requests_for_a_while(
    log: logging.Logger, lines: Lines, monkeypatch: pytest.MonkeyPatch, sampled: bool
) -> None:
    memory = SpanMemory() if sampled else SpanMemory(ALWAYS_OFF)
    span = memory.provider.get_tracer("t").start_span("server")

    def work(record: RequestRecord) -> None:
        record.response_started_at = time.time()
        record.finished = True
        span.end()
        log.info("a callback")
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + LONGEST_AFTERMATH_SECONDS + 1)
        log.info("a loop that the request happened to start")

    _in_a_request(span, work)
    assert lines.ids() == [_ids(span), None]


def test_a_line_is_written_whatever_happens(log: logging.Logger, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(guard, "strict", False)
    monkeypatch.setattr(log_records, "record_of_context", broken)
    log.info("hi")
    guard.counts.clear()
    assert [record.getMessage() for record in lines.records] == ["hi"]

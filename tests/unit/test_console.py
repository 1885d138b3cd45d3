from __future__ import annotations

import io
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from litellm_otel_plugin.console import ConsoleProcessor, console_is_wanted, draw_on_console, one_line, waterfall
from tests.support import patience
from tests.support.proxy import REPOSITORY
from tests.support.spans import SpanMemory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

MS = 1_000_000


class _Ids:
    """Ids that count, so that what is drawn is the same in every run."""

    def __init__(self) -> None:
        self._last = 0

    def generate_span_id(self) -> int:
        self._last += 1
        return self._last

    def generate_trace_id(self) -> int:
        return 0xABC

    def is_trace_id_random(self) -> bool:
        return False


def _request(provider: TracerProvider, *, failed: bool = False) -> None:
    tracer = provider.get_tracer("test")
    status = 429 if failed else 200
    attributes: dict[str, Any] = {
        "http.response.status_code": status,
        "http.route": "/v1/chat/completions",
        "litellm.preprocessing.duration_ms": 12.5,
    }
    if failed:
        attributes |= {"error.type": "RateLimitError", "error.code": "429"}
    server = tracer.start_span("POST /v1/chat/completions", kind=SpanKind.SERVER, attributes=attributes, start_time=0)
    below = set_span_in_context(server)
    tracer.start_span("auth /v1/chat/completions", context=below, start_time=1 * MS).end(10 * MS)
    llm: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.input.messages": "the prompt",
        "gen_ai.output.messages": "the answer",
    }
    call = tracer.start_span("chat gpt-4o", context=below, kind=SpanKind.CLIENT, attributes=llm, start_time=20 * MS)
    if failed:
        call.set_attribute("litellm.attempt.reason", "retry")
        call.set_status(Status(StatusCode.ERROR))
        server.set_status(Status(StatusCode.ERROR))
    call.end(90 * MS)
    server.end(100 * MS)


def _spans(*, failed: bool = False) -> Sequence[ReadableSpan]:
    memory = SpanMemory()
    memory.provider.id_generator = _Ids()  # type: ignore[assignment]  # the base class would add nothing
    _request(memory.provider, failed=failed)
    return sorted(memory.spans, key=lambda span: span.start_time or 0)


def test_a_waterfall() -> None:
    assert [line.plain for line in waterfall(_spans())] == [
        "── trace 00000000000000000000000000000abc ",
        f"POST /v1/chat/completions              {'█' * 32}     100.0 ms  200 12.5 ms before the provider",
        "  auth /v1/chat/completions            ███                                    9.0 ms",
        "  chat gpt-4o                                ███████████████████████         70.0 ms  gpt-4o 7→4 tokens",
    ]


def test_a_narrow_terminal_gets_lines_that_fit() -> None:
    assert all(len(line.plain) <= 80 for line in waterfall(_spans(), columns=80)[2:])


def test_errors_stand_out() -> None:
    lines = waterfall(_spans(failed=True))
    assert "RateLimitError" in lines[1].plain
    assert {str(span.style) for span in lines[1].spans} >= {"bold red", "red"}
    assert "bold red" not in {str(span.style) for span in lines[2].spans}


def test_prompts_and_answers_are_shown_on_request_only() -> None:
    hidden = "\n".join(line.plain for line in waterfall(_spans()))
    shown = "\n".join(line.plain for line in waterfall(_spans(), shows_content=True))
    for text in ("the prompt", "the answer"):
        assert text not in hidden
        assert text in shown


def test_one_line() -> None:
    assert one_line(_spans(failed=True)).plain == (
        "trace=00000000000000000000000000000abc POST /v1/chat/completions 100.0ms "
        "429 12.5 ms before the provider RateLimitError gpt-4o 7→4 tokens retry spans=3"
    )


def test_where_there_is_no_terminal_a_request_is_one_line() -> None:
    stream = io.StringIO()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ConsoleProcessor(stream))
    _request(provider)
    _request(provider, failed=True)
    assert provider.force_flush()
    assert [line.split(" ")[0].partition("=")[0] for line in stream.getvalue().splitlines()] == ["trace", "trace"]


def test_a_trace_is_drawn_by_itself_once_it_is_quiet() -> None:
    stream = io.StringIO()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ConsoleProcessor(stream))
    _request(provider)
    deadline = time.monotonic() + 10
    while not stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "spans=3" in stream.getvalue()


def test_text_from_outside_is_no_markup() -> None:
    stream = io.StringIO()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ConsoleProcessor(stream))
    provider.get_tracer("t").start_span("GET [bold]/[/nope] [red", kind=SpanKind.SERVER).end()
    provider.force_flush()
    assert "GET [bold]/[/nope] [red" in stream.getvalue()


def test_text_from_outside_makes_no_lines_and_no_escapes() -> None:
    stream = io.StringIO()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ConsoleProcessor(stream))
    hostile = "/x\ntrace=0 POST /forged 200\x1b[31m\x00\u2028" + "y" * 60_000
    attributes: dict[str, Any] = {"http.response.status_code": 404, "url.path": hostile}
    provider.get_tracer("t").start_span(f"GET {hostile}", kind=SpanKind.SERVER, attributes=attributes).end()
    provider.force_flush()
    (line,) = stream.getvalue().splitlines()
    assert len(line) < 600
    assert "\x1b" not in line
    assert "\x00" not in line


def test_each_request_of_one_trace_is_drawn_by_itself() -> None:
    stream = io.StringIO()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ConsoleProcessor(stream))
    trace = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    caller = set_span_in_context(NonRecordingSpan(trace))
    tracer = provider.get_tracer("t")
    for n in range(3):
        server = tracer.start_span(f"GET /{n}", context=caller, kind=SpanKind.SERVER)
        tracer.start_span("auth", context=set_span_in_context(server)).end()
        server.end()
    unfinished = tracer.start_span("GET /unfinished", context=caller, kind=SpanKind.SERVER)
    tracer.start_span("auth", context=set_span_in_context(unfinished)).end()
    tracer.start_span("a background job").end()
    provider.force_flush()
    assert [line.split(" ")[2] for line in stream.getvalue().splitlines()] == ["/0", "/1", "/2"]
    unfinished.end()
    provider.force_flush()
    (line,) = stream.getvalue().splitlines()[3:]
    assert "GET /unfinished" in line
    assert line.endswith("spans=2")


def test_a_stream_that_knows_ascii_only_gets_every_line() -> None:
    raw = io.BytesIO()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(ConsoleProcessor(io.TextIOWrapper(raw, encoding="ascii", write_through=True)))
    _request(provider)
    provider.force_flush()
    assert b"7?4 tokens spans=3" in raw.getvalue()


def test_the_view_is_attached_once() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    for _ in range(2):
        draw_on_console(provider, shows_content=False)
    assert len(provider._active_span_processor._span_processors) == 1


FORKING = """
import os, signal, sys, time
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind
from litellm_otel_plugin import console
from litellm_otel_plugin.console import ConsoleProcessor

console.SECONDS_TO_SETTLE = 3600  # nothing is drawn before it is asked for
processor = ConsoleProcessor(sys.stdout)
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(processor)

def draw(name):
    provider.get_tracer("t").start_span(name, kind=SpanKind.SERVER).end()

draw("GET /parent")
while not processor._open:
    time.sleep(0.01)
with processor._queue.mutex, processor._lock, processor._console._lock:
    child = os.fork()
    if child == 0:
        signal.alarm(int(sys.argv[1]))
        draw("GET /child")
        drawn = provider.force_flush()
        sys.stdout.flush()
        os._exit(not drawn)
assert os.waitpid(child, 0)[1] == 0
provider.force_flush()
"""


def test_a_forked_child_draws_its_own_requests_and_the_parent_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, str(int(patience.SECONDS))],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(" ")[1:3] for line in done.stdout.splitlines()] == [["GET", "/child"], ["GET", "/parent"]]


@pytest.mark.parametrize(
    ("setting", "backends", "wanted"),
    [("auto", 0, True), ("auto", 1, False), ("on", 0, True), ("on", 3, True), ("off", 0, False), ("off", 1, False)],
)
def test_when_it_is_wanted(setting: str, backends: int, wanted: bool) -> None:
    assert console_is_wanted(setting, backends=backends) is wanted

"""The embedded default: each request as a waterfall in the terminal, or as one line where there is no terminal.

Spans are drawn in a thread of their own: the proxy's event loop only puts them into a queue.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import HTTP_RESPONSE_STATUS_CODE, HTTP_ROUTE
from opentelemetry.semconv.attributes.url_attributes import URL_PATH
from opentelemetry.trace import SpanKind, StatusCode
from rich.console import Console
from rich.text import Text

from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.server_span import ERROR_CODE, PREPROCESSING_DURATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider

# LiteLLM closes the LLM call's span from a background task, some milliseconds after the response: a trace is drawn
# once it has been quiet for this long after its SERVER span.
SECONDS_TO_SETTLE = 0.3
# A trace without a SERVER span (a background job, a request that never ends) is drawn with what is there by then.
SECONDS_TO_GIVE_UP = 60.0
# Spans waiting to be drawn: 40 requests' worth a screen is more than anybody reads, and bounds a stuck terminal.
MOST_SPANS_QUEUED = 10_000
MOST_OPEN_TRACES = 500

# Name and bar leave some 35 columns for duration and facts. A terminal narrower than the wide pair needs gets the
# narrow one, which fits 80 columns.
WIDE_TERMINAL = 120
WIDE = (38, 32)
NARROW = (27, 12)
NANOSECONDS_PER_MILLISECOND = 1_000_000

GENAI_OPERATION = "gen_ai.operation.name"
GENAI_MODEL = ("gen_ai.response.model", "gen_ai.request.model")
GENAI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GENAI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
# What LiteLLM puts on a span only where the operator turned content capture on.
GENAI_INPUT_MESSAGES = "gen_ai.input.messages"
GENAI_OUTPUT_MESSAGES = "gen_ai.output.messages"


def console_is_wanted(setting: str, *, backends: int) -> bool:
    """``auto`` is for a proxy that has nowhere else to send its traces."""
    return setting == "on" or (setting == "auto" and backends == 0)


def draw_on_console(provider: TracerProvider, *, shows_content: bool) -> None:
    """Attach the view to ``provider``, once."""
    attached = provider._active_span_processor._span_processors  # noqa: SLF001 - the SDK has no public list
    if not any(isinstance(processor, ConsoleProcessor) for processor in attached):
        provider.add_span_processor(ConsoleProcessor(sys.stdout, shows_content=shows_content))


@dataclass
class _OpenTrace:
    spans: list[ReadableSpan] = field(default_factory=list)
    opened_at: float = 0.0
    touched_at: float = 0.0
    has_server_span: bool = False


class ConsoleProcessor(SpanProcessor):
    """Collects the spans of each trace and draws it when it is whole."""

    def __init__(self, stream: TextIO, *, shows_content: bool = False) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._shows_content = shows_content
        self._queue: queue.Queue[ReadableSpan | threading.Event] = queue.Queue(MOST_SPANS_QUEUED)
        self._open: dict[int, _OpenTrace] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing to do."""

    def on_end(self, span: ReadableSpan) -> None:
        """Hand the span to the drawing thread; one that does not fit is not drawn."""
        self._ensure_thread()
        try:
            self._queue.put_nowait(span)
        except queue.Full:
            return

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Draw what is there."""
        if self._thread is None or not self._thread.is_alive():
            return True
        drawn = threading.Event()
        seconds = timeout_millis / 1_000
        try:
            self._queue.put(drawn, timeout=seconds)
        except queue.Full:
            return False
        return drawn.wait(seconds)

    def shutdown(self) -> None:
        """Draw what is there; the thread is a daemon and waits for nothing."""
        self.force_flush(timeout_millis=1_000)

    def _ensure_thread(self) -> None:
        # Started with the first span, so that nothing runs in a process that will fork its workers.
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="litellm-otel-plugin-console", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=SECONDS_TO_SETTLE / 2 if self._open else None)
            except queue.Empty:
                item = None
            with contained("drawing a trace"):
                if isinstance(item, threading.Event):
                    self._draw_settled(everything=True)
                    item.set()
                    continue
                if item is not None:
                    self._collect(item)
                self._draw_settled()

    def _collect(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is None:
            return
        now = time.monotonic()
        trace = self._open.setdefault(context.trace_id, _OpenTrace(opened_at=now))
        trace.spans.append(span)
        trace.touched_at = now
        trace.has_server_span = trace.has_server_span or span.kind is SpanKind.SERVER

    def _draw_settled(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        for trace_id, trace in list(self._open.items()):
            whole = trace.has_server_span and now - trace.touched_at >= SECONDS_TO_SETTLE
            old = now - trace.opened_at >= SECONDS_TO_GIVE_UP or len(self._open) > MOST_OPEN_TRACES
            if not (whole or old or everything):
                continue
            del self._open[trace_id]
            spans = sorted(trace.spans, key=lambda span: span.start_time or 0)
            if self._console.is_terminal:
                columns = self._console.width
                for line in waterfall(spans, columns=columns, shows_content=self._shows_content):
                    self._console.print(line)
            else:
                self._console.print(one_line(spans))


def waterfall(
    spans: Sequence[ReadableSpan], *, columns: int = WIDE_TERMINAL, shows_content: bool = False
) -> list[Text]:
    """One line per span: indented name, bar on the trace's time axis, duration, and what is worth knowing."""
    name_width, bar_width = WIDE if columns >= WIDE_TERMINAL else NARROW
    start = min(span.start_time or 0 for span in spans)
    end = max(span.end_time or 0 for span in spans)
    root = spans[0].get_span_context()
    trace_id = f"{root.trace_id:032x}" if root is not None else "?"
    lines = [Text(f"── trace {trace_id} ", style="dim")]
    for span, depth in _in_tree_order(spans):
        failed = _failed(span)
        style = "bold red" if failed else ""
        label = f"{'  ' * depth}{span.name}"
        label = label if len(label) <= name_width else f"{label[: name_width - 1]}…"
        line = Text()
        line.append(label.ljust(name_width), style=style)
        line.append(" ")
        line.append(_bar(span, start, end, bar_width), style="red" if failed else "cyan")
        line.append(f" {_milliseconds(span):>9.1f} ms", style=style)
        facts = _facts(span)
        if facts:
            line.append(f"  {facts}", style=style or "dim")
        lines.append(line)
        if shows_content:
            lines.extend(_content(span, depth))
    return lines


def one_line(spans: Sequence[ReadableSpan]) -> Text:
    """The whole request in one compact line, for logs."""
    server = next((span for span in spans if span.kind is SpanKind.SERVER), spans[0])
    context = server.get_span_context()
    parts = [f"trace={context.trace_id:032x}" if context is not None else "", server.name]
    parts.append(f"{_milliseconds(server):.1f}ms")
    parts.extend(fact for fact in (_facts(server), *(_facts(span) for span in spans if _is_llm_call(span))) if fact)
    parts.append(f"spans={len(spans)}")
    return Text(" ".join(part for part in parts if part))


def _in_tree_order(spans: Sequence[ReadableSpan]) -> list[tuple[ReadableSpan, int]]:
    ids = {context.span_id for span in spans if (context := span.get_span_context()) is not None}
    children: dict[int | None, list[ReadableSpan]] = {}
    for span in spans:
        parent = span.parent.span_id if span.parent is not None and span.parent.span_id in ids else None
        children.setdefault(parent, []).append(span)
    ordered: list[tuple[ReadableSpan, int]] = []
    waiting = [(span, 0) for span in reversed(children.get(None, []))]
    while waiting:
        span, depth = waiting.pop()
        ordered.append((span, depth))
        context = span.get_span_context()
        below = children.get(context.span_id, []) if context is not None else []
        waiting.extend((child, depth + 1) for child in reversed(below))
    return ordered


def _bar(span: ReadableSpan, start: int, end: int, width: int) -> str:
    total = max(end - start, 1)
    first = min(width - 1, int(((span.start_time or start) - start) / total * width))
    last = max(first + 1, min(width, round(((span.end_time or end) - start) / total * width)))
    return " " * first + "█" * (last - first) + " " * (width - last)


def _facts(span: ReadableSpan) -> str:
    attributes: Mapping[str, Any] = span.attributes or {}
    facts: list[str] = []
    if span.kind is SpanKind.SERVER and HTTP_RESPONSE_STATUS_CODE in attributes:
        facts.append(str(attributes[HTTP_RESPONSE_STATUS_CODE]))
        if HTTP_ROUTE not in attributes:  # then the name does not say what was asked for
            facts.append(str(attributes.get(URL_PATH, "")))
    if PREPROCESSING_DURATION in attributes:
        facts.append(f"{attributes[PREPROCESSING_DURATION]:.1f} ms before the provider")
    if _is_llm_call(span):
        facts.append(str(next((attributes[name] for name in GENAI_MODEL if name in attributes), "")))
        tokens = [attributes.get(GENAI_INPUT_TOKENS), attributes.get(GENAI_OUTPUT_TOKENS)]
        if any(count is not None for count in tokens):
            facts.append(f"{tokens[0] or 0}→{tokens[1] or 0} tokens")
    error = attributes.get(ERROR_TYPE)
    if error is not None and str(error) not in facts:
        facts.append(str(error))
    return " ".join(fact for fact in facts if fact)


def _content(span: ReadableSpan, depth: int) -> list[Text]:
    attributes: Mapping[str, Any] = span.attributes or {}
    return [
        Text(f"{'  ' * (depth + 1)}{name.rsplit('.', 2)[-2]}: {attributes[name]}", style="dim")
        for name in (GENAI_INPUT_MESSAGES, GENAI_OUTPUT_MESSAGES)
        if name in attributes
    ]


def _is_llm_call(span: ReadableSpan) -> bool:
    # The model alone would not do: LiteLLM puts it on every span of a request.
    return GENAI_OPERATION in (span.attributes or {})


def _failed(span: ReadableSpan) -> bool:
    attributes: Mapping[str, Any] = span.attributes or {}
    return span.status.status_code is StatusCode.ERROR or ERROR_CODE in attributes


def _milliseconds(span: ReadableSpan) -> float:
    return ((span.end_time or 0) - (span.start_time or 0)) / NANOSECONDS_PER_MILLISECOND

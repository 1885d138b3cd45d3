"""The embedded default: each request as a waterfall in the terminal, or as one line where there is no terminal.

Spans are drawn in a thread of their own: the proxy's event loop only puts them into a queue.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import weakref
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
from litellm_otel_plugin.request.attempts import ATTEMPT_REASON
from litellm_otel_plugin.request.server_span import ERROR_CODE, PREPROCESSING_DURATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider

# LiteLLM closes the LLM call's span from a background task, some milliseconds after the response: a trace is drawn
# once it has been quiet for this long after its SERVER span.
SECONDS_TO_SETTLE = 0.3
# Spans of a request that is not over after this long (a session, a client that never reads on) are let go.
SECONDS_TO_GIVE_UP = 900.0
# Spans waiting to be drawn: 40 requests' worth a screen is more than anybody reads, and bounds a stuck terminal.
MOST_SPANS_QUEUED = 10_000
# Requests in flight on one worker stay far below this; past it the oldest are let go.
MOST_OPEN_TRACES = 5_000
# A client chooses paths, models and header values: a fact is shown as long as it can be read at a glance.
LONGEST_FACT = 200
LONGEST_CONTENT = 4_000

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


class ConsoleProcessor(SpanProcessor):
    """Collects the spans of each trace and draws it when it is whole."""

    def __init__(self, stream: TextIO, *, shows_content: bool = False) -> None:
        self._stream = stream
        self._shows_content = shows_content
        self._begin()
        _processors.add(self)

    def _begin(self) -> None:
        """Be as new: at first, and in a forked child, where a lock can be held that nobody lets go of."""
        self._console = Console(file=self._stream, highlight=False, soft_wrap=True)
        self._queue: queue.Queue[ReadableSpan | threading.Event] = queue.Queue(MOST_SPANS_QUEUED)
        self._open: dict[int, _OpenTrace] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def restart_in_child(self) -> None:
        """After a fork: the parent's requests are the parent's to draw."""
        self._begin()

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
        look_again_at = 0.0  # looking through every open trace with each span would be quadratic under load
        while True:
            try:
                item = self._queue.get(timeout=SECONDS_TO_SETTLE / 2 if self._open else None)
            except queue.Empty:
                item = None
            with contained("drawing a trace"):
                if isinstance(item, threading.Event):
                    try:
                        self._draw_settled(everything=True)
                    finally:
                        item.set()  # whoever waits for it has nothing to gain from waiting longer
                    continue
                if item is not None:
                    self._collect(item)
                if time.monotonic() >= look_again_at:
                    look_again_at = time.monotonic() + SECONDS_TO_SETTLE / 2
                    self._draw_settled()

    def _collect(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is None:
            return
        now = time.monotonic()
        trace = self._open.setdefault(context.trace_id, _OpenTrace(opened_at=now))
        trace.spans.append(span)
        trace.touched_at = now

    def _draw_settled(self, *, everything: bool = False) -> None:
        now = time.monotonic()
        for trace_id, trace in list(self._open.items()):
            if not everything and now - trace.touched_at < SECONDS_TO_SETTLE:
                continue
            requests, trace.spans = split_requests(trace.spans)
            for spans in requests:
                self._draw(spans)
            old = now - trace.opened_at >= SECONDS_TO_GIVE_UP or len(self._open) > MOST_OPEN_TRACES
            if old or not trace.spans:
                del self._open[trace_id]

    def _draw(self, spans: Sequence[ReadableSpan]) -> None:
        if self._console.is_terminal:
            lines = waterfall(spans, columns=self._console.width, shows_content=self._shows_content)
        else:
            lines = [one_line(spans)]
        for line in lines:
            # A stream that is not UTF-8 shows a question mark where it has no bar.
            line.plain = line.plain.encode(self._console.encoding, "replace").decode(self._console.encoding)
            self._console.print(line)


_processors: weakref.WeakSet[ConsoleProcessor] = weakref.WeakSet()


def _in_child() -> None:
    for processor in list(_processors):
        processor.restart_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def split_requests(spans: Sequence[ReadableSpan]) -> tuple[list[list[ReadableSpan]], list[ReadableSpan]]:
    """The spans of each finished request, in the order in which they started, and those whose request is not over.

    A caller can put several requests into one trace. What belongs to no request (a background job) is left out.
    """
    by_id = {context.span_id: span for span in spans if (context := span.get_span_context()) is not None}
    requests: dict[int, list[ReadableSpan]] = {}
    waiting: list[ReadableSpan] = []
    for span in sorted(spans, key=lambda each: each.start_time or 0):
        root = span
        while root.parent is not None and not root.parent.is_remote and root.parent.span_id in by_id:
            root = by_id[root.parent.span_id]
        context = root.get_span_context()
        if root.parent is not None and not root.parent.is_remote:
            waiting.append(span)
        elif root.kind is SpanKind.SERVER and context is not None:
            requests.setdefault(context.span_id, []).append(span)
    return list(requests.values()), waiting


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
        label = f"{'  ' * depth}{printable(span.name)}"
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
    parts = [f"trace={context.trace_id:032x}" if context is not None else "", printable(server.name)]
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
        facts.append(str(attributes.get(ATTEMPT_REASON, "")))
    error = attributes.get(ERROR_TYPE)
    if error is not None and str(error) not in facts:
        facts.append(str(error))
    return " ".join(printable(fact) for fact in facts if fact)


def printable(text: str, longest: int = LONGEST_FACT) -> str:
    """Text from outside as it may be put on a terminal: no line breaks, no escape sequences, no end of the world."""
    shown = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in shown)


def _content(span: ReadableSpan, depth: int) -> list[Text]:
    attributes: Mapping[str, Any] = span.attributes or {}
    return [
        Text(
            f"{'  ' * (depth + 1)}{name.rsplit('.', 2)[-2]}: {printable(str(attributes[name]), LONGEST_CONTENT)}",
            style="dim",
        )
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

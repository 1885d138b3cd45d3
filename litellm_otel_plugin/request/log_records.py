"""The ids on log records: which request, and which span of it, a line was written for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry import trace

from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.attempts import NANOSECONDS_PER_SECOND
from litellm_otel_plugin.request.record import record_of_context

if TYPE_CHECKING:
    import logging

    from litellm_otel_plugin.request.record import RequestRecord

TRACE_ID = "trace_id"
SPAN_ID = "span_id"

# A logger that LiteLLM builds for the first request that asks for it flushes for as long as the proxy runs, in a task
# that inherits that request's context. Three times what LiteLLM gives a callback is as long as a request's own lines
# come.
LONGEST_AFTERMATH_SECONDS = 60.0


def mark_with_ids(entry: logging.LogRecord) -> bool:
    """Put the ids on a log record that is made for a request. As a filter of a logger, it lets everything through.

    Not a record factory: `logging` refuses a record whose `extra` names what the factory has set, with an exception.
    """
    with contained("marking a log record"):
        record = record_of_context()
        if record is not None and not hasattr(entry, TRACE_ID) and not _is_long_over(record):
            server = record.span.get_span_context()
            current = trace.get_current_span().get_span_context()
            # A tenant's project can have the model call in a trace of its own.
            span = current if current.trace_id == server.trace_id else server
            entry.trace_id = f"{server.trace_id:032x}"
            entry.span_id = f"{span.span_id:016x}"
    return True


def _is_long_over(record: RequestRecord) -> bool:
    if not record.finished:
        return False
    ended_ns = getattr(record.span, "end_time", None)  # a span that is not sampled does not know
    ended_at = ended_ns / NANOSECONDS_PER_SECOND if ended_ns else record.response_started_at
    return time.time() - ended_at > LONGEST_AFTERMATH_SECONDS

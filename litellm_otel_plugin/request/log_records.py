"""The ids on log records: which request, and which span of it, a line was written for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace

from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.record import record_of_context

if TYPE_CHECKING:
    import logging

TRACE_ID = "trace_id"
SPAN_ID = "span_id"


def mark_with_ids(entry: logging.LogRecord) -> bool:
    """Put the ids on a log record that is made for a request. As a filter of a logger, it lets everything through.

    Not a record factory: `logging` refuses a record whose `extra` names what the factory has set, with an exception.
    """
    with contained("marking a log record"):
        record = record_of_context()
        if record is not None and not hasattr(entry, TRACE_ID):
            server = record.span.get_span_context()
            current = trace.get_current_span().get_span_context()
            # LiteLLM's tenants can have the model call in a trace of its own.
            span = current if current.trace_id == server.trace_id else server
            entry.trace_id = f"{server.trace_id:032x}"
            entry.span_id = f"{span.span_id:016x}"
    return True

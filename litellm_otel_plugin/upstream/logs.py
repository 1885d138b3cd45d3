"""LiteLLM's log lines: its loggers, and how its formatters show what is on a record."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

from litellm_otel_plugin import seams
from litellm_otel_plugin.request.log_records import SPAN_ID
from litellm_otel_plugin.seams import SeamMissing
from litellm_otel_plugin.upstream.access import put, take

if TYPE_CHECKING:
    from collections.abc import Callable

# `LiteLLM`, `LiteLLM Proxy`, `LiteLLM Router` and what hangs below them.
LITELLM_LOGGERS = "LiteLLM"
# Their lines are the proxy's too: LiteLLM has them formatted as its own where it logs JSON.
SERVER_LOGGERS = ("uvicorn.access", "uvicorn.error")


def mark_log_records(mark: Callable[[logging.LogRecord], bool]) -> None:
    """Call ``mark`` with each log record of LiteLLM's, unless LiteLLM is told to put ids of its own on them.

    On the loggers and not on their handlers, which LiteLLM replaces when it turns to JSON.
    """

    def mark_unless_litellm_does(entry: logging.LogRecord) -> bool:
        return marks_by_itself() or mark(entry)

    below = [name for name in logging.root.manager.loggerDict if name.startswith(LITELLM_LOGGERS)]
    for name in (*below, *SERVER_LOGGERS):
        logging.getLogger(name).addFilter(mark_unless_litellm_does)


def marks_by_itself() -> bool:
    """Whether ``litellm_settings: request_correlation_in_logs`` is on: ``trace_id`` is then an id of LiteLLM's own."""
    import litellm  # noqa: PLC0415 - see the package's docstring

    return bool(getattr(litellm, "request_correlation_in_logs", False))


def show_span_id_in_text_logs() -> None:
    """Have ``span_id`` beside the ``trace_id`` that LiteLLM's formatter appends to a line: `[trace_id=… span_id=…]`."""
    formatter = take(seams.TEXT_LOGS)
    original = formatter.format

    @functools.wraps(original)
    def format_with_span_id(self: Any, entry: logging.LogRecord) -> str:
        line: str = original(self, entry)
        has_ids = getattr(entry, "trace_id", None) and getattr(entry, SPAN_ID, None)
        return f"{line.removesuffix(']')} {SPAN_ID}={entry.__dict__[SPAN_ID]}]" if has_ids else line

    formatter.format = format_with_span_id


def keep_span_id_of_json_logs() -> None:
    """Let no message claim the field ``span_id``, as LiteLLM has it for ``trace_id``.

    It makes fields of what a message quotes, and a client's request is quoted.
    """
    reserved = take(seams.JSON_LOGS)
    if not isinstance(reserved, frozenset):
        raise SeamMissing(seams.JSON_LOGS)
    put(seams.JSON_LOGS, reserved | {SPAN_ID})

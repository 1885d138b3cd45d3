"""What a guardrail blocked is on no span of LiteLLM's either, unless content is captured."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from litellm_otel_plugin import seams
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.errors import exception_name
from litellm_otel_plugin.request.record import record_of_context
from litellm_otel_plugin.upstream.access import put, take
from litellm_otel_plugin.upstream.loggers import v2_loggers
from litellm_otel_plugin.upstream.wording import captures


def text_may_be_shown() -> bool:
    """Whether the operator lets content be put on spans, for every backend: they share a status and its events."""
    loggers = v2_loggers()
    return bool(loggers) and all(map(captures, loggers))


def withhold_texts() -> None:
    """Keep the text of what a guardrail raised off the other spans: it can quote what was blocked."""
    describe, logger = take(seams.FAILURE), take(seams.FAILED_CALLS)
    log_failure = logger.async_log_failure_event

    @functools.wraps(describe)
    def span_error_from_exception(exception: Any, *args: Any, **kwargs: Any) -> Any:
        error = describe(exception, *args, **kwargs)
        with contained("keeping a guardrail's text off a span"):
            if _is_withheld(exception):
                return replace(error, message=exception_name(exception), stack_trace=None)
        return error

    @functools.wraps(log_failure)
    async def async_log_failure_event(self: Any, kwargs: Any, *args: Any, **more: Any) -> Any:
        told = kwargs
        with contained("keeping a guardrail's text off a call's span"):
            if _is_withheld(kwargs.get("exception")):
                told = _without_message(kwargs)
        return await log_failure(self, told, *args, **more)

    put(seams.FAILURE, span_error_from_exception)
    logger.async_log_failure_event = async_log_failure_event


def _is_withheld(exception: object) -> bool:
    record = record_of_context()
    return record is not None and isinstance(exception, BaseException) and record.guardrails.caused(exception)


def _without_message(call: Mapping[str, Any]) -> dict[str, Any]:
    """What LiteLLM tells of a failed call, for its tracing alone: others are handed the original."""
    payload = call.get("standard_logging_object")
    if not isinstance(payload, Mapping):
        return dict(call)
    information = {**(payload.get("error_information") or {}), "error_message": None, "traceback": None}
    return {**call, "standard_logging_object": {**payload, "error_str": None, "error_information": information}}

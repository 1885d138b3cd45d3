"""What is stamped on the SERVER span, and when.

Contrib's middleware makes the span, sets most of the HTTP attributes and ends the span inside the send of the last
body message. So the route and the call id are stamped when the response starts, and the rest just before that last
message is forwarded, or when the application returns without one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.exception_attributes import EXCEPTION_MESSAGE, EXCEPTION_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.trace import Status, StatusCode

from litellm_otel_plugin.request.errors import error_name, exception_name
from litellm_otel_plugin.request.route import route_template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import Span

    from litellm_otel_plugin.request.record import RequestRecord

CALL_ID = "litellm.call_id"
ATTEMPTS = "litellm.attempts"
PREPROCESSING_DURATION = "litellm.preprocessing.duration_ms"
PROVIDER_DURATION = "litellm.provider.duration_ms"
OVERHEAD_DURATION = "litellm.overhead.duration_ms"
TIME_TO_FIRST_BYTE = "litellm.time_to_first_byte_ms"
EXCEPTION_EVENT = "exception"
# LiteLLM puts the status of a failure here, also where the response's own was a 200 by then.
PROVIDER_ERROR_CODE = "litellm.provider.error.code"
# Not a semantic convention: LiteLLM's earlier tracing set it, and dashboards are built on it.
ERROR_CODE = "error.code"
# The legacy status, which contrib sets where legacy names are kept.
LEGACY_STATUS_CODE = "http.status_code"

FIRST_ERROR_STATUS = 400
# An exception's text can quote a whole request; this is longer than what anybody reads of one.
LONGEST_MESSAGE = 4_096
SERVER_ERROR_STATUS = 500
# nginx's status for a client that left before the response: nothing was sent, so none of HTTP's own is true.
CLIENT_CLOSED_REQUEST = 499
WEBSOCKET_ACCEPTED = 101
WEBSOCKET_REFUSED = 403


def span_name(method: str, route: str | None) -> str:
    """``{METHOD} {route}``, and the method alone where nothing matched: both bounded, whatever is requested."""
    spoken = "HTTP" if method == "_OTHER" else method
    return f"{spoken} {route}" if route else spoken


def learn_route(record: RequestRecord) -> None:
    """Stamp the route as soon as the router has matched it; LiteLLM copies it to the LLM call's span from there."""
    if record.route is not None or record.finished:
        return
    record.route = route_template(record.scope, record.application)
    if record.route is not None and record.span.is_recording():
        record.span.set_attribute(HTTP_ROUTE, record.route)
        record.span.update_name(span_name(record.method, record.route))


def stamp_response_start(record: RequestRecord) -> None:
    """Stamp what is known when the response starts."""
    learn_route(record)
    if record.call_id is not None:
        record.span.set_attribute(CALL_ID, record.call_id)
    record.stamped_error = _stamped_error(record)


def stamp_outcome(record: RequestRecord, *, exception_passes: bool = False) -> None:
    """Stamp how the request ended, once, while the span still takes attributes.

    An exception that passes on to contrib's middleware is recorded there.
    """
    if record.finished:
        return
    try:
        learn_route(record)
        record.guardrails.finish()
        record.finished = True
        if record.span.is_recording():
            _stamp(record)
            if not exception_passes:
                _record_exception(record)
            elif record.exception is not None and record.guardrails.caused(record.exception):
                _record_exception(record)
                _fail(record, error_name(record.exception, None, None))
                _take_no_more_of_it(record.span)
    finally:
        record.finished = True
        record.is_over()
        record.forget()


def _stamp(record: RequestRecord) -> None:
    span = record.span
    record.exception = record.exception or record.failure_of_last_attempt()
    span.set_attribute(ATTEMPTS, record.handoffs.attempts(record.call_id))
    span.set_attributes(durations(record))
    if record.first_byte_ms is not None:
        span.set_attribute(TIME_TO_FIRST_BYTE, record.first_byte_ms)
    if record.status is not None:
        span.set_attribute(HTTP_RESPONSE_STATUS_CODE, record.status)
        if LEGACY_STATUS_CODE in _attributes(record):  # contrib counts every WebSocket as a 200
            span.set_attribute(LEGACY_STATUS_CODE, record.status)
    _stamp_error(record)


def durations(record: RequestRecord) -> dict[str, float]:
    """Where the time went until now, in milliseconds. What no provider was busy with is the proxy's own."""
    handoffs = record.handoffs
    elapsed = handoffs.elapsed_ms()
    preprocessing, provider = handoffs.preprocessing_ms(record.call_id), handoffs.provider_ms(record.call_id)
    known = {
        PREPROCESSING_DURATION: preprocessing,
        PROVIDER_DURATION: provider,
        OVERHEAD_DURATION: elapsed - (provider or 0.0),
    }
    return {name: milliseconds for name, milliseconds in known.items() if milliseconds is not None}


def _stamp_error(record: RequestRecord) -> None:
    span, status = record.span, record.status
    failed_status = str(status) if status is not None and status >= FIRST_ERROR_STATUS else None
    if failed_status is not None:
        span.set_attribute(ERROR_CODE, failed_status)
    exception = record.exception
    if record.ended_early is not None and exception is None:
        _fail(record, record.ended_early)
        return
    if record.close_code is not None:
        _fail(record, exception_name(exception) or str(record.close_code))
        return
    stamped = record.stamped_error or _stamped_error(record) or record.sent_error
    if failed_status is None and exception is None and stamped is None:
        return
    if failed_status is None:  # a stream that broke after a 200
        failed_status = _attributes(record).get(PROVIDER_ERROR_CODE)
        _fail(record, error_name(exception, stamped, failed_status))
    else:
        span.set_attribute(ERROR_TYPE, error_name(exception, stamped, failed_status))


def _fail(record: RequestRecord, name: str) -> None:
    """Name a failure that no HTTP status shows. LiteLLM's own description of it stays."""
    record.span.set_attribute(ERROR_TYPE, name)
    if not _described(record):
        record.span.set_status(Status(StatusCode.ERROR, name))


def _record_exception(record: RequestRecord) -> None:
    """Leave one ``exception`` event where LiteLLM left none: it handles an exception of its own code without one."""
    exception, name = record.exception, exception_name(record.exception)
    if exception is None or name is None or not isinstance(record.span, ReadableSpan):
        return
    if any(event.name == EXCEPTION_EVENT for event in record.span.events):
        return
    message = "" if record.guardrails.caused(exception) else str(exception)[:LONGEST_MESSAGE]
    attributes = {EXCEPTION_TYPE: name, EXCEPTION_MESSAGE: message} if message else {EXCEPTION_TYPE: name}
    record.span.add_event(EXCEPTION_EVENT, attributes)
    if not _described(record):
        record.span.set_status(Status(StatusCode.ERROR, f"{name}: {message}" if message else name))


def _take_no_more_of_it(span: Span) -> None:
    """Contrib's middleware records whatever passes it, with text and stack: the span is done with this exception."""

    def nothing(*_: Any, **__: Any) -> None:
        """It has been recorded, without its text."""

    vars(span).update(record_exception=nothing, set_status=nothing)


def _described(record: RequestRecord) -> bool:
    return isinstance(record.span, ReadableSpan) and bool(record.span.status.description)


def _stamped_error(record: RequestRecord) -> str | None:
    stamped = _attributes(record).get(ERROR_TYPE)
    return str(stamped) if stamped is not None else None


def _attributes(record: RequestRecord) -> Mapping[str, Any]:
    # A recording span of an SDK can be read; one of another implementation need not be.
    return (record.span.attributes or {}) if isinstance(record.span, ReadableSpan) else {}

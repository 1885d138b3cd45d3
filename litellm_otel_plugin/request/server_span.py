"""What is stamped on the SERVER span, and when.

Contrib's middleware makes the span, sets most of the HTTP attributes and ends the span inside the send of the last
body message. So the route and the call id are stamped when the response starts, and the rest just before that last
message is forwarded, or when the application returns without one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.asgi import get_host_port_url_tuple
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.semconv.attributes.url_attributes import URL_QUERY
from opentelemetry.trace import Status, StatusCode
from opentelemetry.util.http import sanitize_method

from litellm_otel_plugin.privacy import redact_query
from litellm_otel_plugin.request.errors import CLIENT_DISCONNECTED, error_name
from litellm_otel_plugin.request.route import route_template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litellm_otel_plugin.request.record import RequestRecord

CALL_ID = "litellm.call_id"
ATTEMPTS = "litellm.attempts"
PREPROCESSING_DURATION = "litellm.preprocessing.duration_ms"
# Not a semantic convention: LiteLLM's earlier tracing set it, and dashboards are built on it.
ERROR_CODE = "error.code"
# The two legacy names that repeat the query string.
LEGACY_URL = "http.url"
LEGACY_TARGET = "http.target"
LEGACY_STATUS_CODE = "http.status_code"

FIRST_ERROR_STATUS = 400
SERVER_ERROR_STATUS = 500
# nginx's status for a client that left before the response: nothing was sent, so none of HTTP's own is true.
CLIENT_CLOSED_REQUEST = 499
WEBSOCKET_ACCEPTED = 101
WEBSOCKET_REFUSED = 403

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class SpanDetails:
    """Name and attributes with which contrib starts the SERVER span; what it returns wins over contrib's own.

    There is no route in it: that is known once the router has matched, and stamped then.
    """

    def __init__(self, *, legacy_names: bool) -> None:
        self._legacy_names = legacy_names

    def __call__(self, scope: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Answer contrib's middleware."""
        method = request_method(scope)
        attributes: dict[str, Any] = dict(_server(scope))
        if scope["type"] == "websocket":  # the handshake is a GET, which ASGI does not say
            attributes[HTTP_REQUEST_METHOD] = method
        query = scope.get("query_string") or b""
        if query:
            redacted = redact_query(query.decode("latin-1"))
            attributes[URL_QUERY] = redacted
            if self._legacy_names:
                attributes[LEGACY_URL] = f"{_url_without_query(scope)}?{redacted}"
                attributes[LEGACY_TARGET] = scope.get("path", "")
        return span_name(method, None), attributes


def request_method(scope: Mapping[str, Any]) -> str:
    """The request's method, ``_OTHER`` for the ones that HTTP does not know."""
    return sanitize_method(str(scope.get("method") or "GET").strip())


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
        record.span.update_name(span_name(request_method(record.scope), record.route))


def stamp_response_start(record: RequestRecord) -> None:
    """Stamp what is known when the response starts."""
    learn_route(record)
    if record.call_id is not None:
        record.span.set_attribute(CALL_ID, record.call_id)
    record.stamped_error = _stamped_error(record)


def stamp_outcome(record: RequestRecord) -> None:
    """Stamp how the request ended, once, while the span still takes attributes."""
    if record.finished:
        return
    learn_route(record)
    record.finished = True
    if record.span.is_recording():
        _stamp(record)
    record.handoffs.forget()


def _stamp(record: RequestRecord) -> None:
    span = record.span
    span.set_attribute(ATTEMPTS, record.handoffs.attempts(record.call_id))
    preprocessing = record.handoffs.preprocessing_ms(record.call_id)
    if preprocessing is not None:
        span.set_attribute(PREPROCESSING_DURATION, preprocessing)
    if record.status is not None:
        span.set_attribute(HTTP_RESPONSE_STATUS_CODE, record.status)
        if LEGACY_STATUS_CODE in _attributes(record):  # contrib counts every WebSocket as a 200
            span.set_attribute(LEGACY_STATUS_CODE, record.status)
    _stamp_error(record)


def _stamp_error(record: RequestRecord) -> None:
    span, status = record.span, record.status
    failed_status = status if status is not None and status >= FIRST_ERROR_STATUS else None
    if failed_status is not None:
        span.set_attribute(ERROR_CODE, str(failed_status))
    if record.client_gone and record.exception is None:
        span.set_attribute(ERROR_TYPE, CLIENT_DISCONNECTED)
        span.set_status(Status(StatusCode.ERROR, CLIENT_DISCONNECTED))
        return
    stamped = record.stamped_error or _stamped_error(record)
    if failed_status is None and record.exception is None and stamped is None:
        return
    name = error_name(record.exception, stamped, failed_status)
    if name is not None:
        span.set_attribute(ERROR_TYPE, name)


def _stamped_error(record: RequestRecord) -> str | None:
    stamped = _attributes(record).get(ERROR_TYPE)
    return str(stamped) if stamped is not None else None


def _attributes(record: RequestRecord) -> Mapping[str, Any]:
    # A recording span of an SDK can be read; one of another implementation need not be.
    return (record.span.attributes or {}) if isinstance(record.span, ReadableSpan) else {}


def _url_without_query(scope: Mapping[str, Any]) -> str:
    _host, _port, url = get_host_port_url_tuple(scope)  # type: ignore[no-untyped-call]  # contrib's
    return str(url)


def _server(scope: Mapping[str, Any]) -> Mapping[str, Any]:
    """``server.address`` and ``server.port`` as the client addressed them, else as the socket is bound.

    Contrib joins address and port into ``server.address``; the convention has them apart.
    """
    host = next((value for name, value in scope.get("headers") or () if name == b"host"), b"").decode("latin-1")
    name, port = _split_host(host)
    server = scope.get("server") or (None, None)
    address = name or server[0]
    if address is None:
        return {}
    number = port if name else server[1]
    if number is None:
        number = _DEFAULT_PORTS.get(str(scope.get("scheme", "http")))
    return {SERVER_ADDRESS: address} if number is None else {SERVER_ADDRESS: address, SERVER_PORT: number}


def _split_host(host: str) -> tuple[str, int | None]:
    """A Host header's name and port; an empty name where the header is no host."""
    if host.startswith("["):
        name, bracket, rest = host[1:].partition("]")
        if not bracket:
            return "", None
    else:
        name, colon, port = host.partition(":")
        rest = colon + port
    number = rest.removeprefix(":")
    # Longer than a port can be: int() of a megabyte of digits is work that a client could ask for.
    port_number = int(number) if number.isascii() and number.isdecimal() and len(number) <= len("65535") else None
    return name.lower(), port_number

"""Our ASGI layer, just inside the SERVER span: one record per request, stamped when the response says how it went."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import detach
from opentelemetry.instrumentation.propagators import TraceResponsePropagator, get_global_response_propagator

from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.client import Client
from litellm_otel_plugin.request.errors import error_event
from litellm_otel_plugin.request.record import RequestRecord, open_record
from litellm_otel_plugin.request.server_span import (
    CLIENT_CLOSED_REQUEST,
    FIRST_ERROR_STATUS,
    SERVER_ERROR_STATUS,
    WEBSOCKET_ACCEPTED,
    WEBSOCKET_REFUSED,
    durations,
    stamp_outcome,
    stamp_response_start,
)
from litellm_otel_plugin.request.span_details import request_method
from litellm_otel_plugin.request.untraced import enter_untraced

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

CALL_ID_HEADER = b"x-litellm-call-id"
LENGTH_HEADER = b"content-length"
TYPE_HEADER = b"content-type"
EVENT_STREAM = "text/event-stream"
SERVER_TIMING_HEADER = b"server-timing"
TRACE_RESPONSE_HEADER = b"traceresponse"
WEBSOCKET_NORMAL_CLOSURE = 1000
# Done, going away, and no code at all: how sessions end that nothing went wrong in.
WEBSOCKET_QUIET_CLOSURES = (WEBSOCKET_NORMAL_CLOSURE, 1001, 1005)
# FastAPI's own telemetry looks here before it makes a SERVER span of its own for a mounted sub-application.
FASTAPI_TELEMETRY_KEY = "fastapi.telemetry"


class RequestLayer:
    """Keeps a record of each request that has a SERVER span.

    ``app`` is public and named so: FastAPI finds contrib's middleware by walking that attribute through the chain.
    """

    def __init__(self, app: Application, *, server_timing: bool = False) -> None:
        self.app = app
        self._server_timing = server_timing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, websocket or lifespan."""
        record: RequestRecord | None = None
        with contained("opening the record of a request"):
            record = _open(scope)
        if record is None:
            untraced = enter_untraced() if _is_untraced(scope) else None
            try:
                await self.app(scope, receive, send)
            finally:
                if untraced is not None:
                    detach(untraced)
            return
        exchange = _Exchange(record, receive, send, server_timing=self._server_timing)
        returned = False
        try:
            await self.app(scope, exchange.receive, exchange.send)
            returned = True
        finally:
            # The exception that is passing, if one is: it is looked at, never caught.
            passing = None if returned else sys.exc_info()[1]
            try:
                with contained("closing the record of a request"):
                    _close(record, passing)
            finally:
                del passing  # its traceback holds this frame: the request's body would wait for the garbage collector


class _Exchange:
    """One request's two channels, watched."""

    __slots__ = ("_client", "_record", "_send", "_server_timing")

    def __init__(self, record: RequestRecord, receive: Receive, send: Send, *, server_timing: bool) -> None:
        self._record = record
        self._client = Client(receive)
        self._send = send
        self._server_timing = server_timing

    async def receive(self) -> Message:
        """Pass a message on to the application; notice a client that left."""
        message = await self._client.receive()
        if message["type"] == "http.disconnect" and not self._record.response_complete:
            self._record.client_gone = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a message on to the client; stamp what it tells."""
        starts = message["type"] == "http.response.start"
        if starts and not self._record.client_gone:
            with contained("looking for a client that left"):
                self._record.client_gone = self._client.has_left()
        with contained("stamping a response"):
            message = _observe(self._record, message)
            if starts and self._server_timing:
                message = _with_server_timing(self._record, message)
        await self._send(message)


def _open(scope: Scope) -> RequestRecord | None:
    if scope["type"] not in ("http", "websocket"):
        return None
    scope[FASTAPI_TELEMETRY_KEY] = None
    span = trace.get_current_span()
    context = span.get_span_context()
    # Contrib makes no span for an excluded path, and a disabled SDK none at all: then the caller's is the current one.
    return open_record(scope, span, request_method(scope)) if context.is_valid and not context.is_remote else None


def _is_untraced(scope: Scope) -> bool:
    return scope["type"] in ("http", "websocket") and not trace.get_current_span().get_span_context().is_valid


def _observe(record: RequestRecord, message: Message) -> Message:
    kind = message["type"]
    if kind in ("http.response.start", "websocket.http.response.start"):
        return _started(record, message)
    if kind == "http.response.body":
        if record.first_byte_ms is None and message.get("body") and not record.client_gone:
            record.first_byte_ms = record.handoffs.elapsed_ms()
        if record.sends_events:
            record.sent_error = record.sent_error or error_event(message.get("body") or b"")
        if not message.get("more_body", False):
            record.response_complete = True
            stamp_outcome(record)
    elif kind == "websocket.accept":
        record.response_started = True
        record.status = WEBSOCKET_ACCEPTED
        stamp_response_start(record)
        return _with_trace_response(record, message)
    elif kind == "websocket.close":
        if not record.response_started:
            record.status = WEBSOCKET_REFUSED
        elif message.get("code", WEBSOCKET_NORMAL_CLOSURE) not in WEBSOCKET_QUIET_CLOSURES:
            record.close_code = message["code"]
        record.response_complete = True
    return message


def _started(record: RequestRecord, message: Message) -> Message:
    record.response_started = True
    record.response_started_at = time.time()
    # Nothing of it is sent to a client that has left.
    record.status = CLIENT_CLOSED_REQUEST if record.client_gone else message["status"]
    record.call_id = _header(message, CALL_ID_HEADER)
    record.sends_events = (_header(message, TYPE_HEADER) or "").startswith(EVENT_STREAM)
    if message["status"] >= FIRST_ERROR_STATUS:
        # An exception handler answers while its exception is being handled, and says what went wrong by that.
        answered = sys.exc_info()[1]
        if isinstance(answered, Exception):
            record.failed_with(answered)
    elif _header(message, LENGTH_HEADER) is not None:  # a stream has none: its provider goes on answering
        record.answered = True
        record.handoffs.answered(record.call_id)
    stamp_response_start(record)
    return _with_trace_response(record, message)


def _close(record: RequestRecord, passing: BaseException | None) -> None:
    if isinstance(passing, Exception):
        record.failed_with(passing)
    elif isinstance(passing, asyncio.CancelledError) and record.scope["type"] == "http":
        record.cancelled = not record.response_complete
    if not record.response_complete and not record.finished:
        if record.client_gone and not record.response_started:
            record.status = CLIENT_CLOSED_REQUEST
        elif not record.client_gone and not record.response_started and record.scope["type"] == "http":
            # No response at all: the server answers a 500 of its own.
            record.status = SERVER_ERROR_STATUS
    stamp_outcome(record, exception_passes=isinstance(passing, Exception))


def _header(message: Message, name: bytes) -> str | None:
    for key, value in message.get("headers") or ():
        if key.lower() == name:
            return str(value.decode("latin-1"))
    return None


def _with_server_timing(record: RequestRecord, message: Message) -> Message:
    """The message with the durations that are known when the headers go."""
    entries = ", ".join(f"{name.split('.')[1]};dur={value:.3f}" for name, value in durations(record).items())
    headers = [*(message.get("headers") or ()), (SERVER_TIMING_HEADER, entries.encode())]
    return {**message, "headers": headers}


def _with_trace_response(record: RequestRecord, message: Message) -> Message:
    """The message with one ``traceresponse`` header. The application's own message is left as it is."""
    if _header(message, TRACE_RESPONSE_HEADER) is not None:
        return message
    propagator = get_global_response_propagator()  # type: ignore[no-untyped-call]  # contrib's
    if isinstance(propagator, TraceResponsePropagator):
        return message  # contrib is about to add it
    context = record.span.get_span_context()
    value = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return {**message, "headers": [*(message.get("headers") or ()), (TRACE_RESPONSE_HEADER, value.encode("ascii"))]}

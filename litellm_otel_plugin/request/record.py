"""The record: every fact about one request, held off-band and gone with the request."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from litellm_otel_plugin.request.attempts import NANOSECONDS_PER_SECOND
from litellm_otel_plugin.request.errors import CANCELLED, CLIENT_DISCONNECTED
from litellm_otel_plugin.request.guardrails import Guardrails
from litellm_otel_plugin.request.handoff import NANOSECONDS_PER_MILLISECOND, Handoffs

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from typing import Any

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Span

    from litellm_otel_plugin.request.attempts import Attempt, Call
    from litellm_otel_plugin.request.open_calls import OpenCalls


@dataclass(slots=True, eq=False)
class RequestRecord:
    """The facts of one request.

    It lives in a context variable: tasks that the request starts see it, other requests cannot, and nothing that
    LiteLLM or a provider could read holds it.
    """

    scope: MutableMapping[str, Any]
    span: Span
    method: str = "GET"
    application: object = None
    handoffs: Handoffs = field(default_factory=Handoffs)
    route: str | None = None
    authenticated: bool = False
    call_id: str | None = None
    exception: BaseException | None = None
    # What ended the last attempt at a provider, and when; a later attempt makes it history.
    attempt_failure: BaseException | None = None
    attempt_failed_at: float = 0.0
    # The code with which the proxy closed an accepted WebSocket, where that was not a normal one.
    close_code: int | None = None
    # `error.type` as LiteLLM stamped it, before contrib puts a 5xx status in its place.
    stamped_error: str | None = None
    sends_events: bool = False
    # The error that an event of the stream told the client of.
    sent_error: str | None = None
    status: int | None = None
    response_started: bool = False
    response_started_at: float = 0.0
    first_byte_ms: float | None = None
    # In whole, not by a stream: whoever left meanwhile, the call itself went well.
    answered: bool = False
    response_complete: bool = False
    client_gone: bool = False
    # The task that served it was cancelled before the end of its answer, as servers do when they stop.
    cancelled: bool = False
    finished: bool = False
    # The callbacks that the key's team asks for beside the operator's; `None` until that is known, and the spans that
    # ended before.
    asked_callbacks: frozenset[str] | None = None
    early_spans: list[ReadableSpan] = field(default_factory=list)
    guardrails: Guardrails = field(default_factory=Guardrails)

    # Where the calls wait that LiteLLM has not told the end of.
    open_calls: OpenCalls | None = None

    def failed_with(self, exception: BaseException) -> None:
        """Keep what went wrong. The first failure is the cause, later ones and those of a client that left are not."""
        if self.exception is None and not self.finished and not self.client_gone:
            self.exception = exception

    def seconds_to_first_chunk(self, attempt: Attempt) -> float | None:
        """From a hand-off to the first piece of a stream that was sent on, unless that was an earlier attempt's."""
        if not self.sends_events or self.first_byte_ms is None:
            return None
        first_chunk_ns = self.handoffs.received_ns + self.first_byte_ms * NANOSECONDS_PER_MILLISECOND
        waited_ns = first_chunk_ns - attempt.started_ns
        return waited_ns / NANOSECONDS_PER_SECOND if waited_ns >= 0 else None

    def begin_attempt(
        self, details: Mapping[str, Any], call_id: object, route: object = None, known: Call | None = None
    ) -> Attempt | None:
        """A call is handed to a provider. LiteLLM says so of a realtime session with each of the client's messages."""
        if self.scope["type"] == "websocket" and self.handoffs.call_of(details) is not None:
            return None
        return self.handoffs.begin(details, call_id, route, known)

    @property
    def ended_early(self) -> str | None:
        """What ended it that is no exception of the application's."""
        if self.client_gone:
            return CLIENT_DISCONNECTED
        return CANCELLED if self.cancelled else None

    def is_over(self) -> None:
        """Nothing of it is to come but what LiteLLM tells of its calls afterwards."""
        if self.open_calls is not None:
            failure: BaseException | str | None = None if self.answered else self.ended_early
            failure = failure or self.exception
            if isinstance(failure, BaseException) and self.guardrails.caused(failure):
                failure = type(failure).__name__  # its text may quote what was blocked
            self.open_calls.request_is_over(self.handoffs.calls, failure)

    def forget(self) -> None:
        """Let go of what is not ours: a task that outlives the request holds its record, and would hold all of it."""
        self.handoffs.forget()
        if self.asked_callbacks is None:
            self.asked_callbacks = frozenset()
        self.early_spans.clear()
        self.exception = self.attempt_failure = None

    def failure_of_last_attempt(self) -> BaseException | None:
        """What ended the call in the middle of its answer, where LiteLLM tells the failure to its loggers alone.

        A failure before the response was followed by another attempt, or by a response that tells of it.
        """
        answering_since = max(self.response_started_at, self.handoffs.last_attempt_at)
        return self.attempt_failure if self.response_started and self.attempt_failed_at >= answering_since else None


_record: ContextVar[RequestRecord | None] = ContextVar("litellm_otel_plugin_record", default=None)


def record_of_context() -> RequestRecord | None:
    """The record of the request that this code runs for, or ran for: its last spans end after it was answered."""
    return _record.get()


def forget_record() -> None:
    """From here on this code runs for no request."""
    _record.set(None)


def current_record() -> RequestRecord | None:
    """The record of the request that this code runs for; ``None`` outside of one and once it has been answered."""
    record = _record.get()
    return record if record is not None and not record.finished else None


def open_record(scope: MutableMapping[str, Any], span: Span, method: str) -> RequestRecord:
    """Begin the record of a request, in the context of the task that serves it."""
    record = RequestRecord(scope=scope, span=span, method=method, application=scope.get("app"))
    _record.set(record)
    return record

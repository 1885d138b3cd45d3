"""The trace goes on at the provider: its requests name the attempt's span as their parent."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from litellm_otel_plugin import seams
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.attempts import current_attempt
from litellm_otel_plugin.request.record import current_record
from litellm_otel_plugin.seams import SeamMissing
from litellm_otel_plugin.upstream.access import take

if TYPE_CHECKING:
    from litellm_otel_plugin.request.attempts import Attempt

_trace_context = TraceContextTextMapPropagator()
TRACE_STATE = "tracestate"
OF_A_CALLER = (*_trace_context.fields, *W3CBaggagePropagator().fields)


def propagate_to_providers() -> None:
    """Have every request that an attempt sends to its provider carry the attempt's ``traceparent``."""
    clients = {seam: take(seam) for seam in (seams.HTTP_CLIENT, seams.SYNC_HTTP_CLIENT)}
    for seam, client in clients.items():
        if not hasattr(client, "send"):
            raise SeamMissing(seam)
    of_tasks, of_threads = (client.send for client in clients.values())

    @functools.wraps(of_tasks)
    async def send_async(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        _name_parent(request)
        return await of_tasks(self, request, *args, **kwargs)

    @functools.wraps(of_threads)
    def send(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        _name_parent(request)
        return of_threads(self, request, *args, **kwargs)

    for client, sending in zip(clients.values(), (send_async, send), strict=True):
        client.send = sending


def _name_parent(request: Any) -> None:
    with contained("propagating the trace to a provider"):
        attempt = current_attempt.get() or _announced_elsewhere()
        span = getattr(attempt.span, "span", None) if attempt is not None and attempt.ended_at is None else None
        if attempt is None or span is None or not _goes_to_its_provider(attempt, request.url.netloc):
            return
        for name in OF_A_CALLER:
            request.headers.pop(name, None)
        _trace_context.inject(request.headers, context=set_span_in_context(span))
        request.headers.pop(TRACE_STATE, None)  # the span's own is what a caller's vendors wrote for each other


def _announced_elsewhere() -> Attempt | None:
    """The request's one attempt under way, where its call was announced in a context of its own, as embeddings are."""
    record = current_record()
    calls = record.handoffs.calls if record is not None else ()
    under_way = [each for call in calls for each in call.open if each.ended_at is None]
    return under_way[0] if len(under_way) == 1 and _announced_address(under_way[0]) else None


def _goes_to_its_provider(attempt: Attempt, netloc: bytes) -> bool:
    """Whether this is where LiteLLM said that it would send the call; where it said nothing, the first place is.

    Others send in the same context: a guardrail asks its service, a callback posts to its own.
    """
    attempt.sent_to = attempt.sent_to or _announced_address(attempt) or netloc
    return netloc == attempt.sent_to


def _announced_address(attempt: Attempt) -> bytes:
    announced = attempt.noted.get("additional_args") or {}
    return urlsplit(str(announced.get("api_base") or "")).netloc.encode()

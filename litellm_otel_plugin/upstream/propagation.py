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
    for client in clients.values():
        client.send = _naming_its_parent(client.send)


def _naming_its_parent(send: Any) -> Any:
    @functools.wraps(send)
    def send_with_parent(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        with contained("propagating the trace to a provider"):
            attempt = current_attempt.get() or _announced_elsewhere(request)
            if attempt is not None and attempt.ended_at is None:
                _name_parent(attempt, request)
        return send(self, request, *args, **kwargs)

    return send_with_parent


def _announced_elsewhere(request: Any) -> Attempt | None:
    """The request's one attempt under way, where its call was announced in a context of its own, as embeddings are.

    A guardrail that asks its service meanwhile is in the same place, but sends to another.
    """
    record = current_record()
    calls = record.handoffs.calls if record is not None else ()
    under_way = [each for call in calls for each in call.open if each.ended_at is None]
    if len(under_way) != 1:
        return None
    announced = under_way[0].noted.get("additional_args") or {}
    address = str(announced.get("api_base") or "")
    return under_way[0] if request.url.netloc.decode("ascii") == urlsplit(address).netloc else None


def _name_parent(attempt: Attempt, request: Any) -> None:
    # What follows the hand-off goes to the provider; a guardrail's own service, asked while a stream runs, is another.
    attempt.sent_to = attempt.sent_to or request.url.netloc
    span = getattr(attempt.span, "span", None)
    if span is None or request.url.netloc != attempt.sent_to:
        return
    for name in OF_A_CALLER:
        request.headers.pop(name, None)
    _trace_context.inject(request.headers, context=set_span_in_context(span))
    request.headers.pop(TRACE_STATE, None)  # the span's own is what a caller's vendors wrote for each other

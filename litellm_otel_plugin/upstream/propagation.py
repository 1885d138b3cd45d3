"""The trace goes on at the provider: its requests name the attempt's span as their parent."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.trace import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from litellm_otel_plugin import seams
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.attempts import current_attempt
from litellm_otel_plugin.seams import SeamMissing
from litellm_otel_plugin.upstream.access import take

if TYPE_CHECKING:
    from litellm_otel_plugin.request.attempts import Attempt

_trace_context = TraceContextTextMapPropagator()
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
            attempt = current_attempt.get()
            if attempt is not None and attempt.ended_at is None:
                _name_parent(attempt, request)
        return send(self, request, *args, **kwargs)

    return send_with_parent


def _name_parent(attempt: Attempt, request: Any) -> None:
    # What follows the hand-off goes to the provider; a guardrail's own service, asked while a stream runs, is another.
    provider = attempt.noted.setdefault("sent_to", request.url.netloc)
    span = getattr(attempt.span, "span", None)
    if span is None or request.url.netloc != provider:
        return
    for name in OF_A_CALLER:
        request.headers.pop(name, None)
    _trace_context.inject(request.headers, context=set_span_in_context(span))

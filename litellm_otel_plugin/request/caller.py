"""A caller's trace, where it is not to be continued: taken off the request before anybody reads it.

Contrib's middleware is not the only reader. LiteLLM takes a trace id and a session id from these headers too, its
earlier loggers a parent, and a pass-through hands them on to the provider. So the request enters the chain without
them, as a caller would have sent it who has no trace.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.instrumentation.asgi import asgi_getter
from opentelemetry.trace import get_current_span

from litellm_otel_plugin.guard import contained

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span, SpanContext

    from litellm_otel_plugin.request.layer import Application, Receive, Scope, Send

# LiteLLM reads these itself, whatever OpenTelemetry is told to read (`OTEL_PROPAGATORS`).
W3C_HEADERS = frozenset({"traceparent", "tracestate", "baggage"})

_caller: ContextVar[SpanContext | None] = ContextVar("litellm_otel_plugin_caller", default=None)


class CallersTraceLayer:
    """Takes the headers of a caller's trace off each request; around contrib's middleware.

    Not contained: an error must not let them through.

    ``app`` is public and named so for the same reason as ``RequestLayer``'s.
    """

    def __init__(self, app: Application, *, keeps_link: bool) -> None:
        self.app = app
        self._keeps_link = keeps_link
        self._names = frozenset(name.encode() for name in W3C_HEADERS | propagate.get_global_textmap().fields)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, websocket or lifespan."""
        if scope["type"] in ("http", "websocket"):
            _caller.set(None)
            if self._keeps_link:
                with contained("reading a caller's span"):
                    _caller.set(_span_context_in(scope))
            # The server's own scope stays as it is.
            headers = [header for header in scope.get("headers") or () if header[0].lower() not in self._names]
            scope = {**scope, "headers": headers}
        await self.app(scope, receive, send)


def linking_to_the_caller(following: Callable[..., None] | None) -> Callable[..., None]:
    """What contrib's middleware calls with each SERVER span it has started, ahead of a hook that it had before."""

    def link_to_the_caller(span: Span, scope: Any) -> None:
        with contained("linking to a caller's span"):
            caller = _caller.get()
            if caller is not None and caller.is_valid:
                span.add_link(caller)
        if following is not None:
            following(span, scope)

    return link_to_the_caller


def _span_context_in(scope: Scope) -> SpanContext:
    carrier: Any = scope  # contrib's getter has no exact type
    # Into an empty context: what is not in the headers must not be found around us.
    return get_current_span(propagate.extract(carrier, Context(), asgi_getter)).get_span_context()

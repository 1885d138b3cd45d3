"""Requests that share a connection: each begins without what an earlier one left in the context.

A server starts a request's task in whatever context it is in by then. Where a second request lay behind the first one
already, or reading was paused for a large body, that is the context of the first: its ended span would be the parent
of everything, and its baggage, somebody else's identity, on it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry.context import Context, attach, detach

from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.attempts import current_attempt
from litellm_otel_plugin.request.guardrails import current_run
from litellm_otel_plugin.request.record import forget_record, record_of_context

if TYPE_CHECKING:
    from litellm_otel_plugin.request.layer import Application, Receive, Scope, Send


class _Serving:
    """One request that is being served, or was."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        self.over = False


_serving: ContextVar[_Serving | None] = ContextVar("litellm_otel_plugin_serving", default=None)


class OwnContextLayer:
    """Gives each request a context of its own; around everything that looks for a current span.

    ``app`` is public and named so for the same reason as ``RequestLayer``'s.
    """

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, websocket or lifespan."""
        token = None
        serving = _Serving()
        with contained("leaving an earlier request's context"):
            if scope["type"] in ("http", "websocket"):
                if _is_left_over():
                    token = attach(Context())
                    forget_record()
                    current_attempt.set(None)
                    current_run.set(None)
                _serving.set(serving)
        try:
            await self.app(scope, receive, send)
        finally:
            serving.over = True
            if token is not None:
                detach(token)


def _is_left_over() -> bool:
    """Whether this context is of a request that has been answered: one that is not makes this one on its behalf."""
    serving, record = _serving.get(), record_of_context()
    return serving is not None and (serving.over or (record is not None and record.finished))

"""What the operator's and the tenants' backends get to see of a span."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan

from litellm_otel_plugin.delivery import View

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import Event

EXCEPTION_EVENT = "exception"
_SAME_EXCEPTION = ("exception.type", "exception.message")


def once_each(span: ReadableSpan) -> ReadableSpan:
    """The span with every exception on it once.

    LiteLLM stamps a failure on the SERVER span, each of its loggers again, and contrib's middleware a third time where
    the exception passes through it.
    """
    events = span.events
    if len(events) < 2:  # noqa: PLR2004 - it takes two to repeat
        return span
    kept = _without_repeated_exceptions(events)
    return span if len(kept) == len(events) else _with_events(span, kept)


OPERATOR = View("operator", once_each)


def tenant_view(name: str, redact: Callable[[ReadableSpan], ReadableSpan]) -> View:
    """What LiteLLM lets a tenant see."""
    return View(name, lambda span: redact(once_each(span)))


def _without_repeated_exceptions(events: Sequence[Event]) -> list[Event]:
    seen = set()
    kept = []
    for event in events:
        if event.name == EXCEPTION_EVENT:
            attributes = event.attributes or {}
            exception = tuple(str(attributes.get(name)) for name in _SAME_EXCEPTION)
            if exception in seen:
                continue
            seen.add(exception)
        kept.append(event)
    return kept


def _with_events(span: ReadableSpan, events: Sequence[Event]) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=span.attributes,
        events=events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )

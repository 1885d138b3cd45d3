"""What the operator's and the tenants' backends get to see of a span."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litellm_otel_plugin.backends.spans import copied
from litellm_otel_plugin.delivery import View

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import Event, ReadableSpan

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
    return span if len(kept) == len(events) else copied(span, events=kept)


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

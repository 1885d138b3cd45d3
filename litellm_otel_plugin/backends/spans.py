"""An ended span with something else in place of a part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import ReadableSpan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event


def copied(
    span: ReadableSpan,
    *,
    attributes: Any = None,
    events: Sequence[Event] | None = None,
    resource: Resource | None = None,
) -> ReadableSpan:
    """A copy of a span, but for what is given. What the SDK counted as dropped stays counted."""
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource if resource is None else resource,
        attributes=span._attributes if attributes is None else attributes,  # noqa: SLF001 - the count is on this one
        events=span._events if events is None else events,  # noqa: SLF001 - as above
        links=span._links,  # noqa: SLF001 - as above
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )

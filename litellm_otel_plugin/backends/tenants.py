"""Tenants' backends: each a destination of the one delivery, found by endpoint, protocol, credentials and resource.

LiteLLM decides which tenants a span is for and what they may see; nothing here is made per tenant but a queue.
"""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import SpanProcessor, SynchronousMultiSpanProcessor, TracerProvider

from litellm_otel_plugin.delivery import Destination, DestinationError, Directory
from litellm_otel_plugin.guard import SECONDS_BETWEEN_REPORTS, contained
from litellm_otel_plugin.privacy import printable_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Tracer

    from litellm_otel_plugin.backends.operators import Described, Operators
    from litellm_otel_plugin.delivery import Delivery, View
    from litellm_otel_plugin.delivery.lane import Lane

log = logging.getLogger("litellm_otel_plugin")


@dataclass(frozen=True)
class TenantBackend:
    """A tenant's backend as LiteLLM resolved it, without LiteLLM's types."""

    key: Hashable = field(repr=False)
    name: str
    view: View
    describe: Callable[[], Described] = field(repr=False)
    resource_defaults: tuple[tuple[str, str], ...] = ()
    resource_overrides: tuple[tuple[str, str], ...] = ()


class Tenants:
    """Delivers to tenants' backends."""

    def __init__(self, delivery: Delivery, operators: Operators, most: int) -> None:
        self._delivery = delivery
        self._operators = operators
        self._directory = Directory(delivery, most)
        self._said_at = float("-inf")

    def deliver(self, span: ReadableSpan, backend: TenantBackend) -> None:
        """Take a span for a backend; where that cannot be used, it is said, and the span is nobody else's either."""
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        try:
            lanes = self.lanes(backend)
        except DestinationError as error:
            self._say_refused(backend, error)
        else:
            self._delivery.accept(span, lanes)

    def can_deliver(self, backend: TenantBackend) -> bool:
        """Whether the backend can be sent to; said without a value where it cannot."""
        try:
            self.lanes(backend)
        except DestinationError as error:
            self._say_refused(backend, error)
            return False
        return True

    def lanes(self, backend: TenantBackend) -> tuple[Lane, ...]:
        """The way to a tenant's backend."""
        return self._directory.lanes(backend.key, lambda: self._destination(backend))

    def _destination(self, backend: TenantBackend) -> Destination:
        described = backend.describe()
        return self._operators.destination(
            described,
            name=f"a tenant's {backend.name} at {printable_endpoint(described.endpoint or '')}",
            view=backend.view,
            resource_defaults=backend.resource_defaults,
            resource_overrides=backend.resource_overrides,
            reserved=False,
            proxy=None,
        )

    def _say_refused(self, backend: TenantBackend, error: DestinationError) -> None:
        now = time.monotonic()
        if now - self._said_at >= SECONDS_BETWEEN_REPORTS:
            self._said_at = now
            log.warning(
                "a tenant's %s backend cannot be used (its spans are not sent there): %s",
                backend.name,
                error,
            )


class TenantRoute:
    """What LiteLLM's cache of tenant routes takes for a provider: a tracer with the tenant's resource and exporters.

    It has no thread, no pool and no exit handler; there is nothing to shut down.
    """

    def __init__(self, resource: Resource, processors: Iterable[SpanProcessor]) -> None:
        self.resource = resource
        self._processor = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]  # the SDK's
        for processor in processors:
            self._processor.add_span_processor(processor)

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        """A tracer that differs from any other in where its spans go and what they say of this process."""
        tracer: Any = copy.copy(_template().get_tracer(*args, **kwargs))
        tracer.resource = self.resource
        tracer.span_processor = self._processor
        return tracer  # type: ignore[no-any-return]

    def shutdown(self) -> None:
        """Nothing: what was accepted is delivered."""

    def force_flush(self, timeout_millis: int = 0) -> bool:
        """Nothing: the delivery is flushed as a whole."""
        del timeout_millis
        return True


class RouteProcessor(SpanProcessor):
    """Hands the spans of one route to one tenant's backend."""

    def __init__(self, tenants: Tenants, backend: TenantBackend) -> None:
        self._tenants = tenants
        self._backend = backend

    def on_end(self, span: ReadableSpan) -> None:
        """Take the span."""
        with contained("taking a span on a tenant's route"):
            self._tenants.deliver(span, self._backend)


_template_provider: TracerProvider | None = None


def _template() -> TracerProvider:
    """The provider whose sampler, limits and ids every route shares. It has no processor."""
    global _template_provider  # noqa: PLW0603 - made with the first route, for all of them
    if _template_provider is None:
        _template_provider = TracerProvider(shutdown_on_exit=False)
    return _template_provider

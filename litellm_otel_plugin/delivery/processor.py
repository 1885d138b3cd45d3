"""The span processor that hands ended spans to the delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import SpanProcessor

from litellm_otel_plugin.delivery.engine import Delivery
from litellm_otel_plugin.guard import guard

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from litellm_otel_plugin.delivery.accounts import DeliveryStats
    from litellm_otel_plugin.delivery.destination import Destination

MILLISECONDS_PER_SECOND = 1_000
FLUSH_MILLISECONDS = 30_000  # the SDK's default

# What a processor that nobody gave a deadline allows itself when its provider is shut down.
SHUTDOWN_SECONDS = 5.0


class DeliveryProcessor(SpanProcessor):
    """Delivers each sampled span to every one of its destinations.

    ``provider.add_span_processor(DeliveryProcessor(Destination("http://collector:4318/v1/traces")))`` is all it takes.
    Several processors can share one ``Delivery``; whoever made that closes it.
    """

    def __init__(self, *destinations: Destination, delivery: Delivery | None = None) -> None:
        self._own = delivery is None
        self.delivery = delivery if delivery is not None else Delivery()
        self.destinations = destinations
        self._lanes = tuple(self.delivery.lane(each) for each in destinations)
        self._accept = self.delivery.accept

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: a span is of interest once it has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take the span, if it is sampled."""
        try:
            context = span.context
            if context is not None and context.trace_flags.sampled:
                self._accept(span, self._lanes)
        except Exception as error:  # a `contained` block of its own would cost as much as the rest of it
            guard.failed("taking a span", error)
            if guard.strict:
                raise

    def force_flush(self, timeout_millis: int = FLUSH_MILLISECONDS) -> bool:
        """Whether everything accepted until now has an outcome within the time given."""
        return self.delivery.flush(timeout_millis / MILLISECONDS_PER_SECOND, self._lanes)

    def shutdown(self) -> None:
        """Deliver what is left, within a deadline."""
        if self._own:
            self.delivery.close(SHUTDOWN_SECONDS)
        else:
            self.delivery.flush(SHUTDOWN_SECONDS, self._lanes)

    def stats(self) -> DeliveryStats:
        """The accounts of the whole delivery."""
        return self.delivery.stats()

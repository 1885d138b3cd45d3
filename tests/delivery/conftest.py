"""The delivery's own errors are raised, as in every test, and every account is balanced when a test is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from litellm_otel_plugin.delivery import Delivery, Limits
from litellm_otel_plugin.guard import guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    MakeDelivery = Callable[..., Delivery]
    MakeSpans = Callable[..., list[ReadableSpan]]


@pytest.fixture(autouse=True, scope="session")
def _strict() -> None:
    guard.strict = True


@pytest.fixture
def make_delivery() -> Iterator[MakeDelivery]:
    """Deliveries that send soon, closed with the test. Each must account for every span, then and after."""
    made: list[Delivery] = []

    def make(**limits: Any) -> Delivery:
        delivery = Delivery(Limits(**{"schedule_delay_seconds": 0.05, **limits}))
        made.append(delivery)
        return delivery

    errors = guard.counts.total()
    yield make
    for delivery in made:
        assert delivery.stats().balanced, delivery.stats()
        closed = delivery.close(0.2)
        assert closed.balanced, closed
        assert closed.total.queued == closed.total.in_flight == 0
        assert closed.held_bytes == 0
    assert guard.counts.total() == errors, guard.counts


@pytest.fixture
def delivery(make_delivery: MakeDelivery) -> Delivery:
    return make_delivery()


@pytest.fixture
def make_spans() -> Callable[..., list[ReadableSpan]]:
    """Ended spans of the SDK's."""
    provider = TracerProvider(resource=Resource({"service.name": "tests"}), shutdown_on_exit=False)
    memory = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("tests", "1.0")

    def make(count: int = 1, **attributes: Any) -> list[ReadableSpan]:
        memory.clear()
        for n in range(count):
            with tracer.start_as_current_span(f"span {n}", attributes={"n": n, **attributes}):
                pass
        return list(memory.get_finished_spans())

    return make

"""The operator's and the tenants' backends as destinations, and what each gets to see."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor

from litellm_otel_plugin.backends.operators import Described, Operators
from litellm_otel_plugin.backends.tenants import RouteProcessor, TenantBackend, TenantRoute, Tenants
from litellm_otel_plugin.backends.views import OPERATOR, once_each, tenant_view
from litellm_otel_plugin.delivery import Delivery, DeliveryProcessor, DestinationError, Tls
from tests.support.spans import SpanMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

SECRET = "s3cr3t"


@pytest.fixture
def delivery() -> Iterator[Delivery]:
    made = Delivery()
    yield made
    made.close(0)


@pytest.fixture
def refused() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def operators(delivery: Delivery, refused: list[tuple[str, str]]) -> Operators:
    return Operators(delivery, proxy="http://proxy:3128", refused=lambda name, why: refused.append((name, why)))


def described(**fields: Any) -> Described:
    defaults: dict[str, Any] = {
        "protocol": "http/protobuf", "endpoint": None, "headers": {}, "owner": None,
        "tls": Tls(ca_file="/litellms.pem"),
    }  # fmt: skip
    return Described(**{**defaults, **fields})


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-general={SECRET}",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": f"X-Traces={SECRET}",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/client.pem",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/client.key",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize("endpoint", [None, "http://collector:4318/v1/traces", "http://collector:4318/"])
def test_the_variables_are_for_the_collector_that_they_name(operators: Operators, endpoint: str | None) -> None:
    headers = {"x-traces": "old", "x-yaml": "1", "Content-Type": "for the client to set"}
    own = operators.destination(described(endpoint=endpoint, headers=headers))
    assert own.endpoint in {"http://collector:4318/v1/traces", endpoint}
    assert dict(own.headers) == {"x-traces": SECRET, "x-general": SECRET, "x-yaml": "1"}
    assert own.tls == Tls("/litellms.pem", "/client.pem", "/client.key")
    assert (own.compression, own.timeout_seconds, own.proxy) == ("gzip", 3.0, "http://proxy:3128")


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize(
    "other",
    [
        described(endpoint="http://collector:4318/v1/traces", owner="arize", headers={"a": "1"}),
        described(endpoint="http://elsewhere:4318/v1/traces", headers={"a": "1"}),
        described(protocol="grpc", endpoint="http://elsewhere:4317", headers={"a": "1"}),
    ],
)
def test_and_for_nobody_else(operators: Operators, other: Described) -> None:
    destination = operators.destination(other)
    assert dict(destination.headers) == {"a": "1"}
    assert destination.tls == Tls(ca_file="/litellms.pem")
    assert SECRET not in repr(other)


def test_an_exporter_that_cannot_be_used_is_said_and_does_nothing(
    operators: Operators, refused: list[tuple[str, str]]
) -> None:
    processor = operators.processor(described(endpoint="ftp://x", owner="arize", headers={"a": SECRET}))
    assert type(processor) is SpanProcessor
    assert refused == [("arize", "endpoint: should start with http:// or https://")]


def test_grpc_without_its_extra_is_said(operators: Operators, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.setitem(sys.modules, "grpc.aio", None)
    with pytest.raises(DestinationError, match=r"litellm-otel-plugin\[grpc\]"):
        operators.destination(described(protocol="grpc", endpoint="http://x:4317"))


def backend(key: str = "k", **fields: Any) -> TenantBackend:
    defaults: dict[str, Any] = {"owner": "langfuse_otel", "endpoint": "http://tenant/v1/traces"}
    return TenantBackend(
        key=key, name="langfuse_otel", view=OPERATOR, describe=lambda: described(**{**defaults, **fields})
    )


def test_tenants_of_one_key_share_a_queue(delivery: Delivery, operators: Operators) -> None:
    tenants = Tenants(delivery, operators, most=10)
    assert tenants.lanes(backend("a")) is tenants.lanes(backend("a"))
    destination = tenants.lanes(backend("a"))[0].destination
    assert (destination.reserved, destination.proxy) == (False, None)
    assert tenants.lanes(backend("b", headers={"a": "1"})) != tenants.lanes(backend("a"))


def test_a_tenants_backend_that_cannot_be_used_is_said_once_a_minute(
    delivery: Delivery, operators: Operators, caplog: pytest.LogCaptureFixture
) -> None:
    tenants = Tenants(delivery, operators, most=10)
    bad = backend(headers={"authorization": f"{SECRET}\r\n"})
    assert not any(tenants.can_deliver(bad) for _ in range(5))
    assert len(caplog.records) == 1
    assert "headers.authorization" in caplog.text
    assert SECRET not in caplog.text
    span = _ended()
    RouteProcessor(tenants, bad).on_end(span)  # nor is it an error of the request's
    assert delivery.stats().total.accepted == 0


def test_a_route_is_a_tracer_with_its_own_resource_and_processors(delivery: Delivery, operators: Operators) -> None:
    tenants = Tenants(delivery, operators, most=10)
    resource = Resource({"service.name": "a tenant's"})
    memory = SpanMemory()
    route = TenantRoute(
        resource, [RouteProcessor(tenants, backend()), *memory.provider._active_span_processor._span_processors]
    )
    other = TenantRoute(Resource({}), [])
    with route.get_tracer("litellm", "1.0").start_as_current_span("chat"):
        pass
    with other.get_tracer("litellm", "1.0").start_as_current_span("elsewhere"):
        pass
    assert memory.only().resource is resource
    scope = memory.only().instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.version) == ("litellm", "1.0")
    assert delivery.stats().total.accepted == 1
    route.shutdown()
    assert route.force_flush()


def _ended(*events: tuple[str, dict[str, str]]) -> ReadableSpan:
    memory = SpanMemory()
    with memory.provider.get_tracer("t").start_as_current_span("x", attributes={"a": 1}) as span:
        for name, attributes in events:
            span.add_event(name, attributes)
    return memory.only()


def test_an_exception_that_was_recorded_twice_is_seen_once() -> None:
    one = ("exception", {"exception.type": "RateLimitError", "exception.message": "slow down"})
    again = ("exception", {**one[1], "exception.stacktrace": "contrib's"})
    another = ("exception", {"exception.type": "ValueError", "exception.message": "slow down"})
    span = _ended(one, ("litellm.request.body_parsed", {}), again, another, one)
    seen = once_each(span)
    assert [event.name for event in seen.events] == ["exception", "litellm.request.body_parsed", "exception"]
    assert (seen.name, seen.attributes, seen.context, seen.resource) == (
        span.name, span.attributes, span.context, span.resource,
    )  # fmt: skip
    untouched = _ended(one, another)
    assert once_each(untouched) is untouched
    assert len(tenant_view("t", lambda each: each).of(span).events) == 3


def test_a_processor_of_another_kind_of_exporter(operators: Operators) -> None:
    memory = SpanMemory()
    processor = operators.processor_of_exporter(memory._exporter)
    assert isinstance(processor, DeliveryProcessor)
    assert processor.destinations[0].name == "InMemorySpanExporter"

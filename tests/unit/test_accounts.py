from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

from litellm_otel_plugin.backends.accounts import account_of, without_known_accounts
from litellm_otel_plugin.delivery import Delivery, DeliveryProcessor, Destination

if TYPE_CHECKING:
    from collections.abc import Iterator

    from litellm_otel_plugin.delivery.destination import Protocol


def _otlp(endpoint: str, key: str, *, batch: bool = True) -> BatchSpanProcessor | SimpleSpanProcessor:
    exporter = OTLPSpanExporter(endpoint, headers={"api-key": key})
    return BatchSpanProcessor(exporter) if batch else SimpleSpanProcessor(exporter)


@pytest.mark.contract
def test_the_same_endpoint_and_credentials_are_the_same_account() -> None:
    one, same = _otlp("http://127.0.0.1:1/v1/traces", "a"), _otlp("http://127.0.0.1:1/v1/traces/", "a", batch=False)
    other_key, other_host = _otlp("http://127.0.0.1:1/v1/traces", "b"), _otlp("http://127.0.0.1:2/v1/traces", "a")
    console = SimpleSpanProcessor(ConsoleSpanExporter())
    try:
        assert account_of(one) is not None
        keep, twice = without_known_accounts([same, other_key, other_host, console], [one, console])
        assert keep == [other_key, other_host, console]
        assert twice == [same]
    finally:
        for processor in (one, same, other_key, other_host):
            processor.shutdown()


@pytest.fixture
def delivery() -> Iterator[Delivery]:
    made = Delivery()
    yield made
    made.close(0)


def _is_one_account(delivery: Delivery, theirs: Any, endpoint: str, protocol: Protocol, **headers: str) -> bool:
    """Whether an exporter of the SDK's and a destination of ours write to the same account."""
    processor = SimpleSpanProcessor(theirs)
    try:
        ours = account_of(DeliveryProcessor(Destination(endpoint, protocol, headers), delivery=delivery))
        assert ours is not None
        return account_of(processor) == ours
    finally:
        processor.shutdown()


@pytest.mark.contract
@pytest.mark.parametrize(
    ("theirs", "ours", "same"),
    [
        ("https://c:443/v1/traces", "https://c/v1/traces", True),
        ("http://c/v1/traces", "http://c:80/v1/traces/", True),
        ("http://Collector.Example:4318/v1/traces", "HTTP://collector.example:4318/v1/traces", True),
        ("http://c:443/v1/traces", "http://c/v1/traces", False),
        ("http://c/v1/traces", "https://c/v1/traces", False),
        ("http://c:4318/V1/traces", "http://c:4318/v1/traces", False),
        ("http://c:4318/v1/traces?key=a", "http://c:4318/v1/traces?key=b", False),
        ("http://[not an address", "http://c:4318/v1/traces", False),
    ],
)
def test_an_endpoint_is_the_same_however_it_is_written(delivery: Delivery, theirs: str, ours: str, same: bool) -> None:
    assert _is_one_account(delivery, OTLPSpanExporter(theirs), ours, "http/protobuf") is same


@pytest.mark.contract
@pytest.mark.parametrize(
    ("theirs", "ours", "protocol", "same"),
    [
        ("http://c:4317", "http://c:4317", "grpc", True),
        ("c:4317", "http://C:4317/", "grpc", True),
        ("dns:///c:4317", "c:4317", "grpc", True),
        ("http://c:4317/a-path", "http://c:4317", "grpc", True),
        ("http://c", "c:443", "grpc", True),
        ("http://c:4317", "http://c:4318", "grpc", False),
        ("http://c:4317", "http://c:4317", "http/protobuf", False),
    ],
)
def test_grpc_knows_hosts_and_ports_alone(
    delivery: Delivery, theirs: str, ours: str, protocol: Protocol, same: bool
) -> None:
    exporter = GrpcSpanExporter(theirs, insecure=True, headers={"api-key": "a"})
    assert _is_one_account(delivery, exporter, ours, protocol, **{"api-key": "a"}) is same


@pytest.mark.contract
def test_grpc_credentials_are_its_metadata(delivery: Delivery) -> None:
    for headers in ({"api-key": "a"}, (("api-key", "a"),), "API-Key=a"):
        exporter = GrpcSpanExporter("https://c:4317", headers=headers)
        assert _is_one_account(delivery, exporter, "https://c:4317", "grpc", **{"API-Key": "a"})
    for others in ({"api-key": "b"}, None):
        exporter = GrpcSpanExporter("https://c:4317", headers=others)
        assert not _is_one_account(delivery, exporter, "https://c:4317", "grpc", **{"api-key": "a"})

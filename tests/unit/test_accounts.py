from __future__ import annotations

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

from litellm_otel_plugin.backends.accounts import account_of, without_known_accounts


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

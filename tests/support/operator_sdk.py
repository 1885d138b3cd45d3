"""A proxy whose operator has set up OpenTelemetry before LiteLLM starts, as ``opentelemetry-instrument`` does."""

from __future__ import annotations

import os

from litellm import run_server
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

if __name__ == "__main__":
    provider = TracerProvider(resource=Resource.create({"service.name": "the-operators-own"}))
    endpoint = f"{os.environ['TEST_OPERATORS_COLLECTOR']}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    trace.set_tracer_provider(provider)
    run_server()

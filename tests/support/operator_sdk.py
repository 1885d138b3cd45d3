"""A proxy whose operator has set up OpenTelemetry before LiteLLM starts, as ``opentelemetry-instrument`` does.

``TEST_OPERATORS_COLLECTOR`` says where to, ``TEST_OPERATORS_PROTOCOL=grpc`` that it is OTLP/gRPC.
"""

from __future__ import annotations

import os

from litellm import run_server
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter


def _exporter(collector: str) -> SpanExporter:
    if os.environ.get("TEST_OPERATORS_PROTOCOL") == "grpc":
        return GrpcSpanExporter(collector)
    return OTLPSpanExporter(f"{collector}/v1/traces")


if __name__ == "__main__":
    provider = TracerProvider(resource=Resource.create({"service.name": "the-operators-own"}))
    provider.add_span_processor(BatchSpanProcessor(_exporter(os.environ["TEST_OPERATORS_COLLECTOR"])))
    trace.set_tracer_provider(provider)
    run_server()

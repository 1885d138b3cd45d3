"""The operator's exporters, from LiteLLM's description of each to a destination of the one delivery."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import SpanProcessor

from litellm_otel_plugin.backends.views import OPERATOR
from litellm_otel_plugin.delivery import DeliveryProcessor, Destination, DestinationError
from litellm_otel_plugin.delivery.environment import (
    compression_of,
    endpoint_of,
    timeout_of,
    tls_of,
    traces_headers_of,
)
from litellm_otel_plugin.privacy import printable_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.trace.export import SpanExporter

    from litellm_otel_plugin.delivery import Delivery, Tls
    from litellm_otel_plugin.delivery.destination import Protocol


@dataclass(frozen=True)
class Described:
    """An exporter as LiteLLM describes it, without LiteLLM's types."""

    protocol: Protocol
    endpoint: str | None
    headers: Mapping[str, str] = field(repr=False)
    owner: str | None
    tls: Tls

    @property
    def name(self) -> str:
        """What an operator calls the backend."""
        return self.owner or "otlp"


@dataclass
class Operators:
    """Makes the processors of the operator's exporters."""

    delivery: Delivery
    proxy: str | None
    refused: Callable[[str, str], None]

    def processor(self, described: Described) -> SpanProcessor:
        """The processor of one OTLP exporter. One that cannot be used is said, and does not disturb the others."""
        try:
            return DeliveryProcessor(self.destination(described), delivery=self.delivery)
        except DestinationError as error:
            self.refused(described.name, str(error))
            return SpanProcessor()

    def processor_of_exporter(self, exporter: SpanExporter) -> SpanProcessor:
        """The processor of an exporter of another kind, with its own way to send."""
        kind = type(exporter).__name__.strip("_")
        destination = Destination(endpoint=kind, name=kind, protocol="exporter", exporter=exporter, view=OPERATOR)
        return DeliveryProcessor(destination, delivery=self.delivery)

    def destination(self, described: Described, **fields: Any) -> Destination:
        """The destination of one OTLP exporter.

        What the environment says of the one collector that it describes is for an exporter to that collector alone:
        a preset's backend never gets the headers or the client certificate that were set for the operator's own.
        """
        require_transport(described.protocol)
        environment = os.environ
        endpoint = described.endpoint or endpoint_of(environment, described.protocol)
        headers = dict(described.headers)
        tls = described.tls
        if described.owner is None and endpoint == endpoint_of(environment, described.protocol):
            headers = {**_without_names_of(headers, traces_headers_of(environment)), **traces_headers_of(environment)}
            own = tls_of(environment)
            tls = own if own.ca_file else replace(own, ca_file=tls.ca_file, verify=tls.verify)
        return Destination(**{
            "name": f"{described.name} at {printable_endpoint(endpoint)}",
            "endpoint": endpoint,
            "protocol": described.protocol,
            "headers": headers,
            "tls": tls,
            "view": OPERATOR,
            "compression": compression_of(environment),
            "timeout_seconds": timeout_of(environment),
            "proxy": None if described.protocol == "grpc" else self.proxy,
            **fields,
        })  # fmt: skip


def require_transport(protocol: str) -> None:
    """Refuse OTLP/gRPC where its library is not installed."""
    if protocol != "grpc":
        return
    try:
        import grpc.aio  # noqa: F401, PLC0415 - an optional extra, loaded where a destination needs it
    except ImportError:
        raise DestinationError("protocol: grpc needs the extra `litellm-otel-plugin[grpc]`") from None


def _without_names_of(headers: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    names = {name.lower() for name in others}
    return {name: value for name, value in headers.items() if name.lower() not in names}

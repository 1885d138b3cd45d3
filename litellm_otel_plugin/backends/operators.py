"""The operator's exporters, from LiteLLM's description of each to a destination of the one delivery."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.sdk.trace import SpanProcessor

from litellm_otel_plugin.backends.views import OPERATOR
from litellm_otel_plugin.delivery import DeliveryProcessor, Destination, DestinationError
from litellm_otel_plugin.delivery.destination import FRAMING
from litellm_otel_plugin.delivery.environment import (
    compression_of,
    endpoint_of,
    headers_of,
    timeout_of,
    tls_of,
    traces_headers_of,
)
from litellm_otel_plugin.privacy import printable_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.trace.export import SpanExporter

    from litellm_otel_plugin.backends.resources import OwnResource
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
    resource_change: OwnResource | None = None

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
        headers = _without_framing(described.headers)
        tls = described.tls
        if described.owner is None and _is_the_environments(endpoint, described.protocol, environment):
            headers = _merged(headers_of(environment), headers, traces_headers_of(environment))
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
            "resource_change": described.resource_change,
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


# LiteLLM's own names for the standard variables.
_ENDPOINT_VARIABLES = (
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_ENDPOINT", "OTEL_ENDPOINT",
)  # fmt: skip


def _is_the_environments(endpoint: str, protocol: str, environment: Mapping[str, str]) -> bool:
    """Whether an endpoint is the collector that the environment describes, in whatever spelling."""
    named = [environment.get(name, "").strip() for name in _ENDPOINT_VARIABLES]
    named = [each for each in named if each] or [endpoint_of(environment, cast("Protocol", protocol))]
    return _base(endpoint) in {_base(each) for each in named}


def _base(endpoint: str) -> str:
    return endpoint.rstrip("/").removesuffix("/v1/traces").rstrip("/")


def _merged(*headers: Mapping[str, str]) -> dict[str, str]:
    """All of them, by name in any spelling; the later ones win."""
    merged: dict[str, tuple[str, str]] = {}
    for each in headers:
        merged.update({name.lower(): (name, value) for name, value in _without_framing(each).items()})
    return dict(merged.values())


def _without_framing(headers: Mapping[str, str]) -> dict[str, str]:
    """What the client sets itself, an operator may have set for another: it is not worth refusing a backend for."""
    return {name: value for name, value in headers.items() if name.lower() not in FRAMING}

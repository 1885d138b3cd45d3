"""What the standard ``OTEL_EXPORTER_OTLP_*`` variables say of the one destination that they describe.

The more specific ``OTEL_EXPORTER_OTLP_TRACES_*`` come first. Headers, certificates and keys are for that destination
alone; compression and timeout are how this process exports at all.
"""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.util.re import parse_env_headers

from litellm_otel_plugin.delivery.destination import TIMEOUT_SECONDS, Destination, DestinationError, Tls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litellm_otel_plugin.delivery.destination import Compression, Protocol

log = logging.getLogger("litellm_otel_plugin")

COLLECTOR_HTTP = "http://localhost:4318"
COLLECTOR_GRPC = "http://localhost:4317"
TRACES_PATH = "v1/traces"


def destination_from_environment(environment: Mapping[str, str] | None = None, **fields: Any) -> Destination:
    """The destination that the variables describe; ``fields`` are the ones to set otherwise."""
    environment = os.environ if environment is None else environment
    protocol = fields.pop("protocol", None) or protocol_of(environment)
    described = {
        "endpoint": endpoint_of(environment, protocol),
        "headers": headers_of(environment),
        "tls": tls_of(environment),
        "compression": compression_of(environment),
        "timeout_seconds": timeout_of(environment),
    }
    return Destination(protocol=protocol, **{**described, **fields})


def protocol_of(environment: Mapping[str, str]) -> Protocol:
    """How the collector is spoken to; OTLP/HTTP with protobuf unless it is said otherwise."""
    protocol = _specific(environment, "PROTOCOL").lower() or "http/protobuf"
    if protocol not in {"http/protobuf", "http/json", "grpc"}:
        raise DestinationError("OTEL_EXPORTER_OTLP_PROTOCOL: should be http/protobuf, http/json or grpc")
    return cast("Protocol", protocol)


def endpoint_of(environment: Mapping[str, str], protocol: Protocol) -> str:
    """Where to: for HTTP, a base that the traces' path is added to, unless it is the traces' own."""
    own = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
    base = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    if own:
        return own
    if protocol == "grpc":
        return base or COLLECTOR_GRPC
    return f"{(base or COLLECTOR_HTTP).rstrip('/')}/{TRACES_PATH}"


def headers_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The headers that it is sent."""
    return {
        **parse_env_headers(environment.get("OTEL_EXPORTER_OTLP_HEADERS", ""), liberal=True),
        **traces_headers_of(environment),
    }


def traces_headers_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The headers that are for traces alone."""
    return dict(parse_env_headers(environment.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS", ""), liberal=True))


def tls_of(environment: Mapping[str, str]) -> Tls:
    """Whom to trust there and what to show."""
    return Tls(
        ca_file=_specific(environment, "CERTIFICATE") or None,
        client_certificate_file=_specific(environment, "CLIENT_CERTIFICATE") or None,
        client_key_file=_specific(environment, "CLIENT_KEY") or None,
        insecure=_specific(environment, "INSECURE").lower() == "true",
    )


def compression_of(environment: Mapping[str, str]) -> Compression:
    """How bodies are compressed."""
    compression = _specific(environment, "COMPRESSION").lower() or "none"
    if compression not in {"none", "gzip", "deflate"}:
        log.warning("OTEL_EXPORTER_OTLP_COMPRESSION is none of none, gzip and deflate: none is used")
        return "none"
    return cast("Compression", compression)


def timeout_of(environment: Mapping[str, str]) -> float:
    """How long one export may take, in seconds."""
    text = _specific(environment, "TIMEOUT")
    if not text:
        return TIMEOUT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not math.isfinite(seconds) or seconds <= 0:
        log.warning("OTEL_EXPORTER_OTLP_TIMEOUT is not a positive number: %g s is used", TIMEOUT_SECONDS)
        return TIMEOUT_SECONDS
    return seconds


def _specific(environment: Mapping[str, str], name: str) -> str:
    for prefix in ("OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"):
        value = environment.get(f"{prefix}{name}", "").strip()
        if value:
            return value
    return ""

"""OTLP/JSON from encoded spans: enums as integers, ids as hexadecimal text, as the specification has it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

if TYPE_CHECKING:
    from collections.abc import Iterable


def span(encoded: bytes) -> bytes:
    """One span."""
    message = Span.FromString(encoded)
    document: dict[str, Any] = MessageToDict(message, use_integers_for_enums=True)
    document["traceId"] = message.trace_id.hex()
    document["spanId"] = message.span_id.hex()
    if message.parent_span_id:
        document["parentSpanId"] = message.parent_span_id.hex()
    for link, linked in zip(document.get("links", ()), message.links, strict=False):
        link["traceId"] = linked.trace_id.hex()
        link["spanId"] = linked.span_id.hex()
    return _dump(document)


def scope_spans(scope: bytes, schema_url: bytes, spans: Iterable[bytes]) -> bytes:
    """One element of ``scopeSpans``."""
    head = _dump({"scope": MessageToDict(InstrumentationScope.FromString(scope)), "schemaUrl": schema_url.decode()})
    return b'%s,"spans":[%s]}' % (head[:-1], b",".join(spans))


def resource_spans(resource: bytes, schema_url: bytes, scopes: Iterable[bytes]) -> bytes:
    """One element of ``resourceSpans``."""
    head = _dump({"resource": MessageToDict(Resource.FromString(resource)), "schemaUrl": schema_url.decode()})
    return b'%s,"scopeSpans":[%s]}' % (head[:-1], b",".join(scopes))


def request(resources: Iterable[bytes]) -> bytes:
    """The body of an export."""
    return b'{"resourceSpans":[%s]}' % b",".join(resources)


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()

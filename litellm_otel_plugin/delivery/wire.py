"""Batches put together from spans that are encoded already.

The protobuf library has no way to take a message's field as bytes, and encoding a span once for many destinations
needs just that: tags and lengths around what the library encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

if TYPE_CHECKING:
    from collections.abc import Iterable

_LENGTH_DELIMITED = 2
_SEVEN_BITS = 0x7F
_MORE = 0x80


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > _SEVEN_BITS:
        encoded.append(number & _SEVEN_BITS | _MORE)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _tag(field_number: int) -> bytes:
    return _varint(field_number << 3 | _LENGTH_DELIMITED)


_RESOURCE_SPANS = _tag(ExportTraceServiceRequest.RESOURCE_SPANS_FIELD_NUMBER)
_RESOURCE = _tag(ResourceSpans.RESOURCE_FIELD_NUMBER)
_SCOPE_SPANS = _tag(ResourceSpans.SCOPE_SPANS_FIELD_NUMBER)
_RESOURCE_SCHEMA = _tag(ResourceSpans.SCHEMA_URL_FIELD_NUMBER)
_SCOPE = _tag(ScopeSpans.SCOPE_FIELD_NUMBER)
_SPANS = _tag(ScopeSpans.SPANS_FIELD_NUMBER)
_SCOPE_SCHEMA = _tag(ScopeSpans.SCHEMA_URL_FIELD_NUMBER)


def scope_spans(scope: bytes, schema_url: bytes, spans: Iterable[bytes]) -> bytes:
    """One ``ScopeSpans`` message."""
    return _message((_SCOPE, scope), (_SPANS, spans), (_SCOPE_SCHEMA, schema_url))


def resource_spans(resource: bytes, schema_url: bytes, scopes: Iterable[bytes]) -> bytes:
    """One ``ResourceSpans`` message."""
    return _message((_RESOURCE, resource), (_SCOPE_SPANS, scopes), (_RESOURCE_SCHEMA, schema_url))


def _message(head: tuple[bytes, bytes], repeated: tuple[bytes, Iterable[bytes]], schema: tuple[bytes, bytes]) -> bytes:
    parts = [head[0], _varint(len(head[1])), head[1]]
    tag, each_of = repeated
    for each in each_of:
        parts += (tag, _varint(len(each)), each)
    if schema[1]:
        parts += (schema[0], _varint(len(schema[1])), schema[1])
    return b"".join(parts)


def request(resources: Iterable[bytes]) -> bytes:
    """One ``ExportTraceServiceRequest`` message."""
    return b"".join(part for each in resources for part in (_RESOURCE_SPANS, _varint(len(each)), each))

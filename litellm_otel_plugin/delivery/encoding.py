"""A span as OTLP bytes, whatever is on it.

The generated OTLP messages do the encoding. They are filled here, and not by the package
``opentelemetry-exporter-otlp-proto-common``: that builds two Python objects per attribute, which costs three times as
much (``tests/bench/weight.py``), and drops an attribute that it cannot encode with a log line that shows it. Here
such a value is mended, and what is too large is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope as ScopeMessage
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags
from opentelemetry.proto.trace.v1.trace_pb2 import Status as StatusMessage
from opentelemetry.trace import SpanKind, StatusCode

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext

_KINDS = {
    SpanKind.INTERNAL: SpanMessage.SPAN_KIND_INTERNAL,
    SpanKind.SERVER: SpanMessage.SPAN_KIND_SERVER,
    SpanKind.CLIENT: SpanMessage.SPAN_KIND_CLIENT,
    SpanKind.PRODUCER: SpanMessage.SPAN_KIND_PRODUCER,
    SpanKind.CONSUMER: SpanMessage.SPAN_KIND_CONSUMER,
}
_STATUS_CODES = {
    StatusCode.UNSET: StatusMessage.STATUS_CODE_UNSET,
    StatusCode.OK: StatusMessage.STATUS_CODE_OK,
    StatusCode.ERROR: StatusMessage.STATUS_CODE_ERROR,
}
_KIND_UNSPECIFIED = SpanMessage.SPAN_KIND_UNSPECIFIED
_NOT_REMOTE = int(SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
_REMOTE = _NOT_REMOTE | int(SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
_INT64 = range(-(2**63), 2**63)
_UINT32_MAX = 2**32 - 1
_UINT64_MAX = 2**64 - 1

# A span larger than this is refused by a Collector's gRPC receiver (4 MiB) even alone; it is cut before.
LARGEST_SPAN_BYTES = 3 * 1024 * 1024

# Backends cut or refuse values long before this: a whole conversation of 1 MiB still arrives.
LARGEST_TEXT = 1024 * 1024

# What the values of a span that is still too large are cut to.
TEXT_OF_A_TOO_LARGE_SPAN = 8 * 1024

# Values nested deeper than this are nobody's attribute, and protobuf's parsers stop at 100.
DEEPEST = 16

# Elements of all lists and mappings of one value; a span's whole encoding stays within a few milliseconds.
MOST_ELEMENTS = 10_000

# No convention has a name of this length, and none of ours comes near.
LONGEST_KEY = 1_024

# Names are few and repeat on every span: those that were found clean are not looked at again.
MOST_KNOWN_KEYS = 4_096
_KNOWN_KEYS: set[object] = set()

CUT = "…[cut]"
TOO_DEEP = "[nested too deep]"
TOO_MANY = "[too many elements]"
UNPRINTABLE = "[unprintable]"


class UnencodableError(ValueError):
    """A span of which not even a part can be encoded."""


def encode_span(span: ReadableSpan) -> bytes:
    """The OTLP ``Span`` message."""
    encoded = _encode(span, LARGEST_TEXT)
    if len(encoded) > LARGEST_SPAN_BYTES:
        encoded = _encode(span, TEXT_OF_A_TOO_LARGE_SPAN)
    if len(encoded) > LARGEST_SPAN_BYTES:
        raise UnencodableError("too large")
    return encoded


def encode_resource(resource: Resource) -> bytes:
    """The OTLP ``Resource`` message."""
    message = ResourceMessage()
    _fill(message.attributes, resource.attributes, LARGEST_TEXT)
    return message.SerializeToString()


def encode_scope(scope: InstrumentationScope | None) -> bytes:
    """The OTLP ``InstrumentationScope`` message."""
    if scope is None:
        return b""
    message = ScopeMessage(name=_text(scope.name, LARGEST_TEXT), version=_text(scope.version or "", LARGEST_TEXT))
    _fill(message.attributes, scope.attributes or {}, LARGEST_TEXT)
    return message.SerializeToString()


def encode_schema_url(schema_url: str | None) -> bytes:
    """A schema URL as the bytes of a string field."""
    return _text(schema_url or "", LARGEST_TEXT).encode()


def _encode(span: ReadableSpan, longest: int) -> bytes:
    context = span.context
    if context is None:
        raise UnencodableError("no context")
    message = SpanMessage(
        trace_id=context.trace_id.to_bytes(16, "big"),
        span_id=context.span_id.to_bytes(8, "big"),
        name=_text(span.name, longest),
        kind=_KINDS.get(span.kind, _KIND_UNSPECIFIED),
        start_time_unix_nano=_instant(span.start_time),
        end_time_unix_nano=_instant(span.end_time),
        dropped_attributes_count=_count(span.dropped_attributes),
        dropped_events_count=_count(span.dropped_events),
        dropped_links_count=_count(span.dropped_links),
        flags=_flags(span.parent),
    )
    if context.trace_state:
        message.trace_state = _text(",".join(f"{key}={value}" for key, value in context.trace_state.items()), longest)
    if span.parent is not None:
        message.parent_span_id = span.parent.span_id.to_bytes(8, "big")
    if span.attributes:
        _fill(message.attributes, span.attributes, longest)
    for event in span.events:
        encoded_event = message.events.add(
            name=_text(event.name, longest),
            time_unix_nano=_instant(event.timestamp),
            dropped_attributes_count=_count(event.dropped_attributes),
        )
        _fill(encoded_event.attributes, event.attributes or {}, longest)
    for link in span.links:
        encoded_link = message.links.add(
            trace_id=link.context.trace_id.to_bytes(16, "big"),
            span_id=link.context.span_id.to_bytes(8, "big"),
            dropped_attributes_count=_count(link.dropped_attributes),
            flags=_flags(link.context),
        )
        _fill(encoded_link.attributes, link.attributes or {}, longest)
    status = span.status
    message.status.code = _STATUS_CODES[status.status_code]
    if status.description:
        message.status.message = _text(status.description, longest)
    return message.SerializeToString()


def _fill(attributes: Any, values: Mapping[Any, Any], longest: int) -> None:
    """Add each attribute. The common kinds first: this is where the time of an export goes."""
    add = attributes.add
    copied = getattr(values, "copy", None)
    # The SDK's attributes take a lock for each item that is looked at; a copy is taken at once.
    for key, value in (copied() if copied is not None else values).items():
        pair = add()
        pair.key = key if key in _KNOWN_KEYS else _clean_key(key)
        kind = type(value)
        if kind is str and len(value) <= longest and "\0" not in value:
            try:
                pair.value.string_value = value
            except ValueError:  # a lone surrogate
                pair.value.string_value = _text(value, longest)
        elif kind is bool:
            pair.value.bool_value = value
        elif kind is int and value in _INT64:
            pair.value.int_value = value
        elif kind is float:
            pair.value.double_value = value
        else:
            _Filling(longest).fill(pair.value, value, DEEPEST)


def _clean_key(key: object) -> str:
    clean = _text(key, LONGEST_KEY)
    if clean == key and len(_KNOWN_KEYS) < MOST_KNOWN_KEYS:
        _KNOWN_KEYS.add(clean)
    return clean


class _Filling:
    """One value of a less common kind, within its bounds."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._left = MOST_ELEMENTS

    def fill(self, message: AnyValue, value: Any, depth: int) -> None:  # noqa: C901, PLR0912 - one branch per kind
        if value is None:
            return
        if isinstance(value, bool):
            message.bool_value = value
        elif isinstance(value, str):
            message.string_value = _text(value, self._longest)
        elif isinstance(value, int):
            if value in _INT64:
                message.int_value = value
            else:
                message.string_value = _text(_printed(value), self._longest)
        elif isinstance(value, float):
            message.double_value = value
        elif isinstance(value, (bytes, bytearray)):
            message.bytes_value = bytes(value[: self._longest])
        elif isinstance(value, (Mapping, Sequence)):
            if depth == 0:
                message.string_value = TOO_DEEP
            elif isinstance(value, Mapping):
                message.kvlist_value.SetInParent()
                for key, each in value.items():
                    if not self._may_go_on():
                        message.kvlist_value.values.add(key=TOO_MANY)
                        break
                    self.fill(message.kvlist_value.values.add(key=_text(key, LONGEST_KEY)).value, each, depth - 1)
            else:
                message.array_value.SetInParent()
                for each in value:
                    if not self._may_go_on():
                        message.array_value.values.add(string_value=TOO_MANY)
                        break
                    self.fill(message.array_value.values.add(), each, depth - 1)
        else:
            message.string_value = _text(_printed(value), self._longest)

    def _may_go_on(self) -> bool:
        self._left -= 1
        return self._left >= 0


def _printed(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever somebody's __str__ raises
        return UNPRINTABLE


def _text(value: object, longest: int) -> str:
    """Text that protobuf takes and that no backend chokes on: no lone surrogate, no NUL, not too long."""
    text = value if isinstance(value, str) else _printed(value)
    if len(text) > longest:
        text = text[: longest - len(CUT)] + CUT
    if "\0" in text:
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text


def _instant(nanoseconds: int | None) -> int:
    return min(max(int(nanoseconds or 0), 0), _UINT64_MAX)


def _count(number: int | None) -> int:
    return min(max(number or 0, 0), _UINT32_MAX)


def _flags(context: SpanContext | None) -> int:
    """Whether a parent is remote, and that this is known. The sampled bit is left to the ids' owner, as in the SDK."""
    return _REMOTE if context is not None and context.is_remote else _NOT_REMOTE

"""Any span is encoded: as the SDK would where the SDK can, and mended where it cannot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from litellm_otel_plugin.delivery import encoding, wire
from litellm_otel_plugin.delivery.encoding import (
    CUT,
    DEEPEST,
    LARGEST_SPAN_BYTES,
    LARGEST_TEXT,
    TOO_DEEP,
    TOO_MANY,
    UnencodableError,
    encode_resource,
    encode_schema_url,
    encode_scope,
    encode_span,
)
from tests.support.receiver import value_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONTEXT = SpanContext(0x1234, 0x56, is_remote=False, trace_flags=TraceFlags(1), trace_state=TraceState([("a", "b")]))
PARENT = SpanContext(0x1234, 0x78, is_remote=True, trace_flags=TraceFlags(1))


def span_with(
    attributes: Mapping[Any, Any] | None = None,
    *,
    name: str = "chat",
    events: Sequence[Event] = (),
    links: Sequence[Link] = (),
    parent: SpanContext | None = None,
    status: Status | None = None,
    kind: SpanKind = SpanKind.CLIENT,
) -> ReadableSpan:
    return ReadableSpan(
        name=name,
        context=CONTEXT,
        parent=parent,
        resource=Resource({"service.name": "tests", "replicas": 2}, schema_url="https://schema"),
        attributes=attributes,
        events=events,
        links=links,
        kind=kind,
        status=status or Status(),
        start_time=1_700_000_000_000_000_000,
        end_time=1_700_000_000_500_000_000,
        instrumentation_scope=InstrumentationScope("litellm", "1.0", "https://scope-schema", {"k": 1}),
    )


def decoded(span: ReadableSpan) -> SpanMessage:
    return SpanMessage.FromString(encode_span(span))


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return {pair.key: value_of(pair.value) for pair in decoded(span).attributes}


ORDINARY = span_with(
    {
        "text": "Grüße, 世界 🙂",
        "empty": "",
        "yes": True,
        "no": False,
        "whole": -7,
        "large": 2**63 - 1,
        "smallest": -(2**63),
        "real": 0.25,
        "texts": ("a", "b"),
        "numbers": (1, 2),
        "nothing": (),
    },
    events=[Event("exception", {"exception.type": "ValueError", "n": 1}, timestamp=1_700_000_000_100_000_000)],
    links=[Link(PARENT, {"why": "because"})],
    parent=PARENT,
    status=Status(StatusCode.ERROR, "went wrong"),
)


@pytest.mark.parametrize("span", [ORDINARY, span_with(), span_with(kind=SpanKind.SERVER, status=Status(StatusCode.OK))])
def test_what_the_sdk_can_encode_is_encoded_the_same(span: ReadableSpan) -> None:
    batch = wire.request([
        wire.resource_spans(
            encode_resource(span.resource),
            encode_schema_url(span.resource.schema_url),
            [
                wire.scope_spans(
                    encode_scope(span.instrumentation_scope),
                    encode_schema_url(span.instrumentation_scope.schema_url if span.instrumentation_scope else None),
                    [encode_span(span)] * 2,
                )
            ],
        )
    ])  # fmt: skip
    assert ExportTraceServiceRequest.FromString(batch) == encode_spans([span, span])


@pytest.mark.parametrize(
    ("given_value", "arrives"),
    [
        (2**63, str(2**63)),
        (-(2**70), str(-(2**70))),
        pytest.param(10**5000, encoding.UNPRINTABLE, id="Python itself refuses to print it"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
        ("\0null\0", "�null�"),
        (b"\x00\xff", b"\x00\xff"),
        (None, None),
        ({"a": {1: "x", "\ud800": 2}}, {"a": {"1": "x", "?": 2}}),
        (["a", None, 2**64, ["b"]], ["a", None, str(2**64), ["b"]]),
        (float("inf"), float("inf")),
    ],
)
def test_a_value_that_the_sdk_loses_or_chokes_on_is_mended(given_value: object, arrives: object) -> None:
    assert attributes_of(span_with({"innocent": 1, "value": given_value})) == {"innocent": 1, "value": arrives}


def test_what_cannot_be_printed_is_said_to_be() -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert attributes_of(span_with({"value": Hostile()})) == {"value": encoding.UNPRINTABLE}


def test_keys_and_names_of_any_kind() -> None:
    assert attributes_of(span_with({1: "a", None: "b", "\ud800": "c", "n\0": "d"})) == {
        "1": "a",
        "None": "b",
        "?": "c",
        "n�": "d",
    }
    assert decoded(span_with(name="lone \udfff")).name == "lone ?"
    event = decoded(span_with(events=[Event("e\udfff", {"k": "\udfff"}, timestamp=-1)])).events[0]
    assert (event.name, event.attributes[0].value.string_value, event.time_unix_nano) == ("e?", "?", 0)
    assert decoded(span_with(status=Status(StatusCode.ERROR, "why\udfff"))).status.message == "why?"


def test_a_long_text_is_cut() -> None:
    value = attributes_of(span_with({"long": "x" * 70_000_000, "innocent": 1}))
    assert len(value["long"]) == LARGEST_TEXT
    assert value["long"].endswith(CUT)
    assert value["innocent"] == 1


def test_a_conversation_of_a_mebibyte_arrives_whole() -> None:
    conversation = "ä" * (LARGEST_TEXT - 1)
    assert attributes_of(span_with({"input": conversation})) == {"input": conversation}


def test_a_span_too_large_as_a_whole_has_every_text_cut() -> None:
    span = span_with({f"key {n}": "x" * 500_000 for n in range(100)})
    assert len(encode_span(span)) < LARGEST_SPAN_BYTES
    assert len(attributes_of(span)) == 100


def test_a_span_of_which_nothing_can_be_made_is_said_to_be_unencodable() -> None:
    with pytest.raises(UnencodableError):
        encode_span(span_with({f"{n}" * 1000: 1 for n in range(10_000)}))
    with pytest.raises(UnencodableError):
        encode_span(ReadableSpan("no context"))


def test_depth_is_bounded() -> None:
    value: Any = "deep"
    for _ in range(2000):
        value = {"x": value}
    arrives = attributes_of(span_with({"value": value}))["value"]
    for _ in range(DEEPEST):
        arrives = arrives["x"]
    assert arrives == TOO_DEEP


def test_elements_are_bounded() -> None:
    many = [[0] * 1000] * 1000
    arrives = attributes_of(span_with({"value": many, "mapping": {str(n): n for n in range(20_000)}}))
    assert TOO_MANY in arrives["value"]
    assert TOO_MANY in arrives["mapping"]


ANY_TEXT = st.text(st.characters(), max_size=50)  # surrogates and NUL among them
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.binary(max_size=20),
    lambda values: st.lists(values, max_size=5) | st.dictionaries(ANY_TEXT | st.integers(), values, max_size=5),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(name=ANY_TEXT, attributes=st.dictionaries(ANY_TEXT | st.integers() | st.none(), ANY_VALUE, max_size=10))
def test_any_span_at_all(name: str, attributes: dict[Any, Any]) -> None:
    message = decoded(span_with(attributes, name=name, events=[Event(name, attributes)]))
    assert len(message.attributes) == len(attributes)
    for pair, value in zip(message.attributes, attributes.values(), strict=True):
        if isinstance(value, bool | float) and not (isinstance(value, float) and math.isnan(value)):
            assert value_of(pair.value) == value
        if isinstance(value, str) and value.isascii() and "\0" not in value:
            assert pair.value.string_value == value

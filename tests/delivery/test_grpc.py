"""OTLP/gRPC on the delivery's loop."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from litellm_otel_plugin.delivery import Delivery, Destination, grpc_sender
from tests.support import patience
from tests.support.backends import GrpcReceiver, RawBackend, hang, wait_for
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    MakeSpans = Callable[..., list[ReadableSpan]]


@pytest.fixture
def collector() -> Iterator[GrpcReceiver]:
    with GrpcReceiver() as receiver:
        yield receiver


def to(backend: Any, **fields: Any) -> Destination:
    return Destination(backend.url, "grpc", **{"timeout_seconds": 0.5, **fields})


def feed(delivery: Delivery, spans: list[ReadableSpan], destination: Destination) -> None:
    lanes = (delivery.lane(destination),)
    for span in spans:
        delivery.accept(span, lanes)


def test_spans_arrive_with_the_destinations_metadata(
    collector: GrpcReceiver, delivery: Delivery, make_spans: MakeSpans
) -> None:
    for compression in ("none", "gzip", "deflate"):
        feed(delivery, make_spans(3), to(collector, headers={"API_Key": compression}, compression=compression))
    assert delivery.flush(patience.SECONDS)
    assert len(collector.spans) == 9
    assert {each["api_key"] for each in collector.metadata} == {"none", "gzip", "deflate"}
    assert all(each["traceparent"].endswith("-00") for each in collector.metadata)
    assert delivery.stats().total.sent == 9


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.DATA_LOSS,
    ],
)
def test_codes_that_are_tried_again(
    collector: GrpcReceiver, delivery: Delivery, make_spans: MakeSpans, code: grpc.StatusCode
) -> None:
    collector.script = lambda count: code if count == 0 else None
    feed(delivery, make_spans(3), to(collector))
    wait_for(lambda: delivery.stats().total.sent == 3)
    assert len(collector.metadata) == 2


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED])
def test_codes_that_are_final(
    collector: GrpcReceiver, delivery: Delivery, make_spans: MakeSpans, code: grpc.StatusCode
) -> None:
    collector.script = lambda _: code
    feed(delivery, make_spans(3), to(collector))
    assert delivery.flush(patience.SECONDS)
    assert delivery.stats().total.rejected == 3
    assert delivery.stats().destinations[0].problem == f"grpc_{code.name.lower()}"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
def test_refused_credentials(
    collector: GrpcReceiver, delivery: Delivery, make_spans: MakeSpans, code: grpc.StatusCode
) -> None:
    collector.script = lambda _: code
    feed(delivery, make_spans(3), to(collector))
    wait_for(lambda: delivery.stats().destinations[0].state == "refused")
    assert delivery.stats().total.queued == 3


def test_exhausted_is_a_pause_unless_the_backend_says_that_the_body_is_too_large(
    collector: GrpcReceiver, delivery: Delivery, make_spans: MakeSpans
) -> None:
    collector.script = lambda _: grpc.StatusCode.RESOURCE_EXHAUSTED
    detail = AnyMessage()
    info = RetryInfo()
    info.retry_delay.FromMilliseconds(50)
    detail.Pack(info)
    collector.trailing = ((grpc_sender.STATUS_DETAILS, Status(details=[detail]).SerializeToString()),)
    feed(delivery, make_spans(4), to(collector))
    wait_for(lambda: delivery.stats().destinations[0].state == "failing")
    assert delivery.stats().total.queued == 4
    collector.trailing = ((grpc_sender.STATUS_DETAILS, b"\xff no status \xff"),)
    before = len(collector.metadata)
    wait_for(lambda: len(collector.metadata) > before)
    assert delivery.stats().total.rejected == 0
    collector.details = "grpc: received message larger than max (5000000 vs. 4194304)"
    wait_for(lambda: delivery.stats().total.rejected == 4)
    assert len(collector.metadata) > 4  # halved until each was alone


def test_partial_success(collector: GrpcReceiver, delivery: Delivery, make_spans: MakeSpans) -> None:
    collector.rejects = 2
    feed(delivery, make_spans(5), to(collector))
    assert delivery.flush(patience.SECONDS)
    assert (delivery.stats().total.sent, delivery.stats().total.rejected) == (3, 2)


def test_backends_that_hang_or_refuse_cost_no_thread_each(
    collector: GrpcReceiver, delivery: Delivery, make_spans: MakeSpans
) -> None:
    feed(delivery, make_spans(1), to(collector))
    assert delivery.flush(patience.SECONDS)
    before = threading.active_count()
    with RawBackend(hang) as hanging:
        threads_of_the_test = 1
        stuck = [to(hanging, reserved=False, headers={"x-of": str(n)}, timeout_seconds=20.0) for n in range(20)]
        closed = Destination(f"http://127.0.0.1:{free_port()}", "grpc", reserved=False)
        for destination in (*stuck, closed):
            feed(delivery, make_spans(1), destination)
        feed(delivery, make_spans(5), to(collector))
        wait_for(lambda: delivery.stats().total.sent == 6)
        assert threading.active_count() - before <= threads_of_the_test + hanging.connections
        wait_for(lambda: delivery.stats().total.in_flight >= 20)


def test_ambient_proxies_are_not_used(
    collector: GrpcReceiver, delivery: Delivery, make_spans: MakeSpans, monkeypatch: Any
) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    feed(delivery, make_spans(1), to(collector))
    assert delivery.flush(patience.SECONDS)
    assert len(collector.spans) == 1


def test_channels_are_bounded_and_those_in_use_stay(
    collector: GrpcReceiver, delivery: Delivery, make_spans: MakeSpans, monkeypatch: Any
) -> None:
    monkeypatch.setattr(grpc_sender, "CHANNELS", 2)
    receivers = [GrpcReceiver().__enter__() for _ in range(4)]
    try:
        for _ in range(2):
            for each in receivers:
                feed(delivery, make_spans(2), to(each))
                assert delivery.flush(patience.SECONDS)
        assert [len(each.spans) for each in receivers] == [4, 4, 4, 4]
        assert len(delivery._couriers._senders["grpc"]._channels) == 2
    finally:
        for each in receivers:
            each.__exit__()

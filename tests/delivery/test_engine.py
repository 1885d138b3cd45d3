"""The delivery on real sockets: every fault, and every span accounted for after it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from litellm_otel_plugin.delivery import (
    Delivery,
    DeliveryProcessor,
    Destination,
    Directory,
    Limits,
    View,
    http_sender,
    intake,
    lane_table,
    report,
)
from litellm_otel_plugin.guard import guard
from tests.support import patience
from tests.support.backends import RawBackend, drip, gibberish, hang, reset, wait_for
from tests.support.ports import free_port
from tests.support.receiver import Answer, OtlpReceiver

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    MakeDelivery = Callable[..., Delivery]
    MakeSpans = Callable[..., list[ReadableSpan]]


@pytest.fixture
def collector() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


def to(backend: Any, **fields: Any) -> Destination:
    return Destination(f"{backend.url}/v1/traces", **{"timeout_seconds": 0.3, **fields})


def feed(delivery: Delivery, spans: Sequence[ReadableSpan], *destinations: Destination) -> None:
    lanes = tuple(delivery.lane(each) for each in destinations)
    for span in spans:
        delivery.accept(span, lanes)


def counts_of(delivery: Delivery, destination: Destination) -> Any:
    (stats,) = [each for each in delivery.stats().destinations if each.name == destination.name]
    return stats.counts


# --- what arrives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_spans_arrive_as_they_ended(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans, protocol: Any, compression: Any
) -> None:
    spans = make_spans(3, text="Grüße", many=("a", "b"), big=2**62)
    destination = to(
        collector, protocol=protocol, compression=compression, headers={"X-Api-Key": "k"},
        resource_defaults={"service.name": "lost", "project": "default"}, resource_overrides={"team": "a"},
    )  # fmt: skip
    feed(delivery, spans, destination)
    assert delivery.flush(patience.SECONDS)
    received = collector.spans
    assert [span.name for span in received] == ["span 0", "span 1", "span 2"]
    assert received[1].attributes == {"n": 1, "text": "Grüße", "many": ["a", "b"], "big": 2**62}
    assert spans[1].context is not None
    assert received[1].span_id == f"{spans[1].context.span_id:016x}"
    assert received[1].resource == {"service.name": "tests", "project": "default", "team": "a"}
    assert received[1].scope == "tests"
    _, headers = collector.requests[0]
    assert headers["x-api-key"] == "k"
    assert headers["traceparent"].endswith("-00")
    assert headers["user-agent"].startswith("litellm-otel-plugin/")
    assert headers.get("content-encoding", "none") == compression


def test_a_destination_can_change_what_is_said_of_the_process(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans
) -> None:
    def without_name(resource: Resource) -> Resource:
        return Resource({name: value for name, value in resource.attributes.items() if name != "service.name"})

    changing = to(collector, name="changing", resource_overrides={"team": "a"}, resource_change=without_name)
    for destination in (changing, to(collector, name="plain")):
        feed(delivery, make_spans(2), destination)
    assert delivery.flush(patience.SECONDS)
    received = [span.resource for span in collector.spans]
    assert sorted(received, key=str) == [{"service.name": "tests"}] * 2 + [{"team": "a"}] * 2


def test_batches_go_by_size_and_by_delay(
    collector: OtlpReceiver, make_delivery: MakeDelivery, make_spans: MakeSpans
) -> None:
    by_size = make_delivery(schedule_delay_seconds=3600.0, batch_spans=10)
    feed(by_size, make_spans(25), to(collector))
    wait_for(lambda: len(collector.spans) == 20)
    assert (len(collector.requests), by_size.stats().total.queued) == (2, 5)
    assert by_size.flush(patience.SECONDS)
    by_delay = make_delivery(schedule_delay_seconds=0.1)
    feed(by_delay, make_spans(5), to(collector))
    wait_for(lambda: len(collector.spans) == 30)
    assert len(collector.requests) == 4


def test_a_span_is_encoded_once_for_all_destinations_of_a_view(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans
) -> None:
    made: list[str] = []

    def seen(name: str) -> View:
        def of(span: ReadableSpan) -> ReadableSpan:
            made.append(name)
            return span

        return View(name, of)

    one, other = seen("one"), seen("other")
    destinations = [
        Destination(f"{collector.url}/v1/traces", headers={"x-of": str(n)}, view=other if n == 3 else one)
        for n in range(4)
    ]
    processors = [DeliveryProcessor(each, delivery=delivery) for each in destinations]
    for span in make_spans(10):
        for processor in processors:  # as when each of LiteLLM's loggers has its own
            processor.on_end(span)
    assert delivery.flush(patience.SECONDS)
    assert len(collector.spans) == 40
    assert sorted(made) == ["one"] * 10 + ["other"] * 10


def test_a_processor_takes_sampled_spans_only(collector: OtlpReceiver, delivery: Delivery) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(DeliveryProcessor(to(collector), delivery=delivery))
    with provider.get_tracer("t").start_as_current_span("off"):
        pass
    assert delivery.stats().total.accepted == 0
    assert provider.force_flush()


def test_anybody_can_use_it(collector: OtlpReceiver) -> None:
    processor = DeliveryProcessor(Destination(f"{collector.url}/v1/traces"))
    provider = TracerProvider(resource=Resource({"service.name": "anybody"}), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    with provider.get_tracer("t").start_as_current_span("hello"):
        pass
    provider.shutdown()
    assert [span.name for span in collector.spans] == ["hello"]
    assert processor.stats().total.sent == 1
    with provider.get_tracer("t").start_as_current_span("too late"):
        pass
    stats = processor.stats()
    assert stats.balanced
    assert stats.total.dropped == {"closed": 1}


# --- the thread ------------------------------------------------------------------------------------------------------


def test_nothing_runs_before_the_first_span_and_one_thread_after(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans
) -> None:
    earlier = set(threading.enumerate())
    for n in range(50):
        delivery.lane(to(collector, headers={"x-of": str(n)}))
    assert delivery.flush(1)
    assert _threads_since(earlier) == []
    feed(delivery, make_spans(1), *(to(collector, headers={"x-of": str(n)}) for n in range(50)))
    assert delivery.flush(patience.SECONDS)
    assert _threads_since(earlier) == ["litellm-otel-delivery"]


def _threads_since(earlier: set[threading.Thread]) -> list[str]:
    """The names of ours that have started since. LiteLLM has its own, named alike, which outlive their tests."""
    names = [thread.name for thread in threading.enumerate() if thread not in earlier]
    return [
        name for name in names if name.startswith("litellm-otel") and not name.startswith("litellm-otel-destination")
    ]


def test_no_context_of_a_request_follows_a_span_and_exports_are_not_traced(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans
) -> None:
    of_a_request = contextvars.ContextVar("of_a_request", default="nobody's")
    seen: list[Any] = []

    def of(span: ReadableSpan) -> ReadableSpan:
        seen.append((of_a_request.get(), dict(otel_context.get_current()), is_instrumentation_enabled()))
        return span

    of_a_request.set("a request's")
    feed(delivery, make_spans(1), to(collector, view=View("spying", of)))
    assert delivery.flush(patience.SECONDS)
    ((owner, _, enabled),) = seen
    assert (owner, enabled) == ("nobody's", False)


def test_spans_of_many_threads_at_once(collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans) -> None:
    destination = to(collector, timeout_seconds=5.0)
    spans = make_spans(500)
    threads = [threading.Thread(target=feed, args=(delivery, spans, destination)) for _ in range(8)]
    watching = threading.Event()

    def watch() -> None:
        while not watching.wait(0.002):
            assert delivery.stats().balanced

    watcher = threading.Thread(target=watch)
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    assert delivery.flush(patience.SECONDS)
    watching.set()
    watcher.join()
    assert counts_of(delivery, destination).sent == 4000
    assert len(collector.spans) == 4000


def test_a_span_that_comes_just_as_the_thread_goes_to_sleep_starts_no_second_round(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans, monkeypatch: Any
) -> None:
    first, late = make_spans(2)
    lanes = (delivery.lane(to(collector)),)
    came_late = threading.Event()

    class Intake(deque[Any]):
        """Is looked at once more after the thread has gone to sleep: that is when the late span comes."""

        def __len__(self) -> int:
            going_to_sleep = threading.current_thread() is delivery._thread and not delivery._intake._awake
            if going_to_sleep and not came_late.is_set():
                monkeypatch.setattr(intake, "ROUNDS_BEFORE_SLEEPING", 10**9)
                came_late.set()
                delivery.accept(late, lanes)
            return super().__len__()

    monkeypatch.setattr(intake, "ROUNDS_BEFORE_SLEEPING", 1)
    delivery._intake._spans = Intake()
    delivery.accept(first, lanes)
    assert came_late.wait(patience.SECONDS)
    wait_for(lambda: len(collector.spans) == 2)
    loop: Any = delivery._loop
    rounds: list[int] = []

    def count() -> None:
        to_come = (*loop._scheduled, *loop._ready)  # in one of them, as it is not due yet, or is
        rounds.append(sum(each._callback == delivery._intake._take_in for each in to_come))

    loop.call_soon_threadsafe(count)
    wait_for(lambda: bool(rounds))
    assert rounds == [1]


# --- faults ----------------------------------------------------------------------------------------------------------


def _recovers(delivery: Delivery, destination: Destination, spans: int) -> None:
    wait_for(lambda: counts_of(delivery, destination).sent == spans)
    assert counts_of(delivery, destination).dropped == {}


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_collector_that_cannot_now_gets_everything_later(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans, status: int
) -> None:
    collector.script = lambda count: Answer(status=status if count < 2 else 200, headers={"retry-after": "0"})
    destination = to(collector)
    feed(delivery, make_spans(20), destination)
    _recovers(delivery, destination, 20)
    assert len(collector.spans) == 20
    assert len(collector.requests) == 3


def test_a_collector_that_refuses_connections_gets_everything_later(
    make_delivery: MakeDelivery, make_spans: MakeSpans
) -> None:
    delivery, port = make_delivery(), free_port()
    destination = Destination(f"http://127.0.0.1:{port}/v1/traces")
    feed(delivery, make_spans(20), destination)
    wait_for(lambda: delivery.stats().destinations[0].problem == "connection_refused")
    late = OtlpReceiver()
    late.server = type(late.server)(late.server._server.config.app, port)  # type: ignore[arg-type]
    with late:
        _recovers(delivery, destination, 20)
        assert len(late.spans) == 20


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [(hang, "timeout"), (drip, "timeout"), (reset, "connection_lost"), (gibberish, "connection_lost")],
)
def test_a_broken_backend_keeps_its_queue_and_delays_nobody(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans, behaviour: Any, problem: str
) -> None:
    with RawBackend(behaviour) as backend:
        broken, healthy = to(backend, reserved=False), to(collector, reserved=False)
        feed(delivery, make_spans(20), broken, healthy)
        wait_for(lambda: counts_of(delivery, healthy).sent == 20)
        wait_for(lambda: any(each.problem == problem for each in delivery.stats().destinations))
        counts = counts_of(delivery, broken)
        assert (counts.queued + counts.in_flight, counts.dropped) == (20, {})
        feed(delivery, make_spans(20), healthy)
        wait_for(lambda: counts_of(delivery, healthy).sent == 40)


def test_hundreds_that_hang_delay_nobody_and_hold_no_thread(
    collector: OtlpReceiver, make_delivery: MakeDelivery, make_spans: MakeSpans
) -> None:
    delivery, earlier = make_delivery(), set(threading.enumerate())
    spans = make_spans(5)
    with RawBackend(hang) as backend:
        hanging = [to(backend, reserved=False, headers={"x-of": str(n)}, timeout_seconds=30.0) for n in range(75)]
        healthy = [to(collector, reserved=False, headers={"x-of": str(n)}, timeout_seconds=30.0) for n in range(225)]
        for destination in random.sample([*hanging, *healthy], 300):
            feed(delivery, spans, destination)
        wait_for(lambda: delivery.stats().total.sent == 225 * 5)
        assert _threads_since(earlier) == ["litellm-otel-delivery"]
        total = delivery.stats().total
        assert (total.in_flight + total.queued, total.dropped) == (75 * 5, {})


@pytest.mark.parametrize("status", [400, 404, 500, 302])
def test_what_is_rejected_is_counted_and_not_sent_again(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans, status: int
) -> None:
    with OtlpReceiver() as elsewhere:
        location = {"location": f"{elsewhere.url}/v1/traces"}
        collector.script = lambda count: Answer(status=status if count == 0 else 200, headers=location)
        destination = to(collector, headers={"authorization": "Bearer secret"})
        feed(delivery, make_spans(5), destination)
        assert delivery.flush(patience.SECONDS)
        feed(delivery, make_spans(5), destination)
        assert delivery.flush(patience.SECONDS)
        counts = counts_of(delivery, destination)
        assert (counts.rejected, counts.sent) == (5, 5)
        assert elsewhere.requests == []


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_open_the_breaker(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans, caplog: Any, status: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(report, "SECONDS_TO_THE_FIRST_LINE", 0.01)
    collector.script = lambda _: Answer(status=status)
    destination = to(collector, headers={"authorization": "Bearer s3cr3t"})
    with caplog.at_level(logging.WARNING):
        feed(delivery, make_spans(5), destination)
        wait_for(lambda: delivery.stats().destinations[0].state == "refused")
        feed(delivery, make_spans(600), destination)
        time.sleep(0.5)
        assert len(collector.requests) == 1
        wait_for(lambda: bool(caplog.records))
    lines = [each.getMessage() for each in caplog.records]
    assert len([line for line in lines if collector.url in line and f"http_{status}" in line]) == 1, lines
    assert "s3cr3t" not in caplog.text
    collector.script = lambda _: Answer()
    assert delivery.flush(patience.SECONDS)  # a probe, as there is one each minute
    assert counts_of(delivery, destination).sent == 605


def test_a_body_that_is_too_large_is_split(collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans) -> None:
    giant = make_spans(1, big="x" * 100_000)
    spans = [*make_spans(40), *giant, *make_spans(40)]

    def script(_: int) -> Answer:
        too_large = int(collector.requests[-1][1]["content-length"]) > 20_000
        return Answer(status=413 if too_large else 200)

    collector.script = script
    destination = to(collector)
    feed(delivery, spans, destination)
    assert delivery.flush(patience.SECONDS)
    counts = counts_of(delivery, destination)
    assert (counts.sent, counts.rejected) == (80, 1)
    assert len(collector.spans) == 80


def test_partial_success_is_counted(collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans) -> None:
    collector.script = lambda _: Answer(
        body=b'{"partialSuccess":{"rejectedSpans":"2"}}', headers={"content-type": "application/json"}
    )
    destination = to(collector)
    feed(delivery, make_spans(5), destination)
    assert delivery.flush(patience.SECONDS)
    counts = counts_of(delivery, destination)
    assert (counts.sent, counts.rejected) == (3, 2)


def test_a_span_that_cannot_be_encoded_costs_no_other(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans
) -> None:
    spans = make_spans(10)
    poison = spans[4]

    def of(span: ReadableSpan) -> ReadableSpan:
        if span is poison:
            raise RuntimeError("no")
        return span

    destination = to(collector, view=View("poisoned", of))
    feed(delivery, spans, destination)
    assert delivery.flush(patience.SECONDS)
    counts = counts_of(delivery, destination)
    assert (counts.sent, counts.dropped) == (9, {"unencodable": 1})


@pytest.mark.parametrize("taken_in_by", ["the thread", "a flush"])
def test_an_error_on_a_spans_way_in_costs_that_span_alone_and_is_counted(
    collector: OtlpReceiver, make_delivery: MakeDelivery, make_spans: MakeSpans, monkeypatch: Any, taken_in_by: str
) -> None:
    if taken_in_by == "a flush":
        monkeypatch.setattr(intake, "SECONDS_BEFORE_TAKING_IN", 2 * patience.SECONDS)
    delivery = make_delivery(schedule_delay_seconds=10 * patience.SECONDS)
    learn, seen = delivery._intake._packer.learn, 0

    def without_memory(encoded: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen == 5:
            raise MemoryError
        learn(encoded)

    monkeypatch.setattr(delivery._intake._packer, "learn", without_memory)
    monkeypatch.setattr(guard, "strict", False)
    one, other = to(collector, name="one"), to(collector, name="other", headers={"x-of": "other"})
    feed(delivery, make_spans(10), one, other)
    if taken_in_by == "the thread":
        wait_for(lambda: not delivery._intake)
    assert delivery.flush(patience.SECONDS)
    assert guard.counts.pop("taking a span in") == 1
    for destination in (one, other):
        counts = counts_of(delivery, destination)
        assert (counts.sent, counts.dropped) == (9, {"internal_error": 1})


def test_a_flush_that_fails_is_not_waited_for(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans, monkeypatch: Any
) -> None:
    def failing(_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(guard, "strict", False)
    with monkeypatch.context() as broken:
        broken.setattr(delivery, "_hurry", failing)
        feed(delivery, make_spans(1), to(collector))
        waiting = threading.Thread(target=delivery.flush, args=(10 * patience.SECONDS,), daemon=True)
        waiting.start()
        waiting.join(patience.SECONDS)
        assert not waiting.is_alive()
    assert guard.counts.pop("flushing") == 1
    assert delivery.flush(patience.SECONDS)


def test_a_long_outage_is_bounded_and_said_once(
    make_delivery: MakeDelivery, make_spans: MakeSpans, caplog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(report, "SECONDS_TO_THE_FIRST_LINE", 0.01)
    delivery = make_delivery(queue_spans=1000)
    destination = Destination(f"http://127.0.0.1:{free_port()}/v1/traces")
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            feed(delivery, make_spans(500), destination)
            time.sleep(0.1)
        wait_for(lambda: counts_of(delivery, destination).dropped == {"queue_full": 1500})
    assert len(caplog.records) == 1, caplog.text


def test_memory_is_bounded_for_all_together_and_the_operator_keeps_half(
    collector: OtlpReceiver, make_delivery: MakeDelivery, make_spans: MakeSpans
) -> None:
    delivery = make_delivery(queue_bytes=400_000, schedule_delay_seconds=0.2)
    dead = Destination(f"http://127.0.0.1:{free_port()}/v1/traces", reserved=False)
    operator = to(collector, name="operator")
    healthy = to(collector, name="healthy", reserved=False, headers={"x-of": "healthy"})
    collector.script = lambda count: Answer(status=503 if count < 3 else 200)
    spans = make_spans(100, text="x" * 500)
    feed(delivery, spans, operator)
    for _ in range(20):
        feed(delivery, spans, dead)
        feed(delivery, spans[:2], healthy)
        time.sleep(0.03)
        assert delivery.stats().held_bytes <= 400_000 * 1.1
    wait_for(lambda: counts_of(delivery, operator).sent == 100)
    wait_for(lambda: counts_of(delivery, healthy).sent == 40)
    assert set(counts_of(delivery, dead).dropped) == {"over_budget"}


def test_what_waits_for_a_dead_collector_is_packed_and_arrives_as_it_was(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans
) -> None:
    collector.script = lambda count: Answer(status=503 if count == 0 else 200)
    dead, healthy = to(collector, name="dead"), to(collector, name="healthy", headers={"x-of": "healthy"})
    feed(delivery, make_spans(1, text="x" * 500), dead)
    wait_for(lambda: delivery.stats().destinations[0].state == "failing")
    spans = make_spans(300, text="the same on every span " * 20)
    feed(delivery, spans, dead, healthy)
    wait_for(lambda: counts_of(delivery, healthy).sent == 300)
    assert delivery.stats().held_bytes < 300 * 350
    wait_for(lambda: counts_of(delivery, dead).sent == 301)
    texts = [span.attributes["text"] for span in collector.spans]
    assert texts.count("the same on every span " * 20) == 600
    assert delivery.stats().held_bytes == 0


def test_a_thread_that_does_not_get_to_run_costs_the_oldest(
    collector: OtlpReceiver, make_delivery: MakeDelivery, make_spans: MakeSpans, monkeypatch: Any
) -> None:
    monkeypatch.setattr(intake, "INTAKE_SPANS", 100)
    monkeypatch.setattr(intake, "SECONDS_BEFORE_TAKING_IN", 1.0)
    delivery = make_delivery(schedule_delay_seconds=10.0)
    destination = to(collector)
    feed(delivery, make_spans(150), destination)
    assert counts_of(delivery, destination).dropped == {"intake_full": 50}
    assert delivery.flush(patience.SECONDS)
    assert {span.attributes["n"] for span in collector.spans} == set(range(50, 150))


def test_nothing_ambient_reaches_a_destination(
    collector: OtlpReceiver, make_delivery: MakeDelivery, make_spans: MakeSpans, monkeypatch: Any, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login operator password s3cr3t\n")
    netrc.chmod(0o600)
    with OtlpReceiver() as trap:
        hostile = {
            "NETRC": str(netrc), "HTTP_PROXY": trap.url, "http_proxy": trap.url, "ALL_PROXY": trap.url, "NO_PROXY": "",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=s3cr3t", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x=s3cr3t",
        }  # fmt: skip
        for name, value in hostile.items():
            monkeypatch.setenv(name, value)
        delivery = make_delivery()
        feed(delivery, make_spans(5), to(collector))
        assert delivery.flush(patience.SECONDS)
        assert trap.requests == []
    assert "s3cr3t" not in str(collector.requests)
    assert "authorization" not in collector.requests[0][1]


def test_an_answers_cookie_is_nobody_elses(collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans) -> None:
    collector.script = lambda _: Answer(headers={"set-cookie": "session=s3cr3t"})
    for n in range(3):
        feed(delivery, make_spans(1), to(collector, reserved=False, headers={"x-of": str(n)}))
        assert delivery.flush(patience.SECONDS)
    assert all("cookie" not in headers for _, headers in collector.requests)


def test_an_operators_proxy_is_used_where_it_is_said(delivery: Delivery, make_spans: MakeSpans) -> None:
    asked: list[bytes] = []

    def proxy(connection: socket.socket, released: threading.Event) -> None:
        asked.append(connection.recv(65536).split(b"\r\n")[0])
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        released.wait()

    with RawBackend(proxy) as backend:
        feed(delivery, make_spans(1), Destination("http://backend.invalid/v1/traces", proxy=backend.url))
        assert delivery.flush(patience.SECONDS)
    assert asked == [b"POST http://backend.invalid/v1/traces HTTP/1.1"]


def test_names_that_do_not_resolve(delivery: Delivery, make_spans: MakeSpans) -> None:
    feed(delivery, make_spans(1), Destination("http://nobody.invalid/v1/traces"))
    wait_for(lambda: delivery.stats().destinations[0].problem == "name_not_found")


def test_a_start_that_fails_costs_the_request_nothing_and_is_tried_again(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans, monkeypatch: Any
) -> None:
    def no_descriptor() -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as exhausted:
        exhausted.setattr(asyncio, "SelectorEventLoop", no_descriptor)
        exhausted.setattr(guard, "strict", False)
        feed(delivery, make_spans(3), to(collector))
    assert guard.counts.pop("starting the delivery") == 3
    feed(delivery, make_spans(1), to(collector))
    assert delivery.flush(patience.SECONDS)
    assert len(collector.spans) == 4


def test_a_name_is_looked_up(collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans) -> None:
    named = Destination(f"http://localhost:{collector.server.port}/v1/traces")
    feed(delivery, make_spans(1), named)
    assert delivery.flush(patience.SECONDS)
    assert len(collector.spans) == 1


def test_tenants_look_ups_that_hang_do_not_delay_the_operators(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans, monkeypatch: Any
) -> None:
    look_up, released = http_sender._look_up, threading.Event()

    def hanging(host: str, *rest: Any) -> Any:
        if host.endswith(".invalid"):
            released.wait(2 * patience.SECONDS)
        return look_up(host, *rest)

    monkeypatch.setattr(http_sender, "_look_up", hanging)
    try:
        tenants = [Destination(f"http://t{n}.invalid/", reserved=False) for n in range(20)]
        feed(delivery, make_spans(1), *tenants)
        time.sleep(0.3)
        operator = Destination(f"http://localhost:{collector.server.port}/v1/traces")
        feed(delivery, make_spans(1), operator)
        wait_for(lambda: counts_of(delivery, operator).sent == 1)
    finally:
        released.set()


def test_spans_that_are_lost_on_their_way_in_stay_counted_when_their_destination_is_forgotten(
    collector: OtlpReceiver, make_delivery: MakeDelivery, make_spans: MakeSpans
) -> None:
    delivery = make_delivery()
    lane = delivery.lane(to(collector))
    feed(delivery, make_spans(1), to(collector))
    assert delivery.flush(patience.SECONDS)
    delivery.retire(lane)
    wait_for(lambda: not delivery.stats().destinations)
    delivery.close(1)
    for span in make_spans(5):
        delivery.accept(span, (lane,))
    stats = delivery.stats()
    assert (stats.total.accepted, stats.total.dropped) == (6, {"closed": 5})


# --- tenants come and go ---------------------------------------------------------------------------------------------


def test_a_thousand_credentials_on_one_receiver(
    collector: OtlpReceiver, make_delivery: MakeDelivery, make_spans: MakeSpans
) -> None:
    delivery = make_delivery()
    directory = Directory(delivery, 10_000)
    per_tenant = {n: make_spans(3, tenant=n) for n in range(1000)}
    work = [(n, span) for n, spans in per_tenant.items() for span in spans]
    random.shuffle(work)
    for n, span in work:
        headers = {"Authorization": f"Bearer {n}"}
        make = lambda headers=headers: to(collector, reserved=False, headers=headers, timeout_seconds=20.0)  # noqa: E731
        delivery.accept(span, directory.lanes(n, make))
    assert delivery.flush(patience.SECONDS)
    for headers, spans in collector.exports:
        assert {f"Bearer {span.attributes['tenant']}" for span in spans} == {headers["authorization"]}
    assert {span.attributes["tenant"] for span in collector.spans} == set(range(1000))
    stats = delivery.stats()
    assert (stats.total.sent, stats.total.dropped) == (3000, {})
    assert all(each.counts.sent == 3 for each in stats.destinations)


def test_the_least_recently_used_make_room_and_their_spans_are_delivered_first(
    collector: OtlpReceiver, make_delivery: MakeDelivery, make_spans: MakeSpans
) -> None:
    delivery = make_delivery(schedule_delay_seconds=3600.0)
    directory = Directory(delivery, 10)
    spans = make_spans(1)

    def use(n: int) -> None:
        make = lambda: to(collector, reserved=False, headers={"x-of": str(n)})  # noqa: E731
        delivery.accept(spans[0], directory.lanes(n, make))

    for n in range(100):
        use(n)
    wait_for(lambda: delivery.stats().total.sent == 90)
    assert len(delivery.stats().destinations) == 10
    assert {headers["x-of"] for _, headers in collector.requests} == {str(n) for n in range(90)}
    use(0)  # it was forgotten, and is known again
    assert delivery.flush(patience.SECONDS)
    stats = delivery.stats()
    assert (stats.total.accepted, stats.total.sent) == (101, 101)
    assert stats.balanced


def test_a_tenant_that_comes_back_while_it_is_let_go_is_kept(
    make_delivery: MakeDelivery, make_spans: MakeSpans
) -> None:
    with RawBackend(hang) as backend:
        delivery = make_delivery()
        directory = Directory(delivery, 1)
        first, second = to(backend, reserved=False), to(backend, reserved=False, headers={"x-of": "2"})
        lane = directory.lanes(1, lambda: first)
        delivery.accept(make_spans(1)[0], lane)
        wait_for(lambda: any(each.counts.in_flight for each in delivery.stats().destinations))
        directory.lanes(2, lambda: second)
        assert directory.lanes(1, lambda: first) == lane
        assert first.key in delivery._table._lanes


def test_of_dead_tenants_that_were_forgotten_only_so_many_are_kept(
    make_delivery: MakeDelivery, make_spans: MakeSpans, monkeypatch: Any
) -> None:
    monkeypatch.setattr(lane_table, "MOST_RETIRING", 20)
    delivery = make_delivery()
    directory = Directory(delivery, 5)
    span = make_spans(1)[0]
    port = free_port()
    for n in range(200):
        make = lambda n=n: Destination(f"http://127.0.0.1:{port}/{n}", reserved=False)  # noqa: E731
        delivery.accept(span, directory.lanes(n, make))
        if n % 20 == 0:
            time.sleep(0.1)
    wait_for(lambda: len(delivery.stats().destinations) <= 30)
    assert delivery.stats().balanced
    assert delivery.stats().total.dropped["evicted"] >= 170


def test_nothing_is_kept_of_a_tenant_that_was_given_up_while_it_waited_for_room(
    make_delivery: MakeDelivery, make_spans: MakeSpans, monkeypatch: Any
) -> None:
    monkeypatch.setattr(lane_table, "MOST_RETIRING", 0)
    delivery = make_delivery(queue_bytes=20_000)
    with RawBackend(hang) as backend:
        hung, waiting = (to(backend, reserved=False, headers={"x-of": str(n)}) for n in range(2))
        feed(delivery, make_spans(1, text="x" * 4_000), hung)
        wait_for(lambda: counts_of(delivery, hung).in_flight == 1)
        lane = delivery.lane(waiting)
        feed(delivery, make_spans(1), waiting)
        wait_for(lambda: lane.sending)
        delivery.retire(lane)
        wait_for(lambda: len(delivery.stats().destinations) == 1)
        assert lane not in delivery._budget._under_way
    assert delivery.stats().total.dropped == {"evicted": 1}


# --- the end ---------------------------------------------------------------------------------------------------------


def test_all_destinations_are_flushed_at_once_under_one_deadline(
    make_delivery: MakeDelivery, make_spans: MakeSpans, caplog: Any
) -> None:
    delivery = make_delivery(schedule_delay_seconds=3600.0)
    with OtlpReceiver() as slow, RawBackend(hang) as hanging:
        slow.script = lambda _: Answer(delay=0.5)
        slow_ones = [to(slow, headers={"x-of": str(n)}, timeout_seconds=5.0) for n in range(20)]
        stuck = [to(hanging, headers={"x-of": str(n)}, name=f"stuck {n}", timeout_seconds=5.0) for n in range(7)]
        feed(delivery, make_spans(3), *slow_ones, *stuck)
        started = time.monotonic()
        with caplog.at_level(logging.WARNING):
            stats = delivery.close(4)
        one_by_one = 0.5 * len(slow_ones)
        assert time.monotonic() - started < one_by_one
    assert (stats.total.sent, stats.total.dropped) == (60, {"shutdown": 21})
    lines = [each.getMessage() for each in caplog.records]
    assert [line for line in lines if "stuck 0" in line and line.startswith("3 spans")], lines
    assert "nor were 6 spans for 2 other destinations" in lines


def test_a_flush_of_one_destination_does_not_wait_for_another(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans
) -> None:
    with RawBackend(hang) as hanging:
        stuck = DeliveryProcessor(to(hanging), delivery=delivery)
        fine = DeliveryProcessor(to(collector), delivery=delivery)
        for span in make_spans(3):
            stuck.on_end(span)
            fine.on_end(span)
        assert fine.force_flush(int(1000 * patience.SECONDS))
        assert not stuck.force_flush(100)


def test_a_flush_of_one_destination_leaves_another_its_pause(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans
) -> None:
    with OtlpReceiver() as refusing:
        refusing.script = lambda count: Answer(status=401 if count == 0 else 200)
        refused = DeliveryProcessor(to(refusing), delivery=delivery)
        fine = DeliveryProcessor(to(collector), delivery=delivery)
        lane = delivery.lane(refused.destinations[0])
        refused.on_end(make_spans(1)[0])
        wait_for(lambda: lane.paused_until > 0)
        paused_until = lane.paused_until
        fine.on_end(make_spans(1)[0])
        assert fine.force_flush(int(1000 * patience.SECONDS))
        assert (lane.paused_until, len(refusing.requests)) == (paused_until, 1)
        assert refused.force_flush(int(1000 * patience.SECONDS))
        assert len(refusing.spans) == 1


def test_closing_twice_and_without_a_span(make_delivery: MakeDelivery) -> None:
    delivery = make_delivery()
    assert delivery.close(1).total.accepted == 0
    assert delivery.close(1).balanced


# --- exporters of other kinds ----------------------------------------------------------------------------------------


class Exporter(SpanExporter):
    def __init__(
        self,
        result: SpanExportResult | Exception = SpanExportResult.SUCCESS,
        released: threading.Event | None = None,
    ) -> None:
        self.result = result
        self.released = released
        self.names: list[str] = []
        self.threads: set[str] = set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self.released is not None:
            self.released.wait(2 * patience.SECONDS)
        self.threads.add(threading.current_thread().name)
        if isinstance(self.result, Exception):
            raise self.result
        self.names += [span.name for span in spans]
        return self.result

    def shutdown(self) -> None:
        self.names.append("shut down")


def test_an_exporter_of_another_kind_is_called_off_the_loop(delivery: Delivery, make_spans: MakeSpans) -> None:
    exporter = Exporter()
    destination = Destination("custom", name="custom", protocol="exporter", exporter=exporter)
    feed(delivery, make_spans(3), destination)
    assert delivery.flush(patience.SECONDS)
    assert exporter.names == ["span 0", "span 1", "span 2"]
    assert exporter.threads == {"litellm-otel-exporter"}
    assert counts_of(delivery, destination).sent == 3
    delivery.close(1)
    assert exporter.names[-1] == "shut down"


@pytest.mark.parametrize("result", [SpanExportResult.FAILURE, RuntimeError("no")])
def test_what_such_an_exporter_gives_up_on_is_rejected(delivery: Delivery, make_spans: MakeSpans, result: Any) -> None:
    destination = Destination("custom", name="custom", protocol="exporter", exporter=Exporter(result))
    feed(delivery, make_spans(3), destination)
    assert delivery.flush(patience.SECONDS)
    assert counts_of(delivery, destination).rejected == 3


def test_such_exporters_that_hang_delay_nobody_else(
    collector: OtlpReceiver, delivery: Delivery, make_spans: MakeSpans
) -> None:
    released = threading.Event()
    hanging = [
        Destination("custom", name=f"{n}", protocol="exporter", exporter=Exporter(released=released)) for n in range(10)
    ]
    fine = to(collector)
    try:
        feed(delivery, make_spans(3), *hanging, fine)
        wait_for(lambda: counts_of(delivery, fine).sent == 3)
        assert len([each for each in threading.enumerate() if each.name == "litellm-otel-exporter"]) <= 4
    finally:
        released.set()


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_standard_limits() -> None:
    limits = Limits.from_environment({
        "OTEL_BSP_SCHEDULE_DELAY": "250",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "64",
        "OTEL_BSP_MAX_QUEUE_SIZE": "100",
        "OTEL_BSP_EXPORT_TIMEOUT": "1500",
    })  # fmt: skip
    assert (limits.schedule_delay_seconds, limits.batch_spans, limits.queue_spans) == (0.25, 64, 100)
    assert limits.export_timeout_seconds == 1.5
    assert Limits.from_environment({"OTEL_BSP_MAX_QUEUE_SIZE": "10"}).batch_spans == 10


@pytest.mark.parametrize("value", ["x", "-5", "0", "nan", "inf", "1e400"])
def test_unusable_limits_are_said_and_left(value: str, caplog: Any) -> None:
    assert Limits.from_environment({"OTEL_BSP_SCHEDULE_DELAY": value}) == Limits()
    assert "OTEL_BSP_SCHEDULE_DELAY" in caplog.text


def test_idle_connections_are_bounded(delivery: Delivery, make_spans: MakeSpans, monkeypatch: Any) -> None:
    monkeypatch.setattr(http_sender, "HOSTS_KEPT_ALIVE", 2)
    receivers = [OtlpReceiver().__enter__() for _ in range(5)]
    try:
        feed(delivery, make_spans(1), *(to(each, reserved=False) for each in receivers))
        assert delivery.flush(patience.SECONDS)
        kept = [each.requests[0][1].get("connection", "keep-alive") for each in receivers]
        assert sorted(kept) == ["close"] * 3 + ["keep-alive"] * 2
    finally:
        for each in receivers:
            each.__exit__()

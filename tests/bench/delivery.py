"""The delivery against the SDK's ``BatchSpanProcessor(OTLPSpanExporter)``: a span's end, its way out, many tenants.

    python -m tests.bench.delivery [rounds]

Every measurement runs in a process of its own, the sides in turn; the collector is another process. Spans are made
beforehand and are of LiteLLM's kind: 25 attributes, 1 KB.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import sys
import time
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode

from litellm_otel_plugin.delivery import Delivery, DeliveryProcessor, Destination, Directory
from tests.bench.support import (
    alternating,
    collector,
    in_a_fresh_process,
    ratio,
    received_by,
    resident_bytes,
    show,
    threads_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

MODULE = "tests.bench.delivery"

# More than the delivery remembers as the last ones: none of them is taken for one that it has encoded already.
DIFFERENT_SPANS = 2_048
WARM_SPANS = 1_024

# What ends at once: a request's spans, and those of a busy proxy's fiftieth of a second. In between, queues drain.
CHUNKS = {"request": (6, 80), "burst": (256, 15)}
SECONDS_BETWEEN_CHUNKS = 0.06

# Well below what three of the SDK's pipelines manage on one core.
SPANS_PER_SECOND = 2_000
DELIVERED_SPANS = 8_000

TENANTS = 10_000
TENANTS_SPANS = 100_000
MOST_UNDELIVERED = 20_000
BYTES_HELD_PER_SPAN = 1_400
FED_AT_ONCE = 100
SECONDS_TO_FLUSH = 60.0

MOST_MEBIBYTES = 60
MEBIBYTE = 1024 * 1024


def spans_like_litellm(count: int) -> list[ReadableSpan]:
    """Spans as LiteLLM's v2 tracing ends them: 25 attributes of every kind, 1 KB as OTLP."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "litellm"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("litellm", "1.106.2")
    with tracer.start_as_current_span("POST /v1/chat/completions", kind=SpanKind.SERVER):
        for number in range(count):
            with tracer.start_as_current_span("chat gpt-4o-mini", kind=SpanKind.CLIENT) as span:
                span.set_attributes({
                    "gen_ai.operation.name": "chat",
                    "gen_ai.provider.name": "openai",
                    "gen_ai.request.model": "gpt-4o-mini",
                    "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
                    "gen_ai.response.id": f"chatcmpl-{number:024d}",
                    "gen_ai.request.temperature": 0.7,
                    "gen_ai.request.top_p": 0.95,
                    "gen_ai.request.max_tokens": 512,
                    "gen_ai.response.finish_reasons": ("stop",),
                    "gen_ai.usage.input_tokens": 417 + number,
                    "gen_ai.usage.output_tokens": 128,
                    "gen_ai.usage.total_tokens": 545 + number,
                    "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"What is it?"}]}]',
                    "gen_ai.output.messages": '[{"role":"assistant","parts":[{"type":"text","content":"It is."}]}]',
                    "litellm.call_id": f"01234567-89ab-cdef-0123-{number:012d}",
                    "litellm.call_type": "acompletion",
                    "litellm.cost.total": 0.000139,
                    "litellm.cost.input": 0.0000626,
                    "litellm.key.alias": "team-a-production",
                    "litellm.team.id": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
                    "litellm.cache.hit": False,
                    "litellm.stream": True,
                    "server.address": "api.openai.com",
                    "server.port": 443,
                    "http.response.status_code": 200,
                })  # fmt: skip
                span.set_status(Status(StatusCode.OK))
    return list(memory.get_finished_spans()[:count])


def destination(url: str, number: int, *, reserved: bool = True) -> Destination:
    return Destination(f"{url}/v1/traces", headers={"authorization": f"Basic {number}"}, reserved=reserved)


def processors_of(side: str, url: str) -> list[SpanProcessor]:
    kind, count = side[:-1], int(side[-1])
    if kind == "ours":
        return [DeliveryProcessor(*(destination(url, number) for number in range(count)))]
    headers = ({"authorization": f"Basic {number}"} for number in range(count))
    return [BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces", headers=each)) for each in headers]


# --- each in a process of its own ------------------------------------------------------------------------------------


def of_a_spans_end(side: str, url: str) -> dict[str, float]:
    """CPU nanoseconds of ``on_end`` on the thread that calls it, per span."""
    (processor,) = processors_of(side, url)
    spans = spans_like_litellm(DIFFERENT_SPANS)
    for span in spans[:WARM_SPANS]:
        processor.on_end(span)
    processor.force_flush()
    clock, on_end = time.thread_time_ns, processor.on_end
    figures = {}
    for name, (size, count) in CHUNKS.items():
        costs = []
        for number in range(count):
            begin = number * size % (DIFFERENT_SPANS - size)
            chunk = spans[begin : begin + size]
            empty = clock()
            began = clock()
            for span in chunk:
                on_end(span)
            costs.append((clock() - began - (began - empty)) / size)
            time.sleep(SECONDS_BETWEEN_CHUNKS)
        figures[name] = statistics.median(costs)
    processor.force_flush()
    return figures


def of_delivery(side: str, url: str) -> dict[str, float]:
    """CPU microseconds of the whole process, per span that was delivered to all of its destinations."""
    processors = processors_of(side, url)
    spans = spans_like_litellm(DIFFERENT_SPANS)

    def feed(count: int) -> None:
        began = time.perf_counter()
        for number in range(count):
            for processor in processors:
                processor.on_end(spans[number % DIFFERENT_SPANS])
            if number % FED_AT_ONCE == 0:
                time.sleep(max(0.0, began + number / SPANS_PER_SECOND - time.perf_counter()))
        for processor in processors:
            assert processor.force_flush()

    feed(WARM_SPANS)
    before = received_by(url).spans
    spent = time.process_time()
    feed(DELIVERED_SPANS)
    spent = time.process_time() - spent
    assert received_by(url).spans - before == DELIVERED_SPANS * int(side[-1]), "spans were lost"
    return {"cpu": spent * 1e6 / DELIVERED_SPANS}


def of_tenants(side: str, url: str) -> dict[str, float]:
    """CPU, memory and threads of spans for ten thousand destinations, or for one at the same pace."""
    tenants = int(side)
    delivery = Delivery()
    directory = Directory(delivery, TENANTS)
    spans = spans_like_litellm(DIFFERENT_SPANS)
    way: Callable[[int], None] = lambda tenant: delivery.accept(  # noqa: E731 - bound to this delivery
        next(endless), directory.lanes(tenant, lambda: destination(url, tenant, reserved=False))
    )
    endless = (span for _ in iter(int, 1) for span in spans)
    for _ in range(WARM_SPANS):
        way(0)
    assert delivery.flush(SECONDS_TO_FLUSH)
    chance = random.Random(17)  # noqa: S311 - which tenant is next is no secret
    order = [chance.randrange(tenants) for _ in range(TENANTS_SPANS)]
    before = received_by(url)
    gc.collect()
    resident, threads = resident_bytes(), threads_of(os.getpid())
    most_resident, most_threads = resident, threads
    spent = time.process_time()
    for number, tenant in enumerate(order):
        way(tenant)
        if number % FED_AT_ONCE:
            continue
        time.sleep(0.001)
        most_resident = max(most_resident, resident_bytes())
        most_threads = max(most_threads, threads_of(os.getpid()))
        while len(delivery._intake) + delivery._budget.held // BYTES_HELD_PER_SPAN > MOST_UNDELIVERED:
            time.sleep(0.05)
    assert delivery.flush(SECONDS_TO_FLUSH)
    spent = time.process_time() - spent
    after = received_by(url)
    stats = delivery.stats()
    assert stats.balanced, "an account does not add up"
    assert not stats.total.dropped, stats.total.dropped
    assert after.spans - before.spans == TENANTS_SPANS == stats.total.sent - WARM_SPANS, "spans were lost"
    return {
        "cpu": spent * 1e6 / TENANTS_SPANS,
        "mebibytes": (max(most_resident, resident_bytes()) - resident) / MEBIBYTE,
        "threads": max(most_threads, threads_of(os.getpid())) - threads,
        "requests": after.requests - before.requests,
    }


MEASUREMENTS = {"end": of_a_spans_end, "delivery": of_delivery, "tenants": of_tenants}


def main(rounds: int) -> None:
    with collector() as url:

        def measured(what: str) -> Callable[[str], dict[str, float]]:
            return lambda side: in_a_fresh_process(MODULE, what, side, url)

        end = alternating(rounds, ["sdk1", "ours1", "ours3"], measured("end"))
        for name, (size, _) in CHUNKS.items():
            costs = {side: figures[name] for side, figures in end.items()}
            shown = ", ".join(f"{side} {statistics.median(each):.0f} ns" for side, each in costs.items())
            show(f"on_end, {size} spans at a time, ours / SDK", ratio(costs["ours1"], costs["sdk1"]), 1.0, shown)
            show(f"on_end, {size} spans at a time, 3 destinations / 1", ratio(costs["ours3"], costs["ours1"]), 1.5)

        delivery = alternating(rounds, ["sdk1", "ours1", "sdk3", "ours3"], measured("delivery"))
        costs = {side: figures["cpu"] for side, figures in delivery.items()}
        shown = ", ".join(f"{side} {statistics.median(each):.0f} µs" for side, each in costs.items())
        show("CPU per span delivered, ours / SDK", ratio(costs["ours1"], costs["sdk1"]), 0.9, shown)
        show("CPU per span delivered to 3, ours / 3 SDK pipelines", ratio(costs["ours3"], costs["sdk3"]), 0.35)

        one, many = str(1), str(TENANTS)
        tenants = alternating(1, [one, many], measured("tenants"))
        costs = {side: figures["cpu"] for side, figures in tenants.items()}
        (requests,), (mebibytes,), (threads,) = (tenants[many][name] for name in ("requests", "mebibytes", "threads"))
        shown = f"{costs[one][0]:.0f} µs, {costs[many][0]:.0f} µs, {TENANTS_SPANS / requests:.1f} spans a request"
        show(f"CPU per span, {TENANTS} destinations / 1", ratio(costs[many], costs[one]), 2.0, shown)
        show(f"MiB that {TENANTS} destinations add", mebibytes, MOST_MEBIBYTES, form=".1f")
        show(f"threads that {TENANTS} destinations add", threads, 0, form=".0f")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in MEASUREMENTS:
        sys.stdout.write(json.dumps(MEASUREMENTS[sys.argv[1]](sys.argv[2], sys.argv[3])))
    else:
        main(*(int(argument) for argument in (sys.argv[1:] or ["3"])))

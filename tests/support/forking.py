"""A process that forks: what `tests/delivery/test_processes.py` looks at from outside.

``python -m tests.support.forking <collector> <ending>``: the parent ends some spans, forks a child that ends others,
and each ends as it is told to: by an exit, a signal, or not at all.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from litellm_otel_plugin.delivery import Delivery, DeliveryProcessor, Destination, Limits

SPANS = 50
CHILDREN = 2


def main() -> None:
    collector, before_the_fork = sys.argv[1], sys.argv[2] == "spans-before"
    delivery = Delivery(Limits(schedule_delay_seconds=30.0))
    provider = TracerProvider(resource=Resource({"service.name": "forking"}))
    provider.add_span_processor(DeliveryProcessor(Destination(f"{collector}/v1/traces"), delivery=delivery))
    tracer = provider.get_tracer("forking")

    def end_spans(name: str) -> None:
        for _ in range(SPANS):
            with tracer.start_as_current_span(name):
                pass

    if sys.argv[2] == "connected":
        end_spans("parent, before")
        end_spans("parent, before")
        assert delivery.flush(10)
    threads_before = threading.active_count()
    if before_the_fork:
        end_spans("parent, before")
        time.sleep(0.2)  # some of them are in the queue, the rest in the intake
        end_spans("parent, before")
    elif sys.argv[2] == "no-spans-before":
        assert threading.active_count() == threads_before, "a thread before the first span"
    children: list[int] = []
    while len(children) < CHILDREN and 0 not in children:
        children.append(os.fork())
    if 0 in children:
        end_spans("child")
        assert delivery.stats().total.accepted == SPANS, delivery.stats()
        done = delivery.close(10)
        assert done.balanced, done
        assert done.total.sent == SPANS, done
        os._exit(0)
    for child in children:
        _, status = os.waitpid(child, 0)
        assert status == 0, status
    end_spans("parent, after")
    done = delivery.close(10)
    assert done.balanced, done
    sys.stdout.write(f"{done.total.sent}\n")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()

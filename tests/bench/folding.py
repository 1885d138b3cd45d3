"""Three backends at once: what folding costs, and what arrives, against LiteLLM with a logger for each.

    python -m tests.bench.folding [rounds] [requests]

The proxies run at the same time and are asked in turn; a ratio is the median of the rounds' own. Bytes are those of the
spans as OTLP, without the envelope and before compression.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.cpu_per_request import cost_ms
from tests.support.config import PLUGIN
from tests.support.gateway import Gateway, running
from tests.support.receiver import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.receiver import ReceivedSpan

CALLBACKS = ("otel", "arize_phoenix", "langfuse_otel")
HELLO = "hi"

# A trace arrives in two or three exports, the last one by the batch delay after the first.
SECONDS_FOR_THE_REST = 7.0


@dataclass
class Row:
    """One proxy and its three backends."""

    gateway: Gateway
    backends: dict[str, OtlpReceiver]

    def ask(self, _: Gateway) -> None:
        self.gateway.proxy.chat(HELLO, model="canned")


def row(stack: ExitStack, environment: Mapping[str, str], *callbacks: str) -> Row:
    phoenix, langfuse = stack.enter_context(OtlpReceiver()), stack.enter_context(OtlpReceiver())
    backends = {
        "PHOENIX_COLLECTOR_HTTP_ENDPOINT": f"{phoenix.url}/v1/traces",
        "LANGFUSE_PUBLIC_KEY": "pk-bench",
        "LANGFUSE_SECRET_KEY": "sk-bench",
        "LANGFUSE_OTEL_HOST": langfuse.url,
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_only",
    }
    settings = {"callbacks": list(callbacks)}
    gateway = stack.enter_context(running(environment={**backends, **environment}, litellm_settings=settings))
    return Row(gateway, {"collector": gateway.collector, "Phoenix": phoenix, "Langfuse": langfuse})


def main(rounds: int, requests: int) -> None:
    with ExitStack() as stack:
        rows = {
            "LiteLLM": row(stack, {"LITELLM_OTEL_V2": "true"}, *CALLBACKS),
            "plugin, not folded": row(stack, {"LITELLM_OTEL_PLUGIN_FOLD": "false"}, PLUGIN, *CALLBACKS),
            "folded": row(stack, {}, PLUGIN, *CALLBACKS),
        }
        for each in rows.values():
            cost_ms(each.gateway, each.ask, requests)  # warm
        costs: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(rounds):
            for name, each in rows.items():
                costs[name].append(cost_ms(each.gateway, each.ask, requests))
        for other in ("LiteLLM", "plugin, not folded"):
            ratio = statistics.median(a / b for a, b in zip(costs["folded"], costs[other], strict=True))
            sys.stdout.write(f"CPU per request, three backends: folded / {other} = {ratio:.2f}\n")
        for name, each in rows.items():
            sys.stdout.write(f"{name}: {statistics.median(costs[name]):.2f} ms of CPU per request\n")
            for backend, receiver in each.backends.items():
                sys.stdout.write(f"  {backend}: {arrived(each, receiver)}\n")


def arrived(each: Row, receiver: OtlpReceiver) -> str:
    """What one request leaves at one backend."""
    call_id = each.gateway.proxy.chat(HELLO, model="canned").headers["x-litellm-call-id"]

    def traces(spans: list[ReceivedSpan]) -> set[str]:
        return {span.trace_id for span in spans if span.attributes.get("litellm.call_id") == call_id}

    spans = receiver.wait_until(lambda spans: bool(traces(spans)))
    time.sleep(SECONDS_FOR_THE_REST)
    spans = [span for span in receiver.spans if span.trace_id in traces(spans)]
    ids = {span.span_id for span in spans}
    orphans = sum(bool(span.parent_id) and span.parent_id not in ids for span in spans)
    calls = sum(span.kind == "CLIENT" for span in spans)
    return f"{len(spans)} spans, {calls} of them model calls, {orphans} orphans, {sum(s.size for s in spans)} bytes"


if __name__ == "__main__":
    main(*(int(argument) for argument in (sys.argv[1:] or ["5", "100"])))

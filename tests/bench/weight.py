"""What a span of a real request weighs while it waits for delivery, and what encoding it costs.

    python -m tests.bench.weight

A proxy answers chats while its collector is down; the delivery's own account says how much the spans that came since
hold, packed as they are then. Encoding is compared with the SDK's on the spans of this process.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from litellm_otel_plugin.delivery.encoding import encode_span
from tests.bench.delivery import spans_like_litellm
from tests.bench.support import ratio
from tests.support.accounts import ACCOUNTS_FILE, CALLBACK
from tests.support.config import PLUGIN
from tests.support.gateway import running
from tests.support.receiver import Answer

CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
PROMPT = "Tell me a story about a fox. " * 20
CHATS = 200
ROUNDS = 5
SPANS = 500


def weigh(*, content: bool) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "accounts"
        environment = {ACCOUNTS_FILE: str(file), **({CONTENT: "span_only"} if content else {})}
        with running(PLUGIN, CALLBACK, environment=environment) as gateway:
            gateway.collector.script = lambda _: Answer(status=503)
            gateway.proxy.chat(PROMPT)
            time.sleep(1)
            gateway.proxy.chat(PROMPT)
            first = json.loads(file.read_text())["stats"]
            for _ in range(CHATS):
                gateway.proxy.chat(PROMPT)
            time.sleep(1)
            gateway.proxy.chat(PROMPT)
            last = json.loads(file.read_text())["stats"]
    later = spans_of(last) - spans_of(first)
    held = (last["held_bytes"] - first["held_bytes"]) / later
    return f"{held:.0f} bytes a span, {later / (CHATS + 1):.1f} spans a chat"


def spans_of(stats: Any) -> int:
    return int(stats["total"]["queued"] + stats["total"]["in_flight"])


def encoding_cost() -> float:
    spans = spans_like_litellm(SPANS)
    ours, sdks = [], []
    for _ in range(ROUNDS):
        before = time.process_time()
        for span in spans:
            encode_span(span)
        between = time.process_time()
        encode_spans(spans).SerializeToString()
        ours.append(between - before)
        sdks.append(time.process_time() - between)
    return ratio(ours, sdks)


if __name__ == "__main__":
    print(f"encoding a span, ours / the SDK's: {encoding_cost():.2f}")  # noqa: T201
    print(f"without content: {weigh(content=False)}")  # noqa: T201
    print(f"with content:    {weigh(content=True)}")  # noqa: T201

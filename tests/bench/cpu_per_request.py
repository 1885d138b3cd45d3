"""CPU per request of a proxy with the plugin, against LiteLLM's own v2 tracing and none at all, side by side.

    python -m tests.bench.cpu_per_request [rounds] [requests]

The three proxies run at the same time and are asked in turn, so that what the machine does to one it does to all.
Ratios are what to quote: these are medians over the rounds of each round's own ratio.
"""

from __future__ import annotations

import os
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.config import PLUGIN
from tests.support.gateway import Gateway, running

if TYPE_CHECKING:
    from collections.abc import Callable

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
HELLO = [{"role": "user", "content": "hi"}]

DOORS: dict[str, Callable[[Gateway], Any]] = {
    "chat": lambda gateway: gateway.proxy.chat(model="canned"),
    "messages": lambda gateway: gateway.proxy.client.post(
        "/v1/messages", json={"model": "canned", "max_tokens": 9, "messages": HELLO}
    ),
    "unmatched path": lambda gateway: gateway.proxy.client.get("/nope/at/all"),
}


def cpu_seconds(gateway: Gateway) -> float:
    fields = Path(f"/proc/{gateway.proxy.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def cost_ms(gateway: Gateway, ask: Callable[[Gateway], Any], requests: int) -> float:
    before = cpu_seconds(gateway)
    for _ in range(requests):
        ask(gateway)
    return (cpu_seconds(gateway) - before) * 1_000 / requests


def main(rounds: int, requests: int) -> None:
    with ExitStack() as stack:
        rows = {
            "no tracing": stack.enter_context(running(litellm_settings={"callbacks": []})),
            "v2 alone": stack.enter_context(
                running(environment={"LITELLM_OTEL_V2": "true"}, litellm_settings={"callbacks": ["otel"]})
            ),
            "v2 + plugin": stack.enter_context(running(litellm_settings={"callbacks": [PLUGIN]})),
        }
        for door, ask in DOORS.items():
            for gateway in rows.values():
                cost_ms(gateway, ask, requests)  # warm
            costs: dict[str, list[float]] = {name: [] for name in rows}
            for _ in range(rounds):
                for name, gateway in rows.items():
                    costs[name].append(cost_ms(gateway, ask, requests))
            ratio = statistics.median(
                ours / theirs for ours, theirs in zip(costs["v2 + plugin"], costs["v2 alone"], strict=True)
            )
            shown = ", ".join(f"{name} {statistics.median(each):.2f} ms" for name, each in costs.items())
            sys.stdout.write(f"{door}: v2 + plugin / v2 alone = {ratio:.2f}   (CPU per request: {shown})\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*(int(argument) for argument in (sys.argv[1:] or ["7", "150"])))

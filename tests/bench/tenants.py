"""CPU per request of a proxy with 500 tenants, with the plugin against LiteLLM's own v2 tracing, side by side.

    python -m tests.bench.tenants [rounds] [requests]

Each tenant has a key that names a Langfuse account of its own, all on one host; the proxies share the collector that
stands for it. Requests come from tenants in random order.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.bench.support import (
    PRODUCTION,
    SIDES,
    TENANT_HOST,
    collector,
    cpu_seconds,
    ratio,
    received_by,
    show,
    threads_of,
)
from tests.support.config import config
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Mapping

TENANTS = 500
HELLO = {"model": "canned", "messages": [{"role": "user", "content": "hi"}]}

# Both deliver what a round left behind before the next begins, and pay for it in that round.
SECONDS_TO_DELIVER = 6.0

MOST = 0.75


def proxy_with_tenants(url: str, callback: str, environment: Mapping[str, str]) -> Proxy:
    document = config(
        url,
        callback,
        litellm_settings={"provider_url_destination_allowed_hosts": [url]},
        general_settings={"custom_auth": "tests.bench.support.authenticate"},
    )
    return Proxy(document, {"OTEL_EXPORTER_OTLP_ENDPOINT": url, TENANT_HOST: url, **PRODUCTION, **environment})


def cost_ms(proxy: Proxy, tenants: list[int]) -> float:
    before = cpu_seconds(proxy.process.pid)
    for tenant in tenants:
        headers = {"authorization": f"Bearer sk-tenant-{tenant}"}
        assert proxy.client.post("/v1/chat/completions", json=HELLO, headers=headers).status_code == 200
    time.sleep(SECONDS_TO_DELIVER)
    return (cpu_seconds(proxy.process.pid) - before) * 1_000 / len(tenants)


def main(rounds: int, requests: int) -> None:
    chance = random.Random(17)  # noqa: S311 - which tenant is next is no secret
    with ExitStack() as stack:
        collectors = {name: stack.enter_context(collector()) for name in SIDES}
        proxies = {
            name: stack.enter_context(proxy_with_tenants(collectors[name], callback, environment))
            for name, (callback, environment) in SIDES.items()
        }
        costs: dict[str, list[float]] = {name: [] for name in SIDES}
        for number in range(rounds + 1):
            tenants = [chance.randrange(TENANTS) for _ in range(requests)]
            for name, proxy in proxies.items():
                cost = cost_ms(proxy, tenants)
                if number:  # the first one warms
                    costs[name].append(cost)
        for name, proxy in proxies.items():
            received = received_by(collectors[name])
            spans = received.spans / requests / (rounds + 1)
            sys.stdout.write(
                f"{name}: {statistics.median(costs[name]):.2f} ms a request, {spans:.1f} spans delivered for each,"
                f" {received.requests} exports, {threads_of(proxy.process.pid)} threads\n"
            )
        show(
            f"CPU per request with {TENANTS} tenants, plugin / v2 alone",
            ratio(costs["plugin"], costs["v2 alone"]),
            MOST,
        )


if __name__ == "__main__":
    main(*(int(argument) for argument in (sys.argv[1:] or ["4", "400"])))

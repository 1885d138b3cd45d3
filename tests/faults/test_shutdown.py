"""SIGTERM and SIGINT with spans still queued: everything accepted arrives, inside the lifespan, within one deadline."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.config import PLUGIN, config, provider_environment
from tests.support.proxy import Proxy, trace_id_of
from tests.support.receiver import Answer, OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.provider import MockProvider
    from tests.support.receiver import ReceivedSpan

# Longer than any test waits: what arrives, the flush has delivered.
QUEUED = {"OTEL_BSP_SCHEDULE_DELAY": "30000"}
WHOLE_TRACE = {"SERVER", "CLIENT", "INTERNAL"}
REQUESTS = 12


@pytest.fixture
def collector() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


def _environment(provider: MockProvider, collector: OtlpReceiver) -> dict[str, str]:
    return {**provider_environment(provider.url), "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, **QUEUED}


def _start(provider: MockProvider, environment: dict[str, str], flags: list[str]) -> Proxy:
    """A proxy on any server.

    Under gunicorn LiteLLM forks its workers from a process that runs threads, and about one worker in seventy never
    comes up: it waits in LiteLLM's own start-up for an import lock that a thread of the parent's held at the fork.
    Nothing of ours is in that process yet, so such a start is made again.
    """
    document = config(provider.url, PLUGIN)
    try:
        return Proxy(document, environment, flags=flags)
    except AssertionError:
        if "--run_gunicorn" not in flags:
            raise
        return Proxy(document, environment, flags=flags)


def _assert_whole(collector: OtlpReceiver, trace_ids: list[str]) -> None:
    missing = {
        trace_id: sorted(WHOLE_TRACE - {span.kind for span in collector.trace(trace_id)}) for trace_id in trace_ids
    }
    assert not {trace_id: kinds for trace_id, kinds in missing.items() if kinds}


@pytest.mark.parametrize(
    ("flags", "number"),
    [
        pytest.param([], signal.SIGTERM, id="uvicorn-sigterm"),
        pytest.param([], signal.SIGINT, id="uvicorn-sigint"),
        pytest.param(["--num_workers", "2"], signal.SIGTERM, id="uvicorn-2-workers", marks=pytest.mark.slow),
        pytest.param(["--run_gunicorn", "--num_workers", "2"], signal.SIGTERM, id="gunicorn", marks=pytest.mark.slow),
        pytest.param(["--run_granian"], signal.SIGTERM, id="granian", marks=pytest.mark.slow),
        pytest.param(["--run_hypercorn"], signal.SIGTERM, id="hypercorn", marks=pytest.mark.slow),
    ],
)
def test_everything_queued_is_delivered(
    provider: MockProvider, collector: OtlpReceiver, flags: list[str], number: signal.Signals
) -> None:
    with _start(provider, _environment(provider, collector), flags) as proxy:
        # The last response is still warm when the signal comes: its closing callback is queued inside LiteLLM.
        trace_ids = [trace_id_of(proxy.chat(str(n), stream=n % 2 == 1)) for n in range(REQUESTS)]
        assert collector.spans == []
        proxy.stop(number)
    _assert_whole(collector, trace_ids)


@pytest.mark.slow
def test_a_worker_that_reached_its_request_limit_delivers_before_it_goes(
    provider: MockProvider, collector: OtlpReceiver
) -> None:
    flags = ["--num_workers", "2", "--max_requests_before_restart", "6"]
    with _start(provider, _environment(provider, collector), flags) as proxy:
        trace_ids: list[str] = []
        while len(trace_ids) < REQUESTS:
            proxy.wait_until_ready()  # a restarting worker answers nothing for some seconds
            with suppress(httpx.TransportError):  # asked just as it went
                trace_ids.append(trace_id_of(proxy.chat(str(len(trace_ids)))))
        proxy.stop()
    _assert_whole(collector, trace_ids)


@pytest.mark.slow
def test_each_worker_has_its_own_instance_id(provider: MockProvider, collector: OtlpReceiver) -> None:
    environment = {**_environment(provider, collector), "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with Proxy(config(provider.url, PLUGIN), environment, flags=["--num_workers", "2"]) as proxy:

        def both_answered(spans: list[ReceivedSpan]) -> bool:
            # The second worker may start up to a minute after the first; each connection is whoever's takes it.
            proxy.client.get("/v1/models", headers={**proxy.headers, "connection": "close"})
            return len({span.resource["service.instance.id"] for span in spans}) == 2

        collector.wait_until(both_answered)


# An export alone would hold a stop for as long as this, several times what a proxy is given to stop in these tests
# (`Proxy.stop` fails then): what ends the stop is the deadline, however busy the machine is.
EXPORT_TIMEOUT_MS = "120000"


def test_a_hung_collector_holds_the_stop_no_longer_than_the_deadline(
    provider: MockProvider, collector: OtlpReceiver
) -> None:
    _assert_stops_beside_a_hung_collector(provider, collector, [])


@pytest.mark.slow
def test_a_hung_collector_holds_no_gunicorn_worker_either(provider: MockProvider, collector: OtlpReceiver) -> None:
    _assert_stops_beside_a_hung_collector(provider, collector, ["--run_gunicorn", "--num_workers", "1"])


def _assert_stops_beside_a_hung_collector(provider: MockProvider, collector: OtlpReceiver, flags: list[str]) -> None:
    collector.script = lambda _count: Answer(hang=True)
    deadline = {"LITELLM_OTEL_PLUGIN_SHUTDOWN_SECONDS": "1", "OTEL_EXPORTER_OTLP_TIMEOUT": EXPORT_TIMEOUT_MS}
    with _start(provider, {**_environment(provider, collector), **deadline}, flags) as proxy:
        proxy.chat()
        proxy.stop()
        said = rf"\d+ spans for otlp at {collector.url}/v1/traces were not delivered within 1 s of shutdown"
        assert re.search(said, proxy.log), proxy.log

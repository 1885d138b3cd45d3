"""The shared delivery under a real proxy: outages, presets' secrets, protocols, and the switch back to the SDK's."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.accounts import ACCOUNTS_FILE, CALLBACK
from tests.support.backends import GrpcReceiver, wait_for
from tests.support.config import PLUGIN
from tests.support.gateway import running
from tests.support.ports import free_port
from tests.support.proxy import trace_id_of
from tests.support.receiver import Answer, OtlpReceiver, ReceivedSpan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.support.proxy import Proxy

TIMEOUT = 3.0
SECRET = "0p3rat0rs-s3cr3t"
LANGFUSE_SECRET = "sk-lf-0p3rat0r"


def accounts(proxy: Proxy, file: Path) -> Any:
    assert proxy.chat().status_code == 200
    return json.loads(file.read_text())


def whole(spans: Sequence[ReceivedSpan], trace_ids: Sequence[str]) -> bool:
    kinds = {(span.trace_id, span.kind) for span in spans}
    return {(trace_id, kind) for trace_id in trace_ids for kind in ("SERVER", "CLIENT", "INTERNAL")} <= kinds


@pytest.mark.whole_request
def test_every_trace_arrives_once_after_an_outage(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    environment = {ACCOUNTS_FILE: str(file), "OTEL_EXPORTER_OTLP_TIMEOUT": str(TIMEOUT)}
    with running(PLUGIN, CALLBACK, environment=environment) as gateway:
        answers: list[Answer] = []
        gateway.collector.script = lambda _: answers[-1] if answers else Answer()
        trace_ids = [trace_id_of(gateway.proxy.chat())]
        faults: list[Answer] = [
            Answer(status=503),
            Answer(status=429, headers={"retry-after": "1"}),
            Answer(hang=True),
        ]
        slowest = 0.0
        for fault in faults:
            answers.append(fault)
            for _ in range(10):
                started = time.monotonic()
                trace_ids.append(trace_id_of(gateway.proxy.chat()))
                slowest = max(slowest, time.monotonic() - started)
        during = accounts(gateway.proxy, file)
        assert during["balanced"]
        (destination,) = during["stats"]["destinations"]
        assert destination["state"] == "failing"
        assert destination["counts"]["dropped"] == {}
        wait_for(lambda: "spans are not reaching" in gateway.proxy.log)
        answers.append(Answer())
        gateway.collector._released.set()  # those that hung are let go
        spans = gateway.collector.wait_until(lambda spans: whole(spans, trace_ids))
        # An export that timed out may have arrived all the same: the backend knows a span by its id.
        assert len({span.span_id for span in spans if span.kind == "SERVER"}) >= len(trace_ids)
        after = accounts(gateway.proxy, file)
        assert after["balanced"]
        assert after["stats"]["total"]["rejected"] == 0
        assert after["stats"]["total"]["dropped"] == {}
        assert slowest < TIMEOUT  # an export that hangs takes that long, and a request does not wait for it
        log = gateway.proxy.log
        assert log.count("spans are not reaching") == 1
        assert f"spans are not reaching otlp at {gateway.collector.url}/v1/traces (" in log


def test_no_secret_crosses_from_one_backend_to_another(tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login operator password {SECRET}\n")
    netrc.chmod(0o600)
    with OtlpReceiver() as langfuse:
        environment = {
            "NETRC": str(netrc),
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-general={SECRET}",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": f"x-traces={SECRET}",
            "LANGFUSE_PUBLIC_KEY": "pk-lf-operator",
            "LANGFUSE_SECRET_KEY": LANGFUSE_SECRET,
            "LANGFUSE_OTEL_HOST": langfuse.url,
        }
        with running(PLUGIN, "otel", "langfuse_otel", environment=environment) as gateway:
            gateway.proxy.chat()
            langfuse.wait_until(lambda spans: any(span.kind == "CLIENT" for span in spans))
            gateway.collector.wait_until(lambda spans: {"SERVER", "CLIENT"} <= {span.kind for span in spans})
            for _, headers in gateway.collector.requests:
                assert (headers["x-general"], headers["x-traces"]) == (SECRET, SECRET)
                assert "authorization" not in headers
            for path, headers in langfuse.requests:
                assert path == "/api/public/otel/v1/traces"
                assert headers["authorization"].startswith("Basic ")
                assert SECRET not in str(headers)
            assert SECRET not in gateway.proxy.log
            assert LANGFUSE_SECRET not in gateway.proxy.log


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http/json", "grpc"])
def test_other_protocols(protocol: str) -> None:
    receiver = GrpcReceiver() if protocol == "grpc" else OtlpReceiver()
    with receiver:
        environment = {
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        }
        with running(environment=environment) as gateway:
            trace_id = trace_id_of(gateway.proxy.chat())
            wait_for(lambda: whole(receiver.spans, [trace_id]))
    if isinstance(receiver, OtlpReceiver):
        assert {headers["content-type"] for _, headers in receiver.requests} == {"application/json"}
        assert {headers["content-encoding"] for _, headers in receiver.requests} == {"gzip"}


@pytest.mark.whole_request
def test_the_switch_back_to_the_sdks_exporters(tmp_path: Path) -> None:
    file = tmp_path / "accounts"
    environment = {"LITELLM_OTEL_PLUGIN_DELIVERY": "sdk", ACCOUNTS_FILE: str(file)}
    with running(PLUGIN, CALLBACK, environment=environment) as gateway:
        response = gateway.proxy.chat()
        server = gateway.server_span(response, kinds=("SERVER", "CLIENT", "INTERNAL"))
        assert server.attributes["http.route"] == "/v1/chat/completions"
        seen = accounts(gateway.proxy, file)
        assert seen["stats"] is None
        assert "litellm-otel-delivery" not in seen["threads"]
        assert "OTel-OTLP-Exporter-Python" in gateway.collector.requests[0][1]["user-agent"]


@pytest.mark.slow
def test_the_collector_is_the_proxy_itself(tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "accounts"
    environment = {ACCOUNTS_FILE: str(file), "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    with running(PLUGIN, CALLBACK, environment=environment, port=port) as gateway:
        _settled(lambda: accounts(gateway.proxy, file)["stats"]["total"]["accepted"])
        assert "POST /v1/traces" in gateway.proxy.log


def _settled(accepted: Callable[[], int]) -> None:
    """Each look is a request, and makes as many spans as the one before it; exports of those make none."""
    counts = []
    for _ in range(5):
        counts.append(accepted())
        time.sleep(0.5)
    growth = [later - earlier for earlier, later in itertools.pairwise(counts[1:])]
    assert len(set(growth)) == 1, counts


@pytest.mark.slow
def test_a_backend_that_cannot_be_used_is_said_and_disturbs_no_other() -> None:
    with OtlpReceiver() as langfuse:
        environment = {
            "LANGFUSE_PUBLIC_KEY": "pk-lf-operator",
            "LANGFUSE_SECRET_KEY": LANGFUSE_SECRET,
            "LANGFUSE_OTEL_HOST": langfuse.url.replace("http://", f"http://user:{SECRET}@"),
        }
        with running(PLUGIN, "otel", "langfuse_otel", environment=environment) as gateway:
            response = gateway.proxy.chat()
            gateway.trace_of(response, kinds=("SERVER", "CLIENT"))
            assert "the backend langfuse_otel cannot be used: endpoint: has a user name in it" in gateway.proxy.log
            assert SECRET not in gateway.proxy.log
            assert langfuse.requests == []

"""One line, wherever it stands: one installation, one trace, and a start that says what it does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.config import PLUGIN, config, provider_environment
from tests.support.gateway import running
from tests.support.proxy import Proxy
from tests.support.receiver import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.gateway import Gateway
    from tests.support.provider import MockProvider
    from tests.support.receiver import ReceivedSpan

HOOK = {"LITELLM_WORKER_STARTUP_HOOKS": "litellm_otel_plugin.startup:install"}
WHOLE = ("CLIENT", "INTERNAL", "SERVER")
SECRET = "hunter2-do-not-print-me"


def _ids(spans: list[ReceivedSpan]) -> set[str]:
    return {span.span_id for span in spans}


def _assert_whole_kinds(spans: list[ReceivedSpan]) -> None:
    kinds = Counter(span.kind for span in spans)
    assert (kinds["SERVER"], kinds["CLIENT"]) == (1, 1)
    names = {span.name for span in spans if span.kind == "INTERNAL"}
    # LiteLLM 1.104 has no `route` phase yet.
    assert {"auth /v1/chat/completions"} <= names <= {"auth /v1/chat/completions", "route mock"}


def _assert_one_whole_trace(gateway: Gateway) -> None:
    spans = gateway.trace_of(gateway.proxy.chat(), kinds=("SERVER", "CLIENT"))
    _assert_whole_kinds(spans)
    (server,) = [span for span in spans if span.kind == "SERVER"]
    assert server.attributes["http.route"] == "/v1/chat/completions"
    assert server.attributes["litellm.preprocessing.duration_ms"] > 0
    assert {span.parent_id for span in spans if span is not server} == {server.span_id}


@pytest.mark.whole_request
@pytest.mark.parametrize(
    ("callbacks", "environment"),
    [
        pytest.param([PLUGIN], {}, id="our-line-alone"),
        pytest.param([PLUGIN], {"LITELLM_OTEL_V2": "true"}, id="v2-is-on-already", marks=pytest.mark.slow),
        pytest.param([PLUGIN], {"LITELLM_OTEL_V2": ""}, id="v2-is-an-empty-variable", marks=pytest.mark.slow),
        pytest.param([PLUGIN, "otel"], {}, id="before-otel"),
        pytest.param(["otel", PLUGIN], {"LITELLM_OTEL_V2": "true"}, id="after-otel"),
        pytest.param([], HOOK, id="worker-hook"),
        pytest.param(["otel", PLUGIN], HOOK, id="worker-hook-and-line", marks=pytest.mark.slow),
    ],
)
def test_one_trace_however_it_is_installed(callbacks: list[str], environment: dict[str, str]) -> None:
    with running(environment=environment, litellm_settings={"callbacks": callbacks}) as gateway:
        _assert_one_whole_trace(gateway)
        log = gateway.proxy.log
        assert log.count("litellm-otel-plugin: traces go to") == 1
        assert f"traces go to otlp_http at {gateway.collector.url}/v1/traces" in log
        assert "litellm-otel-plugin: off:" not in log
        resource = gateway.collector.spans[0].resource
        assert len(resource["service.instance.id"]) == 36


@pytest.mark.parametrize("callbacks", [["langfuse_otel", PLUGIN], [PLUGIN, "langfuse_otel"]])
def test_a_preset_beside_it(callbacks: list[str]) -> None:
    with OtlpReceiver() as other:
        environment = {
            "LANGFUSE_PUBLIC_KEY": "pk-lf-test",
            "LANGFUSE_SECRET_KEY": SECRET,
            "LANGFUSE_OTEL_HOST": f"{other.url}",
        }
        with running(environment=environment, litellm_settings={"callbacks": callbacks}) as gateway:
            _assert_one_whole_trace(gateway)
            assert f"traces go to langfuse_otel otlp_http at {other.url}" in gateway.proxy.log
            assert SECRET not in gateway.proxy.log


@pytest.mark.parametrize(
    ("callbacks", "environment", "settings"),
    [
        pytest.param([PLUGIN], {"LITELLM_OTEL_V2": "false"}, {}, id="v2-switched-off"),
        pytest.param([PLUGIN], {"LITELLM_OTEL_PLUGIN_ENABLED": "false"}, {}, id="disabled"),
        pytest.param([PLUGIN], {}, {"enabled": False}, id="disabled-in-yaml"),
        pytest.param([], HOOK, {"enabled": False}, id="worker-hook-disabled-in-yaml", marks=pytest.mark.slow),
    ],
)
def test_it_stands_aside(callbacks: list[str], environment: dict[str, str], settings: dict[str, Any]) -> None:
    with running(
        environment=environment,
        litellm_settings={"callbacks": callbacks},
        callback_settings={"otel_plugin": settings},
    ) as gateway:
        response = gateway.proxy.chat()
        assert response.status_code == 200
        assert "traceresponse" not in response.headers
        gateway.proxy.stop()
        assert not gateway.collector.spans
        said = [line for line in gateway.proxy.log.splitlines() if line.startswith("litellm-otel-plugin:")]
        if "LITELLM_OTEL_V2" in environment:
            reason = "LiteLLM's v2 tracing is switched off with LITELLM_OTEL_V2"
            assert said == [f"litellm-otel-plugin: {reason}: the plugin stands aside"]
        else:
            assert said == []


@pytest.mark.parametrize("callbacks", [[PLUGIN], ["otel", PLUGIN]])
def test_the_operators_own_provider_is_used(callbacks: list[str]) -> None:
    with OtlpReceiver() as theirs:
        program = [sys.executable, "-m", "tests.support.operator_sdk"]
        environment = {"TEST_OPERATORS_COLLECTOR": theirs.url}
        if callbacks == [PLUGIN]:
            # As with opentelemetry-instrument: both read the same variables, and write to the same account.
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = theirs.url
        with running(environment=environment, program=program, litellm_settings={"callbacks": callbacks}) as gateway:
            assert "an OpenTelemetry SDK provider was already set" in gateway.proxy.log
            gateway.proxy.chat()
            spans = theirs.wait_until(lambda spans: {span.kind for span in spans} >= set(WHOLE))
            _assert_whole_kinds(spans)
            assert len({span.trace_id for span in spans}) == 1
            assert {span.resource["service.name"] for span in spans} == {"the-operators-own"}
            if callbacks != [PLUGIN]:
                gateway.collector.wait_until(lambda ours: _ids(ours) >= _ids(spans))
                assert _ids(gateway.collector.spans) == _ids(theirs.spans)
            else:
                assert "otel: the provider that was already set writes to its account: left out" in gateway.proxy.log


def test_the_console_stays_quiet_beside_the_operators_own_provider(provider: MockProvider) -> None:
    with OtlpReceiver() as theirs:
        program = [sys.executable, "-m", "tests.support.operator_sdk"]
        environment = {**provider_environment(provider.url), "TEST_OPERATORS_COLLECTOR": theirs.url}
        with Proxy(config(provider.url, PLUGIN), environment, program=program) as proxy:
            proxy.chat()
            theirs.wait_until(lambda spans: {span.kind for span in spans} >= set(WHOLE))
            proxy.stop()
            assert "traces go to the exporters of the provider that was already set" in proxy.log
            assert "trace=" not in proxy.log


def test_a_disabled_sdk_is_said_to_be(provider: MockProvider) -> None:
    environment = {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with Proxy(config(provider.url, PLUGIN), environment) as proxy:
        caller = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
        response = proxy.client.get("/v1/models", headers=caller)
        assert response.status_code == 200
        assert "traceresponse" not in response.headers
        assert "off: every trace (OTEL_SDK_DISABLED is set)" in proxy.log


@pytest.mark.parametrize(
    ("callbacks", "environment", "settings", "named"),
    [
        ([PLUGIN], {"LITELLM_OTEL_PLUGIN_SHUTDOWN_SECONDS": SECRET, "LITELLM_OTEL_PLUGIN_CONSOLE": SECRET}, {}, 2),
        ([PLUGIN], {}, {"shutdown_seconds": SECRET, "http_semconv": SECRET}, 2),
        ([], HOOK, {"console": SECRET}, 1),
    ],
)  # fmt: skip
def test_a_bad_setting_stops_the_start_with_one_message(
    provider: MockProvider, callbacks: list[str], environment: dict[str, str], settings: dict[str, Any], named: int
) -> None:
    document = config(provider.url, *callbacks, callback_settings={"otel_plugin": settings})
    with Proxy(document, environment, wait=False) as proxy:
        assert proxy.process.wait(60) != 0
        log = proxy.log
    assert SECRET not in log
    (at,) = {n for n, line in enumerate(log.splitlines()) if line.endswith("cannot start with these settings:")} or {-1}
    problems = [line for line in log.splitlines()[at + 1 :] if line.startswith("  ") and ": " in line][:named]
    assert at >= 0
    assert len(problems) == named


def test_with_json_logs_our_lines_are_json(provider: MockProvider) -> None:
    environment = {"JSON_LOGS": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with Proxy(config(provider.url, PLUGIN), environment) as proxy:
        (line,) = [line for line in proxy.log.splitlines() if "traces go to otlp_http" in line]
    assert json.loads(line)["message"] == "traces go to otlp_http at http://127.0.0.1:9/v1/traces"


def test_an_unknown_name_is_one_warning(provider: MockProvider) -> None:
    environment = {"LITELLM_OTEL_PLUGIN_FROM_THE_FUTURE": SECRET}
    document = config(provider.url, PLUGIN, callback_settings={"otel_plugin": {"also_from_the_future": SECRET}})
    with Proxy(document, environment) as proxy:
        log = proxy.log
    assert log.count("unknown settings, ignored:") == 1
    assert "LITELLM_OTEL_PLUGIN_FROM_THE_FUTURE, callback_settings.otel_plugin.also_from_the_future" in log
    assert SECRET not in log


def test_legacy_names_and_metrics(provider: MockProvider) -> None:
    environment = {
        "LITELLM_OTEL_PLUGIN_HTTP_SEMCONV": "dup",
        "LITELLM_OTEL_INTEGRATION_ENABLE_METRICS": "true",
    }
    with running(environment=environment) as gateway:
        span = gateway.server_span(gateway.proxy.chat())
        assert (span.attributes["http.method"], span.attributes["http.request.method"]) == ("POST", "POST")
        assert (span.attributes["http.status_code"], span.attributes["http.response.status_code"]) == (200, 200)
        gateway.proxy.stop()  # the last metrics are delivered on the way out
        points = gateway.collector.metric_points("http.server.request.duration")
        assert "/v1/chat/completions" in {attributes.get("http.route") for _, attributes in points}
        assert {resource.get("service.instance.id") for resource, _ in points} == {span.resource["service.instance.id"]}


# --- the embedded default -------------------------------------------------------------------------------------------


@pytest.fixture
def without_backend(provider: MockProvider) -> Iterator[Proxy]:
    with Proxy(config(provider.url, PLUGIN), provider_environment(provider.url)) as proxy:
        yield proxy


def test_without_a_backend_each_request_is_one_line(without_backend: Proxy) -> None:
    without_backend.chat("the-prompt-itself")
    without_backend.chat(model="unknown")
    without_backend.stop()
    log = without_backend.log
    lines = [line for line in log.splitlines() if line.startswith("trace=")]
    assert len(lines) == 2
    assert "POST /v1/chat/completions" in lines[0]
    assert "7→4 tokens" in lines[0]
    assert "ProxyModelNotFoundError" in lines[1]
    assert '"trace_id"' not in log, "the SDK's JSON is still printed"
    assert "the-prompt-itself" not in log
    assert "traces go to console" in log


def test_a_terminal_shows_a_waterfall(provider: MockProvider) -> None:
    """``script`` gives the proxy a terminal, as a newcomer's shell does."""
    with Proxy(
        config(provider.url, PLUGIN),
        {**provider_environment(provider.url), "TERM": "xterm-256color", "COLUMNS": "160"},
        program=[sys.executable, "-m", "tests.support.terminal", sys.executable, "-m", "litellm.proxy.proxy_cli"],
    ) as proxy:
        proxy.chat("the-prompt-itself")
        proxy.stop()
        log = proxy.log
    assert "── trace " in log
    assert "█" in log
    assert "the-prompt-itself" not in log


def test_a_console_that_is_switched_off_says_so(provider: MockProvider) -> None:
    with Proxy(config(provider.url, PLUGIN), {"LITELLM_OTEL_PLUGIN_CONSOLE": "off"}) as proxy:
        response = proxy.chat(model="canned")
        assert "traceresponse" in response.headers
        proxy.stop()
        assert "traces go nowhere" in proxy.log
        assert "trace=" not in proxy.log


def test_the_package_and_the_command_need_no_litellm() -> None:
    code = (
        "import sys; sys.modules['litellm'] = None\n"
        "import litellm_otel_plugin, litellm_otel_plugin.settings, litellm_otel_plugin.request.layer\n"
        "from litellm_otel_plugin.cli import main\n"
        "main(['version'])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("litellm-otel-plugin ")


def test_an_exporter_that_cannot_be_built_is_named_and_requests_are_served(provider: MockProvider) -> None:
    """LiteLLM fails on it too, and says so at debug level only."""
    environment = {
        **provider_environment(provider.url),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_BSP_MAX_QUEUE_SIZE": "1",
        "LITELLM_OTEL_PLUGIN_DELIVERY": "sdk",
    }
    with Proxy(config(provider.url, PLUGIN), environment) as proxy:
        assert proxy.chat(model="canned").status_code == 200
        (line,) = [line for line in proxy.log.splitlines() if "cannot be used" in line]
        assert line.endswith("the backend otel cannot be used: LiteLLM cannot build its exporter (ValueError)")

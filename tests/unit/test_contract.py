"""What we use of LiteLLM's and OpenTelemetry's insides is there, and is what we take it for."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.instrumentation import _semconv
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

from litellm_otel_plugin import seams, upstream
from litellm_otel_plugin.backends.views import OPERATOR
from litellm_otel_plugin.request.guardrails import Run
from litellm_otel_plugin.upstream import guardrail_texts, guardrails, tenants
from litellm_otel_plugin.upstream.attempts import FAILURES_ARE_TOLD_KEY
from litellm_otel_plugin.upstream.logs import SERVER_LOGGERS
from tests.support.spans import SpanMemory

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = [pytest.mark.contract, pytest.mark.filterwarnings("ignore")]  # LiteLLM's imports warn of its own affairs


@pytest.fixture(scope="module")
def proxy_server() -> ModuleType:
    from litellm.proxy import proxy_server  # noqa: PLC0415 - the whole proxy, loaded for these tests only

    module: ModuleType = proxy_server
    return module


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.usefixtures("proxy_server")
@pytest.mark.parametrize("seam", seams.SEAMS, ids=lambda seam: seam.name)
def test_a_seam_is_there(seam: seams.Seam) -> None:
    if seam is seams.MCP_MESSAGE_SPAN:
        pytest.importorskip("mcp.server._otel", reason="an MCP SDK that makes no span of a message")
    assert upstream.take(seam) is not None


@pytest.mark.usefixtures("proxy_server")
def test_what_the_seams_are_called_with() -> None:
    publish = upstream.take(seams.PUBLISH)
    assert _parameters(publish) == ["in_memory_loggers", "set_global_provider", "registered"]
    assert inspect.iscoroutinefunction(upstream.take(seams.SHUTDOWN))
    assert _parameters(upstream.take(seams.RESOURCE)) == ["config"]
    assert _parameters(upstream.take(seams.PROVIDER))[0] == "config"
    assert upstream.startup_logging_name(upstream.take(seams.STARTUP_LOGGING)) is not None
    assert inspect.iscoroutinefunction(upstream.take(seams.LOGGING_WORKER).flush)
    assert isinstance(upstream.take(seams.EXCLUDED_URLS), str)
    assert _parameters(upstream.take(seams.PROVIDER_CLIENT).request)[:3] == ["self", "cast_to", "options"]


def test_the_switch_is_cached_and_can_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    flag = upstream.v2_flag()
    for value, refused in (("false", True), ("0", True), ("true", False), ("nonsense", True), (None, False)):
        monkeypatch.delenv(upstream.V2_SWITCH, raising=False)
        if value is not None:
            monkeypatch.setenv(upstream.V2_SWITCH, value)
        flag.cache_clear()
        assert upstream.v2_is_refused() is refused, value
    monkeypatch.delenv(upstream.V2_SWITCH, raising=False)
    upstream.enable_v2()
    assert flag() is True
    monkeypatch.delenv(upstream.V2_SWITCH)
    flag.cache_clear()


@pytest.mark.usefixtures("proxy_server")
def test_a_logger_can_be_moved_to_another_provider() -> None:
    from litellm.integrations.otel.logger import OpenTelemetryV2  # noqa: PLC0415 - as above
    from litellm.integrations.otel.model.config import OpenTelemetryV2Config  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    logger = OpenTelemetryV2(OpenTelemetryV2Config(exporter="in_memory"))
    ended: list[str] = []
    operators = TracerProvider(shutdown_on_exit=False)
    before = logger.tracer_provider._active_span_processor._span_processors
    assert list(upstream.adopt_provider(logger, operators)) == list(before)
    assert logger.tracer_provider is operators
    for tracer in (logger.tracer, logger._emitter._tracer):
        with tracer.start_as_current_span("probe") as span:
            ended.append(f"{span.resource is operators.resource}")
    assert ended == ["True", "True"]


@pytest.mark.usefixtures("proxy_server")
def test_an_unconfigured_exporter_is_told_from_a_chosen_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from litellm.integrations.otel.model.config import OpenTelemetryV2Config  # noqa: PLC0415 - as above

    for name in ("OTEL_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert [upstream.is_placeholder(spec) for spec in OpenTelemetryV2Config().exporters] == [True]
    monkeypatch.setenv("OTEL_EXPORTER", "console")
    assert [upstream.is_placeholder(spec) for spec in OpenTelemetryV2Config().exporters] == [False]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@collector:4318")
    logger = type("Logger", (), {"config": OpenTelemetryV2Config()})
    assert upstream.configured_exporters(logger) == [("otlp_http", "http://user:secret@collector:4318/v1/traces")]


def test_what_delivery_puts_in_the_place_of_the_sdks() -> None:
    assert _parameters(upstream.take(seams.EXPORTER)) == ["spec"]
    assert _parameters(upstream.take(seams.PROCESSOR)) == ["exporter", "use_simple"]
    assert upstream.take(seams.PARSE_HEADERS)("a=b%20c,d=e") == {"a": "b c", "d": "e"}
    assert upstream.take(seams.TRACES_ENDPOINT)("http://collector:4318/") == "http://collector:4318/v1/traces"
    assert _parameters(upstream.take(seams.TENANT_ROUTES))[0] == "config"
    assert _parameters(upstream.take(seams.TENANT_HEADERS)) == ["headers"]
    fan_out = upstream.take(seams.FAN_OUT)
    assert {"processor_factory", "operator_sinks", "drain_pool"} <= set(_parameters(fan_out))
    for method in ("_buildable", "_operator_already_writes"):
        assert callable(getattr(fan_out, method))
    providers = upstream.module(seams.PROVIDERS_MODULE)
    assert _parameters(providers._in_scope) == ["span", "scope"]
    assert isinstance(providers._EXPORTER_FACTORIES, dict)
    assert "allowed_keys" in _parameters(upstream.take(seams.BAGGAGE))
    context = upstream.module(seams.CONTEXT_MODULE)
    assert (context.request_destinations(), context.suppressed_backends()) == ((), frozenset())


@pytest.mark.usefixtures("proxy_server")
def test_what_folding_reaches_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from litellm.integrations.otel.model.config import OpenTelemetryV2Config  # noqa: PLC0415 - as above

    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    build = upstream.take(seams.BUILD_LOGGER)
    assert {"config", "callback_name", "tracer_provider", "settings"} <= set(_parameters(build))
    logger = build(config=OpenTelemetryV2Config(exporter="in_memory"), callback_name="arize")
    assert isinstance(logger, upstream.take(seams.V2_LOGGER))
    assert isinstance(logger._emitter, upstream.take(seams.EMITTER))
    assert _parameters(logger._emitter.finish_span) == ["role", "span", "data", "end_time_ns"]
    assert [callable(mapper.map) for mapper in logger._emitter._mappers] == [True, True]
    assert isinstance(logger._tenant_tracers, upstream.take(seams.ROUTE_CACHE))
    assert _parameters(upstream.take(seams.ROUTE_CACHE))[:3] == ["config", "callback_name", "tracer_name"]
    assert _parameters(logger._tenant_tracers.route_for) == ["default", "dynamic_params", "auth_metadata"]
    for asked in (logger._tenant_tracers._credential_headers, logger._tenant_tracers._project_headers):
        assert not asked(None)
    route = upstream.module(seams.ROUTING_MODULE).TenantRoute
    assert _parameters(route) == ["tracer", "detached", "provider"]
    assert upstream.take(seams.SERVICE_NAME)({"otel_service_name": "mine"}) == "mine"
    assert upstream.take(seams.REQUEST_BACKENDS)() == frozenset()
    assert _parameters(logger.seed_request_identity) == ["user_api_key_dict", "model", "request_metadata"]
    assert _parameters(logger._seed_identity_baggage) == ["identity", "model", "context"]
    identity = upstream.take(seams.IDENTITY).from_user_api_key_auth(SimpleNamespace(team_id="mine"), None)
    picked = {"promoted_keys": ("litellm.team.id",), "metadata_keys": (), "team_metadata_keys": ()}
    assert upstream.take(seams.PROMOTED)(identity, None, **picked) == {"litellm.team.id": "mine"}
    assert {f"baggage_{name}" for name in picked} <= set(OpenTelemetryV2Config.model_fields)
    assert upstream.take(seams.ROOT)() is None
    made_by = upstream.take(seams.SPAN_DATA).from_standard_logging_payload
    assert {"payload", "capture_content"} <= set(_parameters(made_by))
    assert upstream.take(seams.LANGFUSE_ROOT)() is None
    assert _parameters(upstream.take(seams.CONSTRUCT))[0] == "callback_name"
    assert _parameters(upstream.take(seams.FACTORY))[0] == "logging_integration"
    assert {"arize", "arize_phoenix", "langfuse_otel", "langtrace"} <= set(upstream.take(seams.PRESETS))
    earlier = upstream.take(seams.EARLIER_LOGGER)
    assert _parameters(earlier._init_tracing) == ["self", "tracer_provider"]
    assert hasattr(upstream.module(seams.EARLIER_MODULE).OpenTelemetryConfig(), "skip_set_global")
    assert _parameters(upstream.take(seams.CONSTRUCT)) == ["callback_name", "_in_memory_loggers"]
    told = {"kwargs", "init_response_obj", "start_time", "end_time", "logging_obj", "status", "original_exception"}
    assert told <= set(_parameters(upstream.take(seams.PAYLOAD)))
    assert {"span", "provider"} <= set(upstream.take(seams.OPEN_CALL).__slots__)
    assert all(callable(upstream.take(seam).send) for seam in (seams.HTTP_CLIENT, seams.SYNC_HTTP_CLIENT))
    assert inspect.iscoroutinefunction(upstream.take(seams.LITELLMS_CLIENT).post)


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        ("otlp_http", "http/protobuf"), ("HTTP", "http/protobuf"), ("http/protobuf", "http/protobuf"),
        ("http/json", "http/json"), ("otlp_grpc", "grpc"), ("grpc", "grpc"),
        ("console", None), ("in_memory", None), ("a typo", None), ("agentops", None),
    ],
)  # fmt: skip
def test_litellms_exporter_kinds(kind: str, protocol: str | None) -> None:
    from litellm.integrations.otel.plumbing.providers import exporter_transport  # noqa: PLC0415 - as above
    from litellm.integrations.otel.presets import agentops  # noqa: F401, PLC0415 - it registers its kind

    assert upstream.protocol_of(kind) == protocol
    if protocol is not None:
        assert exporter_transport(kind) == ("grpc" if protocol == "grpc" else "http")


def test_what_a_tenant_sees() -> None:
    memory = SpanMemory()
    with memory.provider.get_tracer("t").start_as_current_span(
        "auth",
        attributes={
            "litellm.provider.error.stack_trace": "at /opt/x.py",
            "error.message": "postgres://",
            "http.route": "/x",
        },
    ) as span:
        span.add_event("exception", {"exception.stacktrace": "at /opt/x.py"})
    nobody = upstream.take(seams.DESTINATION)(endpoint="")
    seen = upstream.take(seams.TENANT_VIEW)(memory.only(), nobody)
    assert dict(seen.attributes) == {"http.route": "/x"}
    assert seen.events == ()
    assert seen.resource is memory.only().resource
    assert upstream.take(seams.TENANT_SCOPE)(seen, "llm_only").parent is None
    destination = upstream.take(seams.DESTINATION)(endpoint="http://x", headers={"a": "1"}, protocol="otlp_http")
    other = upstream.take(seams.DESTINATION)(endpoint="http://x", headers={"a": "2"}, protocol="otlp_http")
    assert destination.cache_key() != other.cache_key()
    assert hash(destination.cache_key()) is not None
    backend = tenants._tenant_backend(destination, {"full": OPERATOR, "llm_only": OPERATOR})
    assert backend is not None
    assert backend.describe().endpoint == "http://x/v1/traces"


def test_a_logging_object_describes_one_call() -> None:
    from litellm.constants import LITELLM_LOGGING_NO_UPSTREAM_LLM_CALL  # noqa: PLC0415 - as above
    from litellm.litellm_core_utils.litellm_logging import Logging  # noqa: PLC0415

    def call() -> Any:
        return Logging("m", [], False, "completion", None, "same-id", "f")  # noqa: FBT003 - LiteLLM's signature

    one, other = call(), call()
    own = upstream.own_call({"litellm_logging_obj": one})
    assert own is not None
    assert own.call_id == "same-id"
    assert own.is_described_by(one.model_call_details)
    assert not own.is_described_by(other.model_call_details)
    assert own.first_handoff_at() is None
    one.pre_call(input="", api_key="")
    assert isinstance(own.first_handoff_at(), float)
    one.model_call_details["first_api_call_start_time"] = "2020-01-01"  # as a client's body could carry it
    assert own.first_handoff_at() is None
    assert upstream.NO_PROVIDER_KEY == LITELLM_LOGGING_NO_UPSTREAM_LLM_CALL
    other.model_call_details[upstream.NO_PROVIDER_KEY] = True
    assert upstream.reached_no_provider(other.model_call_details)
    other.pre_call(input="", api_key="")
    rejected = upstream.own_call({"litellm_logging_obj": other})
    assert rejected is not None
    assert rejected.first_handoff_at() is None


@pytest.fixture
def _litellms_log_lines_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    formatter = upstream.take(seams.TEXT_LOGS)
    monkeypatch.setattr(formatter, "format", formatter.format)
    monkeypatch.setattr(upstream.module(seams.LOGS_MODULE), seams.JSON_LOGS.attribute, upstream.take(seams.JSON_LOGS))


@pytest.mark.usefixtures("_litellms_log_lines_are_put_back")
def test_how_ids_show_in_litellms_log_lines() -> None:
    plain = upstream.take(seams.TEXT_LOGS)("%(message)s")
    as_json = upstream.module(seams.LOGS_MODULE).JsonFormatter()
    quoting = "Request: {'span_id': 'a client chose it'}"
    bare, entry = (logging.LogRecord("LiteLLM", logging.INFO, "f.py", 1, quoting, (), None) for _ in range(2))
    entry.trace_id, entry.span_id = "aa", "bb"
    assert plain.format(entry) == f"{quoting} [trace_id=aa]"
    upstream.show_span_id_in_text_logs()
    upstream.keep_span_id_of_json_logs()
    assert plain.format(entry) == f"{quoting} [trace_id=aa span_id=bb]"
    assert plain.format(bare) == quoting
    assert json.loads(as_json.format(entry)).items() >= {"trace_id": "aa", "span_id": "bb"}.items()
    assert json.loads(as_json.format(bare)).keys().isdisjoint({"trace_id", "span_id"})


def test_litellms_loggers_are_marked_unless_it_does_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    import litellm  # noqa: PLC0415 - as above

    marked = []
    named = vars(upstream.module(seams.LOGS_MODULE))
    loggers = [value for name, value in named.items() if name.startswith("verbose_")]
    names = [each.name for each in loggers]
    assert {"LiteLLM", "LiteLLM Proxy", "LiteLLM Router"} <= set(names)
    before = {each: list(each.filters) for each in (*loggers, *map(logging.getLogger, SERVER_LOGGERS))}

    def mark(entry: logging.LogRecord) -> bool:
        marked.append(entry.name)
        return True

    try:
        upstream.mark_log_records(mark)
        for by_itself in (False, True):
            monkeypatch.setattr(litellm, "request_correlation_in_logs", by_itself)
            for each in loggers:
                assert each.filter(logging.LogRecord(each.name, logging.INFO, "f.py", 1, "hi", (), None))
    finally:
        for each, filters in before.items():
            each.filters[:] = filters
    assert marked == names


@pytest.mark.usefixtures("proxy_server")
def test_what_is_known_of_a_guardrail() -> None:
    from fastapi import HTTPException  # noqa: PLC0415 - as above
    from litellm.integrations import custom_guardrail  # noqa: PLC0415
    from litellm.proxy.utils import _UpstreamStreamBoundary, unified_guardrail  # noqa: PLC0415

    assert _parameters(upstream.take(seams.EMIT_GUARDRAIL)) == ["entry"]
    run = Run(object(), "mine", "pre_call", started_at=1.0, ended_at=2.0, seconds=0.5)
    run.failed_with(custom_guardrail.BlockedPiiEntityError("EMAIL_ADDRESS"), deliberately=True)
    data = upstream.take(seams.GUARDRAIL_DATA).from_logging_entry(run.entry())
    told = (data.guardrail_name, data.mode, data.status, data.action, data.violation_categories)
    assert told == ("mine", "pre_call", "guardrail_intervened", "block", ("EMAIL_ADDRESS",))
    assert (data.start_time, data.end_time, data.duration, data.response_json) == (1.0, 2.0, 0.5, None)
    assert (data.error.error_type, data.error.message) == ("guardrail_intervened", "block")

    guardrail = upstream.take(seams.GUARDRAIL)
    assert all(hasattr(guardrail, hook) for hook in guardrails.HOOKS)
    assert guardrail._is_guardrail_intervention(HTTPException(400))
    assert not guardrail._is_guardrail_intervention(ValueError())
    assert guardrail.records_own_guardrail_information is False
    assert isinstance(unified_guardrail, upstream.take(seams.GUARDRAIL_RUNNER))
    # LiteLLM looks at the class for this one, and at what the class has for its marker.
    applied = type("Applied", (guardrail,), {"apply_guardrail": lambda *_: None})
    assert custom_guardrail.LOGS_GUARDRAIL_INFORMATION_MARKER in vars(vars(applied)["apply_guardrail"])
    assert _UpstreamStreamBoundary.failure is not None  # a slot


@pytest.mark.usefixtures("proxy_server")
def test_where_the_text_of_a_failure_comes_from() -> None:
    described = upstream.take(seams.FAILURE)(ValueError("quoted"), status_code=400)
    assert described.message == "quoted"
    assert dataclasses.replace(described, message=None, stack_trace=None).error_type == "ValueError"
    log_failure = upstream.take(seams.FAILED_CALLS).async_log_failure_event
    assert _parameters(log_failure) == ["self", "kwargs", "response_obj", "start_time", "end_time"]
    parse = upstream.module(seams.PAYLOADS_MODULE)._parse_error
    payload = {
        "status": "failure",
        "error_str": "quoted",
        "error_information": {"error_message": "quoted", "traceback": "quoted", "error_class": "ValueError"},
    }
    assert "quoted" in str(parse(payload))
    told = guardrail_texts._without_message({"standard_logging_object": payload})["standard_logging_object"]
    assert "quoted" not in str(parse(told))
    assert parse(told).error_type == "ValueError"


def test_what_v2_tracing_is_not_there_without() -> None:
    from litellm.integrations.otel.model.config import (  # noqa: PLC0415 - LiteLLM is imported by the tests that need it
        OpenTelemetryV2Config,
        is_otel_v2_enabled,
    )

    config = OpenTelemetryV2Config()
    assert config.exporters
    assert {"exporters", "mapper_names", "resource_attributes", "capture_message_content"} <= set(
        type(config).model_fields
    )
    assert callable(is_otel_v2_enabled.cache_clear)
    assert isinstance(upstream.module(seams.LOGGING_MODULE)._in_memory_loggers, list)
    assert isinstance(upstream.module(seams.LOGGER_MODULE).LITELLM_TRACER_NAME, str)
    assert _parameters(upstream.module(seams.PROVIDERS_MODULE).get_tracer)[:2] == ["provider", "name"]


def test_the_instrumentation_has_what_we_reach_for() -> None:
    assert _parameters(OpenTelemetryMiddleware._set_server_span) == [
        "self",
        "server_span",
        "message",
        "status_code",
        "duration_attrs",
    ]
    stability = _semconv._OpenTelemetrySemanticConventionStability
    stability._initialize()  # type: ignore[no-untyped-call]
    assert _semconv._OpenTelemetryStabilitySignalType.HTTP in stability._OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING
    assert {"HTTP", "HTTP_DUP"} <= set(_semconv._StabilityMode.__members__)
    assert {
        "excluded_urls", "default_span_details", "exclude_spans", "server_request_hook", "tracer_provider"
    } <= set(_parameters(OpenTelemetryMiddleware))  # fmt: skip


@pytest.mark.usefixtures("proxy_server")
def test_what_is_known_of_an_attempt() -> None:
    import litellm  # noqa: PLC0415 - as above
    from litellm.litellm_core_utils.litellm_logging import Logging  # noqa: PLC0415

    now = datetime.now(tz=timezone.utc)
    call = Logging("mock", [], False, "acompletion", now, "an-id", "a-function")  # noqa: FBT003 - LiteLLM's own order
    assert call.should_run_callback(callback=object(), litellm_params={}, event_hook="async_failure_handler")
    assert not call.should_run_callback(callback=object(), litellm_params={"no-log": True}, event_hook="x")
    mark = getattr(call, "mark_logging_complete", None) or call.has_run_logging  # before 1.106
    assert not call.model_call_details.get(FAILURES_ARE_TOLD_KEY)
    mark(event_type="async_failure")
    assert call.model_call_details[FAILURES_ARE_TOLD_KEY]

    params = {"model": "openai/mock", "api_key": "sk", "api_base": "http://provider.example/v1"}
    (deployment,) = litellm.Router(model_list=[{"model_name": "group", "litellm_params": params}]).model_list
    assert deployment["litellm_params"]["model"] == "openai/mock"
    assert {"model_name", "model_info"} <= set(deployment)
    assert litellm.get_llm_provider(model="openai/mock")[:2] == ("mock", "openai")

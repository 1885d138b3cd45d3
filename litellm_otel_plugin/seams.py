"""What the plugin uses of LiteLLM's insides and of its dependencies': names, purposes, and what is lost without each.

Only names: ``upstream`` is what reaches for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

PROXY_MODULE = "litellm.proxy.proxy_server"
LOGGER_MODULE = "litellm.integrations.otel.logger"
PROVIDERS_MODULE = "litellm.integrations.otel.plumbing.providers"
MOUNT_MODULE = "litellm.integrations.otel.mount"
AUTH_MODULE = "litellm.proxy.auth.user_api_key_auth"
LOGS_MODULE = "litellm._logging"
LOGGING_MODULE = "litellm.litellm_core_utils.litellm_logging"
LOGGING_WORKER_MODULE = "litellm.litellm_core_utils.logging_worker"

CONTEXT_MODULE = "litellm.integrations.otel.plumbing.context"
ROUTING_MODULE = "litellm.integrations.otel.plumbing.routing"
DESTINATION_MODULE = "litellm.integrations.otel.model.destination"
EMITTER_MODULE = "litellm.integrations.otel.emitter"
LANGFUSE_MODULE = "litellm.integrations.otel.langfuse_logger"
PAYLOADS_MODULE = "litellm.integrations.otel.model.payloads"
PRESETS_MODULE = "litellm.integrations.otel.presets"
EARLIER_MODULE = "litellm.integrations.opentelemetry"
TLS_MODULE = "litellm.llms.custom_httpx.http_handler"

GUARDRAIL_MODULE = "litellm.integrations.custom_guardrail"
GUARDRAIL_RUNNER_MODULE = "litellm.proxy.guardrails.guardrail_hooks.unified_guardrail.unified_guardrail"

OPENAI_CLIENT_MODULE = "openai._base_client"


@dataclass(frozen=True)
class Seam:
    """One thing of LiteLLM's that we use."""

    module: str
    attribute: str
    purpose: str
    lost: str

    @property
    def name(self) -> str:
        """Where it stands, as a reader would look it up."""
        return f"{self.module}.{self.attribute}"


PUBLISH = Seam(
    LOGGER_MODULE,
    "publish_global_otel_v2_provider",
    purpose="LiteLLM calls it once its callbacks exist: our start-up hook",
    lost="the plugin: nothing else of it can start",
)
SHUTDOWN = Seam(
    PROXY_MODULE,
    "proxy_shutdown_event",
    purpose="awaited inside the lifespan when the proxy stops",
    lost="delivery of what is queued when the proxy stops",
)
AUTHENTICATED = Seam(
    AUTH_MODULE,
    "seed_request_identity",
    purpose="called where a request has been authenticated, and only there",
    lost="knowing which requests were authenticated",
)
RESOURCE = Seam(
    PROVIDERS_MODULE,
    "build_resource",
    purpose="describes this process on every span, metric and log record",
    lost="service.instance.id: the workers of one host cannot be told apart",
)
PROVIDER = Seam(
    LOGGER_MODULE,
    "build_tracer_provider",
    purpose="builds a logger's exporters",
    lost="the console view in place of the SDK's JSON where no backend is configured",
)
PROVIDER_CLIENT = Seam(
    OPENAI_CLIENT_MODULE,
    "AsyncAPIClient",
    purpose="its request method sends batches, files, fine-tuning, threads and assistants, which LiteLLM announces to "
    "no hook",
    lost="litellm.preprocessing.duration_ms and litellm.attempts for those",
)
MCP_MESSAGE_SPAN = Seam(
    "mcp.server._otel",
    "otel_span",
    purpose="the MCP SDK's own span of each message: a second SERVER span, in the trace that the client names",
    lost="one SERVER span per MCP request",
)
APPLICATION = Seam(
    PROXY_MODULE,
    "app",
    purpose="the proxy's FastAPI application",
    lost="the SERVER span's attributes",
)
LOGGING_WORKER = Seam(
    LOGGING_WORKER_MODULE,
    "GLOBAL_LOGGING_WORKER",
    purpose="its queue holds the callbacks that close the spans of finished calls",
    lost="the last calls' spans when the proxy stops",
)
EXCLUDED_URLS = Seam(
    MOUNT_MODULE,
    "_DEFAULT_EXCLUDED_URLS",
    purpose="the paths that are not traced unless the operator says otherwise",
    lost="that default: health checks and the UI's files are traced too",
)
STARTUP_LOGGING = Seam(
    PROXY_MODULE,
    "ProxyStartupEvent",
    purpose="its initialize_startup_logging runs after config.yaml was read and before the callbacks are built",
    lost="callback_settings.otel_plugin for the worker start-up hook, which then goes by the environment alone",
)
EXPORTER = Seam(
    PROVIDERS_MODULE,
    "_exporter_from_spec",
    purpose="makes the exporter of one backend: ours are described only",
    lost="the shared delivery: the SDK's exporters send",
)
PROCESSOR = Seam(
    PROVIDERS_MODULE,
    "_processor_for",
    purpose="makes the processor of one exporter",
    lost="the shared delivery: the SDK's exporters send",
)
PARSE_HEADERS = Seam(
    PROVIDERS_MODULE,
    "parse_headers",
    purpose="reads an exporter's headers as LiteLLM does",
    lost="the shared delivery: the SDK's exporters send",
)
TRACES_ENDPOINT = Seam(
    PROVIDERS_MODULE,
    "_otlp_traces_endpoint",
    purpose="adds the traces' path to a backend's endpoint as LiteLLM does",
    lost="the shared delivery: the SDK's exporters send",
)
TLS = Seam(
    TLS_MODULE,
    "get_ssl_verify",
    purpose="whom LiteLLM trusts when it connects",
    lost="the shared delivery: the SDK's exporters send",
)
FAN_OUT = Seam(
    PROVIDERS_MODULE,
    "TenantFanOutSpanProcessor",
    purpose="decides which tenants' backends a span is for",
    lost="the shared delivery to tenants' backends: LiteLLM starts a thread for each",
)
TENANT_VIEW = Seam(
    PROVIDERS_MODULE,
    "_for_destination",
    purpose="takes off a span what a tenant must not see",
    lost="the shared delivery to tenants' backends: LiteLLM starts a thread for each",
)
TENANT_SCOPE = Seam(
    PROVIDERS_MODULE,
    "_scoped",
    purpose="makes a model call the root of its trace for tenants that want those alone",
    lost="the shared delivery to tenants' backends: LiteLLM starts a thread for each",
)
DESTINATION = Seam(
    DESTINATION_MODULE,
    "OtelDestination",
    purpose="a tenant's backend, as LiteLLM resolved it",
    lost="the shared delivery to tenants' backends: LiteLLM starts a thread for each",
)
TENANT_ROUTES = Seam(
    ROUTING_MODULE,
    "build_tracer_provider",
    purpose="makes the provider of one tenant's route",
    lost="the shared delivery on tenants' own routes: LiteLLM starts a provider for each",
)
BAGGAGE = Seam(
    PROVIDERS_MODULE,
    "LiteLLMBaggageSpanProcessor",
    purpose="stamps the caller's identity on the spans of a tenant's route",
    lost="the shared delivery on tenants' own routes: LiteLLM starts a provider for each",
)
TENANT_HEADERS = Seam(
    ROUTING_MODULE,
    "_plain_header_string",
    purpose="writes a tenant's credentials down for an exporter to read back",
    lost="credentials with a comma or a percent sign on tenants' own routes",
)
FOLDING_LOST = "one trace in every backend: of several, only the first gets whole ones, as LiteLLM leaves it"
BUILD_LOGGER = Seam(
    LOGGER_MODULE,
    "build_otel_v2_logger",
    purpose="builds one backend's logger: ours is folded there",
    lost=FOLDING_LOST,
)
V2_LOGGER = Seam(
    LOGGER_MODULE, "OpenTelemetryV2", purpose="the class of the loggers that are folded", lost=FOLDING_LOST
)
ROUTE_CACHE = Seam(
    ROUTING_MODULE,
    "TenantTracerCache",
    purpose="knows which project or account of a backend one request's model call is for",
    lost=FOLDING_LOST,
)
SERVICE_NAME = Seam(
    ROUTING_MODULE,
    "tenant_service_name",
    purpose="the service name that a key or a team has for its model calls",
    lost=FOLDING_LOST,
)
REQUEST_BACKENDS = Seam(
    CONTEXT_MODULE,
    "destination_backends",
    purpose="the backends that a request's team has an account of its own at",
    lost=FOLDING_LOST,
)
OVERRIDDEN = Seam(
    CONTEXT_MODULE,
    "suppressed_backends",
    purpose="the backends whose operator's account a request is not for",
    lost=FOLDING_LOST,
)
PROMOTED = Seam(
    LOGGER_MODULE,
    "promoted_baggage",
    purpose="picks what of a caller's identity is put on every span, as one backend is configured",
    lost=FOLDING_LOST,
)
IDENTITY = Seam(
    LOGGER_MODULE,
    "RequestIdentity",
    purpose="who the caller is: picked from anew for a backend that is configured otherwise",
    lost=FOLDING_LOST,
)
ROOT = Seam(
    CONTEXT_MODULE,
    "request_root_span",
    purpose="the SERVER span, which LiteLLM puts the caller's identity on after it has started",
    lost=FOLDING_LOST,
)
SPAN_DATA = Seam(
    PAYLOADS_MODULE,
    "LLMCallSpanData",
    purpose="what is known of a call: made anew for a backend that may not see the content",
    lost=FOLDING_LOST,
)
EMITTER = Seam(
    EMITTER_MODULE,
    "SpanEmitter",
    purpose="stamps a span in a logger's words and ends it",
    lost=FOLDING_LOST,
)
LANGFUSE_ROOT = Seam(
    LANGFUSE_MODULE,
    "request_root_span",
    purpose="the SERVER span, for what Langfuse alone is to see on it",
    lost=FOLDING_LOST,
)
CONSTRUCT = Seam(
    LOGGING_MODULE,
    "_maybe_construct_otel_v2",
    purpose="builds a preset's logger, or passes over one that cannot be built",
    lost="the report of presets that cannot be built, and taking out earlier loggers built after the start",
)
TEAM_CALLBACKS_USERS = (
    "litellm.proxy.litellm_pre_call_utils",
    "litellm.proxy.pass_through_endpoints.pass_through_endpoints",
    "litellm.proxy.vertex_ai_endpoints.langfuse_endpoints",
)
TEAM_CALLBACKS = Seam(
    TEAM_CALLBACKS_USERS[0],
    "_get_dynamic_logging_metadata",
    purpose="the callbacks that a key or a team asks for beside the operator's",
    lost="backends that only a key or a team asks for: they get nothing",
)
PRESETS = Seam(
    PRESETS_MODULE,
    "PRESET_BY_CALLBACK",
    purpose="which callbacks are presets, and why one cannot be built",
    lost="the report of presets that cannot be built",
)
AUTO_PHOENIX = Seam(
    LOGGING_MODULE,
    "_maybe_auto_initialize_arize_phoenix",
    purpose="starts an earlier Phoenix logger beside `otel` where Phoenix is configured: a folded one takes its place",
    lost="Phoenix in one tree with the others where only `otel` is listed",
)
FACTORY = Seam(
    LOGGING_MODULE,
    "_init_custom_logger_compatible_class",
    purpose="makes a logger of a callback's name",
    lost="the report of presets that cannot be built, Phoenix in one tree where only `otel` is listed, `otel` told "
    "apart from the presets beside it, and taking out earlier loggers built after the start",
)
EARLIER_LOGGER = Seam(
    EARLIER_MODULE,
    "OpenTelemetry",
    purpose="the class of the earlier loggers, which would write second copies",
    lost="taking out earlier loggers, each of which sends a copy",
)
OPEN_CALL = Seam(
    LOGGER_MODULE,
    "_LLMCallSpan",
    purpose="holds the span of a call that is under way",
    lost="a span for each attempt: of several, LiteLLM shows one",
)
PAYLOAD = Seam(
    LOGGING_MODULE,
    "get_standard_logging_object_payload",
    purpose="says of a call what LiteLLM's loggers are told",
    lost="a span for each attempt: of several, LiteLLM shows one",
)
HTTP_CLIENT = Seam(
    "httpx",
    "AsyncClient",
    purpose="sends the requests to providers",
    lost="`traceparent` on requests to providers",
)
LITELLMS_CLIENT = Seam(
    TLS_MODULE,
    "AsyncHTTPHandler",
    purpose="sends LiteLLM's own requests to providers, token counts among them",
    lost="litellm.attempts of token counts",
)
SYNC_HTTP_CLIENT = Seam(
    "httpx",
    "Client",
    purpose="sends the requests to providers that are called in a thread",
    lost="`traceparent` on requests to providers",
)
TEXT_LOGS = Seam(
    LOGS_MODULE,
    "CorrelationPlainFormatter",
    purpose="formats text log lines and appends the trace_id that is on a record",
    lost="span_id in text log lines",
)
JSON_LOGS = Seam(
    LOGS_MODULE,
    "_RESERVED_CORRELATION_FIELDS",
    purpose="the fields of JSON log lines that what a message quotes cannot claim",
    lost="protection of span_id in JSON log lines from what a message quotes",
)
GUARDRAILS_LOST = "one span per guardrail: those that do not report themselves have none, and texts stay on spans"
GUARDRAIL = Seam(
    GUARDRAIL_MODULE, "CustomGuardrail", purpose="tells guardrails from other callbacks", lost=GUARDRAILS_LOST
)
GUARDRAIL_RUNNER = Seam(
    GUARDRAIL_RUNNER_MODULE,
    "UnifiedLLMGuardrails",
    purpose="runs the guardrails that only say how a text is judged",
    lost=GUARDRAILS_LOST,
)
GUARDRAIL_SPANS_LOST = "one span per guardrail: those that do not report themselves have none"
EMIT_GUARDRAIL = Seam(
    LOGGER_MODULE,
    "emit_guardrail_span",
    purpose="makes the span of a guardrail that reported itself: of each, once it is over",
    lost=GUARDRAIL_SPANS_LOST,
)
GUARDRAIL_DATA = Seam(
    PAYLOADS_MODULE,
    "GuardrailSpanData",
    purpose="what is known of a guardrail's run: the name of what it raised is put there",
    lost=GUARDRAIL_SPANS_LOST,
)
GUARDRAIL_TEXTS_LOST = "keeping what a guardrail blocked off the spans of the request and of its call"
FAILURE = Seam(
    LOGGER_MODULE,
    "_span_error_from_exception",
    purpose="describes an exception on the SERVER span",
    lost=GUARDRAIL_TEXTS_LOST,
)
FAILED_CALLS = Seam(
    LOGGER_MODULE,
    "OpenTelemetryV2",
    purpose="its async_log_failure_event describes an exception on the span of a call",
    lost=GUARDRAIL_TEXTS_LOST,
)
SEAMS = (
    PUBLISH,
    STARTUP_LOGGING,
    SHUTDOWN,
    AUTHENTICATED,
    PROVIDER_CLIENT,
    MCP_MESSAGE_SPAN,
    RESOURCE,
    PROVIDER,
    APPLICATION,
    LOGGING_WORKER,
    EXCLUDED_URLS,
    EXPORTER,
    PROCESSOR,
    PARSE_HEADERS,
    TRACES_ENDPOINT,
    TLS,
    FAN_OUT,
    TENANT_VIEW,
    TENANT_SCOPE,
    DESTINATION,
    TENANT_ROUTES,
    BAGGAGE,
    TENANT_HEADERS,
    BUILD_LOGGER,
    V2_LOGGER,
    EMITTER,
    ROUTE_CACHE,
    SERVICE_NAME,
    REQUEST_BACKENDS,
    OVERRIDDEN,
    PROMOTED,
    IDENTITY,
    ROOT,
    SPAN_DATA,
    LANGFUSE_ROOT,
    TEAM_CALLBACKS,
    CONSTRUCT,
    PRESETS,
    AUTO_PHOENIX,
    FACTORY,
    EARLIER_LOGGER,
    OPEN_CALL,
    PAYLOAD,
    HTTP_CLIENT,
    LITELLMS_CLIENT,
    SYNC_HTTP_CLIENT,
    TEXT_LOGS,
    JSON_LOGS,
    GUARDRAIL,
    GUARDRAIL_RUNNER,
    EMIT_GUARDRAIL,
    GUARDRAIL_DATA,
    FAILURE,
    FAILED_CALLS,
)


class SeamMissing(RuntimeError):  # noqa: N818 - it is a state of the world before it is an error
    """LiteLLM no longer has something that we use."""

    def __init__(self, seam: Seam) -> None:
        super().__init__(f"LiteLLM {litellm_version()} has no {seam.name}")
        self.seam = seam


def litellm_version() -> str:
    """The installed LiteLLM."""
    return installed_version("litellm")


def installed_version(distribution: str) -> str:
    """The version of a distribution, read without importing it."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(not installed)"

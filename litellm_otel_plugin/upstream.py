"""The only file that touches LiteLLM's internals, through the seams that ``seams`` names.

Every function here asks LiteLLM for one thing and raises ``SeamMissing`` where LiteLLM no longer has it. Whoever calls
it switches one feature off, says so, and goes on. The proxy is never imported from here: where it runs, it is loaded.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from litellm_otel_plugin.backends.operators import Described
from litellm_otel_plugin.backends.tenants import TenantBackend, TenantRoute
from litellm_otel_plugin.backends.views import OPERATOR, tenant_view
from litellm_otel_plugin.delivery import Tls
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.seams import (
    APPLICATION,
    AUTHENTICATED,
    BAGGAGE,
    CONTEXT_MODULE,
    DESTINATION,
    EXCLUDED_URLS,
    EXPORTER,
    FAN_OUT,
    LOGGER_MODULE,
    LOGGING_MODULE,
    LOGGING_WORKER,
    MCP_MESSAGE_SPAN,
    PARSE_HEADERS,
    PROCESSOR,
    PROVIDER,
    PROVIDER_CLIENT,
    PROVIDERS_MODULE,
    PROXY_MODULE,
    PUBLISH,
    RESOURCE,
    SHUTDOWN,
    STARTUP_LOGGING,
    TENANT_HEADERS,
    TENANT_ROUTES,
    TENANT_SCOPE,
    TENANT_VIEW,
    TLS,
    TRACES_ENDPOINT,
    Seam,
    SeamMissing,
)

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
    from types import ModuleType

    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

    from litellm_otel_plugin.delivery import View
    from litellm_otel_plugin.delivery.destination import Protocol

V2_SWITCH = "LITELLM_OTEL_V2"
CALL_ID_KEY = "litellm_call_id"
NO_PROVIDER_KEY = "litellm_no_upstream_llm_call"

# Doors behind which LiteLLM calls OpenAI's client without announcing the call to any hook.
UNANNOUNCED_DOORS = tuple(
    f"{prefix}/{door}"
    for prefix in ("", "/v1", "/{provider}/v1")
    for door in ("batches", "files", "fine_tuning", "threads", "assistants")
)

# Doors behind which LiteLLM's adapter makes the call anew, with a logging object and an id of its own.
REMADE_DOORS = (":generateContent", ":streamGenerateContent")


def proxy_is_running() -> bool:
    """Whether this process is a proxy; LiteLLM's SDK alone has no start-up, no application and no SERVER span."""
    return PROXY_MODULE in sys.modules


# --- switching v2 on -------------------------------------------------------------------------------------------------


def v2_is_refused() -> bool:
    """Whether the operator switched LiteLLM's v2 tracing off, explicitly."""
    value = os.environ.get(V2_SWITCH)
    if not value:  # an empty variable is what a compose file makes of an unset one
        return False
    try:
        return not _v2_flag()()
    except ValueError:  # a value that is no boolean: LiteLLM takes it for off
        return True


def enable_v2() -> None:
    """Switch LiteLLM's v2 tracing on, before it builds its callbacks."""
    os.environ[V2_SWITCH] = "true"
    _v2_flag().cache_clear()


def _v2_flag() -> Any:
    from litellm.integrations.otel.model.config import is_otel_v2_enabled  # noqa: PLC0415 - see the module docstring

    return is_otel_v2_enabled


# --- places where our code is called ---------------------------------------------------------------------------------


def wrap_publish(prepare: Callable[[], Any], after: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
    """Let ``prepare`` choose the one logger whose provider LiteLLM publishes, and hand it to ``after``.

    LiteLLM passes over an exception of this step without a word, so ``failed`` is told of it.
    """
    original = _take(PUBLISH)

    @functools.wraps(original)
    def publish(in_memory_loggers: Any, set_global_provider: Any, registered: Any = None) -> Any:
        chosen = prepare()
        registered = chosen if chosen is not None else registered
        try:
            logger = original(in_memory_loggers, _quietly(set_global_provider), registered=registered)
        except Exception as error:
            failed(error)
            raise
        after(logger)
        return logger

    _put(PUBLISH, publish)


def wrap_startup_logging(before: Callable[[], object]) -> None:
    """Call ``before`` once config.yaml was read, ahead of LiteLLM's building of its callbacks.

    An exception of ``before`` stops the start.
    """
    event = _take(STARTUP_LOGGING)
    name = startup_logging_name(event)
    if name is None:
        raise SeamMissing(STARTUP_LOGGING)
    original = getattr(event, name)

    @functools.wraps(original)
    def initialize_startup_logging(*args: Any, **kwargs: Any) -> Any:
        before()
        return original(*args, **kwargs)

    # A plain function in the class's place: `original` is bound to the class already.
    setattr(event, name, staticmethod(initialize_startup_logging))


def startup_logging_name(event: object) -> str | None:
    """What the step is called: 1.106 made it public and keeps the earlier name as an alias that it does not call."""
    names = ("initialize_startup_logging", "_initialize_startup_logging")
    return next((name for name in names if callable(getattr(event, name, None))), None)


def wrap_shutdown(before: Callable[[], Awaitable[None]]) -> None:
    """Await ``before`` inside the lifespan's shutdown, ahead of LiteLLM's own."""
    original = _take(SHUTDOWN)

    @functools.wraps(original)
    async def proxy_shutdown_event(*args: Any, **kwargs: Any) -> Any:
        await before()
        return await original(*args, **kwargs)

    _put(SHUTDOWN, proxy_shutdown_event)


def wrap_authenticated(notice: Callable[[], None]) -> None:
    """Call ``notice`` where a request has been authenticated.

    Authentication's failure path seeds an identity too, through another module's name for the same function.
    """
    original = _take(AUTHENTICATED)

    @functools.wraps(original)
    def seed_request_identity(*args: Any, **kwargs: Any) -> Any:
        notice()
        return original(*args, **kwargs)

    _put(AUTHENTICATED, seed_request_identity)


def wrap_provider_client(notice: Callable[[str], None]) -> None:
    """Call ``notice`` with the method of each request that OpenAI's client is about to send."""
    client = _take(PROVIDER_CLIENT)
    original = getattr(client, "request", None)
    if original is None:
        raise SeamMissing(PROVIDER_CLIENT)

    @functools.wraps(original)
    def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        notice(str(getattr(options, "method", "")))
        return original(self, cast_to, options, *args, **kwargs)

    client.request = request


def drop_mcp_message_spans() -> None:
    """Let the MCP SDK make no span of its own for a message that it serves.

    It would be a second SERVER span beside the request's, and it takes its parent from the client's message. LiteLLM
    makes a span of each message too, in the request's trace.
    """
    try:
        _take(MCP_MESSAGE_SPAN)
    except SeamMissing:
        return  # an SDK that makes none, or none installed
    from opentelemetry.trace import INVALID_SPAN  # noqa: PLC0415 - loaded with the SDK

    @contextmanager
    def otel_span(*_: Any, **__: Any) -> Iterator[Any]:
        yield INVALID_SPAN

    _put(MCP_MESSAGE_SPAN, otel_span)


def wrap_resource(attributes: Mapping[str, str]) -> None:
    """Add resource attributes that the operator has not set to every provider that LiteLLM builds."""
    original = _take(RESOURCE)
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - the SDK is loaded when a logger is built

    @functools.wraps(original)
    def build_resource(*args: Any, **kwargs: Any) -> Any:
        resource = original(*args, **kwargs)
        return Resource({name: value for name, value in attributes.items() if name not in resource.attributes}).merge(
            resource
        )

    _put(RESOURCE, build_resource)


def silence_placeholder_exporter() -> None:
    """Keep LiteLLM from printing spans as JSON where the operator configured no exporter at all."""
    original = _take(PROVIDER)

    @functools.wraps(original)
    def build_tracer_provider(config: Any, *args: Any, **kwargs: Any) -> Any:
        with contained("looking for exporters that nobody configured"):
            named = [spec for spec in config.exporters if not _is_placeholder(spec)]
            config = config.model_copy(update={"exporters": named})
        return original(config, *args, **kwargs)

    _put(PROVIDER, build_tracer_provider)


# --- exporters and tenants -------------------------------------------------------------------------------------------


def wrap_exporters(
    processor: Callable[[Described], SpanProcessor], processor_of_exporter: Callable[[Any], SpanProcessor]
) -> None:
    """Let ``processor`` make what sends to a backend that speaks OTLP, and ``processor_of_exporter`` the others.

    Those that write where they are called, the console's and the one in memory, stay LiteLLM's.
    """
    exporter_from_spec, processor_for = _take(EXPORTER), _take(PROCESSOR)
    for used in (PARSE_HEADERS, TRACES_ENDPOINT, TLS):
        _take(used)
    from opentelemetry.sdk.trace.export import SpanExporter  # noqa: PLC0415 - loaded with the SDK

    class NotMade(SpanExporter):
        """Stands for an exporter of LiteLLM's that is not made: the SDK's would read the environment."""

        def __init__(self, spec: Any) -> None:
            self.spec = spec

    @functools.wraps(exporter_from_spec)
    def described_exporter(spec: Any) -> Any:
        return exporter_from_spec(spec) if _protocol(spec.kind) is None else NotMade(spec)

    @functools.wraps(processor_for)
    def delivering_processor(exporter: Any, use_simple: bool | None = None) -> Any:
        if isinstance(exporter, NotMade):
            return processor(described(exporter.spec))
        made = _module("opentelemetry.sdk.trace.export")
        in_memory = _module("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter
        if use_simple or (use_simple is None and isinstance(exporter, (made.ConsoleSpanExporter, in_memory))):
            return processor_for(exporter, use_simple)
        return processor_of_exporter(exporter)

    _put(EXPORTER, described_exporter)
    _put(PROCESSOR, delivering_processor)


def described(spec: Any) -> Described:
    """An exporter of LiteLLM's as a description of ours."""
    protocol = _protocol(spec.kind)
    if protocol is None:
        raise ValueError("not an OTLP exporter")
    return Described(
        protocol=protocol,
        endpoint=_traces_endpoint(spec),
        headers=_take(PARSE_HEADERS)(spec.headers),
        owner=spec.owner.value if spec.owner is not None else None,
        tls=_tls(),
    )


def wrap_tenant_fan_out(
    deliver: Callable[[ReadableSpan, TenantBackend], None], can_deliver: Callable[[TenantBackend], bool]
) -> None:
    """Let ``deliver`` take each span that LiteLLM wants a tenant's backend to have.

    LiteLLM decides: which backends, in which scope, sampled how, seen how. Neither a thread nor an exporter is made.
    """
    fan_out = _take(FAN_OUT)
    backends = _TenantBackends(_take(TENANT_VIEW), _take(TENANT_SCOPE), _take(DESTINATION)(endpoint=""))

    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        fan_out.__init__(self, *args, drain_pool=_NothingToDrain(), **kwargs)

    def forward(_: Any, span: Any, destination: Any) -> None:
        with contained("taking a tenant's span"):
            backend = backends.of(destination)
            if backend is not None:
                deliver(span, backend)

    def buildable(_: Any, destination: Any) -> bool:
        with contained("checking a tenant's backend"):
            backend = backends.of(destination)
            return backend is not None and can_deliver(backend)
        return False

    def on_end(self: Any, span: Any) -> None:
        """Before 1.106 there are no sampling rates, and one method both decides and forwards."""
        context = _module(CONTEXT_MODULE)
        suppressed = context.suppressed_backends()
        for destination in context.request_destinations():
            in_scope = _module(PROVIDERS_MODULE)._in_scope(span, destination.span_scope)  # noqa: SLF001
            if in_scope and not self._operator_already_writes(span, destination, suppressed):
                forward(self, span, destination)

    methods = {"__init__": start, "_forward": forward, "_buildable": buildable}
    if not hasattr(fan_out, "_forward"):
        methods["on_end"] = on_end
    # LiteLLM looks this class up when it attaches a fan-out, and knows a fan-out that is there already by it.
    _put(FAN_OUT, type("DeliveringFanOut", (fan_out,), methods))


class _TenantBackends:
    """Tenants' backends from LiteLLM's destinations."""

    def __init__(self, redact: Any, scoped: Any, nobody: Any) -> None:
        self._views = {
            "full": tenant_view("tenant", lambda span: redact(span, nobody)),
            "llm_only": tenant_view("tenant, model calls", lambda span: scoped(redact(span, nobody), "llm_only")),
        }
        self._recent: dict[int, tuple[Any, TenantBackend | None]] = {}

    def of(self, destination: Any) -> TenantBackend | None:
        """A request's destination is one object for all of its spans: what is made of it is remembered."""
        known = self._recent.get(id(destination))
        if known is None or known[0] is not destination:
            if len(self._recent) >= RECENT_DESTINATIONS:
                self._recent.clear()
            known = self._recent[id(destination)] = (destination, _tenant_backend(destination, self._views))
        return known[1]


def _tenant_backend(destination: Any, views: Mapping[str, View]) -> TenantBackend | None:
    protocol = _protocol(destination.protocol or "otlp_http")
    if protocol is None:
        return None
    scope = "full" if destination.span_scope == "full" else "llm_only"
    defaults = _pairs(destination, "resource_defaults")
    owner = destination.callback_name or "tenant"
    return TenantBackend(
        key=(destination.cache_key(), defaults, scope),
        name=owner,
        view=views[scope],
        resource_defaults=defaults,
        resource_overrides=_pairs(destination, "resource_attributes"),
        describe=lambda: Described(
            protocol=protocol,
            endpoint=destination.endpoint if protocol == "grpc" else _take(TRACES_ENDPOINT)(destination.endpoint),
            headers=dict(destination.headers),
            owner=owner,
            tls=_tls(),
        ),
    )


# Destinations of requests that are under way; a request has one, seldom two.
RECENT_DESTINATIONS = 1_024


class _NothingToDrain:
    """Where LiteLLM's fan-out would close what it had made for tenants."""

    def submit(self, processor: Any) -> None:
        """Nothing was made."""

    def saturated(self) -> bool:
        """Never: there is nothing in it."""
        return False

    def close(self, timeout: float | None = None) -> None:
        """Nothing is held."""


def settle_tenant_trees() -> None:
    """Have LiteLLM decide which of the requests that it holds back for a tenant's sampling rate are kept."""
    fan_out = getattr(_module(PROVIDERS_MODULE), FAN_OUT.attribute, None)
    for logger in v2_loggers():
        for processor in logger.tracer_provider._active_span_processor._span_processors:  # noqa: SLF001
            if fan_out is not None and isinstance(processor, fan_out):
                processor.shutdown()


def wrap_tenant_routes(tenant_processor: Callable[[TenantBackend], SpanProcessor]) -> None:
    """Make a light route where LiteLLM makes a provider for a tenant's credentials, project or service name.

    An exporter that the route leaves as it is belongs to the operator; one that it changed is the tenant's.
    """
    for used in (TENANT_ROUTES, EXPORTER, PROCESSOR, RESOURCE):
        _take(used)
    stamps_baggage = _take(BAGGAGE)
    build_operators_provider = _take(PROVIDER)
    operators: dict[int, Any] = {}
    operators_processors: dict[int, Any] = {}
    resources: dict[tuple[Any, ...], Any] = {}

    @functools.wraps(build_operators_provider)
    def build_tracer_provider(config: Any, *args: Any, **kwargs: Any) -> Any:
        operators.update({id(spec): spec for spec in config.exporters})
        return build_operators_provider(config, *args, **kwargs)

    def processor_of(spec: Any) -> Any:
        if id(spec) not in operators:
            return tenant_processor(_routed_backend(spec))
        if id(spec) not in operators_processors:
            exporter = _take(EXPORTER)(spec)
            operators_processors[id(spec)] = _take(PROCESSOR)(exporter, spec.use_simple_processor)
        return operators_processors[id(spec)]

    def resource_of(config: Any) -> Any:
        key = (config.service_name, config.deployment_environment, *sorted(config.resource_attributes.items()))
        if key not in resources:
            if len(resources) >= MOST_RESOURCES:
                resources.clear()
            resources[key] = _take(RESOURCE)(config)
        return resources[key]

    def route(config: Any) -> Any:
        baggage = stamps_baggage(allowed_keys=config.baggage_promoted_keys)
        exported = [
            spec
            for spec in config.exporters
            if not _is_placeholder(spec) and (spec.headers or not spec.requires_headers)
        ]
        return TenantRoute(resource_of(config), [baggage, *(processor_of(spec) for spec in exported)])

    _put(PROVIDER, build_tracer_provider)
    _put(TENANT_ROUTES, route)


def _routed_backend(spec: Any) -> TenantBackend:
    name = spec.owner.value if spec.owner is not None else "tenant"
    return TenantBackend(
        key=(spec.kind, spec.endpoint, spec.traces_endpoint, spec.headers, name),
        name=name,
        view=OPERATOR,
        describe=lambda: replace(described(spec), owner=name),
    )


def wrap_tenant_headers() -> None:
    """Write a tenant's credentials down such that what is read back is what was written.

    LiteLLM writes them plainly and reads them percent-decoded and split at commas.
    """
    _take(TENANT_HEADERS)

    def encoded(headers: Mapping[str, str]) -> str:
        return ",".join(f"{name}={quote(value, safe='')}" for name, value in headers.items())

    _put(TENANT_HEADERS, encoded)


def _protocol(kind: str | None) -> Protocol | None:
    """The OTLP protocol of one of LiteLLM's exporter kinds, ``None`` for any other kind."""
    kind = (kind or "").lower()
    if kind in getattr(_module(PROVIDERS_MODULE), "_EXPORTER_FACTORIES", ()):
        return None
    return _PROTOCOLS.get(kind)


_PROTOCOLS: dict[str, Protocol] = {
    "otlp_http": "http/protobuf",
    "http": "http/protobuf",
    "http/protobuf": "http/protobuf",
    "http/json": "http/json",
    "otlp_grpc": "grpc",
    "grpc": "grpc",
}

# A resource for each service name that a key or a team has; the oldest are as good as new ones.
MOST_RESOURCES = 1_000


def _pairs(destination: Any, name: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(getattr(destination, name, {}).items()))


def _tls() -> Tls:
    """Whom LiteLLM trusts when it connects."""
    verify = _take(TLS)()
    if verify is False:
        return Tls(verify=False)
    return Tls(ca_file=verify) if isinstance(verify, str) else Tls()


# --- what LiteLLM has ------------------------------------------------------------------------------------------------


def application() -> Any:
    """The proxy's FastAPI application."""
    return _take(APPLICATION)


def excluded_paths() -> str:
    """LiteLLM's list of paths that are not traced unless the operator says otherwise."""
    return str(_take(EXCLUDED_URLS))


def json_log_handlers() -> list[logging.Handler]:
    """LiteLLM's own handlers where it logs JSON (``JSON_LOGS``), so that our lines are JSON too."""
    from litellm import _logging  # noqa: PLC0415 - see the module docstring

    proxy_logger = getattr(_logging, "verbose_proxy_logger", None)
    return list(proxy_logger.handlers) if getattr(_logging, "json_logs", False) and proxy_logger is not None else []


def plugin_settings() -> object:
    """``callback_settings: otel_plugin:`` of config.yaml, ``None`` where there is none or no config was read yet."""
    import litellm  # noqa: PLC0415 - see the module docstring

    section = getattr(litellm, "callback_settings", None)
    return section.get("otel_plugin") if isinstance(section, Mapping) else None


def v2_loggers() -> list[Any]:
    """Every v2 logger that LiteLLM has built, the registered one first."""
    proxy = sys.modules.get(PROXY_MODULE)
    registered = _v2_logger(getattr(proxy, "open_telemetry_logger", None))
    built = [_v2_logger(each) for each in getattr(_module(LOGGING_MODULE), "_in_memory_loggers", ())]
    loggers = [registered, *built]
    return [each for n, each in enumerate(loggers) if each is not None and all(each is not e for e in loggers[:n])]


def other_otel_loggers() -> list[str]:
    """The loggers of LiteLLM's earlier tracing that run beside v2, by class name."""
    built = getattr(_module(LOGGING_MODULE), "_in_memory_loggers", ())
    earlier = getattr(sys.modules.get("litellm.integrations.opentelemetry"), "OpenTelemetry", None)
    return [type(each).__name__ for each in built if earlier is not None and isinstance(each, earlier)]


def belongs_to_a_logger(provider: TracerProvider) -> bool:
    """Whether one of LiteLLM's own loggers, of either generation, built or uses this provider."""
    built = getattr(_module(LOGGING_MODULE), "_in_memory_loggers", ())
    return any(getattr(each, "_tracer_provider", None) is provider for each in built)


def ensure_v2_logger() -> Any:
    """The registered v2 logger; one built as if the operator had listed ``otel`` where none is configured."""
    loggers = v2_loggers()
    logger = loggers[0] if loggers else _build_v2_logger()
    proxy = sys.modules.get(PROXY_MODULE)
    # A logger of the earlier tracing can hold the slot: then LiteLLM would emit no auth and no guardrail span, and
    # not tell this one of hand-offs.
    if proxy is not None and getattr(proxy, "open_telemetry_logger", None) is not logger:
        proxy.open_telemetry_logger = logger  # type: ignore[attr-defined]  # a module's variable
    _add_callback(logger, ("input_callback",))
    return logger


def _build_v2_logger() -> Any:
    import litellm  # noqa: PLC0415 - see the module docstring
    from litellm.integrations.otel.logger import build_otel_v2_logger  # noqa: PLC0415
    from litellm.integrations.otel.model.config import OpenTelemetryV2Config  # noqa: PLC0415

    section = litellm.callback_settings.get("otel") if isinstance(litellm.callback_settings, Mapping) else None
    settings = dict(section) if isinstance(section, Mapping) else {}
    logger = build_otel_v2_logger(config=OpenTelemetryV2Config(**settings), settings=settings)
    _module(LOGGING_MODULE)._in_memory_loggers.append(logger)  # noqa: SLF001
    _add_callback(logger, ("callbacks", "service_callback", "_async_success_callback", "_async_failure_callback"))
    return logger


def register_hooks(plugin: Any) -> None:
    """Make LiteLLM call the plugin's hooks, once each.

    ``litellm.callbacks`` alone is not enough: LiteLLM copies it to the list of those that are told of a hand-off with
    the first call that needs it, and a pass-through does not.
    """
    _add_callback(plugin, ("callbacks", "input_callback"))


def _add_callback(callback: Any, lists: Iterable[str]) -> None:
    import litellm  # noqa: PLC0415 - see the module docstring

    for name in lists:
        callbacks = getattr(litellm, name, None)
        if isinstance(callbacks, list) and not any(each is callback for each in callbacks):
            # First: LiteLLM awaits its callbacks one after the other within one time limit, so that one that hangs
            # would keep a later one from closing its spans.
            callbacks.insert(0, callback)


def adopt_provider(logger: Any, provider: TracerProvider) -> Iterable[SpanProcessor]:
    """Make the logger emit through ``provider``, and return the processors of the one that it had built."""
    processors: Iterable[SpanProcessor] = logger.tracer_provider._active_span_processor._span_processors  # noqa: SLF001
    providers = _module(PROVIDERS_MODULE)
    tracer = providers.get_tracer(provider, _module(LOGGER_MODULE).LITELLM_TRACER_NAME)
    logger._tracer_provider = provider  # noqa: SLF001 - read-only to callers, and there is no other way to move it
    logger.tracer = tracer
    logger._emitter._tracer = tracer  # noqa: SLF001
    return processors


def unwrapped(processor: Any) -> Any:
    """A processor of LiteLLM's without the filters that LiteLLM puts around it."""
    while hasattr(processor, "_inner"):
        processor = processor._inner  # noqa: SLF001 - there is no public way to it
    return processor


def configured_exporters(logger: Any) -> list[tuple[str, str | None]]:
    """Kind and endpoint of each exporter that the operator configured for this logger."""
    exporters = []
    for spec in logger.config.exporters:
        if _is_placeholder(spec) or (spec.requires_headers and not spec.headers):
            continue
        owner = f"{spec.owner.value} " if spec.owner is not None else ""
        exporters.append((f"{owner}{spec.kind}", _traces_endpoint(spec)))
    return exporters


def captures_content(logger: Any) -> bool:
    """Whether the operator lets prompts and answers be put on spans."""
    return bool(logger.config.capture_span_content)


async def drain_logging_worker() -> None:
    """Wait until LiteLLM has run the callbacks of every finished call: they close those calls' spans."""
    await _take(LOGGING_WORKER).flush()


# --- what LiteLLM's hooks are handed ---------------------------------------------------------------------------------


def reached_no_provider(model_call_details: Mapping[str, Any]) -> bool:
    """Whether this call was rejected by the proxy itself; LiteLLM runs its hooks for it as for a real one."""
    return bool(model_call_details.get(NO_PROVIDER_KEY))


class OwnCall:
    """The call that LiteLLM makes for the request itself, by the object that belongs to it alone."""

    def __init__(self, logging_object: Any) -> None:
        self._logging_object = logging_object

    @property
    def call_id(self) -> str | None:
        """Its id; a client can choose it."""
        call_id = getattr(self._logging_object, "litellm_call_id", None)
        return call_id if isinstance(call_id, str) else None

    def is_described_by(self, details: object) -> bool:
        """Whether these details, as LiteLLM hands them to its hooks, are this call's."""
        return getattr(self._logging_object, "model_call_details", None) is details

    def first_handoff_at(self) -> float | None:
        """The instant of the first hand-off to a provider, in seconds since the epoch.

        Releases before 1.106 note one for a rejected call too, and a client's body can carry the same name.
        """
        details = getattr(self._logging_object, "model_call_details", None)
        if not isinstance(details, dict) or reached_no_provider(details):
            return None
        instant = details.get("first_api_call_start_time")
        return instant.timestamp() if isinstance(instant, datetime) else None


def own_call(request_data: Mapping[str, Any]) -> OwnCall | None:
    """The request's own call, ``None`` before LiteLLM has made its object and on doors where it makes none."""
    logging_object = request_data.get("litellm_logging_obj")
    return OwnCall(logging_object) if logging_object is not None else None


# --- helpers ---------------------------------------------------------------------------------------------------------


def _module(name: str) -> ModuleType:
    # The proxy's own modules are taken as they were loaded: importing one here would start a proxy's worth of code.
    loaded = sys.modules.get(name)
    return loaded if loaded is not None else importlib.import_module(name)


def _take(seam: Seam) -> Any:
    if seam.module.startswith("litellm.proxy.") and not proxy_is_running():
        raise SeamMissing(seam)
    try:
        return getattr(_module(seam.module), seam.attribute)
    except (ImportError, AttributeError):
        raise SeamMissing(seam) from None


def _put(seam: Seam, replacement: object) -> None:
    setattr(_module(seam.module), seam.attribute, replacement)


def _v2_logger(candidate: Any) -> Any:
    logger_class = getattr(_module(LOGGER_MODULE), "OpenTelemetryV2", None)
    return candidate if logger_class is not None and isinstance(candidate, logger_class) else None


def _quietly(set_global_provider: Callable[[Any], None]) -> Callable[[Any], None]:
    """Set the global provider unless it is already this one: OpenTelemetry warns about a second time."""
    from opentelemetry import trace  # noqa: PLC0415 - loaded with the SDK

    def set_once(provider: Any) -> None:
        if trace.get_tracer_provider() is not provider:
            set_global_provider(provider)

    return set_once


def _is_placeholder(spec: Any) -> bool:
    """Whether LiteLLM made this spec up because nothing was configured: no field of it is set."""
    fields: MutableMapping[str, Any] | set[str] = spec.model_fields_set
    return not fields


def _traces_endpoint(spec: Any) -> str | None:
    if spec.traces_endpoint:
        return str(spec.traces_endpoint)
    if not spec.endpoint:
        return None
    normalise = getattr(_module(PROVIDERS_MODULE), "_otlp_traces_endpoint", None)
    http = "grpc" not in str(spec.kind).lower()
    return str(normalise(spec.endpoint)) if http and normalise is not None else str(spec.endpoint)

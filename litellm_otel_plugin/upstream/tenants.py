"""LiteLLM's tenants: it decides which backend a span is for, and we deliver."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from litellm_otel_plugin import seams
from litellm_otel_plugin.backends.operators import Described
from litellm_otel_plugin.backends.tenants import TenantBackend, TenantRoute
from litellm_otel_plugin.backends.views import OPERATOR, tenant_view
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.upstream.access import module, put, take
from litellm_otel_plugin.upstream.exporters import described, is_placeholder, litellms_tls, protocol_of
from litellm_otel_plugin.upstream.loggers import v2_loggers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

    from litellm_otel_plugin.delivery import View


def wrap_tenant_fan_out(
    deliver: Callable[[ReadableSpan, TenantBackend], None],
    can_deliver: Callable[[TenantBackend], bool],
    in_words_of: Callable[[ReadableSpan, str | None], ReadableSpan],
) -> None:
    """Let ``deliver`` take each span that LiteLLM wants a tenant's backend to have, in the words of its kind.

    LiteLLM decides: which backends, in which scope, sampled how, seen how. Neither a thread nor an exporter is made.
    """
    fan_out = take(seams.FAN_OUT)
    backends = _TenantBackends(take(seams.TENANT_VIEW), take(seams.TENANT_SCOPE), take(seams.DESTINATION)(endpoint=""))

    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        fan_out.__init__(self, *args, drain_pool=_NothingToDrain(), **kwargs)

    def forward(_: Any, span: Any, destination: Any) -> None:
        with contained("taking a tenant's span"):
            backend = backends.of(destination)
            if backend is not None:
                deliver(in_words_of(span, destination.callback_name), backend)

    def buildable(_: Any, destination: Any) -> bool:
        with contained("checking a tenant's backend"):
            backend = backends.of(destination)
            return backend is not None and can_deliver(backend)
        return False

    def on_end(self: Any, span: Any) -> None:
        """Before 1.106 there are no sampling rates, and one method both decides and forwards."""
        context = module(seams.CONTEXT_MODULE)
        suppressed = context.suppressed_backends()
        for destination in context.request_destinations():
            in_scope = module(seams.PROVIDERS_MODULE)._in_scope(span, destination.span_scope)  # noqa: SLF001
            if in_scope and not self._operator_already_writes(span, destination, suppressed):
                forward(self, span, destination)

    methods = {"__init__": start, "_forward": forward, "_buildable": buildable}
    if not hasattr(fan_out, "_forward"):
        methods["on_end"] = on_end
    # LiteLLM looks this class up when it attaches a fan-out, and knows a fan-out that is there already by it.
    put(seams.FAN_OUT, type("DeliveringFanOut", (fan_out,), methods))


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
    protocol = protocol_of(destination.protocol or "otlp_http")
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
            endpoint=destination.endpoint if protocol == "grpc" else take(seams.TRACES_ENDPOINT)(destination.endpoint),
            headers=dict(destination.headers),
            owner=owner,
            tls=litellms_tls(),
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
    fan_out = getattr(module(seams.PROVIDERS_MODULE), seams.FAN_OUT.attribute, None)
    providers = {id(logger.tracer_provider): logger.tracer_provider for logger in v2_loggers()}
    for provider in providers.values():
        for processor in provider._active_span_processor._span_processors:  # noqa: SLF001
            if fan_out is not None and isinstance(processor, fan_out):
                processor.shutdown()


def wrap_tenant_routes(tenant_processor: Callable[[TenantBackend], SpanProcessor]) -> None:
    """Make a light route where LiteLLM makes a provider for a tenant's credentials, project or service name.

    An exporter that the route leaves as it is belongs to the operator; one that it changed is the tenant's.
    """
    for used in (seams.TENANT_ROUTES, seams.EXPORTER, seams.PROCESSOR, seams.RESOURCE):
        take(used)
    stamps_baggage = take(seams.BAGGAGE)
    build_operators_provider = take(seams.PROVIDER)
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
            exporter = take(seams.EXPORTER)(spec)
            operators_processors[id(spec)] = take(seams.PROCESSOR)(exporter, spec.use_simple_processor)
        return operators_processors[id(spec)]

    def resource_of(config: Any) -> Any:
        key = (config.service_name, config.deployment_environment, *sorted(config.resource_attributes.items()))
        if key not in resources:
            if len(resources) >= MOST_RESOURCES:
                resources.clear()
            resources[key] = take(seams.RESOURCE)(config)
        return resources[key]

    def route(config: Any) -> Any:
        baggage = stamps_baggage(allowed_keys=config.baggage_promoted_keys)
        exported = [
            spec
            for spec in config.exporters
            if not is_placeholder(spec) and (spec.headers or not spec.requires_headers)
        ]
        return TenantRoute(resource_of(config), [baggage, *(processor_of(spec) for spec in exported)])

    put(seams.PROVIDER, build_tracer_provider)
    put(seams.TENANT_ROUTES, route)


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
    take(seams.TENANT_HEADERS)

    def encoded(headers: Mapping[str, str]) -> str:
        return ",".join(f"{name}={quote(str(value), safe='')}" for name, value in headers.items())

    put(seams.TENANT_HEADERS, encoded)


# A resource for each service name that a key or a team has; the oldest are as good as new ones.
MOST_RESOURCES = 1_000


def _pairs(destination: Any, name: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(getattr(destination, name, {}).items()))

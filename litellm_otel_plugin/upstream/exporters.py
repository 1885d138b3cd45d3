"""LiteLLM's exporters, as descriptions of ours."""

from __future__ import annotations

import atexit
import functools
import os
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from litellm_otel_plugin import seams
from litellm_otel_plugin.backends.operators import Described
from litellm_otel_plugin.delivery import Tls
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.upstream.access import module, put, take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, MutableMapping

    from opentelemetry.sdk.trace import SpanProcessor

    from litellm_otel_plugin.backends.resources import OwnResource
    from litellm_otel_plugin.delivery.destination import Protocol


def wrap_resource(attributes: Mapping[str, str]) -> None:
    """Add resource attributes that the operator has not set to every provider that LiteLLM builds."""
    original = take(seams.RESOURCE)
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - the SDK is loaded when a logger is built

    @functools.wraps(original)
    def build_resource(*args: Any, **kwargs: Any) -> Any:
        resource = original(*args, **kwargs)
        return Resource({name: value for name, value in attributes.items() if name not in resource.attributes}).merge(
            resource
        )

    put(seams.RESOURCE, build_resource)


def silence_placeholder_exporter() -> None:
    """Keep LiteLLM from printing spans as JSON where the operator configured no exporter at all."""
    original = take(seams.PROVIDER)

    @functools.wraps(original)
    def build_tracer_provider(config: Any, *args: Any, **kwargs: Any) -> Any:
        with contained("looking for exporters that nobody configured"):
            named = [spec for spec in config.exporters if not is_placeholder(spec)]
            config = config.model_copy(update={"exporters": named})
        return original(config, *args, **kwargs)

    put(seams.PROVIDER, build_tracer_provider)


def wrap_exporters(
    processor: Callable[[Described], SpanProcessor], processor_of_exporter: Callable[[Any], SpanProcessor]
) -> None:
    """Let ``processor`` make what sends to a backend that speaks OTLP, and ``processor_of_exporter`` the others.

    Those that write where they are called, the console's and the one in memory, stay LiteLLM's.
    """
    exporter_from_spec, processor_for = take(seams.EXPORTER), take(seams.PROCESSOR)
    for used in (seams.PARSE_HEADERS, seams.TRACES_ENDPOINT, seams.TLS):
        take(used)
    from opentelemetry.sdk.trace.export import SpanExporter  # noqa: PLC0415 - loaded with the SDK

    class NotMade(SpanExporter):
        """Stands for an exporter of LiteLLM's that is not made: the SDK's would read the environment."""

        def __init__(self, spec: Any) -> None:
            self.spec = spec

    @functools.wraps(exporter_from_spec)
    def described_exporter(spec: Any) -> Any:
        return exporter_from_spec(spec) if protocol_of(spec.kind) is None else NotMade(spec)

    @functools.wraps(processor_for)
    def delivering_processor(exporter: Any, use_simple: bool | None = None) -> Any:
        if isinstance(exporter, NotMade):
            return processor(described(exporter.spec))
        made = module("opentelemetry.sdk.trace.export")
        in_memory = module("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter
        if use_simple or (use_simple is None and isinstance(exporter, (made.ConsoleSpanExporter, in_memory))):
            return processor_for(exporter, use_simple)
        return processor_of_exporter(exporter)

    put(seams.EXPORTER, described_exporter)
    put(seams.PROCESSOR, delivering_processor)


def processors_of(config: Any, spec: Any, resource_change: OwnResource | None) -> list[SpanProcessor]:
    """What LiteLLM makes of one exporter of a configuration: a processor, with LiteLLM's filters around it."""
    baggage = take(seams.BAGGAGE)
    token = _resource_change.set(resource_change)
    try:
        provider = take(seams.PROVIDER)(config.model_copy(update={"exporters": [spec]}), tenant_overrides=True)
    finally:
        _resource_change.reset(token)
    atexit.unregister(provider.shutdown)  # what it was made for is another provider's
    processors: Iterable[SpanProcessor] = provider._active_span_processor._span_processors  # noqa: SLF001
    return [each for each in processors if not isinstance(each, baggage)]


def stamps_identity(provider: Any) -> bool:
    """Whether LiteLLM made this provider: nobody else's stamps the caller's identity on spans."""
    processors = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    return any(isinstance(each, take(seams.BAGGAGE)) for each in processors)


def lacks_credentials(spec: Any) -> bool:
    """Whether an exporter waits for credentials that the operator has not given."""
    if spec.kind == AGENTOPS_KIND:  # it fetches a token for its key, and sends without one where it has none
        return not (spec.options or {}).get("api_key")
    return bool(spec.requires_headers and not spec.headers)


# LiteLLM's kind of the exporter that AgentOps' preset brings along.
AGENTOPS_KIND = "agentops"

# How the resource of the exporter that is being built differs from the one logger's.
_resource_change: ContextVar[OwnResource | None] = ContextVar("litellm_otel_plugin_resource_change", default=None)


def described(spec: Any) -> Described:
    """An exporter of LiteLLM's as a description of ours."""
    protocol = protocol_of(spec.kind)
    if protocol is None:
        raise ValueError("not an OTLP exporter")
    return Described(
        protocol=protocol,
        endpoint=traces_endpoint(spec),
        headers=take(seams.PARSE_HEADERS)(spec.headers),
        owner=spec.owner.value if spec.owner is not None else None,
        tls=litellms_tls(),
        resource_change=_resource_change.get(),
    )


def leave_the_environment_to_the_operator() -> None:
    """Put back what a preset writes into the environment.

    Weave's writes its own endpoint and credentials over the variables that name the operator's collector, and what is
    built after it would send there.
    """
    presets = take(seams.PRESETS)
    put(seams.PRESETS, MappingProxyType({name: _leaving_the_environment(preset) for name, preset in presets.items()}))


def _leaving_the_environment(preset: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(preset)
    def leaving(*args: Any, **kwargs: Any) -> Any:
        before = _otel_variables()
        try:
            return preset(*args, **kwargs)
        finally:
            for name in _otel_variables().keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)

    return leaving


def _otel_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}


def unwrapped(processor: Any) -> Any:
    """A processor of LiteLLM's without the filters that LiteLLM puts around it."""
    while hasattr(processor, "_inner"):
        processor = processor._inner  # noqa: SLF001 - there is no public way to it
    return processor


def is_placeholder(spec: Any) -> bool:
    """Whether LiteLLM made this spec up because nothing was configured: no field of it is set."""
    fields: MutableMapping[str, Any] | set[str] = spec.model_fields_set
    return not fields


def traces_endpoint(spec: Any) -> str | None:
    """Where an exporter of LiteLLM's sends traces to."""
    if spec.traces_endpoint:
        return str(spec.traces_endpoint)
    if not spec.endpoint:
        return None
    normalise = getattr(module(seams.PROVIDERS_MODULE), "_otlp_traces_endpoint", None)
    http = "grpc" not in str(spec.kind).lower()
    return str(normalise(spec.endpoint)) if http and normalise is not None else str(spec.endpoint)


def protocol_of(kind: str | None) -> Protocol | None:
    """The OTLP protocol of one of LiteLLM's exporter kinds, ``None`` for any other kind."""
    kind = (kind or "").lower()
    if kind in getattr(module(seams.PROVIDERS_MODULE), "_EXPORTER_FACTORIES", ()):
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


def litellms_tls() -> Tls:
    """Whom LiteLLM trusts when it connects."""
    verify = take(seams.TLS)()
    if verify is False:
        return Tls(verify=False)
    return Tls(ca_file=verify) if isinstance(verify, str) else Tls()

"""LiteLLM's loggers: which there are, and the one whose provider is published."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from litellm_otel_plugin import seams
from litellm_otel_plugin.upstream.access import module, take
from litellm_otel_plugin.upstream.exporters import is_placeholder, lacks_credentials, traces_endpoint

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider


# The lists in which LiteLLM keeps the callbacks that are for every request, by name until it has built them.
FOR_EVERY_REQUEST = (
    "callbacks",
    "success_callback",
    "_async_success_callback",
    "failure_callback",
    "_async_failure_callback",
)
ALL_LISTS = ("input_callback", "_async_input_callback", "service_callback", *FOR_EVERY_REQUEST)

# Where a logger has to stand that is to be told of everything.
LISTS_OF_A_LOGGER = (
    "callbacks",
    "service_callback",
    "input_callback",
    "_async_success_callback",
    "_async_failure_callback",
)


def in_memory_loggers() -> list[Any]:
    """Every logger that LiteLLM has built; its own list, to be added to."""
    loggers: list[Any] = getattr(module(seams.LOGGING_MODULE), "_in_memory_loggers", [])
    return loggers


def listed_loggers() -> list[Any]:
    """Every callback that LiteLLM lists as an object, each once."""
    import litellm  # noqa: PLC0415 - see the package's docstring

    listed = [each for name in ALL_LISTS for each in getattr(litellm, name, None) or () if not isinstance(each, str)]
    return list({id(each): each for each in listed}.values())


def v2_loggers() -> list[Any]:
    """Every v2 logger that LiteLLM has built, the registered one first."""
    proxy = sys.modules.get(seams.PROXY_MODULE)
    registered = as_v2_logger(getattr(proxy, "open_telemetry_logger", None))
    built = [as_v2_logger(each) for each in in_memory_loggers()]
    loggers = [registered, *built]
    return [each for n, each in enumerate(loggers) if each is not None and all(each is not e for e in loggers[:n])]


def belongs_to_a_logger(provider: TracerProvider) -> bool:
    """Whether one of LiteLLM's own loggers, of either generation, built or uses this provider."""
    return any(getattr(each, "_tracer_provider", None) is provider for each in in_memory_loggers())


def ensure_v2_logger() -> Any:
    """The registered v2 logger; one built as if the operator had listed ``otel`` where none is configured."""
    loggers = v2_loggers()
    logger = loggers[0] if loggers else _build_v2_logger()
    proxy = sys.modules.get(seams.PROXY_MODULE)
    # A logger of the earlier tracing can hold the slot: then LiteLLM would emit no auth and no guardrail span, and
    # not tell this one of hand-offs.
    if proxy is not None and getattr(proxy, "open_telemetry_logger", None) is not logger:
        proxy.open_telemetry_logger = logger  # type: ignore[attr-defined]  # a module's variable
    add_callback(logger, ("input_callback",))
    return logger


def otel_settings() -> dict[str, Any]:
    """``callback_settings: otel:`` of config.yaml."""
    import litellm  # noqa: PLC0415 - see the package's docstring

    section = litellm.callback_settings.get("otel") if isinstance(litellm.callback_settings, Mapping) else None
    return dict(section) if isinstance(section, Mapping) else {}


def _build_v2_logger() -> Any:
    from litellm.integrations.otel.model.config import OpenTelemetryV2Config  # noqa: PLC0415 - as above

    settings = otel_settings()
    logger = take(seams.BUILD_LOGGER)(config=OpenTelemetryV2Config(**settings), settings=settings)
    in_memory_loggers().append(logger)
    add_callback(logger, LISTS_OF_A_LOGGER)
    return logger


def register_hooks(plugin: Any) -> None:
    """Make LiteLLM call the plugin's hooks, once each.

    ``litellm.callbacks`` alone is not enough: LiteLLM copies it to the list of those that are told of a hand-off with
    the first call that needs it, and a pass-through does not.
    """
    add_callback(plugin, ("callbacks", "input_callback"))


def add_callback(callback: Any, lists: Iterable[str]) -> None:
    """Put a callback first in each of these lists of LiteLLM's where it is not in it yet."""
    import litellm  # noqa: PLC0415 - see the package's docstring

    for name in lists:
        callbacks = getattr(litellm, name, None)
        if isinstance(callbacks, list) and not any(each is callback for each in callbacks):
            # First: LiteLLM awaits its callbacks one after the other within one time limit, so that one that hangs
            # would keep a later one from closing its spans.
            callbacks.insert(0, callback)


def adopt_provider(logger: Any, provider: TracerProvider) -> Iterable[SpanProcessor]:
    """Make the logger emit through ``provider``, and return the processors of the one that it had built."""
    processors: Iterable[SpanProcessor] = logger.tracer_provider._active_span_processor._span_processors  # noqa: SLF001
    providers = module(seams.PROVIDERS_MODULE)
    tracer = providers.get_tracer(provider, module(seams.LOGGER_MODULE).LITELLM_TRACER_NAME)
    logger._tracer_provider = provider  # noqa: SLF001 - read-only to callers, and there is no other way to move it
    logger.tracer = tracer
    logger._emitter._tracer = tracer  # noqa: SLF001
    return processors


def configured_exporters(logger: Any) -> list[tuple[str, str | None]]:
    """Kind and endpoint of each exporter that the operator configured for this logger."""
    exporters = []
    for spec in logger.config.exporters:
        if is_placeholder(spec) or lacks_credentials(spec):
            continue
        owner = f"{spec.owner.value} " if spec.owner is not None else ""
        exporters.append((f"{owner}{spec.kind}", traces_endpoint(spec)))
    return exporters


def captures_content(logger: Any) -> bool:
    """Whether the operator lets prompts and answers be put on spans."""
    return bool(logger.config.capture_span_content)


def as_v2_logger(candidate: Any) -> Any:
    """The candidate where it is a v2 logger, otherwise ``None``."""
    logger_class = getattr(module(seams.LOGGER_MODULE), "OpenTelemetryV2", None)
    return candidate if logger_class is not None and isinstance(candidate, logger_class) else None

"""LiteLLM's earlier loggers (v1): those that would write a second copy of a backend give way, the others are named."""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from litellm_otel_plugin import seams
from litellm_otel_plugin.backends.retiring import shut_down_aside
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.upstream.access import put, take
from litellm_otel_plugin.upstream.loggers import ALL_LISTS, in_memory_loggers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

PHOENIX_CALLBACK = "arize_phoenix"

# What makes LiteLLM start its earlier Phoenix logger beside `otel`.
PHOENIX_VARIABLES = ("PHOENIX_API_KEY", "PHOENIX_COLLECTOR_HTTP_ENDPOINT", "PHOENIX_COLLECTOR_ENDPOINT")


def earlier_otel_loggers() -> list[Any]:
    """The loggers of LiteLLM's earlier tracing that run beside v2."""
    earlier = getattr(sys.modules.get(seams.EARLIER_MODULE), "OpenTelemetry", None)
    return [each for each in in_memory_loggers() if earlier is not None and isinstance(each, earlier)]


def let_v2_feed_phoenix() -> None:
    """Where LiteLLM would start its earlier Phoenix logger beside ``otel``, have it build the v2 one."""
    original = take(seams.AUTO_PHOENIX)
    take(seams.FACTORY)

    @functools.wraps(original)
    def start_phoenix(in_memory_loggers: Any, *args: Any, **kwargs: Any) -> Any:
        import litellm  # noqa: PLC0415 - see the package's docstring

        if any(PHOENIX_CALLBACK in (getattr(litellm, name, None) or ()) for name in ALL_LISTS):
            return None  # it is listed by its name, and about to be built
        if any(os.environ.get(name) for name in PHOENIX_VARIABLES):
            logger = take(seams.FACTORY)(PHOENIX_CALLBACK, internal_usage_cache=None, llm_router=None)
            if logger is not None:
                litellm.logging_callback_manager.add_litellm_callback(logger)
                return None
        return None if _is_built(PHOENIX_CALLBACK) else original(in_memory_loggers, *args, **kwargs)

    put(seams.AUTO_PHOENIX, start_phoenix)


def retire_earlier_loggers(callback_names: Collection[str], is_fed: Callable[[Any], bool]) -> list[str]:
    """Take the earlier loggers of backends that are fed already out of LiteLLM, and return their callbacks' names.

    ``is_fed`` tells of a logger's provider whether all that it writes to is fed already.
    """
    retired = []
    for logger in earlier_otel_loggers():
        provider = getattr(logger, "_tracer_provider", None)
        name = getattr(logger, "callback_name", None)
        if name in callback_names or is_fed(provider):
            retired.append(name or type(logger).__name__)
            _take_out(logger)
            if provider is not None and provider is not trace.get_tracer_provider():
                shut_down_aside(provider)
    return retired


def report_unbuilt_presets(is_news: Callable[[str], bool], unbuilt: Callable[[str, Exception | None], None]) -> None:
    """Tell of each preset that LiteLLM passes over because it cannot be built, and what stood in the way."""
    take(seams.PRESETS)
    ways = {seam: take(seam) for seam in (seams.CONSTRUCT, seams.FACTORY)}

    def telling(build: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(build)
        def build_or_tell(logging_integration: str, *args: Any, **kwargs: Any) -> Any:
            logger = build(logging_integration, *args, **kwargs)
            if logger is None:
                tell(logging_integration)
            return logger

        return build_or_tell

    def tell(callback_name: str) -> None:
        with contained("telling of a preset that cannot be built"):
            presets = take(seams.PRESETS)
            if callback_name in presets and is_news(callback_name):
                unbuilt(callback_name, _failure(presets[callback_name]))

    for seam, build in ways.items():
        put(seam, telling(build))


def _failure(preset: Callable[[], Any]) -> Exception | None:
    try:
        preset()
    except Exception as error:  # noqa: BLE001 - whatever the preset asks for in vain
        return error
    return None


def _is_built(callback_name: str) -> bool:
    return any(getattr(each, "callback_name", None) == callback_name for each in in_memory_loggers())


def _take_out(logger: Any) -> None:
    import litellm  # noqa: PLC0415 - see the package's docstring

    for callbacks in (in_memory_loggers(), *(getattr(litellm, name, None) for name in ALL_LISTS)):
        if isinstance(callbacks, list):
            callbacks[:] = [each for each in callbacks if each is not logger]

"""LiteLLM's earlier loggers (v1): those that would write a second copy of a backend give way, the others are named."""

from __future__ import annotations

import functools
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider

from litellm_otel_plugin import seams
from litellm_otel_plugin.backends.retiring import shut_down_aside
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.seams import SeamMissing
from litellm_otel_plugin.upstream.access import put, take
from litellm_otel_plugin.upstream.loggers import ALL_LISTS, in_memory_loggers

if TYPE_CHECKING:
    from collections.abc import Callable

PHOENIX_CALLBACK = "arize_phoenix"

# What makes LiteLLM start its earlier Phoenix logger beside `otel`.
PHOENIX_VARIABLES = ("PHOENIX_API_KEY", "PHOENIX_COLLECTOR_HTTP_ENDPOINT", "PHOENIX_COLLECTOR_ENDPOINT")


# Where an earlier logger keeps what it exports through, and what it may share with others: that stays open.
_PROVIDERS = {
    "_tracer_provider": trace.get_tracer_provider,
    "_meter_provider": metrics.get_meter_provider,
    "_logger_provider": get_logger_provider,
}


class EarlierLoggers:
    """The loggers of LiteLLM's earlier tracing: each is judged when the proxy has started, or when it is built.

    ``is_fed`` tells of a callback and its provider whether all that it writes to gets whole traces, and
    ``is_published`` of a provider whether it is the one that feeds them. ``gave_way`` and ``stays`` are told the
    callbacks' names.
    """

    def __init__(
        self,
        is_fed: Callable[[str, Any], bool],
        is_published: Callable[[Any], bool],
        gave_way: Callable[[str], None],
        stays: Callable[[str], None],
    ) -> None:
        self._is_fed = is_fed
        self._is_published = is_published
        self._tell_gave_way = gave_way
        self._tell_stays = stays
        self._asked_for_as: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._may_stay: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
        self._left_to_v2: set[str] = set()
        self._has_started = False
        self._lock = threading.RLock()

    def watch(self) -> None:
        """Look at what LiteLLM builds for a callback's name.

        A callback whose earlier logger gave way is left to v2 from then on: a request can name it, and each would have
        one more logger built. Its credentials can still come.
        """
        original = take(seams.FACTORY)
        take(seams.CONSTRUCT)
        _earlier_class()

        @functools.wraps(original)
        def init_custom_logger(logging_integration: str, *args: Any, **kwargs: Any) -> Any:
            if logging_integration in self._left_to_v2:
                return _v2_logger(logging_integration)
            logger = original(logging_integration, *args, **kwargs)
            with contained("looking at an earlier logger"):
                return logger if self._may_be_used(logging_integration, logger) else None
            return logger

        put(seams.FACTORY, init_custom_logger)

    def start(self) -> None:
        """Judge those that are there, and from now on each that LiteLLM builds."""
        self._judge_all()
        self._has_started = True

    def renew_lock(self) -> None:
        """In a forked child: whoever held it in the parent is not here."""
        self._lock = threading.RLock()

    def _may_be_used(self, name: str, logger: Any) -> bool:
        is_earlier = isinstance(logger, _earlier_class())
        if is_earlier:
            self._asked_for_as.setdefault(logger, name)
        if not self._has_started:
            return True
        self._judge_all()
        # Another thread's can have been found and returned before it was taken out.
        if not is_earlier or self._judge(logger):
            return True
        self._left_to_v2.add(name)
        return False

    def _judge_all(self) -> None:
        earlier = _earlier_class()
        for logger in [each for each in in_memory_loggers() if isinstance(each, earlier)]:
            self._judge(logger)

    def _judge(self, logger: Any) -> bool:
        """Whether a logger may stay; one that may is asked about again, for v2 can come to feed its backend."""
        with self._lock:
            if self._may_stay.get(logger, True):
                name = self._name_of(logger)
                if self._is_published(_provider_of(logger)) and name not in take(seams.PRESETS):
                    _export_on_its_own(logger)
                if self._is_fed(name, _provider_of(logger)):
                    self._may_stay[logger] = False
                    self._retire(logger, name)
                elif logger not in self._may_stay:
                    self._may_stay[logger] = True
                    self._tell_stays(name)
            return self._may_stay[logger]

    def _retire(self, logger: Any, name: str) -> None:
        _take_out(logger)
        for attribute, current in _PROVIDERS.items():
            provider = getattr(logger, attribute, None)
            if provider is not None and provider is not current() and not self._is_published(provider):
                shut_down_aside(provider)
        if name not in self._left_to_v2:
            self._left_to_v2.add(name)
            self._tell_gave_way(name)

    def _name_of(self, logger: Any) -> str:
        """Its callback, as an operator writes it. `logfire` has a logger without a name."""
        return logger.callback_name or self._asked_for_as.get(logger) or type(logger).__name__


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


def _earlier_class() -> Any:
    found = take(seams.EARLIER_LOGGER)
    if not hasattr(found, "_init_tracing"):
        raise SeamMissing(seams.EARLIER_LOGGER)
    return found


def _provider_of(logger: Any) -> Any:
    return getattr(logger, "_tracer_provider", None)  # the Phoenix logger keeps none


def _v2_logger(callback_name: str) -> Any:
    try:
        return take(seams.CONSTRUCT)(callback_name, in_memory_loggers())
    except Exception:  # noqa: BLE001 - LiteLLM goes on without a callback, whatever it cannot be built for
        return None


def _export_on_its_own(logger: Any) -> None:
    """Give a logger its own backend: the earlier ones write to whatever provider is global when they are built."""
    logger.config.skip_set_global = True
    logger._init_tracing(None)  # noqa: SLF001 - it has no other way to be moved


def _take_out(logger: Any) -> None:
    import litellm  # noqa: PLC0415 - see the package's docstring

    for callbacks in (in_memory_loggers(), *(getattr(litellm, name, None) for name in ALL_LISTS)):
        if isinstance(callbacks, list):
            # In place and one at a time: other threads add to these lists meanwhile.
            with suppress(ValueError):
                while True:
                    callbacks.remove(logger)

"""Loggers that record nothing: what LiteLLM's own classes add to ``OpenTelemetryV2`` they go on doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litellm_otel_plugin import seams
from litellm_otel_plugin.upstream.access import take

if TYPE_CHECKING:
    from collections.abc import Callable


class QuietKinds:
    """The classes of folded loggers, one for each of LiteLLM's."""

    def __init__(self, provider: Callable[[], Any]) -> None:
        self._provider = provider
        self._made: dict[Any, Any] = {}

    def of(self, kind: Any) -> Any:
        """What LiteLLM's class adds to ``OpenTelemetryV2``, and nothing recorded."""
        if kind not in self._made:
            generic = take(seams.V2_LOGGER)
            if kind is generic:
                made = _quiet_generic(generic, self._provider)
            else:
                # LiteLLM looks for some hooks on the class itself, not on what it inherits from.
                own = {name: value for name, value in vars(kind).items() if not name.startswith("__")}
                made = type(kind.__name__, (kind, self.of(generic)), {**own, "__module__": kind.__module__})
            self._made[kind] = made
        return self._made[kind]


def _quiet_generic(generic: Any, provider: Callable[[], Any]) -> Any:
    """``OpenTelemetryV2`` without what it records."""

    async def nothing_later(_: Any, *__: Any, **___: Any) -> None:
        """Recorded by the one logger."""

    def nothing(_: Any, *__: Any, **___: Any) -> None:
        """Recorded by the one logger."""

    methods = {
        "tracer_provider": property(lambda _: provider()),
        "log_pre_api_call": nothing,
        **dict.fromkeys(
            (
                "async_log_success_event",
                "async_log_failure_event",
                "async_service_success_hook",
                "async_service_failure_hook",
                "async_post_call_failure_hook",
            ),
            nothing_later,
        ),
    }
    return type(generic.__name__, (generic,), {**methods, "__module__": generic.__module__})

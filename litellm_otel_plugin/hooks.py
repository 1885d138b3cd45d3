"""LiteLLM's hooks: each hands one fact to the request's record, none holds logic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litellm.integrations.custom_logger import CustomLogger

from litellm_otel_plugin import upstream
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.record import current_record
from litellm_otel_plugin.request.server_span import learn_route

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from litellm_otel_plugin.delivery import Delivery, DeliveryStats


class OtelPlugin(CustomLogger):
    """What ``config.yaml`` names. Returns nothing from any hook, so LiteLLM keeps every request as it is."""

    delivery: Delivery | None = None

    def stats(self) -> DeliveryStats | None:
        """What became of every span, per destination: ``litellm_otel_plugin.plugin.stats()``.

        ``None`` where the SDK delivers.
        """
        return self.delivery.stats() if self.delivery is not None else None

    async def async_pre_call_hook(
        self,
        user_api_key_dict: Any,
        cache: Any,
        data: Mapping[str, Any],
        call_type: str,
    ) -> None:
        """Remember which of the request's calls is its own, and LiteLLM's notes of it."""
        del user_api_key_dict, cache, call_type
        with contained("noting a call"):
            record = current_record()
            if record is not None:
                learn_route(record)
                record.handoffs.own = upstream.own_call(data) or record.handoffs.own
                record.handoffs.remade = (record.route or "").endswith(upstream.REMADE_DOORS)

    def log_pre_api_call(self, model: str, messages: Any, kwargs: Mapping[str, Any]) -> None:
        """A provider is about to be called, once per attempt."""
        del model, messages
        with contained("noting a hand-off"):
            record = current_record()
            if record is not None and not upstream.reached_no_provider(kwargs):
                record.handoffs.attempt(kwargs, kwargs.get(upstream.CALL_ID_KEY))
                learn_route(record)

    async def async_log_failure_event(
        self,
        kwargs: Mapping[str, Any],
        response_obj: Any,
        start_time: Any,
        end_time: datetime,
    ) -> None:
        """A call failed. Where that happened in the middle of its answer, LiteLLM tells its loggers alone."""
        del response_obj, start_time
        with contained("noting a failed call"):
            record = current_record()
            exception = kwargs.get("exception")
            if record is not None and isinstance(exception, Exception) and record.handoffs.are_of(kwargs):
                record.attempt_failure, record.attempt_failed_at = exception, end_time.timestamp()

    async def async_post_call_failure_hook(
        self,
        request_data: Mapping[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> None:
        """Keep the exception before LiteLLM wraps it for the client."""
        del request_data, user_api_key_dict, traceback_str
        with contained("noting a failure"):
            record = current_record()
            if record is not None:
                record.failed_with(original_exception)
                learn_route(record)


def request_sent_unannounced(method: str) -> None:
    """A provider's client is about to send a request, on a door where LiteLLM announces none."""
    with contained("noting a request to a provider"):
        record = current_record()
        if record is None:
            return
        learn_route(record)
        if record.route is not None and record.route.startswith(upstream.UNANNOUNCED_DOORS):
            # A run is started with a POST and polled with GETs: only the first is an attempt.
            record.handoffs.sent_unannounced(is_attempt=method.upper() == record.scope.get("method"))


def request_authenticated() -> None:
    """The request's key has been accepted."""
    with contained("noting an authentication"):
        record = current_record()
        if record is not None:
            record.authenticated = True
            learn_route(record)

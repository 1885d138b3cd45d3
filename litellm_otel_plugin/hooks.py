"""LiteLLM's hooks: each hands one fact to the request's record, none holds logic."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from litellm.integrations.custom_logger import CustomLogger

from litellm_otel_plugin import upstream
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.record import current_record
from litellm_otel_plugin.request.server_span import learn_route

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from datetime import datetime

    from litellm_otel_plugin.delivery import Delivery, DeliveryStats
    from litellm_otel_plugin.request.attempts import Stretch
    from litellm_otel_plugin.request.open_calls import OpenCalls
    from litellm_otel_plugin.upstream.attempts import AttemptSpans


class OtelPlugin(CustomLogger):
    """What ``config.yaml`` names. Returns nothing from any hook, so LiteLLM keeps every request as it is."""

    delivery: Delivery | None = None
    spans: AttemptSpans | None = None

    @property
    def open_calls(self) -> OpenCalls | None:
        """The calls whose end LiteLLM has not told yet; ``None`` where attempts are not told apart."""
        return self.spans.calls if self.spans is not None else None

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
                record.handoffs.remade = upstream.is_made_anew(record.route or "", record.scope["type"])

    def log_pre_api_call(self, model: str, messages: Any, kwargs: Mapping[str, Any]) -> None:
        """A provider is about to be called; LiteLLM says so of each attempt, of some several times."""
        with contained("noting a hand-off"):
            if upstream.reached_no_provider(kwargs):
                return
            record = current_record()
            if self.spans is not None:
                self.spans.begin(record, model, messages, kwargs)
            elif record is not None:
                record.begin_attempt(kwargs, kwargs.get(upstream.CALL_ID_KEY))
            if record is not None:
                learn_route(record)

    async def async_post_call_success_deployment_hook(
        self, request_data: Mapping[str, Any], response: Any, call_type: Any
    ) -> None:
        """A provider has answered in whole. LiteLLM tells its loggers later."""
        del call_type
        with contained("noting an answer"):
            self._attempt_ended(request_data, answer=response)

    async def async_post_call_failure_deployment_hook(
        self,
        request_data: Mapping[str, Any],
        original_exception: Exception,
        call_type: Any,
        *,
        fallback_depth: int | None = None,
    ) -> None:
        """An attempt has failed; more may follow."""
        del call_type, fallback_depth
        with contained("noting a failed attempt"):
            self._attempt_ended(request_data, failure=original_exception)

    def _attempt_ended(
        self, request_data: Mapping[str, Any], *, failure: Exception | None = None, answer: object = None
    ) -> None:
        own, record = upstream.own_call(request_data), current_record()
        if own is None:
            return
        if self.spans is not None:
            self.spans.ended(own, request_data, failure, answer)
        elif record is not None:
            record.handoffs.ended(own.details, failure)

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


def request_sent_unannounced(method: str) -> AbstractContextManager[None]:
    """A provider's client sends a request, on a door where LiteLLM announces none."""
    return _sending(method, upstream.UNANNOUNCED_DOORS)


def token_count_sent(method: str) -> AbstractContextManager[None]:
    """LiteLLM's own client sends a request, perhaps on a door where a provider counts tokens."""
    return _sending(method, upstream.COUNTING_DOORS)


@contextmanager
def _sending(method: str, doors: tuple[str, ...]) -> Iterator[None]:
    sending = None
    with contained("noting a request to a provider"):
        sending = _sent_unannounced(method, doors)
    try:
        yield
    finally:
        if sending is not None:
            sending.stop()


def _sent_unannounced(method: str, doors: tuple[str, ...]) -> Stretch | None:
    record = current_record()
    if record is None:
        return None
    if doors is upstream.COUNTING_DOORS and not record.authenticated:  # an operator's authentication asks services too
        return None
    learn_route(record)
    if record.route is None or not record.route.startswith(doors):
        return None
    # A run is started with a POST and polled with GETs: only the first is an attempt.
    return record.handoffs.sent_unannounced(is_attempt=method.upper() == record.scope.get("method"))


def request_authenticated() -> None:
    """The request's key has been accepted."""
    with contained("noting an authentication"):
        record = current_record()
        if record is not None:
            record.authenticated = True
            learn_route(record)

"""One CLIENT span per attempt at a provider, made by LiteLLM's own logger.

LiteLLM keeps an open span per call id, so of several attempts it closes one, and a client that chooses call ids makes
two requests share it. Here the attempt that is meant is in hand while the logger opens, looks for or closes a span.
"""

from __future__ import annotations

import functools
import sys
import traceback
from collections import OrderedDict
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Status, StatusCode

from litellm_otel_plugin import seams
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.request.attempts import ATTEMPT, ATTEMPT_REASON, FIRST_CHUNK
from litellm_otel_plugin.request.errors import CLIENT_DISCONNECTED
from litellm_otel_plugin.request.open_calls import OpenCalls
from litellm_otel_plugin.request.record import record_of_context
from litellm_otel_plugin.seams import SeamMissing
from litellm_otel_plugin.upstream.access import take
from litellm_otel_plugin.upstream.calls import (
    CALL_ID_KEY,
    OwnCall,
    deployment_asked,
    noted_at_handoff,
    noted_in_request,
    notes_streams,
    reached_a_provider,
    route_of,
    with_its_own_times,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.trace import Span

    from litellm_otel_plugin.request.attempts import Attempt, Call
    from litellm_otel_plugin.request.record import RequestRecord

FAILURES_ARE_TOLD_KEY = "has_logged_async_failure"
PAYLOAD_KEY = "standard_logging_object"
PASSED_THROUGH = "pass_through_endpoint"

_in_hand: ContextVar[Attempt | None] = ContextVar("litellm_otel_plugin_attempt_in_hand", default=None)


class AttemptSpans:
    """The spans of one logger's attempts."""

    def __init__(self, logger: Any) -> None:
        take(seams.PAYLOAD)
        take(seams.OPEN_CALL)
        used = ("_open_llm_calls", "_close_llm_call", "_release_carrier", "_emitter")
        if not all(hasattr(logger, name) for name in used) or not hasattr(logger._emitter, "_seen"):  # noqa: SLF001
            raise SeamMissing(seams.OPEN_CALL)
        self._logger = logger
        self._open = logger.log_pre_api_call
        self._close = logger._close_llm_call  # noqa: SLF001
        self.calls = OpenCalls(self._finish_untold, _will_be_told)
        logger.log_pre_api_call = lambda *_, **__: None  # the plugin is told too, and opens
        logger._close_llm_call = self._told  # noqa: SLF001
        logger._open_llm_calls = _SpanInHand()  # noqa: SLF001
        _tell_attempts_apart(logger._emitter)  # noqa: SLF001

    def begin(self, record: RequestRecord | None, model: str, messages: Any, details: Mapping[str, Any]) -> None:
        """A call is handed to a provider."""
        attempt = self.calls.begin(record, details, details.get(CALL_ID_KEY), route_of(details))
        if attempt is None:
            if record is None or record.handoffs.call_of(details) is None:  # no request's: as LiteLLM has it
                self._open(model=model, messages=messages, kwargs=details)
            return
        attempt.noted = noted_at_handoff(details)
        if attempt.span is not None:  # it goes on
            return
        own = record.handoffs.own if record is not None else None
        if isinstance(own, OwnCall) and own.is_described_by(details):
            attempt.call.logging_object = own.logging_object
        with _holding(attempt):
            self._open(model=model, messages=messages, kwargs=details)
        if attempt.span is None:  # LiteLLM makes no span of it
            self.calls.closed(attempt)

    def ended(
        self, own: OwnCall, request_data: Mapping[str, Any], failure: BaseException | None, answer: object
    ) -> None:
        """An attempt has failed, or was answered in whole. LiteLLM tells its loggers of the first failure alone."""
        attempt = self._under_way(own, request_data)
        if attempt is None:
            return
        attempt.call.logging_object, attempt.answer = own.logging_object, answer
        attempt.end(failure)
        if failure is not None and own.details.get(FAILURES_ARE_TOLD_KEY):
            self._close_untold(attempt)

    def _under_way(self, own: OwnCall, request_data: Mapping[str, Any]) -> Attempt | None:
        call = self.calls.of(own.details)
        attempt = call.under_way() if call is not None else None
        if call is not None and attempt is not None and call.ran_beside:
            _tell_apart(attempt, request_data)
        return attempt

    def _told(self, kwargs: Mapping[str, Any], start_time: Any, end_time: Any) -> Any:
        """LiteLLM tells how a call ended."""
        call = self.calls.of(kwargs) or (self.calls.of_copy(kwargs) if reached_a_provider(kwargs) else None)
        if call is None:  # it was closed, or never announced
            return self._close(kwargs, start_time, end_time)
        failed = (kwargs.get(PAYLOAD_KEY) or {}).get("status") == "failure"
        attempt = call.told_of(failed=failed)
        if attempt is None:
            return None
        # LiteLLM's notes can be those of another attempt by now: beside this one, or about to be made.
        are_anothers = call.ran_beside or route_of(kwargs) != attempt.route
        if are_anothers and kwargs.get(PAYLOAD_KEY) is not None:
            if call.ran_beside:
                _tell_apart(attempt)
            if failed and attempt.failure is None:
                attempt.failure = kwargs.get("exception")
            answer = kwargs[PAYLOAD_KEY].get("response")
            own = _payload(attempt, {**kwargs, **attempt.noted}, end_time, answer)
            kwargs = {**kwargs, PAYLOAD_KEY: own or kwargs[PAYLOAD_KEY]}
        try:
            return self._close_with(attempt, kwargs, start_time, end_time)
        finally:
            # Of several that ran side by side LiteLLM tells of the one that it took the answer of.
            for other in [each for each in call.open if not failed and each.ended_at is not None]:
                self._close_untold(other)

    def _close_with(self, attempt: Attempt, kwargs: Mapping[str, Any], start_time: Any, end_time: Any) -> Any:
        told_at = end_time.timestamp() if isinstance(end_time, datetime) else end_time
        try:
            if kwargs.get(PAYLOAD_KEY) is None:  # LiteLLM then ends the span as it is
                with contained("numbering an attempt"):
                    _stamp(getattr(attempt.span, "span", None), attempt)
            with contained("telling an attempt's times from another's"):
                kwargs = with_its_own_times(kwargs, attempt.noted, end_time)
            if attempt.rests_since is not None and told_at is not None:
                end_time = attempt.over_by(told_at)
            with _holding(attempt):
                return self._close(kwargs, start_time, end_time)
        finally:
            self.calls.closed(attempt, told_at)

    def _finish_untold(self, attempt: Attempt) -> None:
        """Nobody will tell how this one ended: it ends with what is known, where it was to be told of at all."""
        attempt.end(attempt.call.request_failure, attempt.call.request_over_at)
        self._close_untold(attempt)

    def _close_untold(self, attempt: Attempt) -> None:
        # Where it was made: its span finds its parent, its tenant and its backends there.
        attempt.context.run(self._close_where_made, attempt)

    def _close_where_made(self, attempt: Attempt) -> None:
        if attempt.call.ran_beside:
            _tell_apart(attempt)
        details = {**attempt.call.details, **attempt.noted}
        if self._is_not_to_be_told(details, attempt.call.logging_object):
            self._logger._release_carrier(attempt.span)  # noqa: SLF001
            self.calls.closed(attempt)
            return
        ended = datetime.fromtimestamp(attempt.ended_at or 0.0)  # noqa: DTZ006 - LiteLLM's times are naive local ones
        payload = _payload(attempt, details, ended, attempt.answer)
        if payload is None and attempt.span.span is not None:
            _name_failure(attempt.span.span, attempt.failure)
        self._close_with(attempt, {**details, PAYLOAD_KEY: payload}, None, ended)

    def _is_not_to_be_told(self, details: Mapping[str, Any], logging_object: Any) -> bool:
        """Whether the caller asked that nobody be told of this call."""
        params = details.get("litellm_params") or {}
        if logging_object is None:
            return bool(params.get("no-log"))
        return not logging_object.should_run_callback(
            callback=self._logger, litellm_params=params, event_hook="async_failure_handler"
        )


def _tell_apart(attempt: Attempt, request_data: Mapping[str, Any] | None = None) -> None:
    """Note where an attempt went that another ran beside: by its own arguments, else by what was sent where."""
    if attempt.told_apart:
        return
    own = noted_in_request(deployment_asked(attempt.noted) if request_data is None else request_data, attempt.noted)
    attempt.told_apart = bool(own)
    attempt.noted.update(own)


def _payload(attempt: Attempt, details: Mapping[str, Any], ended: Any, answer: object) -> Any:
    """What LiteLLM would have told its loggers."""
    failure, logging_object = attempt.failure, attempt.call.logging_object
    if logging_object is None:
        return None
    exception = failure if isinstance(failure, Exception) else None
    payload = take(seams.PAYLOAD)(
        kwargs={**details, "traceback_exception": _traceback()},
        init_response_obj=answer or {},
        start_time=logging_object.start_time,
        end_time=ended,
        logging_obj=logging_object,
        status="failure" if failure else "success",
        error_str=str(exception) if exception else failure,
        original_exception=exception,
    )
    if payload is not None and isinstance(failure, str):
        payload["error_information"] = {**(payload.get("error_information") or {}), "error_class": failure}
    return payload


def _traceback() -> str | None:
    """Of what is being handled: the exceptions that LiteLLM shows us are copies without one."""
    return traceback.format_exc() if sys.exc_info()[1] is not None else None


def _name_failure(span: Span, failure: BaseException | str | None) -> None:
    if failure:
        name = failure if isinstance(failure, str) else type(failure).__name__
        span.set_attribute(ERROR_TYPE, name)
        span.set_status(Status(StatusCode.ERROR, name))


def _will_be_told(call: Call) -> bool:
    """Whether LiteLLM will tell how a call ended that has failed; once, and never where it passed it through."""
    passed_through = call.details.get("call_type") == PASSED_THROUGH and isinstance(call.request_failure, Exception)
    return not call.details.get(FAILURES_ARE_TOLD_KEY) and not passed_through


class _SpanInHand(OrderedDict[str, Any]):
    """LiteLLM's map of open calls: whatever id it asks for, it means the attempt in hand, where there is one."""

    def __contains__(self, call_id: object) -> bool:
        attempt = _in_hand.get()
        return super().__contains__(call_id) if attempt is None else attempt.span is not None

    def __setitem__(self, call_id: str, carrier: Any) -> None:
        attempt = _in_hand.get()
        if attempt is None:
            super().__setitem__(call_id, carrier)
        else:
            attempt.span = carrier

    def pop(self, call_id: str, default: Any = None) -> Any:
        attempt = _in_hand.get()
        if attempt is None:
            return super().pop(call_id, default)
        carrier, attempt.span = attempt.span, None
        return default if carrier is None else carrier


def _tell_attempts_apart(emitter: Any) -> None:
    seen, finish = emitter._seen, emitter.finish_span  # noqa: SLF001

    @functools.wraps(seen)
    def seen_but_for_attempts(dedup_key: str | None, role: Any) -> bool:
        already = bool(seen(dedup_key, role))
        return already and _in_hand.get() is None

    @functools.wraps(finish)
    def finish_span(role: Any, span: Any, data: Any, *, end_time_ns: int | None = None) -> None:
        attempt = _in_hand.get()
        if attempt is not None:
            with contained("numbering an attempt"):
                _stamp(span, attempt)
        finish(role, span, data, end_time_ns=end_time_ns)

    emitter._seen = seen_but_for_attempts  # noqa: SLF001
    emitter.finish_span = finish_span


def _stamp(span: Span | None, attempt: Attempt) -> None:
    if span is None:
        return
    span.set_attribute(ATTEMPT, attempt.number)
    if attempt.reason is not None:
        span.set_attribute(ATTEMPT_REASON, attempt.reason)
    record = record_of_context()
    if record is None:
        return
    first_chunk = record.seconds_to_first_chunk(attempt)
    if first_chunk is not None and not notes_streams(attempt.call.details):
        span.set_attribute(FIRST_CHUNK, first_chunk)
    if attempt.ended_at is not None:
        return
    if record.client_gone:
        _name_failure(span, CLIENT_DISCONNECTED)
    elif record.sent_error is not None and not record.guardrails.blocked:
        _name_failure(span, record.sent_error)


@contextmanager
def _holding(attempt: Attempt) -> Iterator[None]:
    token = _in_hand.set(attempt)
    try:
        yield
    finally:
        _in_hand.reset(token)

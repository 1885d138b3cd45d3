"""LiteLLM's hooks: what they note, and that our own failure in one ends there."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from litellm_otel_plugin.guard import guard
from litellm_otel_plugin.request.record import RequestRecord, current_record, open_record
from tests.support.spans import SpanMemory

if TYPE_CHECKING:
    from litellm_otel_plugin.hooks import OtelPlugin

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's import warns of its own affairs


@pytest.fixture
def plugin() -> OtelPlugin:
    from litellm_otel_plugin.hooks import OtelPlugin  # noqa: PLC0415 - imports LiteLLM

    return OtelPlugin()


@pytest.fixture
def record() -> RequestRecord:
    span = SpanMemory().provider.get_tracer("t").start_span("POST")
    return open_record({"type": "http", "method": "POST"}, span, "POST")


async def _call_every_hook(plugin: OtelPlugin) -> list[Any]:
    now = dt.datetime.now(tz=dt.timezone.utc)
    details = {"litellm_call_id": "a", "exception": ValueError()}
    await plugin.async_pre_call_hook(None, None, {"litellm_logging_obj": object()}, "completion")
    plugin.log_pre_api_call("m", [], details)
    await plugin.async_log_failure_event(details, None, now, now)
    await plugin.async_post_call_failure_hook({}, ValueError(), None)
    await plugin.async_post_call_failure_deployment_hook({"litellm_logging_obj": object()}, ValueError(), None)
    await plugin.async_post_call_success_deployment_hook({"litellm_logging_obj": object()}, None, None)
    from litellm_otel_plugin import hooks  # noqa: PLC0415 - as above

    hooks.request_authenticated()
    with hooks.request_sent_unannounced("POST"):
        pass
    return [
        "noting a call",
        "noting a hand-off",
        "noting a failed call",
        "noting a failure",
        "noting an authentication",
        "noting a request to a provider",
        "noting a failed attempt",
        "noting an answer",
    ]


async def test_an_error_of_ours_in_any_hook_is_counted_and_ends_there(
    plugin: OtelPlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("litellm_otel_plugin.upstream.own_call", broken)
    monkeypatch.setattr("litellm_otel_plugin.hooks.current_record", broken)
    monkeypatch.setattr(guard, "strict", False)
    guard.counts.clear()
    expected = await _call_every_hook(plugin)
    assert dict(guard.counts) == dict.fromkeys(expected, 1)
    guard.counts.clear()


async def test_hooks_outside_of_a_request_do_nothing(plugin: OtelPlugin) -> None:
    assert current_record() is None
    await _call_every_hook(plugin)


async def test_facts_reach_the_record(plugin: OtelPlugin, record: RequestRecord) -> None:
    await _call_every_hook(plugin)
    assert record.authenticated
    assert isinstance(record.exception, ValueError)
    assert record.handoffs.attempts("a") == 1
    record.forget()
    assert record.exception is None


async def test_what_comes_after_the_answer_changes_nothing(plugin: OtelPlugin, record: RequestRecord) -> None:
    record.finished = True
    await _call_every_hook(plugin)
    assert not record.authenticated
    assert record.exception is None


async def test_a_rejection_that_litellm_announces_as_a_call_is_none(plugin: OtelPlugin, record: RequestRecord) -> None:
    plugin.log_pre_api_call("m", [], {"litellm_call_id": "a", "litellm_no_upstream_llm_call": True})
    assert record.handoffs.attempts("a") == 0

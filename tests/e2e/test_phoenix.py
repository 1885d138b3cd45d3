"""Requests of real clients, through a real proxy with several backends, as a real Phoenix shows them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anthropic
import openai
import pytest

from tests.support import folded
from tests.support.config import PLUGIN
from tests.support.gateway import running
from tests.support.phoenix import Phoenix
from tests.support.provider import ANSWER, Reply
from tests.support.proxy import MASTER_KEY
from tests.support.receiver import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.gateway import Gateway
    from tests.support.phoenix import ShownSpan, ShownTrace

pytestmark = pytest.mark.e2e

PROMPT = "Six times seven, and nobody else may know?"
ANSWERED = "".join(ANSWER)
# What the mock provider says that it has used.
USED = (7, 4)


@dataclass(frozen=True)
class Exchange:
    """One request, and what its client was told of it."""

    traceresponse: str
    route: str
    model: str
    used: tuple[int, int]

    @property
    def trace_id(self) -> str:
        return self.traceresponse.split("-")[1]

    @property
    def server_span_id(self) -> str:
        return self.traceresponse.split("-")[2]


def _openai(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.proxy.url}/v1", api_key=MASTER_KEY, max_retries=0)


def _anthropic(gateway: Gateway) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.proxy.url, api_key=MASTER_KEY, max_retries=0)


def _chat(gateway: Gateway) -> Exchange:
    with _openai(gateway) as client:
        answer = client.chat.completions.with_raw_response.create(
            model="mock", messages=[{"role": "user", "content": PROMPT}]
        )
        assert answer.parse().choices[0].message.content == ANSWERED
    return Exchange(answer.headers["traceresponse"], "/v1/chat/completions", "mock", USED)


def _streamed_chat(gateway: Gateway) -> Exchange:
    with _openai(gateway) as client:
        answer = client.chat.completions.with_raw_response.create(
            model="mock",
            messages=[{"role": "user", "content": PROMPT}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(answer.parse())
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWERED
    # The mock provider's stream has no usage: LiteLLM counts by itself, and tells the client.
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage is not None]
    used = (usage.prompt_tokens, usage.completion_tokens)
    assert min(used) > 0
    return Exchange(answer.headers["traceresponse"], "/v1/chat/completions", "mock", used)


def _messages(gateway: Gateway) -> Exchange:
    with _anthropic(gateway) as client:
        answer = client.messages.with_raw_response.create(
            model="claude", max_tokens=9, messages=[{"role": "user", "content": PROMPT}]
        )
        assert [block.text for block in answer.parse().content if block.type == "text"] == [ANSWERED]
    return Exchange(answer.headers["traceresponse"], "/v1/messages", "claude", USED)


def _streamed_messages(gateway: Gateway) -> Exchange:
    with _anthropic(gateway) as client:
        answer = client.messages.with_raw_response.create(
            model="claude", max_tokens=9, messages=[{"role": "user", "content": PROMPT}], stream=True
        )
        assert [event.type for event in answer.parse()][-1] == "message_stop"
    return Exchange(answer.headers["traceresponse"], "/v1/messages", "claude", USED)


def _failing_chat(gateway: Gateway) -> Exchange:
    gateway.provider.replies.append(Reply(status=429))
    with _openai(gateway) as client, pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model="mock", messages=[{"role": "user", "content": PROMPT}])
    return Exchange(refused.value.response.headers["traceresponse"], "/v1/chat/completions", "mock", (0, 0))


ANSWERING: dict[str, Callable[[Gateway], Exchange]] = {
    "chat": _chat,
    "streamed chat": _streamed_chat,
    "messages": _messages,
    "streamed messages": _streamed_messages,
}
ALL = {**ANSWERING, "failing chat": _failing_chat}


@pytest.fixture(scope="module")
def phoenix() -> Iterator[Phoenix]:
    with Phoenix() as server:
        yield server


def _exchanged(phoenix: Phoenix, capture: str) -> dict[str, Exchange]:
    """One request of each sort. The proxy has stopped when they are looked at: nothing of them is still to come."""
    with OtlpReceiver() as langfuse:
        environment = {
            "PHOENIX_COLLECTOR_HTTP_ENDPOINT": phoenix.traces_endpoint,
            **folded.langfuse(langfuse),
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": capture,
        }
        with running(PLUGIN, "otel", "arize_phoenix", "langfuse_otel", environment=environment) as gateway:
            exchanges = {name: exchange(gateway) for name, exchange in ALL.items()}
    phoenix.settle()
    return exchanges


@pytest.fixture(scope="module")
def with_content(phoenix: Phoenix) -> dict[str, Exchange]:
    return _exchanged(phoenix, "span_only")


@pytest.fixture(scope="module")
def without_content(phoenix: Phoenix) -> dict[str, Exchange]:
    return _exchanged(phoenix, "no_content")


def _assert_whole(trace: ShownTrace, exchange: Exchange) -> ShownSpan:
    """All spans of the request and no other, each below one that is shown too; the model call is returned."""
    names = [f"POST {exchange.route}", f"auth {exchange.route}", f"route {exchange.model}", f"chat {exchange.model}"]
    assert sorted(span.name for span in trace.spans) == sorted(names)
    by_name = {span.name: span for span in trace.spans}
    server, call = by_name[names[0]], by_name[names[-1]]
    assert [span for span in trace.spans if not span.parent_id] == [server]
    assert {span.parent_id for span in trace.spans if span is not server} <= {span.span_id for span in trace.spans}
    assert server.span_id == trace.root_id == exchange.server_span_id
    assert server.attributes["http"]["route"] == exchange.route
    return call


def _assert_counted_once(trace: ShownTrace, call: ShownSpan, exchange: Exchange) -> None:
    total = sum(exchange.used)
    assert call.kind == "llm"
    assert call.tokens == (*exchange.used, total)
    assert [span for span in trace.spans if span.tokens[2]] == [call]
    assert (trace.tokens, trace.charged_tokens) == (total, total)


@pytest.mark.parametrize("name", ANSWERING)
def test_a_request_is_one_whole_trace_with_one_model_call(
    phoenix: Phoenix, with_content: dict[str, Exchange], name: str
) -> None:
    exchange = with_content[name]
    trace = phoenix.trace(exchange.trace_id)
    call = _assert_whole(trace, exchange)
    _assert_counted_once(trace, call, exchange)
    assert json.loads(call.input or "null") == [{"role": "user", "content": PROMPT}]
    assert json.loads(call.output or "null") == [{"role": "assistant", "content": ANSWERED}]
    assert trace.error_count == 0


def test_a_failing_call_is_shown_as_failed(phoenix: Phoenix, with_content: dict[str, Exchange]) -> None:
    exchange = with_content["failing chat"]
    trace = phoenix.trace(exchange.trace_id)
    call = _assert_whole(trace, exchange)
    assert (call.kind, call.status) == ("llm", "ERROR")
    assert "scripted 429" in call.status_message
    assert json.loads(call.input or "null") == [{"role": "user", "content": PROMPT}]
    assert call.output is None
    assert not any(span.tokens[2] for span in trace.spans)
    assert {span.status for span in trace.spans if span.span_id == trace.root_id} == {"ERROR"}
    assert trace.error_count == 2


@pytest.mark.parametrize("name", ALL)
def test_no_content_is_shown_where_capture_is_off(
    phoenix: Phoenix, without_content: dict[str, Exchange], name: str
) -> None:
    exchange = without_content[name]
    trace = phoenix.trace(exchange.trace_id)
    call = _assert_whole(trace, exchange)
    assert call.input is None
    assert PROMPT not in trace.text
    assert ANSWERED not in trace.text
    if name in ANSWERING:
        _assert_counted_once(trace, call, exchange)


@pytest.mark.parametrize("name", ALL)
def test_the_model_call_alone_is_of_the_kind_llm(
    phoenix: Phoenix, with_content: dict[str, Exchange], name: str
) -> None:
    exchange = with_content[name]
    kinds = [span.kind for span in phoenix.trace(exchange.trace_id).spans]
    assert kinds.count("llm") == 1

"""Every attempt at a provider through a real proxy: one CLIENT span each, with its own facts and nobody else's."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from litellm_otel_plugin.request.attempts import FIRST_CHUNK
from tests.support.attempts import (
    CALLERS_SPAN,
    CHAT,
    MESSAGES,
    RESPONSES,
    Attempted,
    Story,
    attempted,
    body,
    gateway_of_attempts,
)
from tests.support.golden import compare_with_golden
from tests.support.provider import Reply
from tests.support.proxy import trace_id_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.gateway import Gateway

DOORS = (CHAT, MESSAGES, RESPONSES)
AT_ONCE = 100
PAIRS_OF_EQUAL_IDS = 120
TOKENS = "gen_ai.usage.output_tokens"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with gateway_of_attempts() as gateway:
        for door in DOORS:  # what LiteLLM loads on a first request would be in the durations of the tests below
            for model in ("pair", "claude"):
                response = gateway.proxy.client.post(door, json=body(door, "hi", model=model))
                assert response.status_code == 200, response.text
        yield gateway


def _ask(gateway: Gateway, story: Story, door: str, **more: Any) -> httpx.Response:
    return gateway.proxy.client.post(door, json=body(door, story.name, **more), headers=story.headers)


def _told_of_their_spans(gateway: Gateway, story: Story, request: Attempted) -> None:
    """Each request at the provider names the span of its own attempt as its parent."""
    asked = [each.headers for each in gateway.provider.requests_of(story.name)]
    parents = [each["traceparent"].split("-")[1:3] for each in asked]
    assert parents == [[story.trace_id, client.span_id] for client in request.clients]
    assert CALLERS_SPAN not in json.dumps(asked)


# --- golden traces ----------------------------------------------------------------------------------------------------


def _golden(name: str, story: Story, request: Attempted) -> None:
    # An answer of Anthropic's at OpenAI's door has an id of LiteLLM's making.
    def masked(text: str) -> str:
        return re.sub(r"chatcmpl-[0-9a-f-]{36}", "<made by LiteLLM>", text.replace(story.name, "story"))

    compare_with_golden(name, request.spans, masked)


def test_golden_retry(gateway: Gateway) -> None:
    story = Story()
    gateway.provider.tell(story.name, Reply(status=500), Reply())
    assert _ask(gateway, story, CHAT, model="pair", num_retries=2).status_code == 200
    request = attempted(gateway, story.trace_id, 2)
    _told_of_their_spans(gateway, story, request)
    _golden("retry", story, request)


def test_golden_three_failures(gateway: Gateway) -> None:
    story = Story()
    gateway.provider.tell(story.name, Reply(status=500), Reply(status=503), Reply(status=429))
    assert _ask(gateway, story, CHAT, model="pair", num_retries=2).status_code == 429
    request = attempted(gateway, story.trace_id, 3)
    _told_of_their_spans(gateway, story, request)
    _golden("three_failures", story, request)


def test_golden_fallback(gateway: Gateway) -> None:
    story = Story()
    gateway.provider.tell(story.name, Reply(status=500), Reply())
    assert _ask(gateway, story, CHAT, model="falls").status_code == 200
    request = attempted(gateway, story.trace_id, 2)
    _told_of_their_spans(gateway, story, request)
    _golden("fallback", story, request)


def test_golden_parallel(gateway: Gateway) -> None:
    story = Story()  # two of one provider: of two providers' either can be the first to be ready to send
    gateway.provider.tell(story.name, Reply(delay=5), model="mock")
    gateway.provider.tell(story.name, Reply(delay=0.3), model="falls")
    assert _ask(gateway, story, CHAT, model="mock,falls", fastest_response=True).status_code == 200
    _golden("parallel", story, attempted(gateway, story.trace_id, 2))


# --- each attempt has its own facts -----------------------------------------------------------------------------------


@pytest.mark.whole_request
@pytest.mark.parametrize("door", DOORS)
def test_three_failures_are_three_spans(gateway: Gateway, door: str) -> None:
    story = Story()
    gateway.provider.tell(story.name, Reply(status=500), Reply(status=503), Reply(status=429))
    response = _ask(gateway, story, door, model="pair", num_retries=2)
    assert response.status_code == 429, response.text
    request = attempted(gateway, story.trace_id, 3)
    assert request.statuses == ["ERROR"] * 3
    assert request.each("error.type") == ["InternalServerError", "ServiceUnavailableError", "RateLimitError"]
    assert request.each("litellm.provider.error.code") == ["500", "503", "429"]
    assert request.each("litellm.attempt.reason") == [None, "retry", "retry"]
    assert all(client.end_ns <= then.start_ns for client, then in itertools.pairwise(request.clients))
    _told_of_their_spans(gateway, story, request)


def test_an_attempt_that_litellm_announces_for_each_input_is_one(gateway: Gateway) -> None:
    gateway.provider.requests.clear()
    response = gateway.proxy.client.post("/v1/embeddings", json={"model": "titan", "input": ["a", "b", "c"]})
    assert response.status_code == 200, response.text
    spans = gateway.trace_of(response, kinds=("SERVER", "CLIENT"))
    (call,) = [span for span in spans if span.kind == "CLIENT"]
    (server,) = [span for span in spans if span.kind == "SERVER"]
    assert (call.status, call.attributes["litellm.attempt"]) == ("UNSET", 1)
    assert server.attributes["litellm.attempts"] == 1
    assert len(gateway.provider.requests) == 3


@pytest.mark.whole_request
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_fallback_is_a_span_with_its_own_model_and_duration(gateway: Gateway, door: str, *, stream: bool) -> None:
    failing, answering = 0.5, 0.2
    story = Story()
    gateway.provider.tell(story.name, Reply(status=500, delay=failing), Reply(delay=answering))
    response = _ask(gateway, story, door, model="falls", stream=stream)
    assert response.status_code == 200, response.text
    request = attempted(gateway, story.trace_id, 2)
    assert request.statuses == ["ERROR", "UNSET"]
    assert request.each("litellm.attempt.reason") == [None, "fallback"]
    assert request.each("gen_ai.request.model") == ["falls", "claude"]
    assert request.each("gen_ai.provider.name") == ["openai", "anthropic"]
    assert request.each("error.type") == ["InternalServerError", None]
    # Each lasts as long as its own part of the script, which a span over both attempts, or over none, would not.
    lasted = [(client.end_ns - client.start_ns) / 1e9 for client in request.clients]
    assert lasted[0] / failing >= 1
    assert 1 <= lasted[1] / answering < (failing + answering) / answering
    provider_ms = request.server.attributes["litellm.provider.duration_ms"]
    assert provider_ms >= (failing + answering) * 1_000
    _told_of_their_spans(gateway, story, request)


@pytest.mark.parametrize("door", [CHAT, MESSAGES, RESPONSES])
def test_a_stream_that_breaks_before_its_first_chunk_falls_back(gateway: Gateway, door: str) -> None:
    """LiteLLM tells of the failure when its notes are those of the next attempt already."""
    story = Story()
    gateway.provider.tell(story.name, Reply(after_chunks=0), Reply())
    response = _ask(gateway, story, door, model="falls", stream=True)
    assert response.status_code == 200
    request = attempted(gateway, story.trace_id, 2)
    assert request.statuses == ["ERROR", "UNSET"]
    assert request.each("gen_ai.request.model") == ["falls", "claude"]
    assert request.each("gen_ai.provider.name") == ["openai", "anthropic"]
    assert request.each("litellm.attempt.reason") == [None, "fallback"]
    failed, answered = request.clients
    assert failed.attributes["error.type"] not in ("superseded", "cancelled")
    assert answered.attributes["gen_ai.usage.output_tokens"] > 0
    assert all(client.attributes.get("gen_ai.response.time_to_first_chunk", 0.0) >= 0 for client in request.clients)


@pytest.mark.whole_request
def test_the_attempt_after_a_broken_stream_has_no_first_chunk_of_that_one(gateway: Gateway) -> None:
    """LiteLLM keeps the first that came, before this one was made."""
    story = Story()
    gateway.provider.tell(story.name, Reply(error_after_chunks=3, chunk_delay=0.1), Reply(chunk_delay=0.1))
    response = _ask(gateway, story, RESPONSES, model="falls", stream=True)
    assert response.status_code == 200, response.text
    request = attempted(gateway, story.trace_id, 2)
    assert request.statuses == ["ERROR", "UNSET"]
    first, second = request.each(FIRST_CHUNK)
    assert 0 < first < (request.clients[0].end_ns - request.clients[0].start_ns) / 1e9
    assert second is None or 0 < second < (request.clients[1].end_ns - request.clients[1].start_ns) / 1e9


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("slow", "fast"), [("mock", "claude"), ("claude", "mock")])
def test_the_slower_of_two_side_by_side_is_cancelled(gateway: Gateway, slow: str, fast: str, *, stream: bool) -> None:
    story = Story()
    asked_as = {"mock": "mock", "claude": "claude-mock"}
    gateway.provider.tell(story.name, Reply(delay=5), model=asked_as[slow])
    gateway.provider.tell(story.name, Reply(delay=0.3, tokens=23), model=asked_as[fast])
    response = _ask(gateway, story, CHAT, model="mock,claude", fastest_response=True, stream=stream)
    assert response.status_code == 200, response.text
    request = attempted(gateway, story.trace_id, 2)
    by_model = {client.attributes["gen_ai.request.model"]: client for client in request.clients}
    assert set(by_model) == {"mock", "claude"}
    providers = {name: client.attributes["gen_ai.provider.name"] for name, client in by_model.items()}
    assert providers == {"mock": "openai", "claude": "anthropic"}
    assert sorted(request.each("litellm.attempt.reason"), key=str) == [None, "parallel"]
    assert (by_model[slow].status, by_model[slow].attributes["error.type"]) == ("ERROR", "cancelled")
    assert by_model[fast].status == "UNSET"
    if not stream:  # a stream of OpenAI's tells no usage unless it is asked to
        assert by_model[fast].attributes[TOKENS] == 23
    for each in gateway.provider.requests_of(story.name):
        asked = "claude" if each.path.endswith("/messages") else "mock"
        assert each.headers["traceparent"].split("-")[2] == by_model[asked].span_id


def test_of_two_side_by_side_one_fails_and_one_answers(gateway: Gateway) -> None:
    story = Story()
    gateway.provider.tell(story.name, Reply(delay=0.5, tokens=23), model="mock")
    gateway.provider.tell(story.name, Reply(status=503, delay=0.1), model="claude-mock")
    response = _ask(gateway, story, CHAT, model="mock,claude", fastest_response=True)
    assert response.status_code == 200, response.text
    request = attempted(gateway, story.trace_id, 2)
    facts = {
        client.attributes["gen_ai.request.model"]: (client.status, client.attributes.get("error.type"))
        for client in request.clients
    }
    assert facts == {"mock": ("UNSET", None), "claude": ("ERROR", "ServiceUnavailableError")}
    assert request.server.attributes["litellm.provider.duration_ms"] >= 500


def test_two_side_by_side_that_both_fail(gateway: Gateway) -> None:
    story = Story()
    gateway.provider.tell(story.name, Reply(status=500, delay=0.3), model="mock")
    gateway.provider.tell(story.name, Reply(status=503, delay=0.1), model="claude-mock")
    response = _ask(gateway, story, CHAT, model="mock,claude", fastest_response=True)
    assert response.status_code >= 400
    request = attempted(gateway, story.trace_id, 2)
    facts = {client.attributes["gen_ai.request.model"]: client.attributes["error.type"] for client in request.clients}
    assert facts == {"mock": "InternalServerError", "claude": "ServiceUnavailableError"}


def test_what_a_caller_opted_out_of_is_not_exported(gateway: Gateway) -> None:
    failed_first, failed, answered = Story(), Story(), Story()
    gateway.provider.tell(failed_first.name, Reply(status=500), Reply())
    gateway.provider.tell(failed.name, Reply(status=500))
    for story, model in ((failed_first, "falls"), (failed, "mock"), (answered, "mock")):
        _ask(gateway, story, CHAT, model=model, **{"no-log": True})
    after = Story()  # LiteLLM tells its loggers of one request after the other
    _ask(gateway, after, CHAT)
    attempted(gateway, after.trace_id, 1)
    for story, attempts in ((failed_first, 2), (failed, 1), (answered, 1)):
        spans = gateway.trace(story.trace_id)
        assert [span.kind for span in spans].count("SERVER") == 1
        assert not [span for span in spans if span.kind == "CLIENT"]
        (server,) = [span for span in spans if span.kind == "SERVER"]
        assert server.attributes["litellm.attempts"] == attempts


@pytest.mark.parametrize(
    ("door", "content"),
    [
        ("/openai/chat/completions", body(CHAT, "{story}")),
        ("/openai/chat/completions", body(CHAT, "{story}", stream=True)),
        ("/anthropic/v1/messages", body(MESSAGES, "{story}", model="claude-mock")),
        ("/v1/embeddings", {"model": "embed", "input": "{story}"}),
        ("/v1/completions", {"model": "mock", "prompt": "{story}"}),
        ("/v1beta/models/mock:generateContent", {"contents": [{"role": "user", "parts": [{"text": "{story}"}]}]}),
    ],
)
def test_the_trace_goes_on_at_the_provider_from_every_door(
    gateway: Gateway, door: str, content: dict[str, Any]
) -> None:
    story = Story()
    filled = json.loads(json.dumps(content).replace("{story}", story.name))
    of_the_caller = {**story.headers, "tracestate": "vendor=secret", "baggage": "who=secret"}
    response = gateway.proxy.client.post(door, json=filled, headers=of_the_caller)
    assert response.status_code == 200, response.text
    request = attempted(gateway, story.trace_id, 1)
    _told_of_their_spans(gateway, story, request)
    (asked,) = gateway.provider.requests_of(story.name)
    assert "secret" not in json.dumps(asked.headers)


# --- the header -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("stream", [False, True])
def test_the_header_says_where_the_time_went(gateway: Gateway, door: str, *, stream: bool) -> None:
    story = Story()
    gateway.provider.tell(story.name, Reply(delay=0.2))
    response = _ask(gateway, story, door, stream=stream)
    (header,) = response.headers.get_list("server-timing")
    said = {name: float(duration) for name, duration in re.findall(r"(\w+);dur=([0-9.]+)", header)}
    assert list(said) == ["preprocessing", "provider", "overhead"]
    went = attempted(gateway, story.trace_id, 1).server.attributes
    assert said["preprocessing"] == pytest.approx(went["litellm.preprocessing.duration_ms"], abs=0.001)
    assert 200 <= said["provider"] <= went["litellm.provider.duration_ms"] + 0.001
    assert said["overhead"] <= went["litellm.overhead.duration_ms"] + 1
    if not stream:
        assert said["provider"] == pytest.approx(went["litellm.provider.duration_ms"], abs=0.001)


# --- many at once -----------------------------------------------------------------------------------------------------

Asked = tuple[str, dict[str, Any], dict[str, str]]


async def _ask_at_once(gateway: Gateway, requests: Sequence[Asked]) -> list[httpx.Response]:
    limits, room = httpx.Limits(max_connections=None, max_keepalive_connections=0), asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(base_url=gateway.proxy.url, timeout=60, limits=limits, trust_env=False) as client:

        async def ask(path: str, content: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
            async with room:
                return await client.post(path, json=content, headers={**gateway.proxy.headers, **headers})

        return await asyncio.gather(*(ask(*each) for each in requests))


# What is scripted, and what each attempt says of it: status at the provider, error, reason.
OUTCOMES: tuple[tuple[str, tuple[tuple[int, str | None, str | None], ...]], ...] = (
    ("mock", ((200, None, None),)),
    ("pair", ((500, "InternalServerError", None), (200, None, "retry"))),
    ("falls", ((503, "ServiceUnavailableError", None), (200, None, "fallback"))),
    (
        "pair",
        (
            (500, "InternalServerError", None),
            (429, "RateLimitError", "retry"),
            (503, "ServiceUnavailableError", "retry"),
        ),
    ),
    ("mock", ((401, "AuthenticationError", None),)),
)


def _tell(gateway: Gateway, n: int, *doors: str) -> tuple[Story, Asked, tuple[tuple[int, str | None, str | None], ...]]:
    model, script = OUTCOMES[n % len(OUTCOMES)]
    door = doors[n % len(doors)]
    story = Story()
    delay = (n % 7) / 50
    gateway.provider.tell(story.name, *(Reply(status=status, tokens=n + 1, delay=delay) for status, *_ in script))
    return (
        story,
        (door, body(door, story.name, model=model, num_retries=2 if model == "pair" else 0), story.headers),
        script,
    )


def _test_stories_at_once(gateway: Gateway, count: int) -> None:
    told = [_tell(gateway, n, *DOORS) for n in range(count)]
    responses = asyncio.run(_ask_at_once(gateway, [asked for _, asked, _ in told]))
    for n, ((story, (door, _, _), script), response) in enumerate(zip(told, responses, strict=True)):
        assert trace_id_of(response) == story.trace_id
        assert response.status_code == script[-1][0], response.text
        request = attempted(gateway, story.trace_id, len(script))
        assert request.server.attributes["url.path"] == door
        assert request.each("error.type") == [error for _, error, _ in script]
        assert request.each("litellm.attempt.reason") == [reason for _, _, reason in script]
        assert request.each(TOKENS) == [n + 1 if status == 200 else 0 for status, *_ in script]
        _told_of_their_spans(gateway, story, request)


def test_no_fact_of_one_story_is_on_the_span_of_another(gateway: Gateway) -> None:
    _test_stories_at_once(gateway, AT_ONCE)


@pytest.mark.slow
def test_no_fact_of_one_story_is_on_the_span_of_another_for_long(gateway: Gateway) -> None:
    _test_stories_at_once(gateway, AT_ONCE * 4)


def test_two_tenants_that_send_the_same_call_id_at_once_stay_apart(gateway: Gateway) -> None:
    requests: list[Asked] = []
    stories = []
    for n in range(PAIRS_OF_EQUAL_IDS):
        for door, tokens in ((CHAT, 1_000 + n), (MESSAGES, 2_000 + n)):
            story = Story()
            gateway.provider.tell(story.name, Reply(delay=0.2, tokens=tokens))
            stories.append((story, door, tokens))
            requests.append((door, body(door, story.name), {**story.headers, "x-litellm-call-id": f"chosen-{n}"}))
    responses = asyncio.run(_ask_at_once(gateway, requests))
    for (story, door, tokens), response in zip(stories, responses, strict=True):
        assert response.status_code == 200, response.text
        request = attempted(gateway, story.trace_id, 1)
        assert request.server.attributes["url.path"] == door
        assert request.each(TOKENS) == [tokens]
        assert request.each("gen_ai.request.model") == ["mock" if door == CHAT else "claude"]
        _told_of_their_spans(gateway, story, request)

"""Guardrails of every make on one real proxy: one span for each run, and what they blocked on no span at all."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.config import PLUGIN, config, provider_environment
from tests.support.gateway import Gateway, running
from tests.support.golden import compare_with_golden
from tests.support.guardrails import BLOCKED, ENTITY, MAKES, MODES, RAISED, STREAMED, guardrails, name_of, pipeline
from tests.support.provider import MockProvider, Reply
from tests.support.proxy import Proxy, trace_id_of
from tests.support.receiver import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.support.receiver import ReceivedSpan

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
SAID = f"I say {BLOCKED}"
BODIES: Mapping[str, dict[str, Any]] = {
    CHAT: {"model": "mock", "messages": [{"role": "user", "content": SAID}]},
    MESSAGES: {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": SAID}]},
    RESPONSES: {"model": "mock", "input": SAID},
}
CALLBACK = "tests.support.guardrails.plain_callback"
# LiteLLM runs no guardrail beside a pass-through's call, and of those on its answer none that are applied by itself.
THROUGH = [
    name_of(make, mode, raises)
    for make in MAKES
    for mode in ("pre_call", "post_call")
    for raises in ("nothing", "http", "guardrail", "own")
    if (make, mode) != ("Applied", "post_call")
]
PIPED = (name_of("Applied", "pre_call", "nothing"), name_of("Undecorated", "pre_call", "own"))
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
IN_FLIGHT = 100
AT_ONCE = 25

Case = tuple[str, str, str, str]
TABLE: list[Case] = [
    (door, make, mode, raises) for door in BODIES for make in MAKES for mode in MODES for raises in RAISED
]
STREAMS: list[Case] = [
    (door, make, "post_call", raises)
    for door, makes in ((CHAT, STREAMED), (MESSAGES, ("OnStream", "Applied")), (RESPONSES, ("OnStream", "Applied")))
    for make in makes
    for raises in RAISED
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with MockProvider() as provider, OtlpReceiver() as collector:
        through = [
            {"path": f"/through/{name}", "target": f"{provider.url}{CHAT}", "guardrails": {name: None}}
            for name in THROUGH
        ]
        document = config(
            provider.url,
            PLUGIN,
            CALLBACK,
            guardrails=guardrails(),
            **pipeline(*PIPED),
            general_settings={"pass_through_endpoints": through},
        )
        environment = {**provider_environment(provider.url), "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with Proxy(document, environment) as proxy:
            yield Gateway(proxy, provider, collector)


async def _send_all(gateway: Gateway, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[httpx.Response]:
    """All of them, as many at once as a proxy of two cores serves without a queue."""
    turn = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(
        base_url=gateway.proxy.url, headers=gateway.proxy.headers, timeout=60, trust_env=False
    ) as client:

        async def send(path: str, body: dict[str, Any]) -> httpx.Response:
            async with turn, client.stream("POST", path, json=body) as response:
                with suppress(httpx.RemoteProtocolError):  # LiteLLM ends some of the blocked streams abruptly
                    await response.aread()
                return response

        return await asyncio.gather(*(send(path, body) for path, body in requests))


def _guarded(door: str, *names: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return door, {**BODIES[door], "guardrails": list(names), **more}


def _send(gateway: Gateway, path: str, body: dict[str, Any]) -> list[ReceivedSpan]:
    (response,) = asyncio.run(_send_all(gateway, [(path, body)]))
    return _trace(gateway, response)


def _trace(gateway: Gateway, response: httpx.Response, guardrails: int = 1) -> list[ReceivedSpan]:
    trace_id = trace_id_of(response)

    def arrived(spans: list[ReceivedSpan]) -> bool:
        mine = [span for span in spans if span.trace_id == trace_id]
        return any(span.kind == "SERVER" for span in mine) and len(_guardrail_spans(mine)) >= guardrails

    gateway.collector.wait_until(arrived)
    return gateway.collector.trace(trace_id)


def _guardrail_spans(spans: Sequence[ReceivedSpan]) -> list[ReceivedSpan]:
    return [span for span in spans if "litellm.guardrail.name" in span.attributes and span.kind == "INTERNAL"
            and span.name.startswith("execute_guardrail ")]  # fmt: skip


def _assert_no_text(spans: Sequence[ReceivedSpan]) -> None:
    assert not [span for span in spans if BLOCKED in str(span)]


def _assert_one_span(spans: Sequence[ReceivedSpan], make: str, mode: str, raises: str) -> None:
    (span,) = _guardrail_spans(spans)
    (server,) = [each for each in spans if each.kind == "SERVER"]
    blocks = raises != "nothing"
    attributes = span.attributes
    assert span.parent_id == server.span_id
    assert span.name == f"execute_guardrail {name_of(make, mode, raises)}"
    assert attributes["litellm.guardrail.name"] == name_of(make, mode, raises)
    assert attributes["litellm.guardrail.mode"] == mode
    assert attributes["litellm.guardrail.status"] == ("guardrail_intervened" if blocks else "success")
    assert attributes["litellm.guardrail.action"] == ("block" if blocks else "allow")
    assert attributes["litellm.guardrail.duration"] > 0
    assert server.start_ns < span.start_ns < span.end_ns
    assert span.status == ("ERROR" if blocks else "UNSET")
    assert attributes.get("error.type") == RAISED[raises]
    assert attributes.get("litellm.guardrail.violation_categories") == ([ENTITY] if raises == "pii" else None)
    _assert_no_text(spans)


@pytest.fixture(scope="module")
def answers(gateway: Gateway) -> dict[Case, httpx.Response]:
    """Every case of the table, sent at once: a span of one on the trace of another would show."""
    responses = asyncio.run(_send_all(gateway, [_guarded(case[0], name_of(*case[1:])) for case in TABLE]))
    return dict(zip(TABLE, responses, strict=True))


@pytest.mark.whole_request
@pytest.mark.parametrize("raises", RAISED)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("door", BODIES)
def test_every_run_is_one_span(
    gateway: Gateway, answers: dict[Case, httpx.Response], door: str, make: str, mode: str, raises: str
) -> None:
    response = answers[door, make, mode, raises]
    assert (response.status_code == 200) == (raises == "nothing"), response.text
    if raises not in ("nothing", "pii"):
        assert BLOCKED in response.text  # the client is told as LiteLLM tells it
    _assert_one_span(_trace(gateway, response), make, mode, raises)


@pytest.fixture(scope="module")
def streamed(gateway: Gateway) -> dict[Case, httpx.Response]:
    requests = [_guarded(case[0], name_of(*case[1:]), stream=True) for case in STREAMS]
    return dict(zip(STREAMS, asyncio.run(_send_all(gateway, requests)), strict=True))


@pytest.mark.whole_request
@pytest.mark.parametrize("case", STREAMS, ids="-".join)
def test_every_run_on_a_stream_is_one_span(gateway: Gateway, streamed: dict[Case, httpx.Response], case: Case) -> None:
    _assert_one_span(_trace(gateway, streamed[case]), *case[1:])


@pytest.mark.whole_request
@pytest.mark.parametrize("name", THROUGH)
def test_every_run_on_a_pass_through_is_one_span(gateway: Gateway, name: str) -> None:
    make, mode, raises = name.split("-")
    spans = _send(gateway, f"/through/{name}", BODIES[CHAT])
    _assert_one_span(spans, make, mode, raises)


def test_several_in_a_row_each_have_theirs(gateway: Gateway) -> None:
    names = [name_of(make, mode, "nothing") for make in MAKES for mode in MODES]
    names.append(name_of("Undecorated", "pre_call+post_call", "nothing"))
    told = [(name, mode) for name in names for mode in name.split("-")[1].split("+")]
    (response,) = asyncio.run(_send_all(gateway, [_guarded(CHAT, *names)]))
    found = [span.attributes for span in _guardrail_spans(_trace(gateway, response, guardrails=len(told)))]
    assert Counter((each["litellm.guardrail.name"], each["litellm.guardrail.mode"]) for each in found) == Counter(told)


def test_what_comes_after_a_block_has_not_run(gateway: Gateway) -> None:
    passing, blocking = name_of("Decorated", "pre_call", "nothing"), name_of("Undecorated", "post_call", "http")
    (response,) = asyncio.run(
        _send_all(gateway, [_guarded(CHAT, passing, blocking, name_of("Decorated", "post_call", "own"))])
    )
    spans = _guardrail_spans(_trace(gateway, response, guardrails=2))
    assert [(span.attributes["litellm.guardrail.name"], span.status) for span in spans] == [
        (passing, "UNSET"),
        (blocking, "ERROR"),
    ]


@pytest.mark.parametrize("make", ["Undecorated", "Decorated"])
def test_a_rejection_that_is_answered_in_place_of_raised(gateway: Gateway, make: str) -> None:
    spans = _send(gateway, *_guarded(CHAT, name_of(make, "pre_call", "text")))
    (span,) = _guardrail_spans(spans)
    assert (span.status, span.attributes["litellm.guardrail.status"]) == ("ERROR", "guardrail_intervened")
    _assert_no_text(spans)


def test_a_guardrail_that_reports_itself_twice_is_one_run(gateway: Gateway) -> None:
    spans = _send(gateway, *_guarded(CHAT, name_of("SelfReporting", "pre_call", "http")))
    (span,) = _guardrail_spans(spans)
    assert span.status == "ERROR"
    assert (span.start_ns, span.end_ns) == (1_700_000_000_100_000_000, 1_700_000_001_900_000_000)
    assert span.attributes["litellm.guardrail.duration"] == 2.0
    assert span.attributes["litellm.guardrail.violation_categories"] == ["secrets"]
    assert span.attributes["litellm.guardrail.response"] == '{"score": 0.9}'
    _assert_no_text(spans)


@pytest.mark.parametrize(("name", "status"), [("BLOCK", "ERROR"), ("MASK", "UNSET")])
def test_a_guardrail_of_litellms_own(gateway: Gateway, name: str, status: str) -> None:
    spans = _send(gateway, *_guarded(CHAT, name))
    (span,) = _guardrail_spans(spans)
    assert (span.status, span.attributes["litellm.guardrail.action"]) == (status, name.lower())
    assert span.attributes["litellm.guardrail.provider"] == "litellm_content_filter"
    _assert_no_text(spans)


def test_a_policys_pipeline(gateway: Gateway) -> None:
    spans = _trace(gateway, gateway.proxy.chat(SAID, model="canned"), guardrails=2)
    found = [(span.attributes["litellm.guardrail.name"], span.status) for span in _guardrail_spans(spans)]
    assert found == [(PIPED[0], "UNSET"), (PIPED[1], "ERROR")]
    _assert_no_text(spans)


def test_a_callback_that_is_no_guardrail_is_told_of_where_it_blocks(gateway: Gateway) -> None:
    assert not _guardrail_spans(_trace(gateway, gateway.proxy.chat("callback, let this pass"), guardrails=0))
    spans = _trace(gateway, gateway.proxy.chat("callback, block this"))
    (span,) = _guardrail_spans(spans)
    assert (span.name, span.status) == ("execute_guardrail PlainCallback", "ERROR")
    assert span.attributes["error.type"] == "ForbiddenTopicError"
    _assert_no_text(spans)


def test_other_failures_keep_their_text(gateway: Gateway) -> None:
    gateway.provider.replies.append(Reply(status=429))
    (response,) = asyncio.run(_send_all(gateway, [_guarded(CHAT, name_of("Undecorated", "pre_call", "nothing"))]))
    spans = gateway.trace_of(response, kinds=("SERVER", "CLIENT"))
    for span in spans:
        if span.kind in ("SERVER", "CLIENT"):
            assert "scripted 429" in span.status_message
            assert "scripted 429" in str(span.events)


def test_a_provider_that_breaks_a_stream_is_no_block(gateway: Gateway) -> None:
    gateway.provider.replies.append(Reply(after_chunks=3, chunk_delay=0.05))
    spans = _send(gateway, *_guarded(CHAT, name_of("OnStream", "post_call", "nothing"), stream=True))
    (span,) = _guardrail_spans(spans)
    assert (span.status, span.attributes["litellm.guardrail.action"]) == ("UNSET", "allow")
    (server,) = [each for each in spans if each.kind == "SERVER"]
    assert server.status == "ERROR"


THOUGHT_ABOUT = [
    (make, door, model)
    for make in ("Buffering", "Pondering")
    for door, model in ((CHAT, "mock"), (CHAT, "claude"), (MESSAGES, "mock"), (MESSAGES, "claude"), (RESPONSES, "mock"))
] + [("PonderingOnChunks", CHAT, "mock")]


@pytest.fixture(scope="module")
def thought_about(gateway: Gateway) -> dict[tuple[str, str, str], list[ReceivedSpan]]:
    """Streams that a guardrail thinks about; another that does not think is on them too."""
    passing = name_of("OnStream", "post_call", "nothing")
    requests = [
        _guarded(door, name_of(make, "post_call", "nothing"), passing, model=model, max_tokens=9, stream=True)
        for make, door, model in THOUGHT_ABOUT
    ]
    for path, body in requests:  # what LiteLLM loads on a first request would be in the durations
        asyncio.run(_send_all(gateway, [(path, {**body, "guardrails": [passing]})]))
    responses = asyncio.run(_send_all(gateway, requests))
    for response in responses:
        gateway.trace_of(response, kinds=("SERVER", "CLIENT"))
    return {
        case: _trace(gateway, response, guardrails=2) for case, response in zip(THOUGHT_ABOUT, responses, strict=True)
    }


@pytest.mark.parametrize(("make", "door", "model"), THOUGHT_ABOUT)
def test_what_a_guardrail_takes_of_a_stream_is_no_providers_time(
    thought_about: dict[tuple[str, str, str], list[ReceivedSpan]], make: str, door: str, model: str
) -> None:
    spans = thought_about[make, door, model]
    (server,) = [span for span in spans if span.kind == "SERVER"]
    (client,) = [span for span in spans if span.kind == "CLIENT"]
    thought = max(span.attributes["litellm.guardrail.duration"] for span in _guardrail_spans(spans)) * 1_000
    assert server.attributes["litellm.provider.duration_ms"] < thought / 2
    assert server.attributes["litellm.overhead.duration_ms"] > thought / 2
    assert client.attributes[OUTPUT_TOKENS] > 0
    lasted = (client.end_ns - client.start_ns) / 1_000_000
    if make == "Buffering":  # the span ends with the provider's last piece, which was there before the thought
        assert lasted < thought / 2


def test_a_client_that_leaves_a_stream(gateway: Gateway) -> None:
    gateway.provider.replies.append(Reply(chunk_delay=0.2))
    path, body = _guarded(CHAT, name_of("OnStream", "post_call", "nothing"), stream=True)
    with gateway.proxy.client.stream("POST", path, json=body) as response:
        next(response.iter_raw())
    (span,) = _guardrail_spans(_trace(gateway, response))
    assert (span.status, span.attributes["litellm.guardrail.action"]) == ("UNSET", "allow")


def test_no_span_is_on_the_trace_of_another_request(gateway: Gateway) -> None:
    names = [name_of(make, mode, raises) for make in MAKES for mode in MODES for raises in ("nothing", "own")]
    chosen = [(names[n % len(names)], names[(n * 7) % len(names)]) for n in range(IN_FLIGHT)]
    requests = [_guarded(list(BODIES)[n % 3], *pair) for n, pair in enumerate(chosen)]
    for pair, response in zip(chosen, asyncio.run(_send_all(gateway, requests)), strict=True):
        spans = _trace(gateway, response)
        told = [span.attributes["litellm.guardrail.name"] for span in _guardrail_spans(spans)]
        assert set(told) <= set(pair)
        blocking = [span for span in _guardrail_spans(spans) if span.status == "ERROR"]
        assert bool(blocking) == any(name.endswith("own") for name in pair)


@pytest.mark.parametrize(
    ("story", "kinds", "names", "more"),
    [
        ("guardrail_undecorated_blocks", ("SERVER",), ["Undecorated-pre_call-guardrail"], {}),
        ("guardrail_decorated_blocks_answer", ("SERVER", "CLIENT"), ["Decorated-post_call-http"], {}),
        (
            "guardrails_pass",
            ("SERVER", "CLIENT"),
            ["Undecorated-during_call-nothing", "Decorated-pre_call-nothing"],
            {},
        ),
        ("guardrail_stops_stream", ("SERVER", "CLIENT"), ["OnStream-post_call-http"], {"stream": True}),
    ],
)
def test_golden_guardrails(
    gateway: Gateway, story: str, kinds: Sequence[str], names: list[str], more: dict[str, Any]
) -> None:
    (response,) = asyncio.run(_send_all(gateway, [_guarded(CHAT, *names, **more)]))
    gateway.trace_of(response, kinds=kinds)
    compare_with_golden(story, _trace(gateway, response, guardrails=len(names)))


@pytest.mark.slow
@pytest.mark.parametrize(("make", "door"), [("Undecorated", CHAT), ("Decorated", MESSAGES)])
def test_the_text_is_there_where_the_operator_captures_content(capturing: Gateway, make: str, door: str) -> None:
    (response,) = asyncio.run(_send_all(capturing, [_guarded(door, name_of(make, "pre_call", "http"))]))
    spans = _trace(capturing, response)
    (server,) = [span for span in spans if span.kind == "SERVER"]
    assert BLOCKED in server.status_message
    assert BLOCKED in str(server.events)


@pytest.fixture(scope="module")
def capturing() -> Iterator[Gateway]:
    switch = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_only"}
    with running(PLUGIN, CALLBACK, guardrails=guardrails(), environment=switch) as gateway:
        yield gateway

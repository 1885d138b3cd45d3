"""Every way a stream can end, through a real proxy: both spans end, once, and say what happened."""

from __future__ import annotations

import asyncio
import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

from litellm_otel_plugin.request.attempts import FIRST_CHUNK
from tests.support.attempts import (
    CHAT,
    MESSAGES,
    RESPONSES,
    Attempted,
    Story,
    body,
    gateway_of_attempts,
    models_that_fail,
    whole,
)
from tests.support.config import PLUGIN
from tests.support.gateway import running
from tests.support.golden import compare_with_golden
from tests.support.provider import ERROR_EVENT, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.gateway import Gateway
    from tests.support.receiver import ReceivedSpan

TOKENS = "gen_ai.usage.output_tokens"
STALL = 4.0


@dataclass(frozen=True)
class Door:
    path: str
    model: str
    impatient: str


# At Anthropic's door OpenAI's models are streamed by an adapter of LiteLLM's, which sends the first event itself.
DOORS = {
    "chat": Door(CHAT, "mock", "hasty"),
    "messages": Door(MESSAGES, "claude", "hasty-claude"),
    "adapted": Door(MESSAGES, "mock", "hasty"),
    "responses": Door(RESPONSES, "mock", "hasty"),
}

READS, LEAVES_IN_THE_MIDDLE, LEAVES_BEFORE_ANYTHING = "reads", "leaves in the middle", "leaves before anything"
ENDINGS: dict[str, tuple[Reply, str]] = {
    "whole": (Reply(tokens=9), READS),
    "the provider breaks off": (Reply(after_chunks=3, chunk_delay=0.05), READS),
    "the provider breaks off at once": (Reply(after_chunks=0), READS),
    "the provider sends an error": (Reply(error_after_chunks=3, chunk_delay=0.05), READS),
    "the provider stalls": (Reply(stalls_after_chunks=3, delay_of_stall=STALL), READS),
    "the client leaves": (Reply(stalls_after_chunks=3, delay_of_stall=STALL), LEAVES_IN_THE_MIDDLE),
    "the client leaves before the provider answers": (Reply(delay=STALL), LEAVES_BEFORE_ANYTHING),
    "the client leaves before the first chunk": (
        Reply(stalls_after_chunks=0, delay_of_stall=STALL),
        LEAVES_BEFORE_ANYTHING,
    ),
}
OF_THE_CLIENT = [name for name in ENDINGS if name.startswith("the client")]
OF_THE_PROVIDER = [name for name in ENDINGS if name.startswith("the provider")]


@dataclass
class Played:
    """What became of a story: what the client got, and the spans."""

    status: int | None
    content: bytes
    spans: list[ReceivedSpan]
    story: Story

    @property
    def request(self) -> Attempted:
        return whole(self.spans, 1)


async def _play(
    gateway: Gateway, client: httpx.AsyncClient, story: Story, door: Door, ending: str
) -> tuple[int | None, bytes]:
    reply, what = ENDINGS[ending]
    gateway.provider.tell(story.name, reply)
    model = door.impatient if ending == "the provider stalls" else door.model
    content = body(door.path, story.name, model=model, stream=True)
    received = bytearray()
    status: int | None = None

    async def read() -> None:
        nonlocal status
        async with client.stream("POST", door.path, json=content, headers=story.headers) as response:
            status = response.status_code
            async for chunk in response.aiter_raw():
                received.extend(chunk)
                if what == LEAVES_IN_THE_MIDDLE:
                    await asyncio.sleep(0.3)
                    return

    reading = asyncio.create_task(read())
    if what == LEAVES_BEFORE_ANYTHING:
        while not gateway.provider.requests_of(story.name):  # noqa: ASYNC110 - the provider runs in a thread
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        reading.cancel()
    (outcome,) = await asyncio.gather(reading, return_exceptions=True)
    assert outcome is None or isinstance(outcome, (httpx.RemoteProtocolError, asyncio.CancelledError)), outcome
    return status, bytes(received)


async def _play_all(gateway: Gateway, stories: dict[tuple[str, str], Story]) -> list[tuple[int | None, bytes]]:
    async with httpx.AsyncClient(
        base_url=gateway.proxy.url, headers=gateway.proxy.headers, timeout=30, trust_env=False
    ) as client:
        return await asyncio.gather(
            *(_play(gateway, client, story, DOORS[door], ending) for (door, ending), story in stories.items())
        )


def _warm_up(gateway: Gateway) -> None:
    for door in DOORS.values():
        for model in (door.model, door.impatient):
            content = body(door.path, "hi", model=model, stream=True)
            assert gateway.proxy.client.post(door.path, json=content).status_code == 200


@pytest.fixture(scope="module")
def played() -> Iterator[dict[tuple[str, str], Played]]:
    """Every story, all at once. The proxy is stopped then, which ends what nobody has told the end of."""
    # Numbered, because LiteLLM counts the tokens of their names.
    stories = {key: Story(f"story-{n:03}") for n, key in enumerate(itertools.product(DOORS, ENDINGS))}
    with gateway_of_attempts() as gateway:
        _warm_up(gateway)
        received = asyncio.run(_play_all(gateway, stories))
        ended = {story.trace_id for story in stories.values()}
        gateway.collector.wait_until(lambda spans: {span.trace_id for span in spans if span.kind == "SERVER"} >= ended)
        gateway.proxy.stop()
        yield {
            key: Played(status, content, gateway.collector.trace(story.trace_id), story)
            for (key, story), (status, content) in zip(stories.items(), received, strict=True)
        }


# --- what both spans say ----------------------------------------------------------------------------------------------


def _of(played: dict[tuple[str, str], Played], door: str, ending: str) -> tuple[Attempted, Played]:
    one = played[door, ending]
    (server,) = [span for span in one.spans if span.kind == "SERVER"]
    (client,) = [span for span in one.spans if span.kind == "CLIENT"]
    request = whole(one.spans, 1)
    assert (request.server, request.clients) == (server, [client])
    assert server.attributes["http.route"] == DOORS[door].path
    # What nobody told the end of ends with its request, and not when the proxy is stopped.
    assert client.end_ns - client.start_ns < 1.5 * (server.end_ns - server.start_ns)
    return request, one


@pytest.mark.parametrize("door", DOORS)
def test_a_whole_stream(played: dict[tuple[str, str], Played], door: str) -> None:
    request, one = _of(played, door, "whole")
    assert (one.status, request.server.attributes["http.response.status_code"]) == (200, 200)
    assert (request.server.status, request.statuses) == ("UNSET", ["UNSET"])
    assert "error.type" not in request.server.attributes
    (call,) = request.clients
    assert 0 <= call.attributes[FIRST_CHUNK] * 1_000_000_000 <= call.end_ns - call.start_ns
    if door != "chat":  # OpenAI's streams tell no usage unless they are asked to; LiteLLM counts what it can
        assert request.each(TOKENS) == [9]


# LiteLLM passes it on and calls the stream answered.
ERROR_OF_ANTHROPICS = ("messages", "the provider sends an error")


@pytest.mark.parametrize(
    ("door", "ending"),
    [(door, ending) for door in DOORS for ending in OF_THE_PROVIDER if (door, ending) != ERROR_OF_ANTHROPICS],
)
def test_a_providers_failure_ends_both_spans_with_its_name(
    played: dict[tuple[str, str], Played], door: str, ending: str
) -> None:
    request, one = _of(played, door, ending)
    assert request.server.attributes["http.response.status_code"] == one.status
    if ending != "the provider breaks off at once":  # by then LiteLLM has answered at some doors, at others not yet
        assert one.status == 200
        assert "error.code" not in request.server.attributes
    for span in (request.server, *request.clients):
        assert span.status == "ERROR"
        name = span.attributes["error.type"]
        assert name.endswith(("Error", "Exception", "Timeout")), name
        assert name not in ("ProxyException", "HTTPException")
        assert [event.name for event in span.events].count("exception") == 1
    if ending == "the provider stalls":
        assert request.each("error.type") == ["ReadTimeout"]
    # What was answered so far; the other doors' adapters drop what they have read by then.
    if b"The" in one.content and door in ("chat", "messages"):
        assert request.clients[0].attributes[TOKENS] > 0


def test_an_error_that_anthropic_sends_ends_both_spans_with_its_name(played: dict[tuple[str, str], Played]) -> None:
    request, one = _of(played, *ERROR_OF_ANTHROPICS)
    assert (one.status, request.server.attributes["http.response.status_code"]) == (200, 200)
    for span in (request.server, *request.clients):
        assert (span.status, span.attributes["error.type"]) == ("ERROR", ERROR_EVENT["error"]["type"])


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("ending", OF_THE_CLIENT)
def test_a_client_that_leaves_is_what_ended_both_spans(
    played: dict[tuple[str, str], Played], door: str, ending: str
) -> None:
    request, one = _of(played, door, ending)
    assert request.server.attributes["http.response.status_code"] == (499 if one.status is None else one.status)
    assert [span.status for span in (request.server, *request.clients)] == ["ERROR"] * 2
    assert [span.attributes["error.type"] for span in (request.server, *request.clients)] == ["client_disconnected"] * 2
    assert ("litellm.time_to_first_byte_ms" in request.server.attributes) == bool(one.content)
    if ending == "the client leaves":
        assert one.status == 200
        assert request.clients[0].attributes[TOKENS] > 0


def _golden(name: str, one: Played) -> None:
    compare_with_golden(name, one.spans, lambda text: text.replace(one.story.name, "story"))


def test_golden_client_left(played: dict[tuple[str, str], Played]) -> None:
    _golden("client_left", played["chat", "the client leaves"])


def test_golden_client_left_before_the_first_chunk(played: dict[tuple[str, str], Played]) -> None:
    _golden("client_left_before_the_first_chunk", played["messages", "the client leaves before the first chunk"])


def test_golden_stalled(played: dict[tuple[str, str], Played]) -> None:
    _golden("stalled", played["messages", "the provider stalls"])


# --- what the client gets ---------------------------------------------------------------------------------------------


def _without_ids(content: bytes) -> bytes:
    """LiteLLM makes some ids and times anew for each answer, and writes others into tokens of its own."""
    content = re.sub(rb'"(id|item_id)": ?"(msg_|resp_)[^"]+"', rb'"\1":<made>', content)
    return re.sub(rb'"created": ?\d+', b'"created":<now>', content)


def test_chunks_pass_through_untouched_also_where_our_hooks_raise(played: dict[tuple[str, str], Played]) -> None:
    with running(
        PLUGIN,
        "tests.support.broken_hooks.broken_hooks",
        environment={"LITELLM_OTEL_PLUGIN_STRICT": "false", "LITELLM_OTEL_PLUGIN_PROPAGATE": "true"},
        expects_contained=True,
        model_list=models_that_fail,
    ) as gateway:
        for name, door in DOORS.items():
            story = Story()
            gateway.provider.tell(story.name, ENDINGS["whole"][0])
            content = body(door.path, story.name, model=door.model, stream=True)
            response = gateway.proxy.client.post(door.path, json=content)
            assert response.status_code == 200
            expected = played[name, "whole"].content
            assert len(expected) > 900
            assert _without_ids(response.content) == _without_ids(expected)
        assert "internal error while stamping a response" in gateway.proxy.log
        assert "internal error while noting a hand-off" in gateway.proxy.log

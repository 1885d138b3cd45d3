"""Clients that do not wait for their answer, on every server that LiteLLM runs on."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.config import PLUGIN
from tests.support.gateway import Gateway, running
from tests.support.provider import Reply
from tests.support.proxy import trace_id_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.receiver import ReceivedSpan

CHAT = "/v1/chat/completions"
SAYS_HI: dict[str, Any] = {"model": "mock", "messages": [{"role": "user", "content": "hi"}]}
WHOLE_ANSWERS: dict[str, dict[str, Any]] = {
    CHAT: SAYS_HI,
    "/v1/messages": {**SAYS_HI, "model": "claude", "max_tokens": 9},
    "/v1/responses": {"model": "mock", "input": "hi"},
    "/v1/embeddings": {"model": "embed", "input": "hi"},
    "/openai/v1/chat/completions": SAYS_HI,
}
TOKENS = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
# A client's patience, and a provider that needs longer.
PATIENCE = 0.7
THINKS = 2.0


@pytest.fixture(
    scope="module",
    params=[
        pytest.param([], id="uvicorn"),
        pytest.param(["--run_granian"], id="granian", marks=pytest.mark.slow),
        pytest.param(["--run_hypercorn"], id="hypercorn", marks=pytest.mark.slow),
    ],
)
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    with running(PLUGIN, flags=request.param) as gateway:
        yield gateway


def _left(gateway: Gateway, path: str, body: dict[str, Any], reply: Reply) -> tuple[ReceivedSpan, ReceivedSpan]:
    """The SERVER and the CLIENT span of a request whose client left while the provider was thinking."""
    gateway.provider.replies.append(reply)
    trace_id = uuid.uuid4().hex
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    with pytest.raises(httpx.ReadTimeout):
        gateway.proxy.client.post(path, json=body, headers=headers, timeout=PATIENCE)
    return _ends(gateway.trace(trace_id, kinds=("SERVER", "CLIENT")))


def _ends(spans: list[ReceivedSpan]) -> tuple[ReceivedSpan, ReceivedSpan]:
    (server,) = [span for span in spans if span.kind == "SERVER"]
    (client,) = [span for span in spans if span.kind == "CLIENT"]
    return server, client


@pytest.mark.parametrize("path", WHOLE_ANSWERS)
def test_an_answer_that_is_not_streamed(gateway: Gateway, path: str) -> None:
    """LiteLLM does not look, and answers into the closed connection."""
    server, client = _left(gateway, path, WHOLE_ANSWERS[path], Reply(delay=THINKS))
    assert server.attributes["http.response.status_code"] == 499
    assert (server.status, server.attributes["error.type"]) == ("ERROR", "client_disconnected")
    assert "litellm.time_to_first_byte_ms" not in server.attributes
    assert server.attributes["litellm.provider.duration_ms"] > 0.9 * 1_000 * THINKS
    # The provider answered all the same, and has its price.
    stayed = gateway.proxy.client.post(path, json=WHOLE_ANSWERS[path])
    served, answered = _ends(gateway.trace_of(stayed, kinds=("SERVER", "CLIENT")))
    assert served.attributes["http.response.status_code"] == 200
    assert (client.status, client.attributes.get("error.type")) == (answered.status, None)
    assert [client.attributes.get(name) for name in TOKENS] == [answered.attributes.get(name) for name in TOKENS]


def test_a_failure(gateway: Gateway) -> None:
    server, client = _left(gateway, CHAT, SAYS_HI, Reply(delay=THINKS, status=429))
    assert server.attributes["http.response.status_code"] == 499
    assert (server.attributes["error.type"], client.attributes["error.type"]) == ("RateLimitError",) * 2


def test_before_the_first_byte_of_a_stream(gateway: Gateway) -> None:
    server, client = _left(gateway, CHAT, {**SAYS_HI, "stream": True}, Reply(delay=THINKS))
    assert server.attributes["http.route"] == CHAT
    assert server.attributes["http.response.status_code"] == 499
    assert (server.attributes["error.type"], client.attributes["error.type"]) == ("client_disconnected",) * 2


def test_in_the_middle_of_a_stream(gateway: Gateway) -> None:
    gateway.provider.replies.append(Reply(chunk_delay=0.4))
    with gateway.proxy.client.stream("POST", CHAT, json={**SAYS_HI, "stream": True}) as response:
        trace_id = trace_id_of(response)
        next(response.iter_raw())
    server, client = _ends(gateway.trace(trace_id, kinds=("SERVER", "CLIENT")))
    assert server.attributes["http.response.status_code"] == 200
    assert (server.attributes["error.type"], client.attributes["error.type"]) == ("client_disconnected",) * 2

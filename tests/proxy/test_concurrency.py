"""Many requests in flight at once: no fact of one on the span of another."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.gateway import Gateway, running
from tests.support.provider import Reply
from tests.support.proxy import trace_id_of

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_FLIGHT = 200
PREPROCESSING = "litellm.preprocessing.duration_ms"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with running() as gateway:
        yield gateway


async def _send_all(gateway: Gateway, requests: list[tuple[str, dict[str, Any], dict[str, str]]]) -> list[Any]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=gateway.proxy.url, timeout=60, limits=limits, trust_env=False) as client:
        return await asyncio.gather(
            *(
                client.post(path, json=body, headers={**gateway.proxy.headers, **headers})
                for path, body, headers in requests
            )
        )


def test_routes_callers_and_outcomes_stay_with_their_request(gateway: Gateway) -> None:
    def request(n: int) -> tuple[str, dict[str, Any], dict[str, str]]:
        trace = {"traceparent": f"00-{uuid.uuid4().hex}-00f067aa0ba902b7-01", "user-agent": f"caller/{n}"}
        hello = [{"role": "user", "content": str(n)}]
        return (
            ("/v1/chat/completions", {"model": "mock", "messages": hello, "stream": n % 8 == 0}, trace),
            ("/v1/messages", {"model": "claude", "max_tokens": 9, "messages": hello}, trace),
            ("/v1/embeddings", {"model": "embed", "input": str(n)}, trace),
            (f"/nope/{n}", {}, trace),
        )[n % 4]

    requests = [request(n) for n in range(IN_FLIGHT)]
    responses = asyncio.run(_send_all(gateway, requests))
    for (path, _body, headers), response in zip(requests, responses, strict=True):
        trace_id = headers["traceparent"].split("-")[1]
        assert trace_id_of(response) == trace_id
        reached = not path.startswith("/nope")
        spans = gateway.trace(trace_id, kinds=("SERVER", "CLIENT") if reached else ("SERVER",))
        whole: dict[str, int] = {"SERVER": 1, "INTERNAL": 2, "CLIENT": 1} if reached else {"SERVER": 1}
        assert dict(Counter(span.kind for span in spans)) == whole
        (server,) = [span for span in spans if span.kind == "SERVER"]
        attributes = server.attributes
        assert attributes["url.path"] == path
        assert attributes.get("http.route") == (path if reached else None)
        assert attributes["user_agent.original"] == headers["user-agent"]
        assert attributes["http.response.status_code"] == response.status_code == (200 if reached else 404)
        assert attributes.get("litellm.call_id") == response.headers.get("x-litellm-call-id")
        assert attributes["litellm.attempts"] == int(reached)
        assert (PREPROCESSING in attributes) == reached


def test_two_requests_with_the_same_client_chosen_call_id_do_not_mix(gateway: Gateway) -> None:
    pairs = 20
    gateway.provider.replies.extend([Reply(delay=0.3)] * pairs * 2)
    requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
    for n in range(pairs):
        same = {"x-litellm-call-id": f"chosen-{n}"}
        hello = [{"role": "user", "content": str(n)}]
        requests.append(("/v1/chat/completions", {"model": "mock", "messages": hello}, same))
        requests.append(("/v1/messages", {"model": "claude", "max_tokens": 9, "messages": hello}, same))
    responses = asyncio.run(_send_all(gateway, requests))
    assert len({trace_id_of(response) for response in responses}) == 2 * pairs
    for (path, _body, headers), response in zip(requests, responses, strict=True):
        server = gateway.server_span(response)
        assert server.attributes["url.path"] == path
        assert server.attributes["litellm.call_id"] == headers["x-litellm-call-id"]
        assert server.attributes["litellm.attempts"] == 1
        assert server.attributes[PREPROCESSING] > 0
        assert server.attributes["http.response.status_code"] == 200

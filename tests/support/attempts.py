"""A gateway whose models fail, are tried again and fall back, and what a trace says of their attempts."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.config import models
from tests.support.gateway import Gateway, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.receiver import ReceivedSpan

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"


def models_that_fail(provider_url: str) -> list[dict[str, Any]]:
    """``pair`` has two deployments, so that the router tries again at once; ``falls`` falls back to ``claude``."""
    openai = {"api_key": "sk-provider", "api_base": f"{provider_url}/v1", "num_retries": 0}
    pair = {"model_name": "pair", "litellm_params": {"model": "openai/pair", **openai}}
    claude = {
        "model": "anthropic/claude-hasty", "api_key": "sk-ant-provider", "api_base": provider_url, "num_retries": 0,
        "timeout": SECONDS_OF_PATIENCE,
    }  # fmt: skip
    return [
        *models(provider_url),
        {
            "model_name": "titan",
            "litellm_params": {
                "model": "bedrock/amazon.titan-embed-text-v1",
                "aws_bedrock_runtime_endpoint": provider_url,
                "aws_access_key_id": "an-id",
                "aws_secret_access_key": "a-key",
                "aws_region_name": "us-east-1",
            },
        },
        {**pair, "model_info": {"id": "pair-1"}},
        {**pair, "model_info": {"id": "pair-2"}},
        {"model_name": "falls", "litellm_params": {"model": "openai/falls", **openai}},
        {
            "model_name": "hasty",
            "litellm_params": {"model": "openai/hasty", **openai, "timeout": SECONDS_OF_PATIENCE},
        },
        {"model_name": "hasty-claude", "litellm_params": claude},
    ]


# For how long the hasty models wait for the next bytes of a provider that has stalled.
SECONDS_OF_PATIENCE = 1.0


def body(door: str, content: str, *, model: str | None = None, **more: Any) -> dict[str, Any]:
    """A request to a door; at ``/v1/messages`` ``claude`` answers unless another is named."""
    if door == RESPONSES:
        return {"model": model or "mock", "input": content, **more}
    messages = [{"role": "user", "content": content}]
    if door == MESSAGES:
        return {"model": model or "claude", "max_tokens": 9, "messages": messages, **more}
    return {"model": model or "mock", "messages": messages, **more}


@dataclass
class Story:
    """A request that can be told from all others, at the provider and at the receiver."""

    name: str = field(default_factory=lambda: f"story-{uuid.uuid4().hex[:12]}")
    trace_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def headers(self) -> dict[str, str]:
        return {"traceparent": f"00-{self.trace_id}-{CALLERS_SPAN}-01"}


CALLERS_SPAN = "00f067aa0ba902b7"


@dataclass
class Attempted:
    """The spans of one request."""

    server: ReceivedSpan
    clients: list[ReceivedSpan]
    spans: list[ReceivedSpan]

    def each(self, name: str) -> list[Any]:
        """An attribute of each attempt, in order."""
        return [client.attributes.get(name) for client in self.clients]

    @property
    def statuses(self) -> list[str]:
        return [client.status for client in self.clients]


def attempted(gateway: Gateway, trace_id: str, attempts: int) -> Attempted:
    """The spans of a request once those of so many attempts have arrived, held against what always holds."""

    def arrived(spans: Sequence[ReceivedSpan]) -> bool:
        kinds = [span.kind for span in spans if span.trace_id == trace_id]
        return kinds.count("SERVER") == 1 and kinds.count("CLIENT") >= attempts

    gateway.collector.wait_until(arrived)
    return whole(gateway.collector.trace(trace_id), attempts)


def whole(spans: list[ReceivedSpan], attempts: int) -> Attempted:
    """What always holds of a request's spans."""
    (server,) = [span for span in spans if span.kind == "SERVER"]
    clients = sorted((span for span in spans if span.kind == "CLIENT"), key=lambda span: span.start_ns)
    assert [client.attributes["litellm.attempt"] for client in clients] == list(range(1, attempts + 1))
    assert server.attributes["litellm.attempts"] == attempts
    for client in clients:
        assert client.parent_id == server.span_id
        assert server.start_ns <= client.start_ns <= client.end_ns
        assert ("error.type" in client.attributes) == (client.status == "ERROR")
    adds_up(server)
    return Attempted(server, clients, spans)


def adds_up(server: ReceivedSpan) -> None:
    """Where the time went is on the span, and it fits into it."""
    went = server.attributes
    total = went["litellm.overhead.duration_ms"] + went["litellm.provider.duration_ms"]
    assert 0 < went["litellm.preprocessing.duration_ms"] <= total
    assert total <= (server.end_ns - server.start_ns) / 1_000_000
    assert went.get("litellm.time_to_first_byte_ms", total) <= total + 1


@contextmanager
def gateway_of_attempts() -> Iterator[Gateway]:
    """A proxy that tells the provider of its attempts' spans, and the client where the time went."""
    with running(
        environment={"LITELLM_OTEL_PLUGIN_PROPAGATE": "true", "LITELLM_OTEL_PLUGIN_SERVER_TIMING": "true"},
        model_list=models_that_fail,
        router_settings={"fallbacks": [{"falls": ["claude"]}], "disable_cooldowns": True, "num_retries": 0},
    ) as gateway:
        yield gateway

"""Requests that share a connection, at a real server: what it does with contexts is half of what is tested."""

from __future__ import annotations

import json
import re
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI, Request
from opentelemetry import baggage, context
from opentelemetry.trace import SpanKind

from litellm_otel_plugin.request.mount import mount
from litellm_otel_plugin.request.record import current_record
from litellm_otel_plugin.request.untraced import leave_out_untraced
from tests.support import patience
from tests.support.server import ServerThread
from tests.support.spans import SpanMemory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from litellm_otel_plugin.settings import RemoteParent

IDENTITY = "litellm.team.id"
# Longer than what a server reads ahead: it stops reading until the application asks for more.
LARGE = 400_000


def _application() -> FastAPI:
    app = FastAPI()

    @app.post("/say/{who}")
    async def say(who: str, request: Request) -> dict[str, Any]:
        """As LiteLLM does, leave in the context who asked."""
        found = baggage.get_baggage(IDENTITY)
        context.attach(baggage.set_baggage(IDENTITY, who))
        await request.body()
        record = current_record()
        return {"found": found, "mine": record is not None and record.scope["path"] == f"/say/{who}"}

    return app


@contextmanager
def _served(
    memory: SpanMemory, *, loop: Literal["auto", "asyncio"] = "auto", remote_parent: RemoteParent = "continue"
) -> Iterator[ServerThread]:
    app = _application()
    app.middleware_stack = app.build_middleware_stack()
    mount(
        app,
        tracer_provider=memory.provider,
        legacy_names=False,
        excluded_paths="/say/untraced",
        remote_parent=remote_parent,
    )
    leave_out_untraced(memory.provider)
    server = ServerThread(app, loop=loop)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _pipelined(server: ServerThread, *who: str) -> list[dict[str, Any]]:
    """The answers to requests that were sent at once on one connection."""
    last = len(who) - 1
    requests = [
        f"POST /say/{each} HTTP/1.1\r\nhost: gateway\r\ncontent-length: 2\r\n"
        f"connection: {'close' if n == last else 'keep-alive'}\r\n\r\n{{}}"
        for n, each in enumerate(who)
    ]
    with socket.create_connection(("127.0.0.1", server.port), timeout=patience.SECONDS) as connection:
        connection.sendall("".join(requests).encode())
        answered = b"".join(iter(lambda: connection.recv(65_536), b""))
    return [json.loads(answer) for answer in re.findall(rb"\{.*?\}", answered)]


def _assert_apart(memory: SpanMemory, answers: list[dict[str, Any]]) -> None:
    assert answers == [{"found": None, "mine": True}] * len(answers)
    spans = memory.spans
    assert [(span.kind, span.parent) for span in spans] == [(SpanKind.SERVER, None)] * len(answers)
    assert len({span.context.trace_id for span in spans}) == len(answers)


@pytest.mark.parametrize("remote_parent", ["continue", "link", "ignore"])
@pytest.mark.parametrize("loop", ["auto", "asyncio"])
def test_requests_sent_at_once(loop: Literal["auto", "asyncio"], remote_parent: RemoteParent) -> None:
    memory = SpanMemory()
    with _served(memory, loop=loop, remote_parent=remote_parent) as server:
        answers = _pipelined(server, "ann", "bob", "cid")
    assert len(answers) == 3
    _assert_apart(memory, answers)


@pytest.mark.parametrize("loop", ["auto", "asyncio"])
def test_requests_after_one_with_a_large_body(loop: Literal["auto", "asyncio"]) -> None:
    memory = SpanMemory()
    with _served(memory, loop=loop) as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        answers = [client.post("/say/ann", content=b"x" * LARGE).json()]
        answers += [client.post(f"/say/{who}", content=b"{}").json() for who in ("bob", "cid")]
    _assert_apart(memory, answers)


def test_a_request_after_one_that_is_not_traced() -> None:
    memory = SpanMemory()
    with _served(memory) as server:
        answers = _pipelined(server, "untraced", "bob")
    assert answers == [{"found": None, "mine": False}, {"found": None, "mine": True}]
    assert memory.only().kind is SpanKind.SERVER


async def test_a_request_that_another_one_makes_is_part_of_it() -> None:
    memory, app = SpanMemory(), _application()

    @app.post("/ask")
    async def ask() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            return (await client.post("/say/ann", content=b"{}")).json()

    app.middleware_stack = app.build_middleware_stack()
    mount(app, tracer_provider=memory.provider, legacy_names=False, excluded_paths="")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        await client.post("/ask")
    inner, outer = memory.spans
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id

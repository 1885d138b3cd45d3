"""A caller's trace: continued, linked or ignored, on real applications with a real SDK and contrib's middleware."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket
from opentelemetry import baggage, propagate, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import SpanKind

from litellm_otel_plugin.guard import guard
from litellm_otel_plugin.request.caller import CallersTraceLayer
from litellm_otel_plugin.request.layer import RequestLayer
from litellm_otel_plugin.request.mount import mount
from litellm_otel_plugin.request.own_context import OwnContextLayer
from tests.support.spans import SpanMemory

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan

    from litellm_otel_plugin.settings import RemoteParent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
CALLER = {"tracestate": "vendor=secret", "baggage": "litellm.team.id=somebody", "x-mine": "kept"}
MALFORMED = ["", "00", f"00-{TRACE}-{SPAN}", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE.upper()}x-{SPAN}-01", "\xff"]


def build_application() -> FastAPI:
    app = FastAPI()

    @app.get("/seen")
    async def seen(request: Request) -> dict[str, Any]:
        return {"headers": dict(request.headers), "baggage": dict(baggage.get_all())}

    @app.websocket("/talk")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    return app


class Caller:
    """Somebody who calls an application that is mounted with one of the settings."""

    def __init__(self, remote_parent: RemoteParent) -> None:
        self.memory = SpanMemory()
        self.app = build_application()
        self.app.middleware_stack = self.app.build_middleware_stack()
        self._remote_parent = remote_parent
        self.mount()

    def mount(self) -> None:
        mount(
            self.app,
            tracer_provider=self.memory.provider,
            legacy_names=False,
            excluded_paths="",
            remote_parent=self._remote_parent,
        )

    async def get(self, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            return await client.get("/seen", headers=encoded)

    async def talk(self, **headers: str) -> list[MutableMapping[str, Any]]:
        incoming = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> Any:
            return incoming.pop(0) if incoming else await asyncio.sleep(60)

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "websocket", "path": "/talk", "raw_path": b"/talk", "query_string": b"", "scheme": "ws",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "server": ("gateway", 80), "client": ("caller", 1), "subprotocols": [],
        }  # fmt: skip
        before = {**scope}
        await self.app(scope, receive, send)
        assert scope["headers"] == before["headers"]
        return sent


def _ids(span: ReadableSpan) -> tuple[str, str]:
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def _links(span: ReadableSpan) -> list[tuple[str, str]]:
    return [(f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") for link in span.links]


async def test_a_callers_trace_is_continued_by_default() -> None:
    caller = Caller("continue")
    response = await caller.get(traceparent=SAMPLED, **CALLER)
    span = caller.memory.only()
    assert span.parent is not None
    assert (_ids(span)[0], f"{span.parent.span_id:016x}", span.links) == (TRACE, SPAN, ())
    assert response.json()["baggage"] == {"litellm.team.id": "somebody"}
    assert response.json()["headers"].items() >= {"traceparent": SAMPLED, **CALLER}.items()


async def test_a_caller_that_does_not_sample_is_continued_without_a_span() -> None:
    caller = Caller("continue")
    response = await caller.get(traceparent=UNSAMPLED)
    assert not caller.memory.spans
    assert response.headers["traceresponse"].startswith(f"00-{TRACE}-")


@pytest.mark.parametrize("remote_parent", ["link", "ignore"])
@pytest.mark.parametrize("traceparent", [SAMPLED, UNSAMPLED])
async def test_a_trace_of_its_own(remote_parent: RemoteParent, traceparent: str) -> None:
    caller = Caller(remote_parent)
    response = await caller.get(traceparent=traceparent, **CALLER)
    span = caller.memory.only()
    trace_id, span_id = _ids(span)
    assert trace_id != TRACE
    assert (span.parent, span.kind, len(span.context.trace_state)) == (None, SpanKind.SERVER, 0)
    assert _links(span) == ([(TRACE, SPAN)] if remote_parent == "link" else [])
    assert response.headers["traceresponse"].startswith(f"00-{trace_id}-{span_id}-")
    # LiteLLM would take a trace, a session and a parent from them by itself.
    assert response.json()["baggage"] == {}
    assert response.json()["headers"].keys().isdisjoint({"traceparent", "tracestate", "baggage"})
    assert response.json()["headers"]["x-mine"] == "kept"


@pytest.mark.parametrize("remote_parent", ["continue", "link", "ignore"])
@pytest.mark.parametrize("traceparent", MALFORMED)
async def test_a_malformed_traceparent_is_none(remote_parent: RemoteParent, traceparent: str) -> None:
    caller = Caller(remote_parent)
    response = await caller.get(traceparent=traceparent, tracestate="vendor=secret")
    span = caller.memory.only()
    assert (response.status_code, span.parent, span.links) == (200, None, ())
    assert _ids(span)[0] != TRACE


@pytest.mark.parametrize("remote_parent", ["link", "ignore"])
async def test_baggage_alone_is_not_taken_either(remote_parent: RemoteParent) -> None:
    caller = Caller(remote_parent)
    assert (await caller.get(baggage="litellm.team.id=somebody")).json()["baggage"] == {}
    assert caller.memory.only().links == ()


async def test_no_link_is_left_to_the_next_request() -> None:
    caller = Caller("link")
    await caller.get(traceparent=SAMPLED)
    await caller.get()
    assert [_links(span) for span in caller.memory.spans] == [[(TRACE, SPAN)], []]


@pytest.mark.parametrize("remote_parent", ["link", "ignore"])
async def test_websockets(remote_parent: RemoteParent) -> None:
    caller = Caller(remote_parent)
    sent = await caller.talk(traceparent=UNSAMPLED)
    span = caller.memory.only()
    assert (span.parent, _links(span)) == (None, [(TRACE, SPAN)] if remote_parent == "link" else [])
    assert dict(sent[0]["headers"])[b"traceresponse"].decode().split("-")[1:3] == list(_ids(span))


class OwnPropagator(TextMapPropagator):
    """An operator's own format, as `OTEL_PROPAGATORS` can name one."""

    def extract(self, carrier: Any, context: Context | None = None, getter: Any = None) -> Context:
        (value,) = getter.get(carrier, "x-own-trace") or ("0-0",)
        trace_id, span_id = (int(part, 16) for part in value.split("-"))
        remote = trace.SpanContext(trace_id, span_id, is_remote=True)
        return trace.set_span_in_context(trace.NonRecordingSpan(remote), context)

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = None) -> None:
        raise NotImplementedError

    @property
    def fields(self) -> set[str]:
        return {"x-own-trace"}


async def test_other_formats_of_propagation() -> None:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(OwnPropagator())
    try:
        caller = Caller("link")
        response = await caller.get(**{"x-own-trace": f"{TRACE}-{SPAN}", "traceparent": f"00-{'1' * 32}-{SPAN}-01"})
    finally:
        propagate.set_global_textmap(before)
    assert _links(caller.memory.only()) == [(TRACE, SPAN)]
    assert response.json()["headers"].keys().isdisjoint({"traceparent", "x-own-trace"})


async def test_an_error_of_ours_costs_the_link_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    caller = Caller("link")
    monkeypatch.setattr(guard, "strict", False)
    monkeypatch.setattr("litellm_otel_plugin.request.caller._span_context_in", broken)
    response = await caller.get(traceparent=SAMPLED)
    guard.counts.clear()
    assert response.status_code == 200
    span = caller.memory.only()
    assert (span.parent, span.links) == (None, ())
    assert "traceparent" not in response.json()["headers"]


def test_the_chain_can_be_walked_and_is_mounted_once() -> None:
    caller = Caller("ignore")
    outermost: Any = caller.app.middleware_stack
    assert [type(link) for link in (outermost, outermost.app, outermost.app.app, outermost.app.app.app)] == [
        OwnContextLayer,
        CallersTraceLayer,
        OpenTelemetryMiddleware,
        RequestLayer,
    ]
    caller.mount()
    assert caller.app.middleware_stack is outermost

"""The layer inside contrib's middleware, on real applications, with a real SDK: what the SERVER span says."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.propagators import TraceResponsePropagator, set_global_response_propagator
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, Status, StatusCode

from litellm_otel_plugin.guard import guard
from litellm_otel_plugin.request.chain import ChainError
from litellm_otel_plugin.request.layer import RequestLayer
from litellm_otel_plugin.request.mount import mount
from litellm_otel_plugin.request.own_context import OwnContextLayer
from litellm_otel_plugin.request.record import current_record
from litellm_otel_plugin.request.untraced import leave_out_untraced
from tests.support.spans import SpanMemory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

CALL_ID = "d9a1f1f4-call"


class UpstreamBusyError(Exception):
    """What a provider's failure is called."""


def build_application() -> FastAPI:
    app = FastAPI()

    @app.get("/ok/{name}")
    async def ok(name: str) -> JSONResponse:
        return JSONResponse({"name": name}, headers={"x-litellm-call-id": CALL_ID})

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for n in range(3):
                yield str(n).encode()

        return StreamingResponse(chunks())

    @app.get("/refused")
    async def refused() -> None:
        raise HTTPException(403, "no")

    @app.get("/wrapped")
    async def wrapped() -> None:
        record = current_record()
        assert record is not None
        record.failed_with(UpstreamBusyError("busy"))
        raise HTTPException(429, "busy")

    @app.get("/described")
    async def described() -> JSONResponse:
        trace.get_current_span().set_status(Status(StatusCode.ERROR, "what LiteLLM said"))
        return JSONResponse({}, 500)

    @app.get("/broken")
    async def broken() -> None:
        raise UpstreamBusyError("not handled by anybody")

    @app.get("/traced-by-a-newer-litellm")
    async def traced() -> JSONResponse:
        return JSONResponse({}, headers={"traceresponse": "00-theirs"})

    @app.get("/typed")
    async def typed(number: int) -> int:
        return number

    @app.websocket("/talk/{topic}")
    async def talk(websocket: WebSocket, topic: str) -> None:
        if topic == "forbidden":
            await websocket.close()
            return
        await websocket.accept()
        await websocket.send_text(topic)
        if topic == "broken":
            raise UpstreamBusyError("in the middle")
        await websocket.close()

    return app


class Mounted:
    """An application with contrib's middleware and our layer around it."""

    def __init__(self, app: FastAPI, memory: SpanMemory, *, legacy_names: bool = False) -> None:
        self.app = app
        self.memory = memory
        app.middleware_stack = app.build_middleware_stack()
        self.mounted = mount(app, tracer_provider=memory.provider, legacy_names=legacy_names, excluded_paths="/health")

    async def request(self, method: str, url: str, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway.example:4000") as client:
            return await client.request(method, url, **more)


@pytest.fixture
def memory() -> SpanMemory:
    return SpanMemory()


@pytest.fixture
def application(memory: SpanMemory) -> Mounted:
    return Mounted(build_application(), memory)


@pytest.mark.parametrize(
    ("method", "path", "name", "attributes"),
    [
        ("GET", "/ok/x", "GET /ok/{name}", {"http.response.status_code": 200, "litellm.call_id": CALL_ID}),
        ("GET", "/stream", "GET /stream", {"http.response.status_code": 200}),
        ("GET", "/nope", "GET", {"http.response.status_code": 404, "error.type": "404", "error.code": "404"}),
        ("PUT", "/ok/x", "PUT /ok/{name}", {"http.response.status_code": 405, "error.type": "405"}),
        ("BREW", "/nope", "HTTP", {"http.request.method": "_OTHER", "http.response.status_code": 404}),
        ("GET", "/typed?number=x", "GET /typed", {"http.response.status_code": 422, "error.code": "422"}),
        ("GET", "/refused", "GET /refused", {"http.response.status_code": 403, "error.type": "403"}),
        ("GET", "/wrapped", "GET /wrapped", {"http.response.status_code": 429, "error.type": "UpstreamBusyError"}),
        ("GET", "/broken", "GET /broken", {"http.response.status_code": 500, "error.type": "UpstreamBusyError"}),
    ],
)
async def test_every_outcome_is_stamped(
    application: Mounted, memory: SpanMemory, method: str, path: str, name: str, attributes: dict[str, Any]
) -> None:
    response = await application.request(method, path)
    span = memory.only()
    stamped = dict(span.attributes or {})
    assert span.name == name
    assert span.kind is SpanKind.SERVER
    assert stamped.items() >= attributes.items()
    assert stamped["http.response.status_code"] == response.status_code
    assert type(stamped["http.response.status_code"]) is int
    assert ("http.route" in stamped) == (" " in name)
    assert stamped["url.path"] == path.split("?", maxsplit=1)[0]
    assert (stamped["url.scheme"], stamped["server.address"], stamped["server.port"]) == (
        "http",
        "gateway.example",
        4000,
    )
    assert stamped["litellm.attempts"] == 0
    assert "litellm.preprocessing.duration_ms" not in stamped
    assert ("error.type" in stamped) == ("error.code" in stamped) == (response.status_code >= 400)
    assert not [key for key in stamped if key.startswith(("http.method", "http.url", "http.target", "net."))]
    context = span.get_span_context()
    assert context is not None
    expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert response.headers.get_list("traceresponse") == [expected]


async def test_what_was_said_of_an_error_survives_contribs_status(application: Mounted, memory: SpanMemory) -> None:
    await application.request("GET", "/described")
    assert (memory.only().status.status_code, memory.only().status.description) == (
        StatusCode.ERROR,
        "what LiteLLM said",
    )


async def test_one_unhandled_exception_is_one_event(application: Mounted, memory: SpanMemory) -> None:
    await application.request("GET", "/broken")
    (event,) = [event for event in memory.only().events if event.name == "exception"]
    assert dict(event.attributes or {}) == {
        "exception.type": "UpstreamBusyError",
        "exception.message": "not handled by anybody",
    }
    assert memory.only().status.description == "UpstreamBusyError: not handled by anybody"


async def test_an_excluded_path_has_neither_span_nor_header(application: Mounted, memory: SpanMemory) -> None:
    response = await application.request("GET", "/health/liveliness")
    assert "traceresponse" not in response.headers
    assert not memory.spans


async def test_credentials_in_the_query_stay_out(memory: SpanMemory) -> None:
    application = Mounted(build_application(), memory, legacy_names=True)
    await application.request("GET", "/ok/x?key=sk-secret&n=1")
    attributes = memory.only().attributes or {}
    assert attributes["url.query"] == "key=REDACTED&n=1"
    assert attributes["http.url"] == "http://gateway.example:4000/ok/x?key=REDACTED&n=1"
    assert "sk-secret" not in str(dict(attributes))


async def test_legacy_names_stand_beside_the_stable_ones(memory: SpanMemory) -> None:
    application = Mounted(build_application(), memory, legacy_names=True)
    await application.request("GET", "/ok/x")
    attributes = memory.only().attributes or {}
    assert (attributes["http.status_code"], attributes["http.response.status_code"]) == (200, 200)
    assert (attributes["http.method"], attributes["http.request.method"]) == ("GET", "GET")
    assert attributes["http.route"] == "/ok/{name}"


async def test_the_operators_opt_in_for_other_instrumentations_is_left_alone(memory: SpanMemory) -> None:
    before = OpenTelemetryMiddleware(build_application())._sem_conv_opt_in_mode
    Mounted(build_application(), memory, legacy_names=True)
    assert OpenTelemetryMiddleware(build_application())._sem_conv_opt_in_mode is before


async def test_an_existing_traceresponse_stays(application: Mounted) -> None:
    response = await application.request("GET", "/traced-by-a-newer-litellm")
    assert response.headers.get_list("traceresponse") == ["00-theirs"]


async def test_contribs_own_propagator_is_not_doubled(application: Mounted) -> None:
    set_global_response_propagator(TraceResponsePropagator())  # type: ignore[no-untyped-call]
    try:
        response = await application.request("GET", "/ok/x")
    finally:
        set_global_response_propagator(None)  # type: ignore[no-untyped-call]
    assert len(response.headers.get_list("traceresponse")) == 1


async def test_what_is_sampled_out_still_says_its_trace() -> None:
    memory = SpanMemory(ALWAYS_OFF)
    response = await Mounted(build_application(), memory).request("GET", "/ok/x")
    assert response.headers["traceresponse"].endswith(("-00", "-02"))
    assert not memory.spans


async def test_a_path_that_is_not_traced_has_no_span_below_it_either(memory: SpanMemory) -> None:
    app = FastAPI()

    @app.get("/health")
    @app.get("/ok")
    async def checked() -> None:
        with memory.provider.get_tracer("litellm").start_as_current_span("auth"):
            pass

    application = Mounted(app, memory)
    leave_out_untraced(memory.provider)
    assert (await application.request("GET", "/health")).status_code == 200
    assert not memory.spans
    await application.request("GET", "/ok")  # the next request is traced as ever
    assert {span.name for span in memory.spans} == {"auth", "GET /ok"}


async def test_an_empty_list_of_excluded_urls_has_everything_traced(
    memory: SpanMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "")
    await Mounted(build_application(), memory).request("GET", "/health")
    assert memory.only().name.startswith("GET")


async def test_the_callers_trace_is_continued(application: Mounted, memory: SpanMemory) -> None:
    trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    response = await application.request("GET", "/ok/x", headers={"traceparent": f"00-{trace_id}-{parent}-01"})
    span = memory.only()
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == parent
    assert response.headers["traceresponse"].split("-")[1] == trace_id


async def test_the_duration_metric_keeps_the_route(memory: SpanMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr("opentelemetry.metrics._internal.get_meter_provider", lambda: provider)
    application = Mounted(build_application(), memory)
    await application.request("GET", "/ok/x")
    await application.request("GET", "/nope")
    data = reader.get_metrics_data()
    assert data is not None
    routes = {
        point.attributes["http.response.status_code"]: point.attributes.get("http.route")
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "http.server.request.duration"
        for point in metric.data.data_points
        if point.attributes is not None
    }
    assert routes == {200: "/ok/{name}", 404: None}


# --- exchanges that no HTTP client makes ------------------------------------------------------------------------------


def _scope(kind: str, path: str) -> dict[str, Any]:
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "ws" if kind == "websocket" else "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"gateway.example")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 4000),
        "subprotocols": [],
    }


class Wire:
    """The server's end of one exchange: what it says, and what it heard."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.heard: list[dict[str, Any]] = []
        self._messages = list(messages)

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(self, message: Any) -> None:
        self.heard.append(dict(message))


@pytest.mark.parametrize(
    ("topic", "status", "error"),
    [("weather", 101, None), ("forbidden", 403, "403"), ("broken", 101, "UpstreamBusyError")],
)
async def test_a_websocket(
    application: Mounted, memory: SpanMemory, topic: str, status: int, error: str | None
) -> None:
    scope = _scope("websocket", f"/talk/{topic}")
    del scope["method"]  # as ASGI has it
    wire = Wire({"type": "websocket.connect"})
    try:
        await application.app(scope, wire.receive, wire.send)
    except UpstreamBusyError:
        assert topic == "broken"
    span = memory.only()
    attributes = dict(span.attributes or {})
    assert span.name == "GET /talk/{topic}"
    assert attributes["http.request.method"] == "GET"
    assert (attributes["http.response.status_code"], attributes.get("error.type")) == (status, error)
    assert (attributes["server.address"], attributes["server.port"]) == ("gateway.example", 80)
    if status == 101:
        (accept,) = [message for message in wire.heard if message["type"] == "websocket.accept"]
        assert [name for name, _ in accept["headers"]].count(b"traceresponse") == 1


async def _wait_for_the_client(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "http.disconnect"


async def _start_then_wait_for_the_client(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    await _wait_for_the_client(scope, receive, send)


async def _answer_what_is_left_of_it(scope: Any, receive: Any, send: Any) -> None:
    await _wait_for_the_client(scope, receive, send)
    try:
        raise ValueError("half of a body is no JSON")
    except ValueError:
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})


@pytest.mark.parametrize(
    ("endpoint", "status"),
    [(_wait_for_the_client, 499), (_start_then_wait_for_the_client, 200), (_answer_what_is_left_of_it, 499)],
)
async def test_a_client_that_left(memory: SpanMemory, endpoint: Any, status: int) -> None:
    app = FastAPI()
    app.mount("/slow", endpoint)
    application = Mounted(app, memory)
    wire = Wire({"type": "http.disconnect"})
    await application.app(_scope("http", "/slow/"), wire.receive, wire.send)
    attributes = memory.only().attributes or {}
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (status, "client_disconnected")


async def test_what_a_request_held_goes_with_the_exception_that_ended_it(memory: SpanMemory) -> None:
    held: list[weakref.ref[Any]] = []

    class Body:
        """What a request holds."""

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        body = Body()
        held.append(weakref.ref(body))
        raise UpstreamBusyError("no")

    wire = Wire()
    gc.disable()
    try:
        with memory.provider.get_tracer("t").start_as_current_span("POST"), suppress(UpstreamBusyError):
            await RequestLayer(fails)(_scope("http", "/fails"), wire.receive, wire.send)
        assert [each() for each in held] == [None]
    finally:
        gc.enable()


async def test_a_cancelled_request_stays_cancelled_and_ends_its_span(memory: SpanMemory) -> None:
    app = FastAPI()

    async def never(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(3600)

    app.mount("/never", never)
    application = Mounted(app, memory)
    wire = Wire()
    task = asyncio.create_task(application.app(_scope("http", "/never/"), wire.receive, wire.send))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (memory.only().attributes or {})["http.response.status_code"] == 200


async def test_messages_pass_untouched(memory: SpanMemory) -> None:
    sent: list[dict[str, Any]] = [
        {"type": "http.response.start", "status": 200, "headers": [(b"x-one", b"1")], "trailers": False},
        {"type": "http.response.body", "body": b"\x00\xff half", "more_body": True},
        {"type": "http.response.body", "body": b""},
    ]
    app = FastAPI()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        for message in sent:
            await send(message)

    app.mount("/raw", answer)
    application = Mounted(app, memory)
    wire = Wire()
    await application.app(_scope("http", "/raw/"), wire.receive, wire.send)
    assert wire.heard[1:] == sent[1:]
    assert wire.heard[0]["headers"][0] == (b"x-one", b"1")
    assert [name for name, _ in wire.heard[0]["headers"]] == [b"x-one", b"traceresponse"]
    assert sent[0]["headers"] == [(b"x-one", b"1")], "the application's own message was changed"


@pytest.mark.parametrize("host", ["[bad", "[::1", "a b", "]", "x:y:z", "", "é"])
async def test_no_host_header_breaks_a_request(application: Mounted, memory: SpanMemory, host: str) -> None:
    scope = _scope("http", "/ok/x")
    scope["headers"] = [(b"host", host.encode("latin-1"))]
    wire = Wire({"type": "http.request", "body": b""})
    await application.app(scope, wire.receive, wire.send)
    assert wire.heard[0]["status"] == 200
    assert memory.only().name == "GET /ok/{name}"


async def test_our_own_errors_end_with_us(
    application: Mounted, memory: SpanMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(guard, "strict", False)
    places = ("layer.open_record", "layer.stamp_response_start", "layer.stamp_outcome", "span_details.redact_query")
    for place in (*places, "mount.path_of"):
        with monkeypatch.context() as patched:
            patched.setattr(f"litellm_otel_plugin.request.{place}", broken)
            guard.counts.clear()
            response = await application.request("GET", "/ok/x?key=secret")
            assert response.json() == {"name": "x"}
            assert guard.counts.total() > 0
    guard.counts.clear()
    assert len(memory.spans) == len(places) + 1
    assert "secret" not in str([dict(span.attributes or {}) for span in memory.spans])


# --- mounting ---------------------------------------------------------------------------------------------------------


def _chain(stack: Any) -> Iterator[Any]:
    while stack is not None:
        yield stack
        stack = getattr(stack, "app", None)


async def test_mounting_twice_changes_nothing(application: Mounted, memory: SpanMemory) -> None:
    before = list(_chain(application.app.middleware_stack))
    assert len(before) > 2
    mount(application.app, tracer_provider=memory.provider, legacy_names=True, excluded_paths="")
    after = list(_chain(application.app.middleware_stack))
    assert before == after  # compared by identity: no middleware defines equality, and a bound method is made anew


async def test_what_was_mounted_before_us_is_taken_over(memory: SpanMemory) -> None:
    app = build_application()
    other = SpanMemory()
    called = []

    def operators_hook(span: Any, scope: Any) -> None:
        called.append(scope["path"])

    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=other.provider, server_request_hook=operators_hook, excluded_urls="/nope"
    )
    try:
        application = Mounted(app, memory)
        links = [type(link) for link in _chain(app.middleware_stack)]
        assert links[:3] == [OwnContextLayer, OpenTelemetryMiddleware, RequestLayer]
        assert links.count(OpenTelemetryMiddleware) == 1
        await application.request("GET", "/broken")
        await application.request("GET", "/nope")
    finally:
        FastAPIInstrumentor.uninstrument_app(app)
    assert not other.spans
    assert called == ["/broken"]
    span = memory.only()
    assert "http.request.method" in (span.attributes or {})
    assert [event.name for event in span.events].count("exception") == 1


async def test_litellms_renaming_of_pass_through_routes_is_not_kept(memory: SpanMemory) -> None:
    app = build_application()

    def _passthrough_span_name_hook(span: Any, scope: Any) -> None:
        span.update_name("the raw path")

    FastAPIInstrumentor.instrument_app(app, server_request_hook=_passthrough_span_name_hook)
    try:
        await Mounted(app, memory).request("GET", "/nope")
    finally:
        FastAPIInstrumentor.uninstrument_app(app)
    assert memory.only().name == "GET"


def test_an_application_without_a_stack_is_refused(memory: SpanMemory) -> None:
    with pytest.raises(ChainError):
        mount(FastAPI(), tracer_provider=memory.provider, legacy_names=False, excluded_paths="")


async def test_two_hundred_requests_at_once_do_not_mix(memory: SpanMemory) -> None:
    app = FastAPI()
    together = asyncio.Barrier(200) if hasattr(asyncio, "Barrier") else None

    @app.get("/slow/{number}")
    async def slow(number: int) -> JSONResponse:
        record = current_record()
        assert record is not None
        if together is not None:
            await together.wait()
        await asyncio.sleep((200 - number) / 10_000)
        record.failed_with(type(f"Error{number}", (Exception,), {})())
        record.handoffs.begin({}, f"call-{number}")
        return JSONResponse({}, 400 + number % 50, headers={"x-litellm-call-id": f"call-{number}"})

    application = Mounted(app, memory)
    await asyncio.gather(*(application.request("GET", f"/slow/{number}") for number in range(200)))
    assert len(memory.spans) == 200
    for span in memory.spans:
        attributes = dict(span.attributes or {})
        number = int(str(attributes["url.path"]).rsplit("/", 1)[1])
        assert attributes["litellm.call_id"] == f"call-{number}"
        assert attributes["error.type"] == f"Error{number}"
        assert attributes["http.response.status_code"] == 400 + number % 50
        assert attributes["litellm.attempts"] == 1

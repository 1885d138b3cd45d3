"""One whole request after the other through a real proxy: the SERVER span of every outcome, the tree of every door."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import openai
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support.config import PLUGIN
from tests.support.gateway import Gateway, running, unique_path
from tests.support.golden import compare_with_golden
from tests.support.probe import PROBE_FILE
from tests.support.provider import Reply
from tests.support.proxy import MASTER_KEY, trace_id_of
from tests.support.trees import tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from websockets.sync.connection import Connection

    from tests.support.receiver import ReceivedSpan

ALWAYS = {
    "http.request.method": str,
    "url.path": str,
    "url.scheme": str,
    "http.response.status_code": int,
    "server.address": str,
    "server.port": int,
    "user_agent.original": str,
    "network.protocol.version": str,
    "litellm.attempts": int,
}
PREPROCESSING = "litellm.preprocessing.duration_ms"


@pytest.fixture(scope="module")
def probe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probe") / "facts"


@pytest.fixture(scope="module")
def gateway(probe_file: Path) -> Iterator[Gateway]:
    with running(
        PLUGIN,
        "tests.support.probe.probe",
        "tests.support.guardrail.guardrail",
        environment={PROBE_FILE: str(probe_file)},
    ) as gateway:
        yield gateway


def _chat(**more: Any) -> dict[str, Any]:
    return {"model": "mock", "messages": [{"role": "user", "content": "hi"}], **more}


def _messages(**more: Any) -> dict[str, Any]:
    return {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **more}


UNKNOWN = _chat(model="unknown")
BATCH = {"input_file_id": "file-a", "endpoint": "/v1/chat/completions", "completion_window": "24h"}


# The first test of this module: `/v1/messages` is loaded on its first request, and must have its route all the same.
@pytest.mark.whole_request
def test_the_first_request_to_a_lazily_loaded_route_has_its_route(gateway: Gateway) -> None:
    span = gateway.server_span(gateway.proxy.client.post("/v1/messages", json=_messages()))
    assert (span.name, span.attributes["http.route"]) == ("POST /v1/messages", "/v1/messages")


# --- golden traces ----------------------------------------------------------------------------------------------------


def test_golden_chat(gateway: Gateway) -> None:
    response = gateway.proxy.client.post("/v1/chat/completions", json=_chat())
    compare_with_golden("chat", gateway.trace_of(response, kinds=("SERVER", "CLIENT")))


def test_golden_streamed_messages(gateway: Gateway) -> None:
    response = gateway.proxy.client.post("/v1/messages", json=_messages(stream=True, metadata={"user_id": "u"}))
    assert response.text.count("event: ") > 5
    compare_with_golden("streamed_messages", gateway.trace_of(response, kinds=("SERVER", "CLIENT")))


def test_golden_rate_limited(gateway: Gateway) -> None:
    gateway.provider.replies.append(Reply(status=429))
    response = gateway.proxy.client.post("/v1/chat/completions", json=_chat())
    compare_with_golden("rate_limited", gateway.trace_of(response, kinds=("SERVER", "CLIENT")))


def test_golden_wrong_key(gateway: Gateway) -> None:
    headers = {"authorization": "Bearer sk-wrong"}
    response = gateway.proxy.client.post("/v1/chat/completions", json=_chat(), headers=headers)
    compare_with_golden("wrong_key", gateway.trace_of(response))


# --- every outcome ----------------------------------------------------------------------------------------------------


def _assert_always(span: ReceivedSpan, response: httpx.Response) -> None:
    for name, kind in ALWAYS.items():
        assert type(span.attributes[name]) is kind, name
    assert span.attributes["http.response.status_code"] == response.status_code
    assert span.attributes.get("litellm.call_id") == response.headers.get("x-litellm-call-id")
    assert span.attributes.get("error.code") == (str(response.status_code) if response.status_code >= 400 else None)
    assert not [name for name in span.attributes if name in ("http.method", "http.url", "http.status_code")]
    assert [event.name for event in span.events].count("exception") <= 1
    route = span.attributes.get("http.route")
    assert span.name == " ".join(filter(None, (span.attributes["http.request.method"], route)))


@pytest.mark.whole_request
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "route", "error_type", "reaches_a_provider"),
    [
        ("POST", "/v1/chat/completions", _chat(), 200, "/v1/chat/completions", None, True),
        ("POST", "/v1/chat/completions", _chat(stream=True), 200, "/v1/chat/completions", None, True),
        ("POST", "/v1/chat/completions", b'{"model": ', 400, "/v1/chat/completions", "JSONDecodeError", False),
        ("POST", "/v1/chat/completions", UNKNOWN, 400, "/v1/chat/completions", "ProxyModelNotFoundError", False),
        ("PUT", "/v1/chat/completions", None, 405, "/v1/chat/completions", "405", False),
        ("GET", "/nope?key=sk-secret", None, 404, None, "404", False),
        ("POST", "/key/generate", {"duration": [1]}, 422, "/key/generate", "RequestValidationError", False),
        ("GET", "/v1/models", None, 200, "/v1/models", None, False),
    ],
)  # fmt: skip
def test_every_outcome(
    gateway: Gateway,
    method: str,
    path: str,
    body: Any,
    status: int,
    route: str | None,
    error_type: str | None,
    reaches_a_provider: bool,
) -> None:
    content = {"content": body} if isinstance(body, bytes) else {"json": body} if body is not None else {}
    response = gateway.proxy.client.request(method, path, **content)
    assert response.status_code == status
    span = gateway.server_span(response)
    _assert_always(span, response)
    assert span.attributes.get("http.route") == route
    assert span.attributes.get("error.type") == error_type
    assert (type(span.attributes.get(PREPROCESSING)) is float) == reaches_a_provider
    assert (span.attributes["litellm.attempts"] > 0) == reaches_a_provider
    assert "sk-secret" not in str(span)


@pytest.mark.parametrize(
    ("scripted", "status", "error_type"),
    [
        (429, 429, "RateLimitError"),
        (401, 401, "AuthenticationError"),
        (400, 400, "BadRequestError"),
        (404, 404, "NotFoundError"),
        (500, 500, "InternalServerError"),
        (503, 503, "ServiceUnavailableError"),
    ],
)
@pytest.mark.parametrize("door", ["/v1/chat/completions", "/v1/messages"])
def test_a_providers_failure_has_its_name(
    gateway: Gateway, door: str, scripted: int, status: int, error_type: str
) -> None:
    gateway.provider.replies.append(Reply(status=scripted))
    body = _chat() if door == "/v1/chat/completions" else _messages()
    response = gateway.proxy.client.post(door, json=body)
    assert response.status_code == status
    span = gateway.server_span(response, kinds=("SERVER", "CLIENT"))
    _assert_always(span, response)
    assert span.status == "ERROR"
    assert span.attributes["error.type"] == error_type
    assert span.attributes[PREPROCESSING] > 0


def test_a_rejected_key_is_not_authenticated_and_an_accepted_one_is(gateway: Gateway, probe_file: Path) -> None:
    for headers, hook, authenticated in (
        ({"authorization": "Bearer sk-wrong"}, "failure", False),
        ({"authorization": f"Bearer {MASTER_KEY}"}, "pre_call", True),
    ):
        probe_file.unlink(missing_ok=True)
        response = gateway.proxy.client.post("/v1/chat/completions", json=_chat(), headers=headers)
        facts = [json.loads(line) for line in probe_file.read_text().splitlines()]
        assert {"hook": hook, "record": {"authenticated": authenticated, "route": "/v1/chat/completions"}} in facts
        span = gateway.server_span(response)
        _assert_always(span, response)
        assert (PREPROCESSING in span.attributes) == authenticated


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", _chat(stream=True)),
        ("/v1/messages", _messages(stream=True)),
        ("/v1/messages", _messages(model="mock", stream=True)),
        ("/v1/responses", {"model": "mock", "input": "hi", "stream": True}),
    ],
)
def test_a_provider_that_breaks_off_in_the_middle_of_a_stream(
    gateway: Gateway, path: str, body: dict[str, Any]
) -> None:
    gateway.provider.replies.append(Reply(after_chunks=3, chunk_delay=0.05))
    response = gateway.proxy.client.post(path, json=body)
    assert response.status_code == 200
    span = gateway.server_span(response)
    assert span.attributes["http.response.status_code"] == 200
    assert span.status == "ERROR"
    error_type = span.attributes["error.type"]
    assert error_type.endswith(("Error", "Exception")), error_type
    assert error_type not in ("ProxyException", "HTTPException")
    assert "error.code" not in span.attributes
    assert [event.name for event in span.events].count("exception") == 1


@pytest.mark.parametrize(
    ("text", "error_type"),
    [("stop with an envelope", "400"), ("stop with http", "400"), ("stop with its own", "ForbiddenTopicError")],
)
def test_a_guardrail_that_stops_a_stream(gateway: Gateway, text: str, error_type: str) -> None:
    body = _chat(stream=True, messages=[{"role": "user", "content": text}])
    with gateway.proxy.client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        with suppress(httpx.RemoteProtocolError):  # LiteLLM ends some of them with an error event, some abruptly
            response.read()
    span = gateway.server_span(response)
    assert (span.status, span.attributes["error.type"]) == ("ERROR", error_type)


def test_an_exception_that_nothing_handles(gateway: Gateway) -> None:
    """Without a database this door fails, and without LiteLLM's database client so does LiteLLM's handling of it."""
    response = gateway.proxy.client.get("/key/info")
    span = gateway.server_span(response)
    _assert_always(span, response)
    assert response.status_code >= 400
    assert span.status == "ERROR"
    assert [event.name for event in span.events].count("exception") == 1
    assert span.status_message


@pytest.mark.parametrize("host", ["docs.example.com", "metrics.corp:4000", "health.corp", "[bad"])
def test_no_host_name_keeps_a_request_from_being_traced(gateway: Gateway, host: str) -> None:
    response = gateway.proxy.client.get("/v1/models", headers={"host": host})
    assert response.status_code == 200
    assert gateway.server_span(response).attributes["http.route"] == "/v1/models"


def test_a_door_behind_which_the_call_is_made_anew(gateway: Gateway) -> None:
    body = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    response = gateway.proxy.client.post("/v1beta/models/mock:generateContent", json=body)
    assert response.status_code == 200, response.text
    span = gateway.server_span(response, kinds=("SERVER", "CLIENT"))
    assert span.attributes["litellm.attempts"] == 1
    assert span.attributes[PREPROCESSING] > 0


def test_a_websocket_that_is_refused(gateway: Gateway) -> None:
    path = "/v1/realtime"
    request = (
        f"GET {path}?model=mock HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.proxy.port)) as connection:
        connection.sendall(request.encode())
        answer = connection.recv(4096).decode()
    (server,) = [span for span in gateway.newest_trace_of_path(path) if span.kind == "SERVER"]
    status = int(answer.split(" ")[1])
    assert status == 403
    assert (server.name, server.attributes["http.route"]) == (f"GET {path}", path)
    assert server.attributes["http.response.status_code"] == status


def test_a_realtime_session(gateway: Gateway) -> None:
    path = "/v1/realtime"
    gateway.collector.forget()
    url = f"ws://127.0.0.1:{gateway.proxy.port}{path}?model=realtime"
    with connect(url, additional_headers=gateway.proxy.headers, proxy=None) as session:
        assert json.loads(session.recv(10))["type"] == "session.created"
        session.send(json.dumps({"type": "response.create", "event_id": "e1"}))
        assert json.loads(session.recv(10))["type"] == "response.done"
        assert session.response is not None
        assert len(session.response.headers.get_all("traceresponse")) == 1
    (server,) = [span for span in gateway.newest_trace_of_path(path) if span.kind == "SERVER"]
    assert (server.name, server.attributes["http.route"]) == (f"GET {path}", path)
    assert (server.attributes["http.request.method"], server.attributes["url.scheme"]) == ("GET", "ws")
    assert server.attributes["http.response.status_code"] == 101
    assert "error.type" not in server.attributes
    assert server.attributes["litellm.attempts"] == 1
    assert server.attributes[PREPROCESSING] > 0


def _read_to_the_end(session: Connection) -> None:
    while True:  # an error event or two may come first
        session.recv(10)


def test_a_realtime_session_that_cannot_be_had(gateway: Gateway) -> None:
    path = "/v1/realtime"
    gateway.collector.forget()
    url = f"ws://127.0.0.1:{gateway.proxy.port}{path}?model=unreachable"
    with connect(url, additional_headers=gateway.proxy.headers, proxy=None) as session:
        with pytest.raises(ConnectionClosed) as closed:
            _read_to_the_end(session)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
    (server,) = [span for span in gateway.newest_trace_of_path(path) if span.kind == "SERVER"]
    assert server.attributes["http.response.status_code"] == 101
    assert server.status == "ERROR"
    assert server.attributes["error.type"]


def test_two_failures_are_each_one_exception_event(gateway: Gateway) -> None:
    gateway.provider.replies.extend([Reply(status=500), Reply(status=500)])
    for _ in range(2):
        response = gateway.proxy.client.post("/v1/chat/completions", json=_chat())
        for span in gateway.trace_of(response, kinds=("SERVER", "CLIENT")):
            assert [event.name for event in span.events].count("exception") == (1 if span.status == "ERROR" else 0)


# --- preprocessing, on every door -----------------------------------------------------------------------------------


@pytest.mark.whole_request
@pytest.mark.parametrize(
    ("path", "body", "attempts"),
    [
        ("/v1/chat/completions", _chat(), 1),
        ("/v1/chat/completions", _chat(stream=True), 1),
        ("/v1/messages", _messages(), 1),
        ("/v1/messages", _messages(stream=True, metadata={"user_id": "u"}), 1),
        ("/v1/messages", _messages(model="mock"), 1),
        ("/v1/responses", {"model": "mock", "input": "hi"}, 1),
        ("/v1/responses", {"model": "mock", "input": "hi", "stream": True}, 1),
        ("/v1/embeddings", {"model": "embed", "input": "hi"}, 1),
        ("/v1/batches", BATCH, 1),
        ("/v1/threads", {}, 1),
        ("/v1/threads/thread_1/runs", {"assistant_id": "asst_1"}, 1),
        ("/openai/chat/completions", _chat(), 1),
        ("/openai/chat/completions", _chat(stream=True), 1),
        ("/anthropic/v1/messages", _messages(model="claude-mock"), 1),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else str(value),
)
def test_every_door_has_its_preprocessing_time_and_one_whole_tree(
    gateway: Gateway, path: str, body: dict[str, Any], attempts: int
) -> None:
    trace_id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    gateway.collector.forget()
    gateway.provider.replies.append(Reply(delay=0.3))
    headers = {"traceparent": f"00-{trace_id}-{parent}-01"}
    started = time.monotonic()
    response = gateway.proxy.client.post(path, json=body, headers=headers)
    took_ms = (time.monotonic() - started) * 1_000
    assert response.status_code == 200, response.text
    assert trace_id_of(response) == trace_id
    announced = not path.startswith(("/v1/batches", "/v1/threads"))
    spans = gateway.trace_of(response, kinds=("SERVER", "CLIENT") if announced else ("SERVER",))
    (server,) = [span for span in spans if span.kind == "SERVER"]
    _assert_always(server, response)
    assert server.parent_id == parent
    assert {span.parent_id for span in spans if span.kind == "CLIENT"} <= {server.span_id}
    known = {span.span_id for span in spans} | {parent}
    assert all(span.parent_id in known for span in spans), tree(spans)
    # The provider took 300 ms, which must not be in it.
    assert 0 < server.attributes[PREPROCESSING] < took_ms - 300
    assert server.attributes["litellm.attempts"] == attempts
    assert server.attributes["http.route"] == {
        "/openai/chat/completions": "/openai/{endpoint:path}",
        "/anthropic/v1/messages": "/anthropic/{endpoint:path}",
        "/v1/threads/thread_1/runs": "/v1/threads/{thread_id}/runs",
    }.get(path, path)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/threads/thread_1/runs", {"assistant_id": "asst_1"}),
        ("/v1/batches", BATCH),
        ("/openai/chat/completions", _chat()),
        ("/v1/embeddings", {"model": "embed", "input": "hi"}),
        ("/v1/responses", {"model": "mock", "input": "hi"}),
    ],
)
def test_preprocessing_on_the_failure_path(gateway: Gateway, path: str, body: dict[str, Any]) -> None:
    gateway.provider.replies.extend([Reply(status=400)] * 3)
    response = gateway.proxy.client.post(path, json=body)
    gateway.provider.replies.clear()
    assert response.status_code >= 400
    span = gateway.server_span(response)
    _assert_always(span, response)
    assert span.attributes[PREPROCESSING] > 0
    assert span.attributes["error.type"] not in ("ProxyException", "HTTPException")


def test_retries_and_their_backoff_are_no_preprocessing(gateway: Gateway) -> None:
    gateway.provider.replies.extend([Reply(status=500, delay=0.3), Reply(status=500, delay=0.3), Reply()])
    response = gateway.proxy.client.post("/v1/chat/completions", json=_chat(num_retries=2))
    assert response.status_code == 200
    span = gateway.server_span(response, kinds=("SERVER", "CLIENT"))
    assert span.attributes["litellm.attempts"] == 3
    assert 0 < span.attributes[PREPROCESSING] < 600


@pytest.mark.parametrize(
    ("text", "error_type"),
    [
        ("block with http", None),
        ("block with its own", "ForbiddenTopicError"),
        ("ask a judge, then block with http", None),
        ("ask a judge, then block with its own", "ForbiddenTopicError"),
    ],
)
def test_what_a_guardrail_blocks_reached_no_provider(gateway: Gateway, text: str, error_type: str | None) -> None:
    response = gateway.proxy.chat(text)
    assert response.status_code >= 400
    span = gateway.server_span(response)
    _assert_always(span, response)
    assert PREPROCESSING not in span.attributes
    assert span.attributes["litellm.attempts"] == 0
    assert span.attributes["error.type"] == (error_type or str(response.status_code))


def test_a_guardrails_own_call_is_no_attempt_of_the_requests(gateway: Gateway) -> None:
    response = gateway.proxy.chat("ask a judge")
    assert response.status_code == 200
    span = gateway.server_span(response)
    assert span.attributes["litellm.attempts"] == 1


def test_a_provider_that_is_driven_in_a_thread(gateway: Gateway) -> None:
    response = gateway.proxy.client.post("/v1/chat/completions", json=_chat(model="threaded"))
    assert response.status_code == 200, response.text
    span = gateway.server_span(response)
    took_ms = (span.end_ns - span.start_ns) / 1_000_000
    assert 200 < span.attributes[PREPROCESSING] < took_ms - 200
    assert span.attributes["litellm.attempts"] == 1


# --- what a client sees ---------------------------------------------------------------------------------------------


def test_the_openai_client(gateway: Gateway) -> None:
    client = openai.OpenAI(base_url=f"{gateway.proxy.url}/v1", api_key=MASTER_KEY, max_retries=0)
    answer = client.chat.completions.with_raw_response.create(
        model="mock", messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.parse().choices[0].message.content == "The answer is 42."
    trace_id = answer.headers["traceresponse"].split("-")[1]
    assert len(gateway.trace(trace_id, kinds=("SERVER", "CLIENT"))) == 4
    words = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(
            model="mock", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        if chunk.choices
    ]
    assert "".join(words) == "The answer is 42."
    gateway.provider.replies.append(Reply(status=429))
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model="mock", messages=[{"role": "user", "content": "hi"}])
    assert "traceresponse" in refused.value.response.headers


def test_the_anthropic_client(gateway: Gateway) -> None:
    client = anthropic.Anthropic(base_url=gateway.proxy.url, api_key=MASTER_KEY, max_retries=0)
    answer = client.messages.with_raw_response.create(
        model="claude", max_tokens=9, messages=[{"role": "user", "content": "hi"}], metadata={"user_id": "u"}
    )
    assert [block.text for block in answer.parse().content if block.type == "text"] == ["The answer is 42."]
    trace_id = answer.headers["traceresponse"].split("-")[1]
    assert len(gateway.trace(trace_id, kinds=("SERVER", "CLIENT"))) == 4
    with client.messages.stream(model="claude", max_tokens=9, messages=[{"role": "user", "content": "hi"}]) as stream:
        assert stream.get_final_text() == "The answer is 42."


def test_health_checks_are_not_traced(gateway: Gateway) -> None:
    assert "traceresponse" not in gateway.proxy.client.get("/health/liveliness").headers


def test_mounted_applications_make_no_second_server_span(gateway: Gateway) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    headers = {"accept": "application/json, text/event-stream"}
    response = gateway.proxy.client.post("/mcp/", json=body, headers=headers)
    span = gateway.server_span(response)
    assert span.attributes["http.route"].startswith("/mcp")


def test_random_paths_share_one_name(gateway: Gateway) -> None:
    spans = [gateway.server_span(gateway.proxy.client.get(unique_path())) for _ in range(5)]
    assert {(span.name, span.attributes.get("http.route")) for span in spans} == {("GET", None)}

"""What ties a trace to the rest, on real proxies: log lines to their request, a request to its caller's trace."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.support.gateway import Gateway, running, unique_path
from tests.support.provider import Reply
from tests.support.proxy import MASTER_KEY, trace_id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IN_FLIGHT = 30
CALLERS_SPAN = "00f067aa0ba902b7"
CALL_ID = re.compile(r"litellm_call_id=([0-9a-f-]{36})")
IDS_AT_THE_END = re.compile(r" \[trace_id=([0-9a-f]{32}) span_id=([0-9a-f]{16})\]$")
START_OF_AN_ENTRY = re.compile(r"^(?:\d\d:\d\d:\d\d - LiteLLM|INFO: )", re.MULTILINE)


@pytest.fixture(scope="module")
def text() -> Iterator[Gateway]:
    """As it comes: text logs, a caller's trace is continued."""
    with running(environment={"LITELLM_LOG": "INFO"}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def linking() -> Iterator[Gateway]:
    """JSON logs, which LiteLLM turns to when it reads config.yaml, and every line that it writes."""
    environment = {"LITELLM_OTEL_PLUGIN_REMOTE_PARENT": "link", "LITELLM_LOG": "DEBUG"}
    with running(environment=environment, litellm_settings={"json_logs": True}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def ignoring() -> Iterator[Gateway]:
    """A caller's trace is ignored; LiteLLM puts ids of its own on log records."""
    environment = {"JSON_LOGS": "true", "LITELLM_LOG": "INFO"}
    with running(
        environment=environment,
        callback_settings={"otel_plugin": {"remote_parent": "Ignore"}},
        litellm_settings={"request_correlation_in_logs": True},
    ) as gateway:
        yield gateway


def _wait_for_log(gateway: Gateway, met: Callable[[str], bool]) -> str:
    deadline = time.monotonic() + 15
    while not met(gateway.proxy.log):
        assert time.monotonic() < deadline, gateway.proxy.log
        time.sleep(0.1)
    return gateway.proxy.log


def _send_at_once(gateway: Gateway, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=gateway.proxy.url, timeout=60, trust_env=False) as client:
            path, headers = "/v1/chat/completions", gateway.proxy.headers
            return await asyncio.gather(*(client.post(path, json=body, headers=headers) for body in bodies))

    return asyncio.run(send())


def _chat(content: str, **more: Any) -> dict[str, Any]:
    return {"model": "mock", "messages": [{"role": "user", "content": content}], **more}


def _entries(log: str) -> list[str]:
    starts = [match.start() for match in START_OF_AN_ENTRY.finditer(log)]
    return [log[start:end].rstrip("\n") for start, end in zip(starts, [*starts[1:], len(log)], strict=True)]


# --- log lines --------------------------------------------------------------------------------------------------------


@pytest.mark.whole_request
def test_text_lines_carry_the_ids_of_their_own_request(text: Gateway) -> None:
    assert not IDS_AT_THE_END.search(text.proxy.log), "nothing was requested yet"
    text.provider.replies.extend([Reply(status=429, delay=0.2)] * IN_FLIGHT)
    responses = _send_at_once(text, [_chat(str(n)) for n in range(IN_FLIGHT)])
    trace_ids = {response.headers["x-litellm-call-id"]: trace_id_of(response) for response in responses}
    assert len(set(trace_ids.values())) == IN_FLIGHT
    log = _wait_for_log(text, lambda log: set(CALL_ID.findall(log)) >= set(trace_ids))
    failures = {found[1]: entry for entry in _entries(log) if (found := CALL_ID.search(entry))}
    for call_id, trace_id in trace_ids.items():
        entry = failures[call_id]
        (ids,) = re.findall(r"\[trace_id=(\w+) span_id=(\w+)\]", entry)
        assert ids[0] == trace_id
        # The traceback is whole, and the ids stand behind it.
        assert "\nTraceback (most recent call last):\n" in entry
        assert IDS_AT_THE_END.search(entry)
        assert ids[1] in {span.span_id for span in text.trace(trace_id)}


def test_lines_of_auth_name_the_span_of_auth(text: Gateway) -> None:
    response = text.proxy.client.post("/v1/chat/completions", json=_chat("x"), headers={"authorization": "Bearer sk-x"})
    (auth,) = [span for span in text.trace_of(response) if span.name.startswith("auth ")]
    assert f"[trace_id={auth.trace_id} span_id={auth.span_id}]" in text.proxy.log


def test_what_is_not_traced_has_no_ids(text: Gateway) -> None:
    before = len(text.proxy.log)
    assert text.proxy.client.get("/health/liveliness").status_code == 200
    log = _wait_for_log(text, lambda log: "/health/liveliness" in log[before:])
    assert "trace_id" not in log[before:]


def test_json_lines_carry_the_ids_as_fields(linking: Gateway) -> None:
    markers = [f"marker-{uuid.uuid4().hex}" for _ in range(IN_FLIGHT)]
    linking.provider.replies.extend([Reply(delay=0.2)] * IN_FLIGHT)
    # One in three streams: its last lines come after the response.
    bodies = [_chat(marker, stream=n % 3 == 0) for n, marker in enumerate(markers)]
    responses = _send_at_once(linking, bodies)
    trace_ids = dict(zip(markers, map(trace_id_of, responses), strict=True))
    time.sleep(1)  # callbacks write after the response
    lines = [json.loads(line) for line in linking.proxy.log.splitlines() if line.startswith('{"')]
    told: dict[str, int] = dict.fromkeys(markers, 0)
    for line in lines:
        of = {marker for marker in re.findall(r"marker-[0-9a-f]{32}", line["message"]) if marker in trace_ids}
        if len(of) == 1 and "trace_id" in line:
            (marker,) = of
            assert line["trace_id"] == trace_ids[marker], line["message"]
            assert re.fullmatch("[0-9a-f]{16}", line["span_id"])
            told[marker] += 1
    assert min(told.values()) > 3, told
    access = [
        line for line in lines if line["component"] == "uvicorn.access" and "/chat/completions" in line["message"]
    ]
    assert {line["trace_id"] for line in access} >= set(trace_ids.values())
    started = next(n for n, line in enumerate(lines) if "Uvicorn running" in line["message"])
    assert not any("trace_id" in line or "span_id" in line for line in lines[:started])


def test_litellms_own_ids_stay_alone(ignoring: Gateway) -> None:
    response = ignoring.proxy.client.post(
        "/v1/chat/completions", json=_chat("x"), headers={"x-litellm-trace-id": "chosen-by-the-caller"}
    )
    log = _wait_for_log(ignoring, lambda log: "chosen-by-the-caller" in log)
    lines = [json.loads(line) for line in log.splitlines() if line.startswith('{"')]
    assert {line["trace_id"] for line in lines if "trace_id" in line} == {"chosen-by-the-caller"}
    assert not any("span_id" in line for line in lines)
    assert trace_id_of(response) not in log


@pytest.mark.slow
def test_log_lines_stay_as_they_are_where_it_is_off() -> None:
    with running(environment={"LITELLM_OTEL_PLUGIN_LOG_CORRELATION": "false"}) as gateway:
        gateway.provider.replies.append(Reply(status=429))
        response = gateway.proxy.chat()
        log = _wait_for_log(gateway, lambda log: "Exception occured" in log)
        assert trace_id_of(response) not in log
        assert "[trace_id=" not in log


# --- a caller's trace -------------------------------------------------------------------------------------------------


def _traceparent(flags: str = "01") -> tuple[str, dict[str, str]]:
    trace_id = uuid.uuid4().hex
    return trace_id, {"traceparent": f"00-{trace_id}-{CALLERS_SPAN}-{flags}", "tracestate": "vendor=theirs"}


def test_a_callers_trace_is_continued(text: Gateway) -> None:
    trace_id, headers = _traceparent()
    response = text.proxy.client.post("/v1/chat/completions", json=_chat("x"), headers=headers)
    assert trace_id_of(response) == trace_id
    assert text.server_span(response).parent_id == CALLERS_SPAN


def test_a_caller_that_does_not_sample_is_followed(text: Gateway) -> None:
    trace_id, headers = _traceparent("00")
    response = text.proxy.client.post("/v1/chat/completions", json=_chat("x"), headers=headers)
    assert trace_id_of(response) == trace_id
    text.trace_of(text.proxy.chat())
    assert not text.collector.trace(trace_id)


@pytest.mark.whole_request
@pytest.mark.parametrize("flags", ["00", "01"])
@pytest.mark.parametrize("setting", ["linking", "ignoring"])
def test_a_trace_of_its_own(request: pytest.FixtureRequest, setting: str, flags: str) -> None:
    gateway: Gateway = request.getfixturevalue(setting)
    callers_trace, headers = _traceparent(flags)
    headers["baggage"] = "litellm.team.id=somebody,session.id=theirs,litellm.metadata.x=theirs"
    response = gateway.proxy.client.post("/v1/chat/completions", json=_chat("x"), headers=headers)
    spans = gateway.trace_of(response, kinds=("SERVER", "CLIENT"))
    (server,) = [span for span in spans if span.kind == "SERVER"]
    assert server.trace_id != callers_trace
    assert (server.parent_id, server.links) == ("", (CALLERS_SPAN,) if setting == "linking" else ())
    assert {span.links for span in spans if span is not server} == {()}
    told = str([span.attributes for span in spans])
    assert callers_trace not in told
    assert "theirs" not in told
    assert "somebody" not in told
    assert not gateway.collector.trace(callers_trace)


def test_what_a_pass_through_hands_on(linking: Gateway) -> None:
    callers_trace, headers = _traceparent()
    response = linking.proxy.client.get("/openai/v1/models", headers={**headers, "baggage": "a=theirs"})
    assert trace_id_of(response) != callers_trace
    assert linking.server_span(response).links == (CALLERS_SPAN,)
    sent = str(linking.provider.requests[-1].headers)
    assert callers_trace not in sent
    assert "theirs" not in sent


@pytest.mark.parametrize("setting", ["text", "linking", "ignoring"])
def test_a_malformed_traceparent_is_none(request: pytest.FixtureRequest, setting: str) -> None:
    gateway: Gateway = request.getfixturevalue(setting)
    path = unique_path()
    for traceparent in ("", "nonsense", f"00-{'0' * 32}-{CALLERS_SPAN}-01", "00-abc-def-01"):
        response = gateway.proxy.client.get(path, headers={"traceparent": traceparent, "tracestate": "a=b"})
        server = gateway.server_span(response)
        assert (response.status_code, server.parent_id, server.links) == (404, "", ())


@pytest.mark.parametrize("setting", ["linking", "ignoring"])
def test_websockets(request: pytest.FixtureRequest, setting: str) -> None:
    gateway: Gateway = request.getfixturevalue(setting)
    callers_trace, headers = _traceparent("00")
    url = gateway.proxy.url.replace("http", "ws") + "/v1/realtime?model=realtime"
    with connect(url, additional_headers={"authorization": f"Bearer {MASTER_KEY}", **headers}, proxy=None) as socket:
        assert socket.response is not None
        answered = socket.response.headers["traceresponse"].split("-")[1]
        socket.recv(timeout=10)
    assert answered != callers_trace
    (server,) = [span for span in gateway.trace(answered) if span.kind == "SERVER"]
    assert (server.parent_id, server.links) == ("", (CALLERS_SPAN,) if setting == "linking" else ())

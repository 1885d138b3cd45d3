"""Every kind of door that LiteLLM has, driven once: the whole tree of its spans, as the README's table shows it."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import openai
import pytest
from websockets.sync.client import connect

from tests.support.config import PLUGIN, config, provider_environment
from tests.support.gateway import Gateway
from tests.support.provider import MockProvider, Reply
from tests.support.proxy import MASTER_KEY, REPOSITORY, Proxy
from tests.support.receiver import OtlpReceiver
from tests.support.tool_server import TOOL, tool_server
from tests.support.trees import outline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from websockets.sync.connection import Connection

    from tests.support.receiver import ReceivedSpan

PREPROCESSING = "litellm.preprocessing.duration_ms"
PROVIDER = "litellm.provider.duration_ms"
OVERHEAD = "litellm.overhead.duration_ms"
HI = {"role": "user", "content": "hi"}
CHAT = {"model": "mock", "messages": [HI]}
MESSAGES = {"model": "claude-mock", "max_tokens": 9, "messages": [HI]}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
PASSED_THROUGH = ("GEMINI", "COHERE", "MISTRAL")
VERTEX = "/vertex_ai/v1/projects/p/locations/us-central1/publishers/google/models/gemini-mock:generateContent"
BATCH_LINE = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}).encode()


# --- the proxy and its clients ----------------------------------------------------------------------------------------


@dataclass
class Visitor:
    """Real clients of one proxy; what it answered each of them is in ``answers``."""

    gateway: Gateway
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    # What is to arrive, by the id of the trace that an answer named.
    expected: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        url = self.gateway.proxy.url
        watched: dict[str, Any] = {"trust_env": False, "event_hooks": {"response": [self._answered]}}
        self.http = httpx.Client(base_url=url, headers=self.gateway.proxy.headers, timeout=30, **watched)
        # Each brings a client library of its own.
        self.openai = openai.OpenAI(
            base_url=f"{url}/v1", api_key=MASTER_KEY, max_retries=0, http_client=openai.DefaultHttpxClient(**watched)
        )
        self.anthropic = anthropic.Anthropic(
            base_url=url, api_key=MASTER_KEY, max_retries=0, http_client=anthropic.DefaultHttpxClient(**watched)
        )

    def close(self) -> None:
        for client in (self.http, self.openai, self.anthropic):
            client.close()

    def _answered(self, response: Any) -> None:
        self.answers.append((response.status_code, dict(response.headers)))

    @contextmanager
    def session(self, path: str) -> Iterator[Connection]:
        """A WebSocket."""
        url = f"ws://127.0.0.1:{self.gateway.proxy.port}{path}"
        with connect(url, additional_headers=self.gateway.proxy.headers, proxy=None) as session:
            assert session.response is not None
            self.answers.append((session.response.status_code, dict(session.response.headers.items())))
            yield session

    def mcp(self, method: str, path: str = "/mcp/", **params: Any) -> None:
        """One message of an MCP client."""
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        response = self.http.post(path, json=message, headers={"accept": "application/json, text/event-stream"})
        assert '"result"' in response.text, response.text


def _models(provider: MockProvider) -> list[dict[str, Any]]:
    """Beside those of every test's proxy."""
    openais = {"api_key": "sk-provider", "api_base": f"{provider.url}/v1"}
    aws = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_region_name": "us-east-1"}
    settings = {
        "moderate": {"model": "openai/omni-moderation-latest", **openais},
        "image": {"model": "openai/gpt-image-1", **openais},
        "speech": {"model": "openai/tts-1", **openais},
        "whisper": {"model": "openai/whisper-1", **openais},
        "rerank": {"model": "cohere/rerank-mock", "api_key": "k", "api_base": f"{provider.url}/v2/rerank"},
        "vllm": {"model": "hosted_vllm/vllm", "api_key": "k", "api_base": provider.url},
        "gemini": {"model": "gemini/gemini-mock", "api_key": "k", "api_base": provider.url},
        "bedrock": {
            "model": "bedrock/anthropic.claude-mock",
            "aws_bedrock_runtime_endpoint": provider.url,
            **aws,
        },
    }
    return [{"model_name": name, "litellm_params": params} for name, params in settings.items()]


@pytest.fixture(scope="module")
def visitor() -> Iterator[Visitor]:
    with tool_server() as tools, MockProvider() as provider, OtlpReceiver() as collector:
        target = {"path": "/configured", "target": f"{provider.url}/v1/configured"}
        document = config(
            provider.url,
            PLUGIN,
            mcp_servers={"sums": {"url": tools, "transport": "http", "allow_all_keys": True}},
            general_settings={"pass_through_endpoints": [target], "enable_openai_websocket_passthrough": True},
        )
        document["model_list"] += _models(provider)
        environment = {
            **provider_environment(provider.url),
            **{f"{name}_API_KEY": "k" for name in PASSED_THROUGH},
            **{f"{name}_API_BASE": provider.url for name in PASSED_THROUGH},
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            # Vertex's address cannot be set. Nothing listens on this one, so nothing leaves the machine.
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1",
        }
        with Proxy(document, environment) as proxy:
            visitor = Visitor(Gateway(proxy, provider, collector))
            yield visitor
            visitor.close()


# --- the doors --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Door:
    """One door: who goes through it, and the spans that then arrive, each indented below its parent.

    ``row`` is what the README's table calls doors of this kind.
    """

    row: str
    visit: Callable[[Visitor], object]
    spans: str
    status: int = 200
    attempts: int = 1

    @property
    def route(self) -> str | None:
        _, _, route = self.spans.splitlines()[0].removeprefix("SERVER ").removesuffix(" ERROR").partition(" ")
        return route or None


def _spans(server: str, *below: str) -> str:
    return "".join(f"{line}\n" for line in [f"SERVER {server}", *(f"  {each}" for each in below)])


def _send(method: str, path: str, **body: Any) -> Callable[[Visitor], object]:
    return lambda visitor: visitor.http.request(method, path, **body)


def _converse(path: str, event: dict[str, Any], last: str) -> Callable[[Visitor], object]:
    """A session in which an event is sent twice, and each time those of the provider are read up to the ``last``."""

    def visit(visitor: Visitor) -> None:
        with visitor.session(path) as session:
            for _ in range(2):
                session.send(json.dumps(event))
                while json.loads(session.recv(10))["type"] != last:
                    pass

    return visit


def _streamed_chat(visitor: Visitor) -> None:
    chunks = visitor.openai.chat.completions.create(
        model="mock", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    assert len(list(chunks)) > 1


def _streamed_messages(visitor: Visitor) -> None:
    messages = visitor.anthropic.messages
    with messages.stream(model="claude", max_tokens=9, messages=[{"role": "user", "content": "hi"}]) as stream:
        assert stream.get_final_text()


def _upload(visitor: Visitor) -> None:
    visitor.openai.files.create(file=("a.jsonl", BATCH_LINE), purpose="batch")


def _fail(visitor: Visitor) -> None:
    visitor.gateway.provider.replies.append(Reply(status=500))
    visitor.http.post("/openai/chat/completions", json=CHAT)


def _called(path: str, model: str, call: str, *, method: str = "POST", route: str = "") -> str:
    """A model of the proxy's, called."""
    return _spans(f"{method} {route or path}", f"auth {path}", f"route {model}", f"CLIENT {call}")


def _passed_through(path: str, call: str, route: str = "") -> str:
    return _spans(f"POST {route or path}", f"auth {path}", f"CLIENT {call}")


def _unannounced(path: str, *, method: str = "POST", route: str = "") -> str:
    return _spans(f"{method} {route or path}", f"auth {path}")


PNG = {"image": ("a.png", b"\x89PNG", "image/png")}
GENERATE = "/v1beta/models/{model_name:path}:generateContent"
STREAM_GENERATE = "/v1beta/models/{model_name:path}:streamGenerateContent"

DOORS = {
    "chat": Door(
        "Chat",
        lambda visitor: visitor.openai.chat.completions.create(
            model="mock", messages=[{"role": "user", "content": "hi"}]
        ),
        _called("/v1/chat/completions", "mock", "chat mock"),
    ),
    "streamed chat": Door("Chat", _streamed_chat, _called("/v1/chat/completions", "mock", "chat mock")),
    "messages": Door(
        "Chat",
        lambda visitor: visitor.anthropic.messages.create(
            model="claude", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        ),
        _called("/v1/messages", "claude", "chat claude"),
    ),
    "streamed messages": Door("Chat", _streamed_messages, _called("/v1/messages", "claude", "chat claude")),
    "responses": Door(
        "Chat",
        lambda visitor: visitor.openai.responses.create(model="mock", input="hi"),
        _called("/v1/responses", "mock", "chat mock"),
    ),
    "streamed responses": Door(
        "Chat",
        lambda visitor: list(visitor.openai.responses.create(model="mock", input="hi", stream=True)),
        _called("/v1/responses", "mock", "chat mock"),
    ),
    "completions": Door(
        "Completions",
        lambda visitor: visitor.openai.completions.create(model="mock", prompt="hi"),
        _called("/v1/completions", "mock", "text_completion mock"),
    ),
    "generateContent": Door(
        "Chat",
        _send("POST", "/v1beta/models/gemini:generateContent", json=CONTENTS),
        _called("/v1beta/models/gemini:generateContent", "gemini", "chat gemini", route=GENERATE),
    ),
    "streamGenerateContent": Door(
        "Chat",
        _send("POST", "/v1beta/models/gemini:streamGenerateContent", json=CONTENTS),
        _called("/v1beta/models/gemini:streamGenerateContent", "gemini", "chat gemini", route=STREAM_GENERATE),
    ),
    "generateContent of another provider's model": Door(
        "Chat",
        _send("POST", "/v1beta/models/mock:generateContent", json=CONTENTS),
        _called("/v1beta/models/mock:generateContent", "mock", "chat mock", route=GENERATE),
    ),
    "embeddings": Door(
        "Embeddings",
        lambda visitor: visitor.openai.embeddings.create(model="embed", input="hi", encoding_format="float"),
        _called("/v1/embeddings", "embed", "embeddings embed"),
    ),
    "moderations": Door(
        "Moderations",
        lambda visitor: visitor.openai.moderations.create(model="moderate", input="hi"),
        _called("/v1/moderations", "moderate", "litellm.moderation moderate"),
    ),
    "rerank": Door(
        "Rerank, image edits",
        _send("POST", "/v1/rerank", json={"model": "rerank", "query": "q", "documents": ["a"]}),
        _called("/v1/rerank", "rerank", "chat rerank"),
    ),
    "images": Door(
        "Images, audio",
        lambda visitor: visitor.openai.images.generate(model="image", prompt="a cat"),
        _called("/v1/images/generations", "image", "generate_content image"),
    ),
    "image edits": Door(
        "Rerank, image edits",
        _send("POST", "/v1/images/edits", data={"model": "image", "prompt": "a hat"}, files=PNG),
        _called("/v1/images/edits", "image", "chat image"),
    ),
    "speech": Door(
        "Images, audio",
        lambda visitor: visitor.openai.audio.speech.create(model="speech", input="hi", voice="alloy").read(),
        _called("/v1/audio/speech", "speech", "generate_content speech"),
    ),
    "transcriptions": Door(
        "Images, audio",
        lambda visitor: visitor.openai.audio.transcriptions.create(model="whisper", file=("a.wav", b"RIFF0000WAVE")),
        _called("/v1/audio/transcriptions", "whisper", "generate_content whisper"),
    ),
    "realtime": Door(
        "Realtime",
        _converse("/v1/realtime?model=realtime", {"type": "response.create"}, "response.done"),
        _called("/v1/realtime", "realtime", "chat realtime", method="GET"),
        status=101,
    ),
    "responses in a session": Door(
        "Responses session",
        _converse("/v1/responses?model=claude", {"type": "response.create", "input": "hi"}, "response.completed"),
        _spans("GET /v1/responses", "auth /v1/responses", "route claude", "CLIENT chat claude", "CLIENT chat claude"),
        status=101,
        attempts=2,
    ),
    "realtime passed through": Door(
        "Pass-through",
        _converse("/openai/realtime?model=realtime", {"type": "response.create"}, "response.done"),
        _spans("GET /openai/{endpoint:path}", "auth /openai/realtime", "CLIENT chat unknown"),
        status=101,
    ),
    "MCP initialize": Door(
        "MCP, first message",
        lambda visitor: visitor.mcp(
            "initialize", protocolVersion="2025-03-26", capabilities={}, clientInfo={"name": "test", "version": "1"}
        ),
        _spans("POST /mcp", "auth /mcp/", "CLIENT MCP send initialize"),
        attempts=0,
    ),
    "MCP tools/list": Door(
        "MCP `tools/list`",
        lambda visitor: visitor.mcp("tools/list"),
        _spans(
            "POST /mcp", "auth /mcp/", "CLIENT tools/list", "CLIENT MCP send initialize", "CLIENT MCP send tools/list"
        ),
        attempts=0,
    ),
    "MCP tools/call": Door(
        "MCP `tools/call`",
        lambda visitor: visitor.mcp("tools/call", name=f"sums-{TOOL}", arguments={"a": 1, "b": 2}),
        _spans(
            "POST /mcp",
            "auth /mcp/",
            f"CLIENT tools/call {TOOL}",
            "CLIENT MCP send initialize",
            f"CLIENT MCP send tools/call {TOOL}",
            "CLIENT MCP send tools/list",
        ),
        attempts=0,
    ),
    "MCP over REST": Door(
        "MCP `tools/call`",
        _send(
            "POST",
            "/mcp-rest/tools/call",
            json={"server_id": "sums", "name": f"sums-{TOOL}", "arguments": {"a": 1, "b": 2}},
        ),
        _spans(
            "POST /mcp-rest/tools/call",
            "auth /mcp-rest/tools/call",
            f"CLIENT tools/call {TOOL}",
            "CLIENT MCP send initialize",
            f"CLIENT MCP send tools/call {TOOL}",
            "CLIENT MCP send tools/list",
        ),
        attempts=0,
    ),
    "batches create": Door(
        "Batches, files, assistants, threads",
        lambda visitor: visitor.openai.batches.create(
            input_file_id="file-mock", endpoint="/v1/chat/completions", completion_window="24h"
        ),
        _unannounced("/v1/batches"),
    ),
    "batches retrieve": Door(
        "Batches, files, assistants, threads",
        lambda visitor: visitor.openai.batches.retrieve("batch_mock"),
        _unannounced("/v1/batches/batch_mock", method="GET", route="/v1/batches/{batch_id:path}"),
    ),
    "files upload": Door("Batches, files, assistants, threads", _upload, _unannounced("/v1/files")),
    "files list": Door(
        "Batches, files, assistants, threads",
        lambda visitor: visitor.openai.files.list(),
        _unannounced("/v1/files", method="GET"),
    ),
    "files content": Door(
        "Batches, files, assistants, threads",
        lambda visitor: visitor.openai.files.content("file-mock").read(),
        _unannounced("/v1/files/file-mock/content", method="GET", route="/v1/files/{file_id:path}/content"),
    ),
    "files delete": Door(
        "Batches, files, assistants, threads",
        lambda visitor: visitor.openai.files.delete("file-mock"),
        _unannounced("/v1/files/file-mock", method="DELETE", route="/v1/files/{file_id:path}"),
    ),
    "assistants": Door(
        "Batches, files, assistants, threads",
        _send("POST", "/v1/assistants", json={"model": "mock"}),
        _unannounced("/v1/assistants"),
    ),
    "threads": Door(
        "Batches, files, assistants, threads", _send("POST", "/v1/threads", json={}), _unannounced("/v1/threads")
    ),
    "runs": Door(
        "Batches, files, assistants, threads",
        _send("POST", "/v1/threads/thread_mock/runs", json={"assistant_id": "asst_mock"}),
        _unannounced("/v1/threads/thread_mock/runs", route="/v1/threads/{thread_id}/runs"),
    ),
    "fine-tuning": Door(
        "Models, admin",
        _send("POST", "/v1/fine_tuning/jobs", json={"model": "mock", "training_file": "file-mock"}),
        _spans("POST /v1/fine_tuning/jobs ERROR", "auth /v1/fine_tuning/jobs"),
        status=500,
        attempts=0,
    ),
    "vector stores": Door(
        "Vector stores",
        _send("POST", "/v1/vector_stores", json={"name": "v"}),
        _passed_through("/v1/vector_stores", "litellm.vector_store_management"),
    ),
    "OpenAI passed through": Door(
        "Pass-through",
        _send("POST", "/openai/chat/completions", json=CHAT),
        _passed_through("/openai/chat/completions", "chat mock", "/openai/{endpoint:path}"),
    ),
    "a failure passed through": Door(
        "Pass-through",
        _fail,
        _spans("POST /openai/{endpoint:path} ERROR", "auth /openai/chat/completions", "CLIENT chat mock ERROR"),
        status=500,
    ),
    "Anthropic passed through": Door(
        "Pass-through",
        _send("POST", "/anthropic/v1/messages", json=MESSAGES),
        _passed_through("/anthropic/v1/messages", "chat claude-mock", "/anthropic/{endpoint:path}"),
    ),
    "Gemini passed through": Door(
        "Pass-through",
        _send(
            "POST",
            "/gemini/v1beta/models/gemini-mock:generateContent",
            json=CONTENTS,
            headers={"x-goog-api-key": MASTER_KEY},
        ),
        _passed_through(
            "/gemini/v1beta/models/gemini-mock:generateContent", "chat gemini-mock", "/gemini/{endpoint:path}"
        ),
    ),
    "Cohere passed through": Door(
        "Pass-through",
        _send("POST", "/cohere/v2/chat", json={"model": "command", "messages": [HI]}),
        _passed_through("/cohere/v2/chat", "chat command", "/cohere/{endpoint:path}"),
    ),
    "Mistral passed through": Door(
        "Pass-through",
        _send("POST", "/mistral/v1/chat/completions", json=CHAT),
        _passed_through("/mistral/v1/chat/completions", "chat mock", "/mistral/{endpoint:path}"),
    ),
    "Vertex passed through": Door(
        "Pass-through to Vertex",
        _send(
            "POST",
            VERTEX,
            json=CONTENTS,
            headers={"x-litellm-api-key": f"Bearer {MASTER_KEY}", "authorization": "Bearer t"},
        ),
        _spans(
            "POST /vertex_ai/{endpoint:path} ERROR", f"auth {VERTEX}", f"auth {VERTEX}", "CLIENT chat gemini-mock ERROR"
        ),
        status=500,
    ),
    "configured pass-through": Door(
        "Pass-through",
        _send("POST", "/configured", json={"any": "thing"}),
        _passed_through("/configured", "chat unknown"),
    ),
    "Bedrock passed through": Door(
        "Pass-through of a model",
        _send(
            "POST",
            "/bedrock/model/bedrock/converse",
            json={"messages": [{"role": "user", "content": [{"text": "hi"}]}]},
        ),
        _called("/bedrock/model/bedrock/converse", "bedrock", "chat bedrock", route="/bedrock/{endpoint:path}"),
    ),
    "vLLM passed through": Door(
        "Pass-through of a model",
        _send("POST", "/vllm/v1/chat/completions", json={**CHAT, "model": "vllm"}),
        _called("/vllm/v1/chat/completions", "vllm", "chat vllm", route="/vllm/{endpoint:path}"),
    ),
    "count_tokens": Door(
        "Token counts",
        lambda visitor: visitor.anthropic.messages.count_tokens(
            model="claude", messages=[{"role": "user", "content": "hi"}]
        ),
        _spans("POST /v1/messages/count_tokens", "auth /v1/messages/count_tokens", "route claude"),
    ),
    "token counter": Door(
        "Token counts",
        _send("POST", "/utils/token_counter?call_endpoint=true", json={"model": "claude", "messages": [HI]}),
        _spans("POST /utils/token_counter", "auth /utils/token_counter", "route claude"),
    ),
    "models": Door(
        "Models, admin",
        lambda visitor: visitor.openai.models.list(),
        _unannounced("/v1/models", method="GET"),
        attempts=0,
    ),
    "a key without a database": Door(
        "Models, admin",
        _send("POST", "/key/generate", json={}),
        _spans("POST /key/generate ERROR", "auth /key/generate"),
        status=500,
        attempts=0,
    ),
    "a path that nothing matches": Door("No such door", _send("GET", "/nope"), _spans("GET"), status=404, attempts=0),
}

NOT_TRACED = ("/health", "/health/liveliness", "/health/readiness", "/metrics", "/ui/", "/docs")


def _trace_of(visitor: Visitor, trace_id: str, expected: str) -> list[ReceivedSpan]:
    """The whole trace, or what there is of it when as much as is expected should long have arrived."""
    collector = visitor.gateway.collector

    def arrived(_: list[ReceivedSpan]) -> bool:
        return len(collector.trace(trace_id)) >= expected.count("\n")

    with suppress(AssertionError):
        collector.wait_until(arrived)
    return collector.trace(trace_id)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_door(visitor: Visitor, door: Door) -> None:
    visitor.answers.clear()
    door.visit(visitor)
    ((status, headers),) = visitor.answers
    assert status == door.status
    trace_id = headers["traceresponse"].split("-")[1]
    visitor.expected[trace_id] = door.spans
    arrived = _trace_of(visitor, trace_id, door.spans)
    assert outline(arrived) == door.spans
    (server,) = [span for span in arrived if span.kind == "SERVER"]
    facts = server.attributes
    assert facts.get("http.route") == door.route
    assert facts["http.response.status_code"] == status
    assert facts["litellm.attempts"] == door.attempts
    if door.attempts:
        numbers = {span.attributes.get("litellm.attempt") for span in arrived if span.kind == "CLIENT"}
        assert numbers <= {1}
    reached = door.attempts > 0
    assert (PREPROCESSING in facts, PROVIDER in facts) == (reached, reached)
    took_ms = (server.end_ns - server.start_ns) / 1_000_000
    assert 0 < facts[OVERHEAD] + facts.get(PROVIDER, 0.0) <= took_ms


@pytest.mark.parametrize("path", NOT_TRACED)
def test_a_door_that_is_not_traced(visitor: Visitor, path: str) -> None:
    assert "traceresponse" not in visitor.http.get(path).headers


# The last test of this module: the proxy is stopped, and what LiteLLM never told the end of is closed.
def test_no_span_comes_later_and_none_belongs_to_no_door(visitor: Visitor) -> None:
    visitor.gateway.proxy.stop()
    collector = visitor.gateway.collector
    assert {trace_id: outline(collector.trace(trace_id)) for trace_id in visitor.expected} == visitor.expected
    others = [span for span in collector.spans if span.trace_id not in visitor.expected]
    # At its start LiteLLM lists the tools of its MCP servers.
    assert {span.name for span in others} <= {"MCP send initialize", "MCP send tools/list"}


# --- what the README says ---------------------------------------------------------------------------------------------


def _rows_of_readme() -> dict[str, str]:
    """The table's first two columns: the words before the colon, and the spans below the SERVER span."""
    _, _, section = (REPOSITORY / "README.md").read_text().partition("## What a trace of each door looks like\n")
    table = section.partition("\n## ")[0]
    cells = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")][2:]
    return {name.partition(":")[0].strip(): spans.strip() for name, spans, _ in cells}


def _pattern(spans: str) -> str:
    """What a cell says, for an outline: CLIENT spans are bold there, and `{…}` is whatever was asked for."""
    lines = []
    for span in spans.split(", ") if spans else ():
        name = span.removeprefix("**").removesuffix("**").removesuffix(" ERROR")
        name = f"{name} {{what}}" if name in ("auth", "route") else name
        text = re.sub(r"\\{\w+\\}", ".+", re.escape(name))
        lines.append(f"  {'CLIENT ' if '**' in span else ''}{text}( ERROR)?\n")
    return "SERVER .+\n" + "".join(lines)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_the_readme_says_the_same(door: Door) -> None:
    assert re.fullmatch(_pattern(_rows_of_readme()[door.row]), door.spans)


def test_every_row_of_the_readme_is_a_door_that_is_driven() -> None:
    assert set(_rows_of_readme()) == {door.row for door in DOORS.values()} | {"Not traced"}

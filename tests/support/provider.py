"""A provider on a real socket that speaks OpenAI's and Anthropic's APIs and can be scripted."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from tests.support.server import ServerThread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.websockets import WebSocket
    from typing_extensions import Self

ANSWER = ("The", " answer", " is", " 42.")


# A request that has one of these in its content is answered as that story says, whatever else is under way.
STORY = re.compile(r"story-[0-9a-z]+")
# An error event in the middle of a stream, as OpenAI and Anthropic send it.
ERROR_EVENT: dict[str, Any] = {
    "type": "error",
    "error": {"type": "overloaded_error", "message": "scripted in mid-stream", "code": 529},
}


@dataclass
class Reply:
    """How the provider answers one request.

    ``after_chunks`` ends a stream early, with an abrupt close; ``error_after_chunks`` with an event that says so.
    ``stalls_after_chunks`` sends no more for ``delay_of_stall``. ``tokens`` is the usage that it claims.
    """

    status: int = 200
    delay: float = 0.0
    chunk_delay: float = 0.0
    after_chunks: int | None = None
    error_after_chunks: int | None = None
    stalls_after_chunks: int | None = None
    delay_of_stall: float = 60.0
    tokens: int = 4
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProviderRequest:
    path: str
    headers: dict[str, str]
    body: Any
    story: str | None


class MockProvider:
    """Answers every path with what the real one would; ``replies`` are used up first come, first served.

    ``stories`` are for requests at once: the content of each request names its story, and a story has its own replies,
    by the model that is asked where several are asked side by side.
    """

    def __init__(self) -> None:
        self.requests: list[ProviderRequest] = []
        self.replies: deque[Reply] = deque()
        self.stories: dict[tuple[str, str | None], deque[Reply]] = {}
        self._lock = threading.Lock()
        routes = [
            WebSocketRoute("/v1/realtime", self._talk),
            WebSocketRoute("/v1/responses", self._respond),
            Route("/{path:path}", self._serve, methods=["GET", "POST", "DELETE"]),
        ]
        self.server = ServerThread(Starlette(routes=routes))

    @property
    def url(self) -> str:
        return self.server.url

    def tell(self, story: str, *replies: Reply, model: str | None = None) -> str:
        """Script what requests of a story are answered with, one after the other; returns its name."""
        self.stories[story, model] = deque(replies)
        return story

    def requests_of(self, story: str) -> list[ProviderRequest]:
        """What was asked in a story, in order."""
        with self._lock:
            return [each for each in self.requests if each.story == story]

    def _reply_to(self, request: ProviderRequest) -> Reply:
        if request.story is None:
            return self.replies.popleft() if self.replies else Reply()
        model = request.body.get("model") if isinstance(request.body, dict) else None
        told = self.stories.get((request.story, model)) or self.stories.get((request.story, None))
        return told.popleft() if told else Reply()

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.stop()

    async def _talk(self, websocket: WebSocket) -> None:
        """A session that answers each event with one of its own."""
        await websocket.accept()
        await websocket.send_json({"type": "session.created", "session": {"id": "sess_mock", "model": "mock"}})
        async for event in websocket.iter_json():
            usage = {"total_tokens": 11, "input_tokens": 7, "output_tokens": 4}
            response = {"id": "resp_mock", "object": "realtime.response", "status": "completed", "output": []}
            done = {"type": "response.done", "response": {**response, "usage": usage}}
            await websocket.send_json({**done, "event_id": event.get("event_id", "none")})

    async def _respond(self, websocket: WebSocket) -> None:
        """The Responses API in a session: each event is answered with the events of a stream."""
        await websocket.accept()
        async for _ in websocket.iter_json():
            for event in _responses_events(Reply().tokens):
                await websocket.send_json(event)

    async def _serve(self, request: Request) -> Response:
        raw = await request.body()
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            body = raw.decode("latin-1")
        path = request.url.path
        story = STORY.search(raw.decode("latin-1"))
        asked = ProviderRequest(path, dict(request.headers), body, story and story[0])
        with self._lock:
            self.requests.append(asked)
            reply = self._reply_to(asked)
        if reply.delay:
            await asyncio.sleep(reply.delay)
        if reply.status >= 400:
            error = {"error": {"message": f"scripted {reply.status}", "type": "scripted", "code": str(reply.status)}}
            return JSONResponse(error, reply.status, headers=reply.headers)
        streams = isinstance(body, dict) and bool(body.get("stream"))
        if streams:
            chunks = _anthropic_stream(reply) if path.endswith("/messages") else _openai_stream(path, reply)
            return StreamingResponse(_paced(chunks, reply), media_type="text/event-stream")
        return JSONResponse(_document(path, request.method, body, reply.tokens))


async def _paced(chunks: list[str], reply: Reply) -> AsyncIterator[str]:
    for count, chunk in enumerate(chunks):
        if reply.after_chunks is not None and count >= reply.after_chunks:
            raise ConnectionResetError("scripted")
        if reply.error_after_chunks is not None and count >= reply.error_after_chunks:
            yield f"event: error\ndata: {json.dumps(ERROR_EVENT)}\n\n"
            return
        if count == reply.stalls_after_chunks:
            await asyncio.sleep(reply.delay_of_stall)
        if reply.chunk_delay:
            await asyncio.sleep(reply.chunk_delay)
        yield chunk


def _document(path: str, method: str, body: Any, tokens: int = 4) -> dict[str, Any]:
    model = body.get("model", "mock") if isinstance(body, dict) else "mock"
    if path.endswith("/chat/completions"):
        message = {"role": "assistant", "content": "".join(ANSWER)}
        return {
            "id": "chatcmpl-mock",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens},
        }
    if path.endswith("/messages"):
        return {
            "id": "msg_mock",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": "".join(ANSWER)}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 7, "output_tokens": tokens},
        }
    if path.endswith("/embeddings"):
        return {
            "object": "list",
            "model": model,
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
            "usage": {"prompt_tokens": 3, "total_tokens": 3},
        }
    if path.endswith("/responses"):
        return _responses_document(model, tokens)
    return _further_document(path, method, model) or _assistants_document(path, method, body)


def _further_document(path: str, method: str, model: str) -> dict[str, Any] | None:
    """What is answered on the doors beside those of text; ``None`` where this is none of them."""
    if method == "DELETE":
        *_, kind, name = path.split("/")
        return {"id": name, "object": f"{kind.removesuffix('s')}.deleted", "deleted": True}
    text = "".join(ANSWER)
    tokens = {"input_tokens": 7, "output_tokens": 4}
    documents: dict[str, dict[str, Any]] = {
        "/completions": {
            "id": "cmpl-mock",
            "object": "text_completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11},
        },
        "/moderations": {
            "id": "modr-mock",
            "model": model,
            "results": [{"flagged": False, "categories": {"hate": False}, "category_scores": {"hate": 0.0}}],
        },
        "/images/generations": {"created": 1, "data": [{"b64_json": "AAAA"}]},
        "/images/edits": {"created": 1, "data": [{"b64_json": "AAAA"}]},
        "/audio/transcriptions": {"text": text},
        "/rerank": {
            "id": "rerank-mock",
            "results": [{"index": 0, "relevance_score": 0.9}],
            "meta": {"billed_units": {"search_units": 1}},
        },
        "/v2/chat": {  # Cohere's
            "id": "chat-mock",
            "finish_reason": "COMPLETE",
            "message": {"role": "assistant", "content": [{"type": "text", "text": text}]},
            "usage": {"billed_units": tokens, "tokens": tokens},
        },
        ":generateContent": {
            "candidates": [
                {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP", "index": 0}
            ],
            "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 4, "totalTokenCount": 11},
            "modelVersion": "gemini-mock",
        },
        "/converse": {  # Bedrock's
            "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
            "stopReason": "end_turn",
            "usage": {"inputTokens": 7, "outputTokens": 4, "totalTokens": 11},
            "metrics": {"latencyMs": 1},
        },
        "titan-embed-text-v1/invoke": {"embedding": [0.1, 0.2], "inputTextTokenCount": 3},
        "/count_tokens": {"input_tokens": 7},
        "/vector_stores": {"id": "vs_mock", "object": "vector_store", "created_at": 1, "status": "completed"},
    }
    return next((document for ending, document in documents.items() if path.endswith(ending)), None)


def _responses_document(model: str, tokens: int) -> dict[str, Any]:
    content = [{"type": "output_text", "text": "".join(ANSWER), "annotations": []}]
    return {
        "id": "resp_mock",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": model,
        "output": [
            {"type": "message", "id": "msg_mock", "status": "completed", "role": "assistant", "content": content}
        ],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 7, "output_tokens": tokens, "total_tokens": 7 + tokens},
    }


def _assistants_document(path: str, method: str, body: Any) -> dict[str, Any]:
    metadata = body.get("metadata") if isinstance(body, dict) else None
    if "/runs" in path:
        return {
            "id": "run_mock",
            "object": "thread.run",
            "created_at": 1,
            "assistant_id": "asst_mock",
            "thread_id": "thread_mock",
            "status": "completed",
            "model": "mock",
            "instructions": "",
            "tools": [],
            "metadata": {},
        }
    if path.endswith("/threads") or "/threads/" in path:
        return {"id": "thread_mock", "object": "thread", "created_at": 1, "metadata": {}}
    if "/batches" in path:
        batch = {
            "id": "batch_mock",
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": "file-mock",
            "completion_window": "24h",
            "status": "validating",
            "created_at": 1,
            "metadata": metadata,
        }
        return batch if method == "POST" or not path.endswith("/batches") else {"object": "list", "data": [batch]}
    if "/files" in path:
        file = {
            "id": "file-mock",
            "object": "file",
            "bytes": 1,
            "created_at": 1,
            "filename": "mock.jsonl",
            "purpose": "batch",
            "status": "processed",
        }
        return file if method == "POST" or not path.endswith("/files") else {"object": "list", "data": [file]}
    return {"object": "list", "data": [], "echo": {"path": path, "method": method}}


def _responses_events(tokens: int) -> list[dict[str, Any]]:
    done = _responses_document("mock", tokens)
    return [
        {"type": "response.created", "response": {**done, "status": "in_progress", "output": []}},
        *(
            {
                "type": "response.output_text.delta",
                "item_id": "msg_mock",
                "output_index": 0,
                "content_index": 0,
                "delta": word,
            }
            for word in ANSWER
        ),
        {"type": "response.completed", "response": done},
    ]


def _openai_stream(path: str, reply: Reply) -> list[str]:
    if path.endswith("/responses"):
        return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in _responses_events(reply.tokens)]

    def chunk(delta: dict[str, Any], finish: str | None = None) -> str:
        document = {
            "id": "chatcmpl-mock",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "mock",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
        return f"data: {json.dumps(document)}\n\n"

    words = [chunk({"content": word}) for word in ANSWER]
    return [chunk({"role": "assistant", "content": ""}), *words, chunk({}, "stop"), "data: [DONE]\n\n"]


def _anthropic_stream(reply: Reply) -> list[str]:
    message = {**_document("/v1/messages", "POST", {}), "content": [], "stop_reason": None}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
            for word in ANSWER
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": reply.tokens},
        },
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]

"""A provider on a real socket that speaks OpenAI's and Anthropic's APIs and can be scripted."""

from __future__ import annotations

import asyncio
import json
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


@dataclass
class Reply:
    """How the provider answers one request. ``after_chunks`` ends a stream early, with an abrupt close."""

    status: int = 200
    delay: float = 0.0
    chunk_delay: float = 0.0
    after_chunks: int | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProviderRequest:
    path: str
    headers: dict[str, str]
    body: Any


class MockProvider:
    """Answers every path with what the real one would; ``replies`` are used up first come, first served."""

    def __init__(self) -> None:
        self.requests: list[ProviderRequest] = []
        self.replies: deque[Reply] = deque()
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
            await websocket.send_json({"type": "response.done", "event_id": event.get("event_id", "none")})

    async def _respond(self, websocket: WebSocket) -> None:
        """The Responses API in a session: each event is answered with the events of a stream."""
        await websocket.accept()
        async for _ in websocket.iter_json():
            for event in _responses_events():
                await websocket.send_json(event)

    async def _serve(self, request: Request) -> Response:
        raw = await request.body()
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            body = raw.decode("latin-1")
        path = request.url.path
        with self._lock:
            self.requests.append(ProviderRequest(path, dict(request.headers), body))
            reply = self.replies.popleft() if self.replies else Reply()
        if reply.delay:
            await asyncio.sleep(reply.delay)
        if reply.status >= 400:
            error = {"error": {"message": f"scripted {reply.status}", "type": "scripted", "code": str(reply.status)}}
            return JSONResponse(error, reply.status, headers=reply.headers)
        streams = isinstance(body, dict) and bool(body.get("stream"))
        if streams:
            chunks = _anthropic_stream() if path.endswith("/messages") else _openai_stream(path)
            return StreamingResponse(_paced(chunks, reply), media_type="text/event-stream")
        return JSONResponse(_document(path, request.method, body))


async def _paced(chunks: list[str], reply: Reply) -> AsyncIterator[str]:
    for count, chunk in enumerate(chunks):
        if reply.after_chunks is not None and count >= reply.after_chunks:
            raise ConnectionResetError("scripted")
        if reply.chunk_delay:
            await asyncio.sleep(reply.chunk_delay)
        yield chunk


def _document(path: str, method: str, body: Any) -> dict[str, Any]:
    model = body.get("model", "mock") if isinstance(body, dict) else "mock"
    if path.endswith("/chat/completions"):
        message = {"role": "assistant", "content": "".join(ANSWER)}
        return {
            "id": "chatcmpl-mock",
            "object": "chat.completion",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11},
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
            "usage": {"input_tokens": 7, "output_tokens": 4},
        }
    if path.endswith("/embeddings"):
        return {
            "object": "list",
            "model": model,
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
            "usage": {"prompt_tokens": 3, "total_tokens": 3},
        }
    if path.endswith("/responses"):
        return _responses_document(model)
    return _further_document(path, model) or _assistants_document(path, method, body)


def _further_document(path: str, model: str) -> dict[str, Any] | None:
    """What is answered on the doors beside those of text; ``None`` where this is none of them."""
    text = "".join(ANSWER)
    if path.endswith("/completions"):
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
        ids = {"id": "cmpl-mock", "object": "text_completion", "created": 1, "model": model}
        return {**ids, "choices": [choice], "usage": usage}
    if path.endswith("/moderations"):
        result = {"flagged": False, "categories": {"hate": False}, "category_scores": {"hate": 0.0}}
        return {"id": "modr-mock", "model": model, "results": [result]}
    if "/images/" in path:
        return {"created": 1, "data": [{"b64_json": "AAAA"}]}
    if path.endswith("/audio/transcriptions"):
        return {"text": text}
    if path.endswith("/rerank"):
        result = {"index": 0, "relevance_score": 0.9}
        return {"id": "rerank-mock", "results": [result], "meta": {"billed_units": {"search_units": 1}}}
    if path.endswith("/v2/chat"):  # Cohere's
        message = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        tokens = {"input_tokens": 7, "output_tokens": 4}
        usage = {"billed_units": tokens, "tokens": tokens}
        return {"id": "chat-mock", "finish_reason": "COMPLETE", "message": message, "usage": usage}
    if path.endswith(":generateContent"):
        return _gemini_document()
    if path.endswith("/converse"):  # Bedrock's
        return {
            "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
            "stopReason": "end_turn",
            "usage": {"inputTokens": 7, "outputTokens": 4, "totalTokens": 11},
            "metrics": {"latencyMs": 1},
        }
    return None


def _gemini_document() -> dict[str, Any]:
    content = {"role": "model", "parts": [{"text": "".join(ANSWER)}]}
    return {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 4, "totalTokenCount": 11},
        "modelVersion": "gemini-mock",
    }


def _responses_document(model: str) -> dict[str, Any]:
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
        "usage": {"input_tokens": 7, "output_tokens": 4, "total_tokens": 11},
    }


def _assistants_document(path: str, method: str, body: Any) -> dict[str, Any]:
    metadata = body.get("metadata") if isinstance(body, dict) else None
    if method == "DELETE":
        *_, kind, name = path.split("/")
        return {"id": name, "object": f"{kind.removesuffix('s')}.deleted", "deleted": True}
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
    if path.endswith("/assistants"):
        return {"id": "asst_mock", "object": "assistant", "created_at": 1, "model": "mock", "tools": []}
    if "/vector_stores" in path:
        return {"id": "vs_mock", "object": "vector_store", "created_at": 1, "name": "mock", "status": "completed"}
    return {"object": "list", "data": [], "echo": {"path": path, "method": method}}


def _responses_events() -> list[dict[str, Any]]:
    done = _responses_document("mock")
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


def _openai_stream(path: str) -> list[str]:
    if path.endswith("/responses"):
        return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in _responses_events()]

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


def _anthropic_stream() -> list[str]:
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
            "usage": {"output_tokens": 4},
        },
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]

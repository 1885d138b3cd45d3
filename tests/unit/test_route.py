"""The template that the router matched, on applications built as LiteLLM builds its own."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from litellm_otel_plugin.request.route import route_template


async def _answer() -> dict[str, str]:
    return {}


async def _plain(_request: Any) -> PlainTextResponse:
    return PlainTextResponse("")


async def _raw(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("")(scope, receive, send)


def _application() -> FastAPI:
    app = FastAPI()
    app.get("/v1/models")(_answer)
    app.get("/v1/threads/{thread_id}/runs")(_answer)
    app.api_route("/openai/{endpoint:path}", methods=["GET", "POST"])(_answer)
    inner = APIRouter(prefix="/key")
    inner.get("/{key}/info")(_answer)
    middle = APIRouter(prefix="/management")
    middle.include_router(inner)
    app.include_router(middle, prefix="/v2")
    sub = FastAPI()
    sub.get("/tools/{tool}")(_answer)
    app.mount("/mcp", sub)
    app.mount("/files", _raw)
    app.mount("/tenants/{tenant}/ui", Starlette(routes=[Route("/page/{page}", _plain)]))
    app.router.routes.append(Route("/plain/{name}", _plain))
    return app


@pytest.mark.parametrize(
    ("method", "path", "template"),
    [
        ("GET", "/v1/models", "/v1/models"),
        ("GET", "/v1/threads/thread_1/runs", "/v1/threads/{thread_id}/runs"),
        ("POST", "/openai/v1/chat/completions", "/openai/{endpoint:path}"),
        ("GET", "/v2/management/key/sk-1/info", "/v2/management/key/{key}/info"),
        ("GET", "/mcp/tools/hammer", "/mcp/tools/{tool}"),
        ("GET", "/mcp/nothing/here", "/mcp"),
        ("GET", "/files/a/b.js", "/files"),
        ("GET", "/tenants/acme/ui/page/1", "/tenants/{tenant}/ui/page/{page}"),
        ("GET", "/plain/x", "/plain/{name}"),
        ("PUT", "/v1/models", "/v1/models"),
        ("GET", "/nope", None),
        ("GET", "/v2/nope", None),
    ],
)
async def test_the_whole_template(method: str, path: str, template: str | None) -> None:
    app = _application()
    scopes = []

    async def spy(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await app(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(spy), base_url="http://test") as client:
        await client.request(method, path)
    assert route_template(scopes[0], app) == template


async def test_a_root_path_is_no_part_of_the_template() -> None:
    app = FastAPI()
    app.root_path = "/gateway"  # as LiteLLM's SERVER_ROOT_PATH; the constructor's parameter warns in newer releases
    app.get("/v1/models")(_answer)
    sub = FastAPI()
    sub.get("/tools")(_answer)
    app.mount("/mcp", sub)
    for path, template in (("/gateway/v1/models", "/v1/models"), ("/gateway/mcp/tools", "/mcp/tools")):
        scopes: list[Any] = []

        async def spy(scope: Any, receive: Any, send: Any, scopes: list[Any] = scopes) -> None:
            scopes.append(scope)
            await app(scope, receive, send)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(spy), base_url="http://test") as client:
            assert (await client.get(path)).status_code == 200
        assert route_template(scopes[0], app) == template

"""An MCP server with one tool, on a real socket."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.server import ServerThread

if TYPE_CHECKING:
    from collections.abc import Iterator

TOOL = "add"


@contextmanager
def tool_server() -> Iterator[str]:
    """Its address, while it runs."""
    from mcp.server import MCPServer  # noqa: PLC0415 - earlier releases, which LiteLLM's images pin, have none

    server = MCPServer("sums", log_level="ERROR")

    @server.tool(name=TOOL)
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    # Its sessions live in the lifespan.
    thread = ServerThread(server.streamable_http_app(stateless_http=True, json_response=True), lifespan="on")
    thread.start()
    try:
        yield f"{thread.url}/mcp"
    finally:
        thread.stop()

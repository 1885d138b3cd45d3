"""A Starlette application on a real socket, in a thread of the test process."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import uvicorn

from tests.support import patience
from tests.support.ports import free_port

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from typing import Literal

    from starlette.applications import Starlette


class ServerThread:
    """Serves one application between start and stop."""

    def __init__(
        self,
        application: Starlette,
        port: int | None = None,
        *,
        lifespan: Literal["on", "off"] = "off",
        loop: Literal["auto", "asyncio"] = "auto",
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            application,
            host="127.0.0.1",
            port=self.port,
            log_level="error",
            lifespan=lifespan,
            loop=loop,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=600,  # a connection closed as it is used again would be a failure that nobody scripted
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        deadline = time.monotonic() + patience.SECONDS
        while not self._server.started:
            if time.monotonic() > deadline:
                raise TimeoutError("the server did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        # Forced, it would cancel a lifespan instead of ending it.
        self._server.force_exit = self._server.config.lifespan == "off"
        self._thread.join(patience.SECONDS)


def wait_until_healthy(
    process: subprocess.Popen[bytes], client: httpx.Client, path: str, log: Callable[[], str], *, seconds: float
) -> None:
    """Wait for a server in a process of its own to answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}:\n{log()}")
        with suppress(httpx.TransportError):
            if client.get(path).status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise AssertionError(f"the server did not start in {seconds} s:\n{log()}")

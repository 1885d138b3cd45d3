"""A real LiteLLM proxy in a subprocess."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.ports import free_port
from tests.support.server import wait_until_healthy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self

MASTER_KEY = "sk-master-0d9a8f1f7c5e4b6e93f2a1b0c8d7e6f5"
SECONDS_TO_START = 60.0
SECONDS_TO_STOP = 20.0
CONTAINED = "internal error while"
REPOSITORY = Path(__file__).parents[2]

# What the test machine's own environment must not decide.
_CLEARED = ("OTEL_", "LITELLM_", "PHOENIX_", "LANGFUSE_", "ARIZE_", "PYTEST_", "COV_")


class Proxy:
    """One proxy, from start to stop. Its log is read from a file, so that a full pipe cannot stop it."""

    def __init__(
        self,
        config: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
        *,
        flags: Sequence[str] = (),
        strict: bool = True,
        program: Sequence[str] | None = None,
        wait: bool = True,
        port: int | None = None,
        expects_contained: bool = False,
    ) -> None:
        self._expects_contained = expects_contained
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="proxy-")
        folder = Path(self._folder.name)
        config_file = folder / "config.yaml"
        config_file.write_text(json.dumps(config))  # JSON is YAML
        self._log_file = folder / "log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_CLEARED)}
        environ |= {
            "LITELLM_MASTER_KEY": MASTER_KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "true",  # no look-up on the internet
            "LITELLM_LOCAL_POLICY_TEMPLATES": "true",
            "LITELLM_LOCAL_BLOG_POSTS": "true",
            "LITELLM_OTEL_PLUGIN_STRICT": str(strict).lower(),
            "PYTHONPATH": str(REPOSITORY),
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "NO_COLOR": "1",
        }
        environ |= environment or {}
        command = program or [str(Path(sys.executable).with_name("litellm"))]
        command = [*command, "--config", str(config_file), "--host", "127.0.0.1", "--port", str(self.port), *flags]
        with self._log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environ, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder,
                start_new_session=True,
            )  # fmt: skip
        self.headers = {"authorization": f"Bearer {MASTER_KEY}"}
        self.client = httpx.Client(base_url=self.url, timeout=30, headers=self.headers, trust_env=False)
        if wait:
            try:
                self.wait_until_ready()
            except AssertionError:
                self.client.close()
                self.kill()
                self._folder.cleanup()
                raise

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        wait_until_healthy(self.process, self.client, "/health/liveliness", lambda: self.log, seconds=SECONDS_TO_START)

    def chat(self, content: str = "hi", *, model: str = "mock", **more: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
        return self.client.post("/v1/chat/completions", json=body)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop the proxy as an orchestrator would."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the proxy did not stop in {SECONDS_TO_STOP} s:\n{self.log}") from None

    def kill(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait(SECONDS_TO_STOP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if self.process.poll() is None:
                self.stop()
            log = self.log
        finally:
            self.kill()
            self._folder.cleanup()
        if kind is None:
            assert (CONTAINED in log) == self._expects_contained, f"whether an error of ours was contained:\n{log}"


def trace_id_of(response: httpx.Response) -> str:
    """The trace that a response says it belongs to."""
    headers = response.headers.get_list("traceresponse")
    assert len(headers) == 1, headers
    version, trace_id, span_id, flags = headers[0].split("-")
    assert (version, len(trace_id), len(span_id), len(flags)) == ("00", 32, 16, 2)
    return str(trace_id)

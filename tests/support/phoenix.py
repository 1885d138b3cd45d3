"""A real Phoenix in a subprocess, and what it shows of a trace."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.ports import free_port
from tests.support.proxy import REPOSITORY
from tests.support.server import wait_until_healthy

if TYPE_CHECKING:
    from typing_extensions import Self

PROGRAM = REPOSITORY / ".venv-phoenix" / "bin" / "phoenix"
SECONDS_TO_START = 120.0
SECONDS_TO_STOP = 20.0
SECONDS_TO_SHOW = 30.0
MOST_SPANS = 100

# What the test machine's own environment must not decide.
_CLEARED = ("OTEL_", "PHOENIX_", "PYTHONPATH", "PYTEST_")

_TRACE = """
query ($id: String!, $most: Int!) {
  getTraceByOtelId(traceId: $id) {
    errorCount
    rootSpan { spanId cumulativeTokenCountTotal }
    costSummary { total { tokens } }
    spans(first: $most) {
      pageInfo { hasNextPage }
      edges { node {
        spanId parentId name spanKind statusCode statusMessage attributes
        tokenCountPrompt tokenCountCompletion tokenCountTotal
        input { value } output { value }
        events { name message attributes }
      } }
    }
  }
}
"""


@dataclass(frozen=True)
class ShownSpan:
    """A span as Phoenix shows it: with a kind of its own, which is not OpenTelemetry's."""

    span_id: str
    parent_id: str
    name: str
    kind: str
    status: str
    status_message: str
    # Prompt, completion, total.
    tokens: tuple[int | None, int | None, int | None]
    input: str | None
    output: str | None
    # Nested at the dots of their names.
    attributes: dict[str, Any]


@dataclass(frozen=True)
class ShownTrace:
    spans: tuple[ShownSpan, ...]
    root_id: str
    # In the list of traces, beside the root.
    tokens: float | None
    # What the costs of the trace are reckoned from.
    charged_tokens: float | None
    error_count: int
    # All that is shown, events too, to search for what must not be.
    text: str = field(repr=False)


class Phoenix:
    """One Phoenix with an empty database, from start to stop."""

    def __init__(self) -> None:
        assert PROGRAM.exists(), "Phoenix is not installed: `make e2e` does that"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = tempfile.TemporaryDirectory(prefix="phoenix-")
        self._log_file = Path(self._folder.name) / "log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith(_CLEARED)}
        environ |= {
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_PORT": str(self.port),
            "PHOENIX_GRPC_PORT": str(free_port()),
            "PHOENIX_WORKING_DIR": self._folder.name,
            "PHOENIX_TELEMETRY_ENABLED": "false",  # nothing of a test is reported to anybody
            "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
            "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
        }
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [str(PROGRAM), "serve"], env=environ, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                cwd=self._folder.name, start_new_session=True,
            )  # fmt: skip
        self._client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    @property
    def traces_endpoint(self) -> str:
        return f"{self.url}/v1/traces"

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace")

    def __enter__(self) -> Self:
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._client.close()
        try:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                try:
                    self._process.wait(SECONDS_TO_STOP)
                except subprocess.TimeoutExpired:
                    os.killpg(self._process.pid, signal.SIGKILL)
                    self._process.wait(SECONDS_TO_STOP)
        finally:
            self._folder.cleanup()

    def settle(self) -> None:
        """Wait until all that was sent is shown. Phoenix takes spans in one after the other, so a last one is sent."""
        trace_id = secrets.token_bytes(16)
        export = ExportTraceServiceRequest()
        span = export.resource_spans.add().scope_spans.add().spans.add()
        span.trace_id, span.span_id, span.name = trace_id, secrets.token_bytes(8), "the last one"
        span.start_time_unix_nano = span.end_time_unix_nano = time.time_ns()
        content_type = {"content-type": "application/x-protobuf"}
        answer = self._client.post("/v1/traces", content=export.SerializeToString(), headers=content_type)
        assert answer.status_code == 200, answer.text
        deadline = time.monotonic() + SECONDS_TO_SHOW
        while time.monotonic() < deadline:
            if self._ask(trace_id.hex()) is not None:
                return
            time.sleep(0.1)
        raise AssertionError(f"Phoenix did not take a span in within {SECONDS_TO_SHOW} s:\n{self.log}")

    def trace(self, trace_id: str) -> ShownTrace:
        """A trace that has arrived."""
        shown = self._ask(trace_id)
        assert shown is not None, f"Phoenix does not show the trace {trace_id}"
        assert not shown["spans"]["pageInfo"]["hasNextPage"]
        root = shown["rootSpan"]
        return ShownTrace(
            spans=tuple(_span(edge["node"]) for edge in shown["spans"]["edges"]),
            root_id=root["spanId"],
            tokens=root["cumulativeTokenCountTotal"],
            charged_tokens=shown["costSummary"]["total"]["tokens"],
            error_count=shown["errorCount"],
            text=json.dumps(shown),
        )

    def _ask(self, trace_id: str) -> dict[str, Any] | None:
        question = {"query": _TRACE, "variables": {"id": trace_id, "most": MOST_SPANS}}
        answer = self._client.post("/graphql", json=question).json()
        assert "errors" not in answer, answer
        shown: dict[str, Any] | None = answer["data"]["getTraceByOtelId"]
        return shown

    def _wait_until_ready(self) -> None:
        wait_until_healthy(self._process, self._client, "/healthz", lambda: self.log, seconds=SECONDS_TO_START)


def _span(node: dict[str, Any]) -> ShownSpan:
    return ShownSpan(
        span_id=node["spanId"],
        parent_id=node["parentId"] or "",
        name=node["name"],
        kind=node["spanKind"],
        status=node["statusCode"],
        status_message=node["statusMessage"],
        tokens=(node["tokenCountPrompt"], node["tokenCountCompletion"], node["tokenCountTotal"]),
        input=node["input"] and node["input"]["value"],
        output=node["output"] and node["output"]["value"],
        attributes=json.loads(node["attributes"]),
    )

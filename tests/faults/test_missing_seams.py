"""Each seam removed in turn: its feature is off and said to be, requests are served, and the rest works."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry.sdk import resources as sdk_resources

from litellm_otel_plugin import seams
from tests.support.config import PLUGIN, config, provider_environment
from tests.support.ports import free_port
from tests.support.proxy import CONTAINED, MASTER_KEY, REPOSITORY, trace_id_of
from tests.support.receiver import OtlpReceiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.provider import MockProvider
    from tests.support.receiver import ReceivedSpan

pytestmark = pytest.mark.slow

SEAMS = {name: seam for name, seam in vars(seams).items() if isinstance(seam, seams.Seam) and seam in seams.SEAMS}
# Silent by nature: an MCP SDK without that function makes no such span, and no test here starts by a worker hook.
SILENT = {"MCP_MESSAGE_SPAN", "STARTUP_LOGGING"}
CHAT = {"model": "mock", "messages": [{"role": "user", "content": "hi"}]}
RUN = {"assistant_id": "asst_1"}


@pytest.fixture(scope="module")
def zygote(provider: MockProvider) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LITELLM_"))},
        **provider_environment(provider.url),
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "true",
        "LITELLM_OTEL_PLUGIN_STRICT": "true",
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [sys.executable, "-m", "tests.support.zygote"]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


class Forked:
    """One proxy of the zygote's."""

    def __init__(self, zygote: subprocess.Popen[str], provider: MockProvider, seam: str, folder: Path) -> None:
        self.collector = OtlpReceiver().__enter__()
        config_file, self._log_file = folder / "config.yaml", folder / "log"
        config_file.write_text(json.dumps(config(provider.url, PLUGIN)))
        self._log_file.touch()
        port = free_port()
        environment = {
            "CONFIG_FILE_PATH": str(config_file),
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "LITELLM_OTEL_PLUGIN_PROPAGATE": "true",
        }
        order = {"seam": seam, "port": port, "environment": environment, "log": str(self._log_file)}
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        zygote.stdin.write(json.dumps(order) + "\n")
        zygote.stdin.flush()
        self._pid = int(zygote.stdout.readline())
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {MASTER_KEY}"},
            timeout=30,
            trust_env=False,
        )
        self._wait(lambda: self.client.get("/health/liveliness").status_code == 200)

    @property
    def log(self) -> str:
        return self._log_file.read_text()

    def server_span(self, response: httpx.Response) -> ReceivedSpan:
        trace_id = trace_id_of(response)

        def mine(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
            return [span for span in spans if span.trace_id == trace_id and span.kind == "SERVER"]

        (span,) = mine(self.collector.wait_until(lambda spans: bool(mine(spans))))
        return span

    def stop(self) -> None:
        self.client.close()
        os.kill(self._pid, signal.SIGTERM)
        self._wait(lambda: "Finished server process" in self.log)
        self.collector.__exit__()

    def _wait(self, met: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if met():
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(self.log)


@contextmanager
def _without(zygote: subprocess.Popen[str], provider: MockProvider, seam: str, folder: Path) -> Iterator[Forked]:
    forked = Forked(zygote, provider, seam, folder)
    try:
        yield forked
    finally:
        forked.stop()
    assert CONTAINED not in forked.log, forked.log


@pytest.mark.parametrize("name", SEAMS)
def test_a_missing_seam_switches_one_feature_off(
    zygote: subprocess.Popen[str], provider: MockProvider, tmp_path: Path, name: str
) -> None:
    seam = SEAMS[name]
    with _without(zygote, provider, name, tmp_path) as proxy:
        response = proxy.client.post("/v1/chat/completions", json=CHAT)
        run = proxy.client.post("/v1/threads/thread_1/runs", json=RUN)
        assert (response.status_code, run.status_code) == (200, 200)
        if name not in ("PUBLISH", "APPLICATION"):
            attributes: dict[str, Any] = proxy.server_span(response).attributes
            assert attributes["http.route"] == "/v1/chat/completions"
            assert attributes["litellm.preprocessing.duration_ms"] > 0
            assert attributes["litellm.call_id"] == response.headers["x-litellm-call-id"]
            assert proxy.server_span(run).attributes["litellm.attempts"] == (0 if name == "PROVIDER_CLIENT" else 1)
            resource = proxy.server_span(response).resource
            from_the_sdk = hasattr(sdk_resources, "ServiceInstanceIdResourceDetector")
            assert ("service.instance.id" in resource) == (from_the_sdk or name != "RESOURCE")
        else:
            assert "traceresponse" not in response.headers
    lines = [line for line in proxy.log.splitlines() if f"off: {seam.lost}" in line]
    assert len(lines) == (0 if name in SILENT else 1), proxy.log
    assert all(f"{seam.module}.renamed_by_a_later_release" in line for line in lines)

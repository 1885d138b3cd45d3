"""Every file in config/ starts a proxy that answers, and ``make run``'s command does what the README says."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support import folded
from tests.support.config import provider_environment
from tests.support.ports import free_port
from tests.support.proxy import REPOSITORY, SECONDS_TO_START, Proxy, trace_id_of
from tests.support.receiver import OtlpReceiver

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.provider import MockProvider

CONFIGS = sorted((REPOSITORY / "config").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_a_config_starts_and_traces(provider: MockProvider, file: Path) -> None:
    document = yaml.safe_load(file.read_text())
    with OtlpReceiver() as collector:
        environment = {
            **provider_environment(provider.url),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            **folded.langfuse(collector),
            **folded.phoenix(collector),
        }
        with Proxy(document, environment) as proxy:
            response = proxy.chat(model=document["model_list"][0]["model_name"])
            assert response.status_code == 200, response.text
            trace_id = trace_id_of(response)
            collector.wait_until(lambda spans: any(span.trace_id == trace_id for span in spans))
            assert "litellm-otel-plugin: off:" not in proxy.log
            assert "unknown settings" not in proxy.log


def test_the_quickstart_prints_a_request_that_works(tmp_path: Path) -> None:
    port = free_port()
    key_file = tmp_path / "key"
    command = [sys.executable, "-m", "litellm_otel_plugin.cli", "run", "--config", "config/quickstart.yaml"]
    command += ["--port", str(port), "--key-file", str(key_file)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "LITELLM_"))}
    log_file = tmp_path / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while "curl " not in log_file.read_text() and time.monotonic() < deadline:
            assert process.poll() is None, log_file.read_text()
            time.sleep(0.2)
        (line,) = [line for line in log_file.read_text().splitlines() if line.startswith("curl ")]
        answer = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True)
        assert "Hello from the quickstart." in answer.stdout
        assert re.search(r"Bearer sk-[\w-]{40,}", line)
        assert (key_file.stat().st_mode & 0o777) == 0o600
        while "trace=" not in log_file.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "POST /v1/chat/completions" in log_file.read_text()
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: the whole group at once
        process.wait(30)
        assert "Application shutdown complete" in log_file.read_text()
    finally:
        process.kill()


def test_the_quickstart_keeps_its_key(tmp_path: Path) -> None:
    from litellm_otel_plugin.quickstart import _kept_key  # noqa: PLC0415 - its only test

    first = _kept_key(tmp_path / "key")
    assert _kept_key(tmp_path / "key") == first
    assert _kept_key(tmp_path / "other") != first

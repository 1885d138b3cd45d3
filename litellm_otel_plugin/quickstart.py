"""A proxy for a first look: a strong master key made on first use, and the request to paste once it answers."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from litellm_otel_plugin.settings import SettingsError

MASTER_KEY = "LITELLM_MASTER_KEY"
# LiteLLM refuses to start with a weak key; 32 bytes is what it recommends itself.
KEY_BYTES = 32
SECONDS_TO_START = 120.0
SECONDS_BETWEEN_LOOKS = 0.3
HTTP_OK = 200


def run_quickstart(config: str, port: int, key_file: str) -> int:
    """Run a proxy in the foreground until it ends or is interrupted; its exit status."""
    if not Path(config).is_file():
        raise SettingsError(f"there is no file {config}")
    key = os.environ.get(MASTER_KEY) or _kept_key(Path(key_file))
    environment = {**os.environ, MASTER_KEY: key}
    # The price list is looked up on the internet at start; LiteLLM ships a copy that is good enough for a first look.
    environment.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")
    command = [sys.executable, "-m", "litellm.proxy.proxy_cli", "--config", config, "--port", str(port)]
    # A session of its own: Ctrl-C reaches every process of the terminal's, and the proxy would be told twice, which to
    # a server means to drop everything.
    process = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 - our own interpreter
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: process.send_signal(received))
    if _answers(process, port):
        sys.stdout.write(_request_to_paste(port, key))
        sys.stdout.flush()
    return process.wait()


def _kept_key(file: Path) -> str:
    if file.is_file():
        return file.read_text().strip()
    key = f"sk-{secrets.token_urlsafe(KEY_BYTES)}"
    file.touch(mode=0o600)
    file.write_text(f"{key}\n")
    return key


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + SECONDS_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/health/liveliness")
            if connection.getresponse().status == HTTP_OK:
                return True
        except (OSError, http.client.HTTPException):
            pass  # not yet, or somebody else's port
        finally:
            connection.close()
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return False


def _request_to_paste(port: int, key: str) -> str:
    return (
        "\nThe proxy answers. Paste this into another terminal, and look for its trace here:\n\n"
        f"curl -s http://127.0.0.1:{port}/v1/chat/completions -H 'Authorization: Bearer {key}' "
        "-H 'Content-Type: application/json' "
        '-d \'{"model": "demo", "messages": [{"role": "user", "content": "Hello"}]}\'\n\n'
    )

"""With and without the plugin, LiteLLM, its callbacks, the provider and the client see the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.config import PLUGIN
from tests.support.gateway import running
from tests.support.spy import SPY_FILE, stable

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.gateway import Gateway

SPY = "tests.support.spy.spy"
HELLO = [{"role": "user", "content": "hi"}]
DOORS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"model": "mock", "messages": HELLO, "metadata": {"caller": "me", "n": "1"}}),
    "messages": (
        "/v1/messages",
        {"model": "claude", "max_tokens": 9, "messages": HELLO, "metadata": {"user_id": "native"}},
    ),
    "messages_without_metadata": ("/v1/messages", {"model": "claude", "max_tokens": 9, "messages": HELLO}),
    "batches": (
        "/v1/batches",
        {
            "input_file_id": "file-a",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"caller": "me"},
        },
    ),
    "pass_through": ("/openai/chat/completions", {"model": "mock", "messages": HELLO, "metadata": {"caller": "me"}}),
    "responses": ("/v1/responses", {"model": "mock", "input": "hi", "metadata": {"caller": "me"}}),
}


def _seen(gateway: Gateway, spy_file: Path) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for door, (path, body) in DOORS.items():
        for stream in (False, True) if "messages" in body else (False,):
            spy_file.write_text("")
            gateway.provider.requests.clear()
            response = gateway.proxy.client.post(path, json={**body, "stream": True} if stream else body)
            assert response.status_code == 200, response.text
            seen[f"{door} streamed" if stream else door] = {
                "by the provider": [
                    (request.path, sorted(request.headers), json.loads(json.dumps(request.body)))
                    for request in gateway.provider.requests
                ],
                "by callbacks": [json.loads(line) for line in spy_file.read_text().splitlines()],
                "by the client": (sorted(set(response.headers) - {"traceresponse"}), stable(response.text)),
            }
    return seen


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was seen without and with the plugin; LiteLLM's own v2 tracing is on in both."""
    both = []
    for callbacks in (["otel", SPY], [PLUGIN, "otel", SPY]):
        spy_file = tmp_path_factory.mktemp("spy") / "seen"
        environment = {"LITELLM_OTEL_V2": "true", SPY_FILE: str(spy_file)}
        with running(environment=environment, litellm_settings={"callbacks": callbacks}) as gateway:
            both.append(_seen(gateway, spy_file))
    return both[0], both[1]


@pytest.mark.parametrize("door", [*DOORS, "chat streamed", "messages streamed", "pass_through streamed"])
@pytest.mark.parametrize("observer", ["by the provider", "by callbacks", "by the client"])
def test_nothing_differs(seen: tuple[dict[str, Any], dict[str, Any]], door: str, observer: str) -> None:
    without, with_plugin = seen
    assert with_plugin[door][observer] == without[door][observer]
    assert without[door]["by the provider"], "the provider saw nothing to compare"
    assert without[door]["by callbacks"], "the spy saw nothing to compare"

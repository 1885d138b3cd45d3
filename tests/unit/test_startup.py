"""What is placed in LiteLLM at start, where that is not as we know it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litellm_otel_plugin.guard import guard
from litellm_otel_plugin.hooks import OtelPlugin
from litellm_otel_plugin.installation import Installation
from litellm_otel_plugin.seams import HTTP_CLIENT, SeamMissing
from litellm_otel_plugin.settings import load_settings

if TYPE_CHECKING:
    import pytest


def test_one_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "strict", False)
    installation = Installation(OtelPlugin(), load_settings({}, {}), None)
    for failure in (SeamMissing(HTTP_CLIENT), AttributeError("cache_clear")):
        with installation.switching_off():
            raise failure
    assert list(installation.off) == [HTTP_CLIENT.lost]
    assert guard.counts.pop("placing a call in LiteLLM") == 1

"""A callback that writes down everything LiteLLM shows its callbacks about a request, but for what varies by run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

SPY_FILE = "TEST_SPY_FILE"
# Ids, digests and instants.
_VARYING = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{16,64}\b|127\.0\.0\.1:\d+"
    r"|\d{4}-\d\d-\d\d[T ][\d:.+]+|resp_[\w-]{20,}|(?<=\"created\":)\d{10}"
)


def stable(value: Any, depth: int = 0) -> Any:
    """The shape of a value: every key, every type, and the text that does not vary."""
    if depth > 12:
        return "…"
    if isinstance(value, Mapping):
        return {str(key): stable(each, depth + 1) for key, each in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, (list, tuple)):
        return [stable(each, depth + 1) for each in value]
    if isinstance(value, str):
        return _VARYING.sub("<varies>", value)
    if isinstance(value, (bool, type(None))):
        return value
    return f"<{type(value).__name__}>"


class Spy(CustomLogger):
    """Writes one line of JSON per hook."""

    def _tell(self, hook: str, shown: Mapping[str, Any]) -> None:
        with Path(os.environ[SPY_FILE]).open("a") as file:
            file.write(json.dumps([hook, stable(shown)]) + "\n")

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
        self._tell("pre_api_call", kwargs)

    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: Any, call_type: str) -> None:
        self._tell("pre_call", data)

    async def async_post_call_success_hook(self, data: Any, user_api_key_dict: Any, response: Any) -> None:
        self._tell("post_call_success", data)


spy = Spy()

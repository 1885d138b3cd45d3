"""A callback that tells, from inside the proxy, what the request's record holds while LiteLLM runs its hooks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from litellm_otel_plugin.request.record import current_record

PROBE_FILE = "TEST_PROBE_FILE"


class Probe(CustomLogger):
    """Writes one line of JSON per hook."""

    def _tell(self, hook: str) -> None:
        record = current_record()
        facts = None if record is None else {"authenticated": record.authenticated, "route": record.route}
        with Path(os.environ[PROBE_FILE]).open("a") as file:
            file.write(json.dumps({"hook": hook, "record": facts}) + "\n")

    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: Any, call_type: str) -> None:
        self._tell("pre_call")

    async def async_post_call_failure_hook(
        self, request_data: Any, original_exception: Exception, user_api_key_dict: Any, traceback_str: str | None = None
    ) -> None:
        self._tell("failure")


probe = Probe()

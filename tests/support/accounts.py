"""A callback that writes the delivery's accounts to a file on every request, as an operator could read them."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

import litellm_otel_plugin

ACCOUNTS_FILE = "TEST_ACCOUNTS_FILE"


class Accounts(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: Any, call_type: str) -> None:
        stats = litellm_otel_plugin.plugin.stats()
        seen = {
            "threads": sorted(thread.name for thread in threading.enumerate()),
            "stats": None if stats is None else asdict(stats),
            "balanced": None if stats is None else stats.balanced,
        }
        _write(json.dumps(seen))


def _write(text: str) -> None:
    Path(os.environ[ACCOUNTS_FILE]).write_text(text)


accounts = Accounts()
CALLBACK = "tests.support.accounts.accounts"

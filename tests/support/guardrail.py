"""Guardrails written the plain way: a hook that raises, one of them after it asked a model."""

from __future__ import annotations

from typing import Any

import litellm
from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger


class ForbiddenTopicError(Exception):
    """A guardrail's own exception."""


class Guardrail(CustomLogger):
    """Blocks what says that it is to be blocked."""

    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: Any, call_type: str) -> None:
        text = str(data.get("messages"))
        if "judge" in text:
            await litellm.acompletion(
                model="openai/judge", messages=data["messages"], mock_response="Forbidden.", api_key="x"
            )
        if "block with http" in text:
            raise HTTPException(400, {"error": "blocked"})
        if "block with its own" in text:
            raise ForbiddenTopicError("blocked")


guardrail = Guardrail()

"""Guardrails written the plain way: a hook that raises, one of them after it asked a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import litellm
from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import ProxyException

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: Any
    ) -> AsyncIterator[Any]:
        """Stop a stream in the middle, the way that a guardrail of a stream does."""
        text, chunks = str(request_data.get("messages")), 0
        async for chunk in response:
            chunks += 1
            if chunks == 3 and "stop with an envelope" in text:
                raise ProxyException(message="stopped", type="guardrail", param=None, code=400)
            if chunks == 3 and "stop with http" in text:
                raise HTTPException(400, {"error": "stopped"})
            if chunks == 3 and "stop with its own" in text:
                raise ForbiddenTopicError("stopped")
            yield chunk


guardrail = Guardrail()

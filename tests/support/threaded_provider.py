"""A provider that announces its call from a thread which does not carry the request's context."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import litellm
from litellm.llms.custom_llm import CustomLLM


class ThreadedProvider(CustomLLM):
    """Runs LiteLLM's own announcement of a call in a bare thread, as Bedrock's batch retrieval does."""

    async def acompletion(self, *args: Any, **kwargs: Any) -> litellm.ModelResponse:
        await asyncio.sleep(0.2)
        thread = threading.Thread(
            target=kwargs["logging_obj"].pre_call,
            kwargs={"input": kwargs["messages"], "api_key": "", "additional_args": {}},
        )
        thread.start()
        await asyncio.to_thread(thread.join)
        await asyncio.sleep(0.2)
        answer: litellm.ModelResponse = await litellm.acompletion(
            model="openai/mock", messages=kwargs["messages"], mock_response="From a thread.", api_key="x"
        )
        return answer


threaded = ThreadedProvider()

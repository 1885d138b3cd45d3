"""Guardrails of every make, told by their configuration what to raise. What they raise quotes what they blocked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from litellm.exceptions import BlockedPiiEntityError, GuardrailRaisedException
from litellm.integrations.custom_guardrail import CustomGuardrail, log_guardrail_information
from litellm.integrations.custom_logger import CustomLogger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BLOCKED = "swordfish"
ENTITY = "EMAIL_ADDRESS"
MODES = ("pre_call", "during_call", "post_call")
# What each raises, and the name of that on a span. An `HTTPException` only carries a status: LiteLLM's word stands.
RAISED = {
    "nothing": None,
    "guardrail": "GuardrailRaisedException",
    "http": "guardrail_intervened",
    "pii": "BlockedPiiEntityError",
    "own": "ForbiddenTopicError",
}
MAKES = ("Undecorated", "Decorated", "Applied")
STREAMED = ("OnStream", "OnChunks", "Applied", "Undecorated")
SECONDS = 0.01
# Far longer than anything else in a request takes.
SECONDS_OF_THOUGHT = 3.0
THINKING = ("Buffering", "Pondering", "PonderingOnChunks")


class ForbiddenTopicError(Exception):
    """A guardrail's own exception."""


class _Guardrail(CustomGuardrail):
    """What its name says."""

    def __init__(self, raises: str = "nothing", **more: Any) -> None:
        super().__init__(**more)
        self.raises = raises

    async def judge(self) -> None:
        await asyncio.sleep(SECONDS)
        name = self.guardrail_name
        if self.raises == "guardrail":
            raise GuardrailRaisedException(name, f"it said {BLOCKED}")
        if self.raises == "http":
            raise HTTPException(400, {"error": f"it said {BLOCKED}"})
        if self.raises == "pii":
            raise BlockedPiiEntityError(ENTITY, name)
        if self.raises == "own":
            raise ForbiddenTopicError(f"it said {BLOCKED}")


class Undecorated(_Guardrail):
    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: Any, call_type: str) -> Any:
        await self.judge()
        return f"it said {BLOCKED}" if self.raises == "text" else data

    async def async_moderation_hook(self, data: Any, user_api_key_dict: Any, call_type: str) -> Any:
        await self.judge()

    async def async_post_call_success_hook(self, data: Any, user_api_key_dict: Any, response: Any) -> Any:
        await self.judge()
        return response


class Decorated(_Guardrail):
    @log_guardrail_information  # type: ignore[untyped-decorator]  # LiteLLM's
    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: Any, call_type: str) -> Any:
        await self.judge()
        return f"it said {BLOCKED}" if self.raises == "text" else data

    @log_guardrail_information  # type: ignore[untyped-decorator]  # LiteLLM's
    async def async_moderation_hook(self, data: Any, user_api_key_dict: Any, call_type: str) -> Any:
        await self.judge()

    @log_guardrail_information  # type: ignore[untyped-decorator]  # LiteLLM's
    async def async_post_call_success_hook(self, data: Any, user_api_key_dict: Any, response: Any) -> Any:
        await self.judge()
        return response


class Applied(_Guardrail):
    async def apply_guardrail(self, inputs: Any, request_data: Any, input_type: Any, logging_obj: Any = None) -> Any:
        await self.judge()
        return inputs


class SelfReporting(_Guardrail):
    """Reports itself, twice: a passing look at each of two texts, with what it read."""

    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: Any, call_type: str) -> Any:
        for score in (0.1, 0.9):
            self.add_standard_logging_guardrail_information_to_request_data(
                guardrail_json_response={"text": f"it said {BLOCKED}", "score": score},
                request_data=data,
                guardrail_status="success" if score < 0.5 else "guardrail_intervened",
                start_time=1_700_000_000 + score,
                end_time=1_700_000_001 + score,
                duration=1.0,
                tracing_detail={"violation_categories": ["secrets"]} if score > 0.5 else None,
            )
        await self.judge()
        return data


class OnStream(_Guardrail):
    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: Any
    ) -> AsyncIterator[Any]:
        pieces = 0
        async for piece in response:
            pieces += 1
            if pieces == 2:
                await self.judge()
            yield piece
        if pieces < 2:
            await self.judge()


class Buffering(_Guardrail):
    """Keeps a stream for itself until it has thought about the whole of it."""

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: Any
    ) -> AsyncIterator[Any]:
        kept = [piece async for piece in response]
        await asyncio.sleep(SECONDS_OF_THOUGHT)
        for piece in kept:
            yield piece


class Pondering(_Guardrail):
    """Thinks in the middle of a stream."""

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: Any
    ) -> AsyncIterator[Any]:
        yield await anext(response)
        await asyncio.sleep(SECONDS_OF_THOUGHT)
        async for piece in response:
            yield piece


class PonderingOnChunks(_Guardrail):
    """Thinks about one of the pieces that it is shown."""

    async def async_post_call_streaming_hook(self, user_api_key_dict: Any, response: str) -> None:
        if "answer" in response and self.has_not_thought:
            self.has_not_thought = False
            await asyncio.sleep(SECONDS_OF_THOUGHT)

    has_not_thought = True


class OnChunks(_Guardrail):
    async def async_post_call_streaming_hook(self, user_api_key_dict: Any, response: str) -> Any:
        if "answer" in response:
            await self.judge()


class PlainCallback(CustomLogger):
    """No guardrail to LiteLLM, but it rejects requests."""

    async def async_pre_call_hook(self, user_api_key_dict: Any, cache: Any, data: Any, call_type: str) -> None:
        if "callback, block this" in str(data.get("messages")):
            raise ForbiddenTopicError(f"it said {BLOCKED}")


plain_callback = PlainCallback()


def name_of(make: str, mode: str, raises: str) -> str:
    return f"{make}-{mode}-{raises}"


def guardrails() -> list[dict[str, Any]]:
    """The `guardrails` section of a config.yaml with one of each."""
    kinds = [(make, mode, raises) for make in MAKES for mode in MODES for raises in RAISED]
    kinds += [(make, "post_call", raises) for make in ("OnStream", "OnChunks") for raises in RAISED]
    kinds += [(make, "post_call", "nothing") for make in THINKING]
    kinds += [(make, "pre_call", "text") for make in ("Undecorated", "Decorated")]
    kinds += [("Undecorated", "pre_call+post_call", "nothing")]
    kinds += [("SelfReporting", "pre_call", raises) for raises in ("nothing", "http")]
    made = [
        {
            "guardrail_name": name_of(*kind),
            "litellm_params": {
                "guardrail": f"tests.support.guardrails.{kind[0]}",
                "mode": kind[1].split("+"),
                "raises": kind[2],
            },
        }
        for kind in kinds
    ]
    return [*made, *_litellms_own()]


def _litellms_own() -> list[dict[str, Any]]:
    return [
        {
            "guardrail_name": name,
            "litellm_params": {
                "guardrail": "litellm_content_filter",
                "mode": "pre_call",
                "blocked_words": [{"keyword": BLOCKED, "action": name}],
            },
        }
        for name in ("BLOCK", "MASK")
    ]


def pipeline(*names: str) -> dict[str, Any]:
    """Sections of a config.yaml that have these run one after the other on requests for ``canned``."""
    steps = [{"guardrail": name, "on_fail": "block", "on_error": "block", "on_pass": "next"} for name in names]
    policy = {"guardrails": {"add": list(names)}, "pipeline": {"mode": "pre_call", "steps": steps}}
    return {"policies": {"piped": policy}, "policy_attachments": [{"policy": "piped", "models": ["canned"]}]}

"""What LiteLLM's hooks are handed."""

from __future__ import annotations

import functools
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

from litellm_otel_plugin import seams
from litellm_otel_plugin.guard import contained
from litellm_otel_plugin.upstream.access import take

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CALL_ID_KEY = "litellm_call_id"


NO_PROVIDER_KEY = "litellm_no_upstream_llm_call"


# Doors behind which LiteLLM calls OpenAI's client without announcing the call to any hook.
UNANNOUNCED_DOORS = tuple(
    f"{prefix}/{door}"
    for prefix in ("", "/v1", "/{provider}/v1")
    for door in ("batches", "files", "fine_tuning", "threads", "assistants")
)


# Doors behind which LiteLLM's adapter makes the call anew, with a logging object and an id of its own.
REMADE_DOORS = (":generateContent", ":streamGenerateContent")


def reached_no_provider(model_call_details: Mapping[str, Any]) -> bool:
    """Whether this call was rejected by the proxy itself; LiteLLM runs its hooks for it as for a real one."""
    return bool(model_call_details.get(NO_PROVIDER_KEY))


class OwnCall:
    """The call that LiteLLM makes for the request itself, by the object that belongs to it alone."""

    def __init__(self, logging_object: Any) -> None:
        self._logging_object = logging_object

    @property
    def call_id(self) -> str | None:
        """Its id; a client can choose it."""
        call_id = getattr(self._logging_object, "litellm_call_id", None)
        return call_id if isinstance(call_id, str) else None

    def is_described_by(self, details: object) -> bool:
        """Whether these details, as LiteLLM hands them to its hooks, are this call's."""
        return getattr(self._logging_object, "model_call_details", None) is details

    def first_handoff_at(self) -> float | None:
        """The instant of the first hand-off to a provider, in seconds since the epoch.

        Releases before 1.106 note one for a rejected call too, and a client's body can carry the same name.
        """
        details = getattr(self._logging_object, "model_call_details", None)
        if not isinstance(details, dict) or reached_no_provider(details):
            return None
        instant = details.get("first_api_call_start_time")
        return instant.timestamp() if isinstance(instant, datetime) else None


def own_call(request_data: Mapping[str, Any]) -> OwnCall | None:
    """The request's own call, ``None`` before LiteLLM has made its object and on doors where it makes none."""
    logging_object = request_data.get("litellm_logging_obj")
    return OwnCall(logging_object) if logging_object is not None else None


def wrap_team_callbacks(notice: Callable[[set[str]], None]) -> None:
    """Tell ``notice`` which callbacks a request's key or team asks for beside the operator's.

    Not from the request: a client can name callbacks in its body, and would choose where its spans go.
    """
    original = take(seams.TEAM_CALLBACKS)

    @functools.wraps(original)
    def get_dynamic_logging_metadata(*args: Any, **kwargs: Any) -> Any:
        asked = original(*args, **kwargs)
        with contained("noting the callbacks that a team asks for"):
            lists = (getattr(asked, name, None) or () for name in ("callbacks", "success_callback", "failure_callback"))
            notice({each for callbacks in lists for each in callbacks if isinstance(each, str)})
        return asked

    # Each of its users has its own name for it, and later releases a public one.
    for name in seams.TEAM_CALLBACKS_USERS:
        for attribute in ("get_dynamic_logging_metadata", "_get_dynamic_logging_metadata"):
            user = sys.modules.get(name)
            if user is not None and getattr(user, attribute, None) is original:
                setattr(user, attribute, get_dynamic_logging_metadata)

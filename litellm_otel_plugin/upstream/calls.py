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


HANDOFF_KEY, FIRST_CHUNK_KEY = "api_call_start_time", "completion_start_time"
NOTES_OF_AN_ATTEMPT = ("model", "custom_llm_provider", "optional_params", "additional_args", HANDOFF_KEY)
METADATA_KEYS = ("metadata", "litellm_metadata")
ROUTE_KEYS = ("model_group", "attempted_fallbacks")


NO_PROVIDER_KEY = "litellm_no_upstream_llm_call"


# Doors behind which LiteLLM calls OpenAI's client without announcing the call to any hook.
UNANNOUNCED_DOORS = tuple(
    f"{prefix}/{door}"
    for prefix in ("", "/v1", "/{provider}/v1")
    for door in ("batches", "files", "fine_tuning", "threads", "assistants")
)


# Doors behind which LiteLLM's own HTTP client asks a provider, announced to no hook either.
COUNTING_DOORS = ("/v1/messages/count_tokens", "/utils/token_counter")


# Doors behind which LiteLLM's adapter makes the call anew, with a logging object and an id of its own.
REMADE_DOORS = (":generateContent", ":streamGenerateContent")
# The same for each of a client's messages, in a session.
REMADE_SESSIONS = ("/responses",)


def is_made_anew(route: str, scope_type: str) -> bool:
    """Whether the calls behind a door are not the one that LiteLLM shows the door's hook."""
    return route.endswith(REMADE_SESSIONS if scope_type == "websocket" else REMADE_DOORS)


def reached_no_provider(model_call_details: Mapping[str, Any]) -> bool:
    """Whether this call was rejected by the proxy itself; LiteLLM runs its hooks for it as for a real one."""
    return bool(model_call_details.get(NO_PROVIDER_KEY))


def reached_a_provider(model_call_details: Mapping[str, Any]) -> bool:
    """Whether this call has been handed to a provider."""
    return model_call_details.get(HANDOFF_KEY) is not None


class OwnCall:
    """The call that LiteLLM makes for the request itself, by the object that belongs to it alone."""

    def __init__(self, logging_object: Any) -> None:
        self.logging_object = logging_object

    @property
    def call_id(self) -> str | None:
        """Its id; a client can choose it."""
        call_id = getattr(self.logging_object, "litellm_call_id", None)
        return call_id if isinstance(call_id, str) else None

    @property
    def details(self) -> Mapping[str, Any]:
        """What LiteLLM tells its hooks of it; the same object all along."""
        details: Mapping[str, Any] = getattr(self.logging_object, "model_call_details", {})
        return details

    def is_described_by(self, details: object) -> bool:
        """Whether these details, as LiteLLM hands them to its hooks, are this call's."""
        return getattr(self.logging_object, "model_call_details", None) is details

    def first_handoff_at(self) -> float | None:
        """The instant of the first hand-off to a provider, in seconds since the epoch.

        Releases before 1.106 note one for a rejected call too, and a client's body can carry the same name.
        """
        details = getattr(self.logging_object, "model_call_details", None)
        if not isinstance(details, dict) or reached_no_provider(details):
            return None
        instant = details.get("first_api_call_start_time")
        return instant.timestamp() if isinstance(instant, datetime) else None


def route_of(model_call_details: Mapping[str, Any]) -> tuple[object, ...]:
    """Where LiteLLM had decided to send a call: a fallback changes one of the two, a retry neither."""
    params = model_call_details.get("litellm_params") or {}
    noted = [params.get(name) or {} for name in METADATA_KEYS]  # which of them depends on the door
    return tuple(next((each[name] for each in noted if each.get(name)), None) for name in ROUTE_KEYS)


def notes_streams(details: Mapping[str, Any]) -> bool:
    """Whether LiteLLM knows of a call that its answer is a stream, and times the first of it; of a pass-through not."""
    return bool((details.get("optional_params") or {}).get("stream"))


def noted_at_handoff(details: Mapping[str, Any]) -> dict[str, Any]:
    """What LiteLLM notes of one attempt and overwrites with the next, also while the first is under way."""
    params = dict(details.get("litellm_params") or {})
    for name in METADATA_KEYS:
        if params.get(name):
            params[name] = dict(params[name])
    return {**{name: details.get(name) for name in NOTES_OF_AN_ATTEMPT}, "litellm_params": params}


def with_its_own_times(details: Mapping[str, Any], noted: Mapping[str, Any], ended: object) -> Mapping[str, Any]:
    """The details with the hand-off of the attempt that ``noted`` is of, and no first chunk that is another's.

    LiteLLM keeps the first chunk that any attempt of a call had.
    """
    handed_off, first_chunk = noted.get(HANDOFF_KEY), details.get(FIRST_CHUNK_KEY)
    if not isinstance(handed_off, datetime) or not isinstance(first_chunk, datetime):
        return details
    is_own = handed_off <= first_chunk and (not isinstance(ended, datetime) or first_chunk <= ended)
    return {**details, HANDOFF_KEY: handed_off, FIRST_CHUNK_KEY: first_chunk if is_own else None}


def noted_in_request(request_data: Mapping[str, Any], noted: Mapping[str, Any]) -> dict[str, Any]:
    """What an attempt's own arguments say, where another ran beside it and the notes may be that one's."""
    import litellm  # noqa: PLC0415 - see the package's docstring

    name, info = request_data.get("model"), request_data.get("model_info")
    if not isinstance(name, str) or not isinstance(info, dict):
        return {}
    model, provider, *_ = litellm.get_llm_provider(model=name, api_base=request_data.get("api_base"))
    params = {**noted["litellm_params"], "api_base": request_data.get("api_base"), "model_info": info}
    for key in METADATA_KEYS:
        if params.get(key):
            params[key] = {**params[key], "deployment": name, "model_info": info, "model_group": _group_of(info)}
    return {"model": model, "custom_llm_provider": provider, "litellm_params": params}


def deployment_asked(noted: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of an attempt that ended without showing them, by what was sent where; empty where that is unclear.

    What is sent is noted in the same breath as the hand-off, so it is that attempt's own.
    """
    sent = noted.get("additional_args") or {}
    body = sent.get("complete_input_dict")
    model, address = body.get("model") if isinstance(body, dict) else None, str(sent.get("api_base") or "")
    asked = [
        each["litellm_params"] | {"model_info": each.get("model_info")}
        for each in _deployments()
        if each["litellm_params"]["model"].rpartition("/")[2] == model
        and address.startswith(each["litellm_params"].get("api_base") or "")
    ]
    # One that names an address is meant rather than one that leaves it to the provider's own.
    named = [each for each in asked if each.get("api_base")] or asked
    return named[0] if len(named) == 1 else {}


def _group_of(model_info: Mapping[str, Any]) -> str | None:
    """The name that clients know a deployment by."""
    known = {(each.get("model_info") or {}).get("id"): each["model_name"] for each in _deployments()}
    return known.get(model_info.get("id"))


def _deployments() -> list[Any]:
    router = getattr(sys.modules.get(seams.PROXY_MODULE), "llm_router", None)
    return list(getattr(router, "model_list", ()))


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

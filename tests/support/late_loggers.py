"""A callback that has LiteLLM add and remove loggers while the proxy serves, when a chat says so.

It does what LiteLLM's own look at its database does, on the loop on which LiteLLM does it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from litellm.integrations.custom_logger import CustomLogger

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMAND = "have-litellm "
LISTS = (
    "callbacks",
    "input_callback",
    "service_callback",
    "success_callback",
    "_async_success_callback",
    "failure_callback",
    "_async_failure_callback",
)


class LateLoggers(CustomLogger):
    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: Mapping[str, Any], call_type: str
    ) -> None:
        content = str(data["messages"][0]["content"]) if data.get("messages") else ""
        if content.startswith(COMMAND):
            verb, *names = content.removeprefix(COMMAND).split()
            {"add": _add, "remove": _remove, "configure": _configure, "set": _set}[verb](names)


def _add(names: list[str]) -> None:
    from litellm.utils import (  # noqa: PLC0415 - LiteLLM is being loaded; 1.104 has it by this name alone
        _add_custom_logger_callback_to_specific_event,
    )

    for name in names:
        _add_custom_logger_callback_to_specific_event(name, "success")


def _configure(names: list[str]) -> None:
    """As if the database had these callbacks now."""
    from litellm.proxy.proxy_server import proxy_config  # noqa: PLC0415 - as above

    proxy_config._add_callbacks_from_db_config({"litellm_settings": {"success_callback": names}})


def _set(assignments: list[str]) -> None:
    """Variables, as the admin UI's: LiteLLM puts them into the environment."""
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        os.environ[name] = value


def _remove(names: list[str]) -> None:
    """Take the loggers out of every list, by the way that LiteLLM's manager has for it."""
    import litellm  # noqa: PLC0415 - as above
    from litellm.litellm_core_utils.litellm_logging import _init_custom_logger_compatible_class  # noqa: PLC0415

    for name in names:
        logger = _init_custom_logger_compatible_class(name, None, None)
        for each in LISTS:
            for entry in (logger, name):
                litellm.logging_callback_manager.remove_callback_from_list_by_object(
                    getattr(litellm, each), entry, require_self=False
                )


late_loggers = LateLoggers()
CALLBACK = "tests.support.late_loggers.late_loggers"

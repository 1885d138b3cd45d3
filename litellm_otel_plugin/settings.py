"""Every toggle, typed: environment over ``callback_settings: otel_plugin:`` over default.

A bad value stops the start with one message that lists every problem and shows no value. An unknown name is a
warning, so that rolling back to an older version does not crash-loop on a newer one's settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from litellm_otel_plugin.delivery.destination import check_proxy
from litellm_otel_plugin.delivery.limits import QUEUE_BYTES

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ENVIRONMENT_PREFIX = "LITELLM_OTEL_PLUGIN_"
YAML_SECTION = "callback_settings.otel_plugin"

# Orchestrators kill a container 30 s after SIGTERM unless told otherwise; five minutes is the longest grace period
# in common use, and a flush that waits longer only waits for SIGKILL.
LONGEST_SHUTDOWN_SECONDS = 300.0

# Below this a single outage of seconds loses spans; whoever wants less memory used wants no telemetry.
SMALLEST_QUEUE_BYTES = 1024 * 1024

# A queue that was used once takes a kilobyte: ten megabytes for as many tenants as a large gateway has.
MOST_TENANTS = 10_000


# What a caller's trace does to a request's.
RemoteParent = Literal["continue", "link", "ignore"]


class SettingsError(ValueError):
    """One or more settings cannot be used. Its text names each of them and shows no value."""


def _yaml_switch(value: object) -> object:
    """YAML 1.1 reads an unquoted ``on`` or ``off`` as a boolean; the operator meant the word."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return value.strip().lower() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("should be a number")  # noqa: TRY004 - pydantic turns a ValueError into a problem of the list
    return value


def _proxy(value: str | None) -> str | None:
    if value is not None:
        check_proxy(value)
    return value


class _Switch(BaseSettings):
    """Whether the plugin does anything, by itself: it must be readable where another setting is not."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="ignore", frozen=True, env_ignore_empty=True, allow_inf_nan=False
    )

    enabled: bool = Field(default=True, description="`false` leaves LiteLLM exactly as it is without the plugin.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over YAML, which arrives as constructor arguments; no files, no secrets folder."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings


class Settings(_Switch):
    """What an operator can set. The README's table is this class."""

    console: Annotated[Literal["auto", "on", "off"], BeforeValidator(_yaml_switch)] = Field(
        default="auto",
        description="Draw each request where the proxy runs: `auto` only where no backend is configured, `on` beside "
        "the backends too, `off` never.",
    )
    http_semconv: Annotated[Literal["stable", "dup"], BeforeValidator(_lower)] = Field(
        default="stable",
        description="`dup` keeps the legacy `http.*` attributes beside the stable ones.",
    )
    server_timing: bool = Field(
        default=False,
        description="A `Server-Timing` header on every response: preprocessing, provider and overhead, in "
        "milliseconds, as far as they are known when the headers go.",
    )
    propagate: bool = Field(
        default=False,
        description="Requests to providers carry a `traceparent` whose parent is the attempt's span; a caller's never.",
    )
    remote_parent: Annotated[RemoteParent, BeforeValidator(_lower)] = Field(
        default="continue",
        description="What a caller's `traceparent` does: its trace is continued, or a trace of the request's own is "
        "linked to it (`link`) or knows nothing of it (`ignore`).",
    )
    log_correlation: bool = Field(
        default=True,
        description="LiteLLM's log records of a request carry its `trace_id` and `span_id`.",
    )
    fold: bool = Field(
        default=True,
        description="`false` leaves several backends as LiteLLM has them: one logger and one provider each, and whole "
        "traces in the first alone.",
    )
    delivery: Annotated[Literal["shared", "sdk"], BeforeValidator(_lower)] = Field(
        default="shared",
        description="`sdk` goes back to the SDK's processors and exporters: one thread and one connection pool per "
        "backend and tenant.",
    )
    queue_bytes: Annotated[int, BeforeValidator(_no_boolean)] = Field(
        default=QUEUE_BYTES,
        ge=SMALLEST_QUEUE_BYTES,
        description="The memory that spans waiting for delivery may take, half of it kept for the operator's backends.",
    )
    tenants_max: Annotated[int, BeforeValidator(_no_boolean)] = Field(
        default=MOST_TENANTS,
        ge=1,
        description="How many tenants' backends are known at once; the one not used for longest makes room.",
    )
    export_proxy: Annotated[str | None, AfterValidator(_proxy)] = Field(
        default=None,
        repr=False,
        description="An HTTP proxy for exports to the operator's OTLP/HTTP backends. `HTTP_PROXY` and its like are "
        "not read.",
    )
    shutdown_seconds: Annotated[float, BeforeValidator(_no_boolean)] = Field(
        default=5.0,
        ge=0,
        le=LONGEST_SHUTDOWN_SECONDS,
        description="The one deadline for delivering what is queued when the proxy stops.",
    )
    strict: bool = Field(
        default=False,
        description="Raise the plugin's own errors instead of containing them. For tests.",
    )


def load_settings(environment: Mapping[str, str], yaml_section: object = None) -> Settings:
    """Read the settings, or raise one ``SettingsError`` that lists every problem.

    ``environment`` decides how a problem is named; the values themselves are read by pydantic-settings from the
    process environment.
    """
    problems: list[str] = []
    section: dict[str, Any] = {}
    if isinstance(yaml_section, Mapping):
        # A name with nothing behind it is a default, as an empty variable is.
        section = {str(name).lower(): value for name, value in yaml_section.items() if value is not None}
    elif yaml_section is not None:
        problems.append(f"{YAML_SECTION}: should be a mapping of settings")
    try:
        settings = Settings(**section)
    except ValidationError as error:
        problems.extend(
            _readable(detail, environment)
            for detail in error.errors(include_url=False, include_context=False, include_input=False)
        )
        if _is_switched_off(section):  # the way out of a crash loop must not be in it
            return Settings.model_construct(enabled=False)
        raise _refusal(problems) from None  # the original's text shows values
    if problems:
        raise _refusal(problems)
    return settings


def unknown_names(environment: Mapping[str, str], yaml_section: object = None) -> list[str]:
    """The names that look like ours and are not: typos, or a newer version's."""
    known = set(Settings.model_fields)
    unknown = [
        name
        for name in environment
        if name.upper().startswith(ENVIRONMENT_PREFIX) and name.upper()[len(ENVIRONMENT_PREFIX) :].lower() not in known
    ]
    if isinstance(yaml_section, Mapping):
        unknown += [f"{YAML_SECTION}.{name}" for name in yaml_section if str(name).lower() not in known]
    return sorted(unknown)


def _is_switched_off(section: Mapping[str, Any]) -> bool:
    try:
        return not _Switch(**{name: value for name, value in section.items() if name == "enabled"}).enabled
    except ValidationError:
        return False


def _refusal(problems: list[str]) -> SettingsError:
    return SettingsError("litellm-otel-plugin cannot start with these settings:\n  " + "\n  ".join(problems))


def _readable(detail: ErrorDetails, environment: Mapping[str, str]) -> str:
    name = str(detail["loc"][0])
    in_environment = f"{ENVIRONMENT_PREFIX}{name.upper()}"
    set_there = any(key.upper() == in_environment and value for key, value in environment.items())
    where = in_environment if set_there else f"{YAML_SECTION}.{name}"
    message = detail["msg"]
    return f"{where}: {message[:1].lower()}{message[1:]}"

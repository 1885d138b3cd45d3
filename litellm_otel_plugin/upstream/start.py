"""The places at LiteLLM's start, stop and edges where our code is called, and what LiteLLM says of itself there."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from litellm_otel_plugin import seams
from litellm_otel_plugin.seams import SeamMissing
from litellm_otel_plugin.upstream.access import put, take

if TYPE_CHECKING:
    import logging

V2_SWITCH = "LITELLM_OTEL_V2"


def v2_is_refused() -> bool:
    """Whether the operator switched LiteLLM's v2 tracing off, explicitly."""
    value = os.environ.get(V2_SWITCH)
    if not value:  # an empty variable is what a compose file makes of an unset one
        return False
    try:
        return not v2_flag()()
    except ValueError:  # a value that is no boolean: LiteLLM takes it for off
        return True


def enable_v2() -> None:
    """Switch LiteLLM's v2 tracing on, before it builds its callbacks."""
    os.environ[V2_SWITCH] = "true"
    v2_flag().cache_clear()


def v2_flag() -> Any:
    """LiteLLM's own reading of the switch, cached there."""
    from litellm.integrations.otel.model.config import is_otel_v2_enabled  # noqa: PLC0415 - see the package's docstring

    return is_otel_v2_enabled


def wrap_publish(prepare: Callable[[], Any], after: Callable[[Any], None], failed: Callable[[Exception], None]) -> None:
    """Let ``prepare`` choose the one logger whose provider LiteLLM publishes, and hand it to ``after``.

    LiteLLM passes over an exception of this step without a word, so ``failed`` is told of it.
    """
    original = take(seams.PUBLISH)

    @functools.wraps(original)
    def publish(in_memory_loggers: Any, set_global_provider: Any, registered: Any = None) -> Any:
        chosen = prepare()
        registered = chosen if chosen is not None else registered
        try:
            logger = original(in_memory_loggers, _quietly(set_global_provider), registered=registered)
        except Exception as error:
            failed(error)
            raise
        after(logger)
        return logger

    put(seams.PUBLISH, publish)


def wrap_startup_logging(before: Callable[[], object]) -> None:
    """Call ``before`` once config.yaml was read, ahead of LiteLLM's building of its callbacks.

    An exception of ``before`` stops the start.
    """
    event = take(seams.STARTUP_LOGGING)
    name = startup_logging_name(event)
    if name is None:
        raise SeamMissing(seams.STARTUP_LOGGING)
    original = getattr(event, name)

    @functools.wraps(original)
    def initialize_startup_logging(*args: Any, **kwargs: Any) -> Any:
        before()
        return original(*args, **kwargs)

    # A plain function in the class's place: `original` is bound to the class already.
    setattr(event, name, staticmethod(initialize_startup_logging))


def startup_logging_name(event: object) -> str | None:
    """What the step is called: 1.106 made it public and keeps the earlier name as an alias that it does not call."""
    names = ("initialize_startup_logging", "_initialize_startup_logging")
    return next((name for name in names if callable(getattr(event, name, None))), None)


def wrap_shutdown(before: Callable[[], Awaitable[None]]) -> None:
    """Await ``before`` inside the lifespan's shutdown, ahead of LiteLLM's own."""
    original = take(seams.SHUTDOWN)

    @functools.wraps(original)
    async def proxy_shutdown_event(*args: Any, **kwargs: Any) -> Any:
        await before()
        return await original(*args, **kwargs)

    put(seams.SHUTDOWN, proxy_shutdown_event)


def wrap_authenticated(notice: Callable[[], None]) -> None:
    """Call ``notice`` where a request has been authenticated.

    Authentication's failure path seeds an identity too, through another module's name for the same function.
    """
    original = take(seams.AUTHENTICATED)

    @functools.wraps(original)
    def seed_request_identity(*args: Any, **kwargs: Any) -> Any:
        notice()
        return original(*args, **kwargs)

    put(seams.AUTHENTICATED, seed_request_identity)


def wrap_provider_client(sending: Callable[[str], AbstractContextManager[None]]) -> None:
    """Enter ``sending`` with the method of each request that OpenAI's client sends, until it is answered."""
    client = take(seams.PROVIDER_CLIENT)
    original = getattr(client, "request", None)
    if original is None:
        raise SeamMissing(seams.PROVIDER_CLIENT)

    @functools.wraps(original)
    async def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        with sending(str(getattr(options, "method", ""))):
            return await original(self, cast_to, options, *args, **kwargs)

    client.request = request


def wrap_litellms_client(sending: Callable[[str], AbstractContextManager[None]]) -> None:
    """Enter ``sending`` around each request that LiteLLM's own client posts, until it is answered."""
    client = take(seams.LITELLMS_CLIENT)
    original = getattr(client, "post", None)
    if original is None:
        raise SeamMissing(seams.LITELLMS_CLIENT)

    @functools.wraps(original)
    async def post(self: Any, *args: Any, **kwargs: Any) -> Any:
        with sending("POST"):
            return await original(self, *args, **kwargs)

    client.post = post


def drop_mcp_message_spans() -> None:
    """Let the MCP SDK make no span of its own for a message that it serves.

    It would be a second SERVER span beside the request's, and it takes its parent from the client's message. LiteLLM
    makes a span of each message too, in the request's trace.
    """
    try:
        take(seams.MCP_MESSAGE_SPAN)
    except SeamMissing:
        return  # an SDK that makes none, or none installed
    from opentelemetry.trace import INVALID_SPAN  # noqa: PLC0415 - loaded with the SDK

    @contextmanager
    def otel_span(*_: Any, **__: Any) -> Iterator[Any]:
        yield INVALID_SPAN

    put(seams.MCP_MESSAGE_SPAN, otel_span)


def application() -> Any:
    """The proxy's FastAPI application."""
    return take(seams.APPLICATION)


def excluded_paths() -> str:
    """LiteLLM's list of paths that are not traced unless the operator says otherwise."""
    return str(take(seams.EXCLUDED_URLS))


def json_log_handlers() -> list[logging.Handler]:
    """LiteLLM's own handlers where it logs JSON (``JSON_LOGS``), so that our lines are JSON too."""
    from litellm import _logging  # noqa: PLC0415 - see the package's docstring

    proxy_logger = getattr(_logging, "verbose_proxy_logger", None)
    return list(proxy_logger.handlers) if getattr(_logging, "json_logs", False) and proxy_logger is not None else []


def plugin_settings() -> object:
    """``callback_settings: otel_plugin:`` of config.yaml, ``None`` where there is none or no config was read yet."""
    import litellm  # noqa: PLC0415 - see the package's docstring

    section = getattr(litellm, "callback_settings", None)
    return section.get("otel_plugin") if isinstance(section, Mapping) else None


async def drain_logging_worker() -> None:
    """Wait until LiteLLM has run the callbacks of every finished call: they close those calls' spans."""
    await take(seams.LOGGING_WORKER).flush()


def _quietly(set_global_provider: Callable[[Any], None]) -> Callable[[Any], None]:
    """Set the global provider unless it is already this one: OpenTelemetry warns about a second time."""
    from opentelemetry import trace  # noqa: PLC0415 - loaded with the SDK

    def set_once(provider: Any) -> None:
        if trace.get_tracer_provider() is not provider:
            set_global_provider(provider)

    return set_once
